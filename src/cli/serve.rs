//! `portcullis serve`: the proxy itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use portcullis::access::watch_locks;
use portcullis::admin::{Admin, AdminSocket, Move};
use portcullis::audit::{Audit, Event, Outcome, Record};
use portcullis::authn::AuthnState;
use portcullis::config::Config;
use portcullis::proxy::Proxy;
use portcullis::reload::{self, ProcessHandles, RetainedParts};
#[cfg(feature = "otlp")]
use portcullis::spans;
use portcullis::state::Retained;
use portcullis::supervisor::{self, AssignedSockets, HandedSockets};
use portcullis::telemetry;
use portcullis::transport::{self, Listeners};
use portcullis::upstream::Pool;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::config_file::{ConfigFile, WRONG_CONFIGURATION, load};
use super::terminal::{error_colours, print_error};
use super::token_key;

/// Run the proxy.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigFile,
}

/// Time for tasks that are left at the end.
const LAST_TASKS: Duration = Duration::from_secs(1);

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let path = self.config.config;
        let (config, warnings) = match load(&path) {
            Ok(loaded) => loaded,
            Err(code) => return Ok(code),
        };
        let failed = config.run_policy_tests(Timestamp::now());
        for failure in &failed {
            print_error(&failure.render(error_colours()));
        }
        if !failed.is_empty() {
            return Ok(WRONG_CONFIGURATION.into());
        }
        telemetry::start(config.log);
        for warning in warnings {
            tracing::warn!(%warning, "configuration");
        }
        prepare_process(&config);
        let handed = HandedSockets::take()
            .and_then(|all| all.share(&config.server.listen, config.admin.listen));
        let sockets = match handed {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::error!(%error, "cannot start");
                return Ok(WRONG_CONFIGURATION.into());
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let ended = runtime.block_on(serve(Arc::new(config), path, sockets));
        // What hangs is not waited for.
        runtime.shutdown_timeout(LAST_TASKS);
        ended
    }
}

/// No core dumps, which would hold passwords, and as many descriptors as the system allows: each
/// connection takes one, and each request one more towards the registry.
fn prepare_process(config: &Config) {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if setrlimit(Resource::Core, none).is_err() {
        tracing::debug!("core dumps are the system's to forbid");
    }
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        tracing::debug!("the process stays dumpable");
    }
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    if setrlimit(Resource::Nofile, all).is_err() {
        tracing::debug!("the number of open files is the system's to raise");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = u64::try_from(config.server.max_connections).unwrap_or(u64::MAX);
    if allowed / 2 < wanted {
        tracing::warn!(
            allowed,
            "fewer open files than `server.max_connections` may need; raise LimitNOFILE or lower it"
        );
    }
}

async fn serve(config: Arc<Config>, path: PathBuf, sockets: AssignedSockets) -> Result<ExitCode> {
    // Signals first: from here on SIGHUP must not end the process.
    let mut signals = Signals::listen()?;
    let memory = Arc::new(AuthnState::new(config.auth.cache_ttl));
    let pool = Arc::new(Pool::default());
    let store_counts = Arc::default();
    let of_tokens = Arc::clone(&config);
    let made = signals.unless_stopped(move || token_key::lasting(&of_tokens));
    let Some(spare_key) = made.await?.transpose()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let work = {
        let (config, memory, pool) = (Arc::clone(&config), Arc::clone(&memory), Arc::clone(&pool));
        let (store_counts, spare_key) = (Arc::clone(&store_counts), spare_key.clone());
        move || {
            let parts = RetainedParts {
                memory: &memory,
                pool: &pool,
                store: None,
                store_counts: &store_counts,
                robots: None,
                spare_key: &spare_key,
            };
            reload::build(&config, &parts, 1)
        }
    };
    let Some(built) = signals.unless_stopped(work).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (rules, warnings) = match built {
        Ok(built) => built,
        Err(errors) => {
            for error in errors {
                tracing::error!(%error, "cannot start");
            }
            return Ok(WRONG_CONFIGURATION.into());
        }
    };
    for warning in warnings {
        tracing::warn!(%warning, "htpasswd");
    }
    let handles = ProcessHandles {
        admin: Admin::default(),
        server: config.server.clone(),
    };
    let admin = match (sockets.admin, config.admin.listen) {
        (Some(socket), Some(address)) => Some(Move::to(address, listeners(vec![socket], &[])?)),
        (None, wanted) | (Some(_), wanted @ None) => handles.admin.prepare(wanted)?,
    };
    // Last, so that a caller who reaches this one finds the other as well.
    let public = listeners(sockets.server, &sockets.missing)?;
    let socket = config.admin.socket.as_deref().map(AdminSocket::bind);
    let socket = socket.transpose()?;
    let audit = match open_audit(&mut signals, &config).await? {
        Ok(audit) => audit,
        Err(code) => return Ok(code),
    };
    record_event(&audit, Event::Start).await;
    if let Some(store) = &rules.store {
        store.start(&audit).await;
    }
    #[cfg(feature = "otlp")]
    let spans = spans::start(&config.telemetry, audit.tally())?;
    let retained = Retained::new(Arc::clone(&audit), memory, pool, store_counts, spare_key);
    let proxy = Proxy::new(rules, retained);
    let watching = tokio::spawn(watch_locks(Arc::clone(proxy.retained())));

    let watching_keys = tokio::spawn(reload::watch_keys(Arc::clone(&proxy)));

    let (stop, stopping) = watch::channel(false);
    log_addresses(&public);
    if let Some(admin) = admin {
        handles.admin.take(admin, &proxy);
    }
    if let Some(socket) = socket {
        handles.admin.open(socket, &proxy);
    }
    let drain_timeout = config.server.drain_timeout;
    let serving = tokio::spawn(transport::serve(
        public,
        Arc::clone(&proxy),
        config.server.clone(),
        stopping,
    ));
    let alive = tokio::spawn(supervisor::watchdog());
    supervisor::ready(proxy.rules().generation, None);
    signals.until_stop(&proxy, &handles, &path).await;
    supervisor::stopping();
    proxy.drain();
    tracing::info!(?drain_timeout, "stopping; requests in flight may finish");
    stop.send(true).context("the server has ended by itself")?;
    let cut = serving.await.context("the server failed")?;
    audit.flush_suppressed();
    watching.abort();
    watching_keys.abort();
    alive.abort();
    record_event(&audit, Event::Stop).await;
    audit.finish().await;
    #[cfg(feature = "otlp")]
    spans::finish(spans).await;
    log_end(cut);
    Ok(ExitCode::SUCCESS)
}

