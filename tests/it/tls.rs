//! What the listener speaks.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::process::{on_path, skip};
use crate::support::{Http, Lab, PATIENCE};

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
    let builder = Lab::builder().server("max_connections_per_source = 5");
    let lab = builder.start().await;
    let greedy = lab.user("alice").out_of([127, 0, 0, 2]);
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(greedy.raw().await.unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(500), greedy.get("/v2/").try_send());
    let served = more
        .await
        .is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200));
    assert!(!served, "a sixth connection was served");
    // Others do not notice, and with a connection given back there is room again.
    assert_eq!(lab.user("alice").get("/v2/").send().await.status, 200);
    held.pop();
    let begun = Instant::now();
    while greedy.get("/v2/").try_send().await.is_err() {
        assert!(
            begun.elapsed() < PATIENCE,
            "no room after a connection was given back"
        );
    }
}
