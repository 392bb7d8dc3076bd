//! What the listener speaks.

use std::process::Command;

use crate::support::process::{on_path, skip};
use crate::support::{Http, Lab};

/// One handshake by openssl; whether it got as far as a cipher.
fn shakes(lab: &Lab, arguments: &[&str]) -> bool {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &lab.address.to_string(),
        "-servername",
        "localhost",
    ]);
    command
        .arg("-CAfile")
        .arg(lab.folder.join("ca.pem"))
        .arg("-verify_return_error");
    let output = command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success() && text.contains("Verify return code: 0 (ok)")
}

#[tokio::test]
async fn old_versions_and_weak_ciphers_are_not_spoken() {
    if !on_path("openssl") {
        return skip("openssl is not installed");
    }
    let lab = Lab::start().await;
    assert!(shakes(&lab, &["-tls1_3"]));
    assert!(shakes(&lab, &["-tls1_2"]));
    let weakest = ["-cipher", "ALL:@SECLEVEL=0"];
    assert!(!shakes(&lab, &[&["-tls1_1"], &weakest[..]].concat()));
    assert!(!shakes(&lab, &[&["-tls1"], &weakest[..]].concat()));
    for cipher in [
        "AES128-SHA",
        "ECDHE-ECDSA-AES128-SHA",
        "DHE-RSA-AES128-GCM-SHA256",
    ] {
        let cipher = format!("{cipher}:@SECLEVEL=0");
        assert!(!shakes(&lab, &["-tls1_2", "-cipher", &cipher]), "{cipher}");
    }
}

#[tokio::test]
async fn the_oldest_version_can_be_raised() {
    if !on_path("openssl") {
        return skip("openssl is not installed");
    }
    let lab = Lab::start().await;
    let config = lab.config();
    let raised = config.replace("[tls]\n", "[tls]\nmin_version = \"1.3\"\n");
    lab.folder.replace("portcullis.toml", raised);
    assert_eq!(lab.reload().await, "allowed");
    assert!(shakes(&lab, &["-tls1_3"]));
    assert!(!shakes(&lab, &["-tls1_2"]));
}

#[tokio::test]
async fn both_http_versions_are_offered() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let answer = lab.user("alice").over(http).get("/v2/").send().await;
        let expected = match http {
            Http::One => http::Version::HTTP_11,
            Http::Two => http::Version::HTTP_2,
        };
        assert_eq!((answer.status, answer.version), (200, expected));
    }
}

#[tokio::test]
async fn one_source_cannot_take_all_connections() {
    let lab = Lab::builder().server("max_connections = 5").start().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(tokio::net::TcpStream::connect(lab.address).await.unwrap());
    }
    let mut more = tokio::net::TcpStream::connect(lab.address).await.unwrap();
    drop(held);
    // Whether the sixth was closed or had to wait, afterwards there is room again.
    let answer = crate::support::within(crate::support::PATIENCE, "an answer", async {
        loop {
            let answer = lab.user("alice").get("/v2/").try_send().await;
            if let Ok(answer) = answer {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(answer.await.status, 200);
    drop(tokio::io::AsyncWriteExt::shutdown(&mut more).await);
}
