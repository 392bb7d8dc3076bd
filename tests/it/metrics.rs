//! What is measured, and what dashboards and alerts make of it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::http::Client;
use crate::support::lab::Lab;
use crate::support::process::{free_port, on_path, skip};
use crate::support::{Reply, Upstream};

/// A proxy with everything that is measured, and no neighbour that answers but the registry.
async fn lab(upstream: &Upstream) -> (Lab, Client) {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sections = format!(
        "[admin]\nlisten = \"{admin}\"\n\
         [auth.ldap]\nurls = [\"ldap://127.0.0.1:9\"]\nplaintext = true\nuser_base = \"dc=example\"\n\
         user_filter = \"(uid={{username}})\"\ngroups = \"none\"\n\
         [limits.store]\nurl = \"redis://127.0.0.1:9/0\"\n"
    );
    let lab = Lab::builder()
        .upstream(upstream.url())
        .more(&sections)
        .order("[\"htpasswd\", \"ldap\"]");
    (lab.start().await, Client::plain(admin))
}

async fn scrape(admin: &Client) -> String {
    let answer = admin.get("/metrics").send().await;
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body.to_vec()).unwrap()
}

async fn used() -> (Upstream, Lab, Client, String) {
    let upstream = Upstream::start(|_| Reply::ok("{}")).await;
    let (lab, admin) = lab(&upstream).await;
    let alice = lab.user("alice");
    for (path, status) in [
        ("/v2/", 200),
        ("/v2/team-a/app/tags/list", 200),
        ("/v2/team-b/app/tags/list", 403),
    ] {
        assert_eq!(alice.get(path).send().await.status, status, "{path}");
    }
    let text = scrape(&admin).await;
    (upstream, lab, admin, text)
}

#[tokio::test]
async fn requests_and_neighbours_are_measured() {
    let (_upstream, lab, admin, text) = used().await;
    let end = lab.folder.join("server.pem").display().to_string();
    for line in [
        "portcullis_requests_total{action=\"pull\",status=\"2xx\"} 1",
        "portcullis_requests_total{action=\"pull\",status=\"4xx\"} 1",
        "portcullis_requests_total{action=\"pull\",status=\"5xx\"} 0",
        "portcullis_requests_total{action=\"none\",status=\"2xx\"} 1",
        "portcullis_request_duration_seconds_count{action=\"pull\"} 2",
        "portcullis_request_duration_seconds_bucket{le=\"60.0\",action=\"pull\"} 2",
        "portcullis_request_duration_seconds_bucket{le=\"+Inf\",action=\"delete\"} 0",
        "portcullis_upstream_up 1",
        "portcullis_directory_up{server=\"ldap://127.0.0.1:9\"} 0",
        "portcullis_limit_store_up 0",
        &format!(
            "portcullis_expiry_timestamp_seconds{{what=\"server certificate\",file=\"{end}\"}} "
        ),
        concat!(
            "portcullis_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let rule = text
        .lines()
        .find(|line| line.starts_with("portcullis_rule_decisions_total{"));
    let rule = rule.unwrap();
    assert!(
        rule.contains("portcullis.toml:") && rule.contains("outcome=\"allowed\""),
        "{rule}"
    );

    // Whatever clients ask for, there are no more series.
    let series = |text: &str| text.lines().count();
    let alice = lab.user("alice");
    for number in 0..20 {
        let path = format!("/v2/team-a/app-{number}/tags/list");
        assert_eq!(alice.get(&path).send().await.status, 200);
        let method = http::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        alice.call(method, "/v2/nowhere").send().await;
    }
    let more = scrape(&admin).await;
    assert!(series(&more) <= series(&text) + 1, "{more}");
}

/// Names of our metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    words
        .filter(|word| word.starts_with("portcullis_"))
        .collect()
}

#[tokio::test]
async fn alerts_and_dashboard_use_only_what_is_measured() {
    let (_upstream, _lab, _admin, text) = used().await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let served: BTreeSet<_> = samples.flat_map(names).collect();
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for file in [
        "prometheus/rules.yml",
        "prometheus/tests.yml",
        "grafana/portcullis.json",
    ] {
        let text = std::fs::read_to_string(conf.join(file)).unwrap();
        let used = names(&text);
        assert!(used.len() > 5, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&served).collect();
        assert!(
            unknown.is_empty(),
            "{file} uses {unknown:?}, but there are only {served:?}"
        );
    }
    let dashboard = std::fs::read(conf.join("grafana/portcullis.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

/// The older text format, which is all that `promtool check metrics` reads.
fn in_older_format(text: &str) -> String {
    let counter = |line: &str| {
        Some(
            line.strip_prefix("# TYPE ")?
                .strip_suffix(" counter")?
                .to_owned(),
        )
    };
    let counters: BTreeSet<_> = text.lines().filter_map(counter).collect();
    let older = text.lines().filter_map(|line| {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => None,
            ["#", kind, name, rest] if counters.contains(name) => {
                Some(format!("# {kind} {name}_total {rest}\n"))
            }
            _ => Some(format!("{line}\n")),
        }
    });
    older.collect()
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !on_path("promtool") {
        return skip("promtool is not installed");
    }
    let (_upstream, _lab, _admin, text) = used().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(in_older_format(&text).as_bytes()).unwrap();
    drop(stdin);
    let said = promtool.wait_with_output().unwrap();
    let problems = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.status.success() && problems.is_empty(),
        "{problems}\n{text}"
    );
}