/// Opens the audit trail; the exit code where the process is to end instead.
async fn open_audit(
    signals: &mut Signals,
    config: &Arc<Config>,
) -> Result<Result<Arc<Audit>, ExitCode>> {
    let config = Arc::clone(config);
    let open = move || reload::audit_plan(&config).map(Audit::open);
    match signals.unless_stopped(open).await? {
        None => Ok(Err(ExitCode::SUCCESS)),
        Some(Ok(audit)) => Ok(Ok(audit?)),
        Some(Err(error)) => {
            tracing::error!(%error, "cannot start");
            Ok(Err(WRONG_CONFIGURATION.into()))
        }
    }
}

fn log_addresses(listeners: &Listeners) {
    for address in listeners.addresses() {
        tracing::info!(%address, "listening");
    }
}

fn log_end(cut: usize) {
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "stopped; connections were cut at the drain time-out"
        );
    } else {
        tracing::info!("stopped; nothing was cut");
    }
}

/// Listeners of sockets that were handed over, and new ones for the other addresses.
fn listeners(handed: Vec<std::net::TcpListener>, missing: &[SocketAddr]) -> Result<Listeners> {
    if !handed.is_empty() {
        for address in missing {
            tracing::warn!(%address, "no socket was handed over; a restart refuses its connections");
        }
    }
    let mut listeners = transport::bind(missing)?;
    let adopted = listeners.adopt(handed);
    adopted.context("cannot use the sockets handed over")?;
    Ok(listeners)
}

/// Records the start or stop of the process. The writer keeps the record until it can be written;
/// `when_unwritable` decides what is served meanwhile.
async fn record_event(audit: &Arc<Audit>, event: Event) {
    let mut record = Record::open(audit, event);
    record.answer(Outcome::Allowed, 0);
    if let Err(error) = record.close_and_wait().await {
        tracing::error!(%error, event = event.as_str(), "not on record yet");
    }
}

/// Reloads, between two notices to the service manager.
async fn reload_and_notify(proxy: &Arc<Proxy>, handles: &ProcessHandles, path: &Path) {
    supervisor::reloading();
    let kept = reload::reload(proxy, handles, path).await.err();
    supervisor::ready(proxy.rules().generation, kept.as_deref());
}

/// Opens the audit file again, as logrotate asks other servers by SIGUSR1.
async fn reopen(proxy: Arc<Proxy>) {
    match proxy.retained().audit.reopen().await {
        Ok(()) => tracing::info!("audit file opened again"),
        Err(error) => tracing::error!(%error, "audit file not opened again, the old one goes on"),
    }
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    reopen: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            interrupt: on(SignalKind::interrupt())?,
            reopen: on(SignalKind::user_defined1())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Does what opens files; `None` if the process is to stop before it is done.
    async fn unless_stopped<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        tokio::select! {
            done = reload::beside_runtime(work) => done?.context("the start has failed").map(Some),
            _ = self.interrupt.recv() => Ok(None),
            _ = self.terminate.recv() => Ok(None),
        }
    }

    /// Reloads at each SIGHUP and opens the audit file again at each SIGUSR1, until SIGTERM or SIGINT.
    /// Several SIGHUP during a reload cause one more.
    async fn until_stop(&mut self, proxy: &Arc<Proxy>, handles: &ProcessHandles, path: &Path) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => tokio::select! {
                    () = reload_and_notify(proxy, handles, path) => {}
                    _ = self.interrupt.recv() => return,
                    _ = self.terminate.recv() => return,
                },
                // In a task: opening a file may take for ever.
                _ = self.reopen.recv() => drop(tokio::spawn(reopen(Arc::clone(proxy)))),
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
            }
        }
    }
}
