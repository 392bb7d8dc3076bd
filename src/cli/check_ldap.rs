//! `portcullis check --online [--user NAME]`: asks every server of the directory, and tells what was
//! asked, what came back and how long it took. Nobody's password is needed.

use std::sync::Arc;

use anyhow::{Context, Result};
use portcullis::authn::ldap::{Diagnosis, Directory};
use portcullis::config::{Config, Diagnostic};
use serde_json::{Value, json};

use super::check::server::error_of_server;

/// Answers of all servers of the directory.
pub(super) struct Answers(Vec<Diagnosis>);

impl Answers {
    /// Asks the servers, for one user if one is named.
    pub(super) fn of(directory: &Arc<Directory>, user: Option<&str>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        Ok(Self(runtime.block_on(directory.diagnose(user))))
    }

    /// Faults, each at its place in the configuration.
    pub(super) fn findings(&self, config: &Config) -> Vec<Diagnostic> {
        let wrong = self.0.iter().filter_map(|server| {
            let trouble = server.trouble.as_ref()?;
            let message = format!("{}: {trouble}", server.server);
            Some(error_of_server(config, "auth.ldap.urls", message))
        });
        wrong.collect()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(text).collect()
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let servers = self.0.iter().map(|server| {
            let steps = server.steps.iter().map(|step| {
                let microseconds = u64::try_from(step.took.as_micros()).unwrap_or(u64::MAX);
                json!({ "what": step.what, "detail": step.detail, "duration_us": microseconds })
            });
            let steps: Vec<_> = steps.collect();
            json!({ "server": server.server, "steps": steps, "error": server.trouble })
        });
        servers.collect()
    }
}

fn text(found: &Diagnosis) -> String {
    let steps = found.steps.iter().map(|step| {
        let took = format!("{:.1} ms", step.took.as_secs_f64() * 1e3);
        let detail = match step.detail.as_str() {
            "" => "none",
            detail => detail,
        };
        format!("  {took:>9}  {}: {detail}\n", step.what)
    });
    std::iter::once(format!("{}\n", found.server))
        .chain(steps)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Answers;
    use portcullis::authn::ldap::{Diagnosis, Step};
    use std::time::Duration;

    #[test]
    fn steps_are_told_with_their_time() {
        let step = |what, detail: &str, micros| Step {
            what,
            detail: detail.to_owned(),
            took: Duration::from_micros(micros),
        };
        let answers = Answers(vec![Diagnosis {
            server: "ldaps://a:636".to_owned(),
            steps: vec![
                step("user filter", "(uid=alice)", 12_340),
                step("groups", "", 90),
            ],
            trouble: Some("no answer in time".to_owned()),
        }]);
        assert_eq!(
            answers.text(),
            "ldaps://a:636\n    12.3 ms  user filter: (uid=alice)\n     0.1 ms  groups: none\n"
        );
        let json = answers.to_json();
        assert_eq!(json[0]["steps"][0]["duration_us"], 12_340);
        assert_eq!(json[0]["error"], "no answer in time");
    }
}
