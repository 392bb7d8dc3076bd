//! Whether the registry, the audit trail and the directory can be used.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::authn::ldap::Diagnosis;
use crate::proxy::Proxy;

/// Time for the registry and the directory to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Conditions of readiness: `"ok"`, or a fault.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) upstream: String,
    pub(super) audit: String,
    /// `None` where there is none.
    pub(super) directory: Option<String>,
    pub(super) directory_servers: Vec<DirectoryServer>,
}

/// One server of the directory.
#[derive(Debug, Serialize)]
pub(super) struct DirectoryServer {
    pub(super) server: String,
    pub(super) trouble: Option<String>,
}

impl Health {
    /// Asks the registry and the directory.
    pub(super) async fn of(proxy: &Proxy) -> Self {
        let rules = proxy.rules();
        let directory = async {
            let known = Arc::clone(rules.authenticator.directory()?);
            let asked = tokio::time::timeout(ANSWER_TIMEOUT, known.diagnose(None)).await;
            Some(asked.unwrap_or_default())
        };
        let registry = tokio::time::timeout(ANSWER_TIMEOUT, rules.upstream.probe());
        let (registry, directory) = tokio::join!(registry, directory);
        let upstream = match registry {
            Ok(Ok(_any_answer)) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "the registry did not answer in time".to_owned(),
        };
        let is_writable = proxy.retained().audit.writable();
        let sinks = proxy.retained().audit.sinks();
        let failing = sinks
            .iter()
            .find_map(|sink| Some((sink.name, sink.failing.as_ref()?)).filter(|_| sink.required));
        let audit = match failing {
            Some((name, why)) if !is_writable => {
                format!("the audit {name} cannot be written: {why}")
            }
            Some(_) | None => "ok".to_owned(),
        };
        let draining = proxy.is_draining();
        Self {
            ready: upstream == "ok" && is_writable && !draining,
            draining,
            upstream,
            audit,
            directory: directory.as_deref().map(said_of),
            directory_servers: directory
                .unwrap_or_default()
                .into_iter()
                .map(|one| DirectoryServer {
                    server: one.server,
                    trouble: one.trouble,
                })
                .collect(),
        }
    }
}

/// One server that answers is a directory that answers.
fn said_of(servers: &[Diagnosis]) -> String {
    let good = servers.iter().filter(|one| one.trouble.is_none()).count();
    match (good, servers.len()) {
        (_, 0) => "did not answer in time".to_owned(),
        (0, _) => "no server answers as it should".to_owned(),
        (good, all) if good == all => "ok".to_owned(),
        (good, all) => format!("{good} of {all} servers answer"),
    }
}
