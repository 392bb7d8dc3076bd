//! The pages for people, in a real browser.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::browser::{Trap, is_there, open};
use crate::support::image::{Image, MANIFEST};
use crate::support::lab::PROGRAM;
use crate::support::process::free_port;
use crate::support::{Lab, browser};

async fn lab(admin: u16) -> Lab {
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    Lab::builder().more(&admin).start().await
}

/// A push, pulls, a denial, and guesses under a name that would be markup.
async fn busy(lab: &Lab, name: &str) {
    let image = Image::new(1);
    let pushed = image.push(&lab.user("alice"), "team-a/app", "v1").await;
    assert_eq!(pushed.status, 201);
    let tag = "/v2/team-a/app/manifests/v1";
    let pull = lab.user("gina").get(tag).header("accept", MANIFEST);
    assert_eq!(pull.send().await.status, 200);
    assert_eq!(lab.user("gina").delete(tag).send().await.status, 403);
    let wrong = lab.anonymous().basic(name, "wrong");
    assert_eq!(wrong.get("/v2/").send().await.status, 401);
    lab.audit()
        .find("the guess", |record| record["user"] == name)
        .await;
}

#[tokio::test]
async fn the_report_is_read_by_a_person() {
    if !is_there() {
        return;
    }
    let lab = lab(free_port()).await;
    let trap = Trap::set();
    busy(&lab, &trap.name()).await;
    let page = lab.folder.join("report.html");
    let mut command = Command::new(PROGRAM);
    command
        .args(["audit", "report", "--html"])
        .arg(&page)
        .arg("--config")
        .arg(lab.folder.join("portcullis.toml"))
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let seen = open(&lab.folder, &format!("file://{}", page.display())).await;
    seen.assert_quiet();
    seen.assert_reads(&[
        "Audit report",
        "1 push",
        "1 pull",
        "1 denial",
        "What needs attention",
        "passwords with a weak hash",
        "Traffic over time",
        "no rule allows delete",
        "unknown user",
        "team-a/app",
        "127.0.0.0/24",
        "server certificate",
        &trap.name(),
    ]);
    assert!(seen.has("svg") && seen.has("rect"), "no plots");
    trap.assert_unasked();
    kept(&lab, &format!("file://{}", page.display()), "report").await;
}

#[tokio::test]
async fn the_status_is_read_by_a_person() {
    if !is_there() {
        return;
    }
    let port = free_port();
    let lab = lab(port).await;
    let trap = Trap::set();
    busy(&lab, &trap.name()).await;
    lab.folder.replace("htpasswd", "<b>broken</b>");
    assert_eq!(lab.reload().await, "error");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let seen = open(&lab.folder, &format!("http://{address}/status")).await;
    seen.assert_quiet();
    let config = lab.folder.join("portcullis.toml");
    seen.assert_reads(&[
        &format!("version {}", env!("CARGO_PKG_VERSION")),
        "ready for clients",
        "registry ok",
        "audit.jsonl (ok)",
        "directory none is configured",
        "refuse-writes while it cannot be written",
        &config.display().to_string(),
        "generation 1",
        "refused, an older one stays in force",
        "htpasswd:1:1",
        "server certificate good",
        "pulls each address without a user",
        "no rule allows delete",
        &trap.name(),
    ]);
    trap.assert_unasked();
    kept(&lab, &format!("http://{address}/status"), "status").await;
}

/// Pictures for whoever wants to look: `PORTCULLIS_PICTURES=FOLDER cargo test --test it browser`.
async fn kept(lab: &Lab, url: &str, name: &str) {
    if let Some(folder) = std::env::var_os("PORTCULLIS_PICTURES") {
        let to = std::path::Path::new(&folder).join(format!("{name}.png"));
        browser::draw(&lab.folder, url, &to).await;
    }
}
