//! From a configuration to rules in force, at start and on SIGHUP.
//!
//! Everything is read, checked and built before anything changes; then one swap puts it in force.
//! On any error the rules in force stay. The reason stands in the log, in the audit trail and on the
//! status page.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::admin::Admin;
use crate::audit::{
    AuditError, ChainKey, Event, Outcome, Plan, Prepared, Record, Signer, SyslogAddress,
};
use crate::authn::htpasswd::{LineError, LineWarning, Users};
use crate::authn::keys::Keyring;
use crate::authn::ldap::Directory;
use crate::authn::{Authenticator, AuthnState, BackEnd, BackEndKind, Certificates};
use crate::config::{Config, Errors};
use crate::identity::{Claim, Robot, Subject};
use crate::limit::lockout::Setting;
use crate::policy::PullLimits;
use crate::proxy::Proxy;
use crate::state::{Retained, Rules, Shown};
use crate::store::{Counts, Store, StoreUrl};
use crate::telemetry;
use crate::tls::{self, TlsError};
use crate::token::{KeyError, Keys};
use crate::transport;
use crate::upstream::{Pool, Seal, Upstream};
use crate::whole_file::{self, MAX_SECRET, MAX_USERS};

/// Something that the configuration names and that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The audit file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A key of the audit trail.
    #[error("cannot use {}: {why}", path.display())]
    AuditKey {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The robot keys.
    #[error(transparent)]
    RobotKeys(#[from] Errors),
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sealing key, which the cipher did not accept.
    #[error("upload sessions cannot be sealed")]
    Seal,
    /// The signing key of tokens.
    #[error("cannot use the signing key {}: {source}", path.display())]
    SigningKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// Certificates and keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A line of the htpasswd file.
    #[error(transparent)]
    User(#[from] LineError),
}

/// How long a reload waits for files. A disk that has to start is faster.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs what opens files on a thread of its own, for which neither the runtime nor the end of the process
/// waits: a file system may hang for ever. `None` if the work has panicked.
pub async fn beside_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            // Nobody may wait any more.
            drop(done.send(work()));
        })?;
    Ok(result.await.ok())
}

/// Parts of what survives a reload, on which rules are built.
pub struct RetainedParts<'a> {
    /// Verified credentials and the threads that hash.
    pub memory: &'a Arc<AuthnState>,
    /// Idle connections to the registry.
    pub pool: &'a Arc<Pool>,
    /// The store in force, if there is one.
    pub store: Option<&'a Arc<Store>>,
    /// Counts of requests to stores.
    pub store_counts: &'a Arc<Counts>,
    /// The robot keys in force, if there are any.
    pub robots: Option<&'a Keyring>,
    /// The signing key for configurations that name none (PKCS #8).
    pub spare_key: &'a [u8],
}

/// A signing key for configurations that name none, where none can be kept. It is lost with the process,
/// and with it every token it signed.
pub fn spare_key() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .and_then(|pair| pair.to_pkcs8v1())
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|_cause| KeyError::NotP256)
}

/// Opens and builds everything a configuration names. All errors, not the first.
pub fn build(
    config: &Config,
    parts: &RetainedParts<'_>,
    generation: u64,
) -> Result<(Rules, Vec<LineWarning>), Vec<BuildError>> {
    let mut errors = Vec::new();
    let users = users(config).unwrap_or_else(|found| {
        errors.extend(found);
        None
    });
    let tls = client_tls(config, generation)
        .map_err(|found| errors.extend(found.into_iter().map(BuildError::Tls)))
        .ok();
    let keys = keys(config, parts.spare_key)
        .map_err(|error| errors.push(error))
        .ok();
    let file = &config.auth.keys;
    let robots = match parts.robots {
        Some(in_force) => in_force.reopen(file, &config.roles),
        None => Keyring::open(file, &config.roles),
    };
    let robots = robots.map_err(|found| errors.push(found.into())).ok();
    // Errors of the upstream are reported also if the signing key is unusable.
    let spare = match &keys {
        Some(_) => None,
        None => Keys::new(parts.spare_key).ok(),
    };
    let upstream = keys.as_ref().or(spare.as_ref()).and_then(|keys| {
        upstream(config, keys, parts.pool)
            .map_err(|error| errors.push(error))
            .ok()
    });
    let directory = directory(config, parts.memory)
        .map_err(|error| errors.push(error.into()))
        .unwrap_or_default();
    let store = store(config, parts)
        .map_err(|error| errors.push(error.into()))
        .unwrap_or_default();
    let (
        Some((tls, certificates, certificate_ends)),
        Some(keys),
        Some(upstream),
        Some(robots),
        true,
    ) = (tls, keys, upstream, robots, errors.is_empty())
    else {
        return Err(errors);
    };
    let (users, warnings) = users.map_or((None, Vec::new()), |(users, found)| (Some(users), found));
    let rules = Rules {
        generation,
        loaded: Timestamp::now(),
        certificate_ends,
        policy: Arc::clone(&config.policy),
        authenticator: Authenticator::new(
            back_ends(&config.auth.order, users, directory.as_ref()),
            Arc::clone(parts.memory),
        ),
        robots,
        failed_logins: Setting {
            count: config.limits.failed_logins.count,
            per: config.limits.failed_logins.per,
        },
        certificates,
        keys: Arc::new(keys),
        upstream,
        tls,
        challenge: config.auth.challenge,
        anonymous: config.auth.anonymous,
        public_authority: config.server.public_authority.clone(),
        admin_hosts: config.admin.hosts.clone(),
        cors_origins: config.server.cors_origins.clone(),
        token_lifetime: config.token.lifetime,
        refresh_lifetime: config.token.refresh_lifetime,
        bind_certificate: config.token.bind_certificate,
        body_timeout: config.server.body_timeout,
        pulls: PullLimits::new(
            &config.limits.pulls,
            config.limits.anonymous_pulls,
            config.limits.authenticated_pulls,
            config.limits.repeat_free,
        ),
        rates: config.limits.rates,
        store,
        shown: shown(config),
    };
    Ok((rules, warnings))
}

fn shown(config: &Config) -> Shown {
    Shown {
        file: config.file.clone(),
        audit_file: config.audit.file.clone(),
        when_unwritable: config.audit.when_unwritable,
        limits: config.limits.clone(),
        // Unreadable files were reported before, where they were opened for use.
        endings: config.endings().0,
    }
}

type Found = Option<(Users, Vec<LineWarning>)>;

fn users(config: &Config) -> Result<Found, Vec<BuildError>> {
    let Some(path) = &config.auth.htpasswd else {
        return Ok(None);
    };
    let text = whole_file::read(path, MAX_USERS).map_err(|source| {
        vec![BuildError::Read {
            path: path.clone(),
            source,
        }]
    })?;
    let refused =
        |lines: Vec<LineError>| lines.into_iter().map(BuildError::User).collect::<Vec<_>>();
    let (users, mut warnings, errors) = Users::salvage(&text, path).map_err(refused)?;
    warnings.extend(errors.into_iter().map(LineError::into_warning));
    warnings.sort_by_key(|warning| warning.line);
    Ok(Some((users, warnings)))
}

/// The directory that a configuration names, with its connections if nothing about it has changed.
fn directory(config: &Config, memory: &AuthnState) -> Result<Option<Arc<Directory>>, TlsError> {
    let Some(ldap) = &config.auth.ldap else {
        return Ok(None);
    };
    let ca = authorities(ldap.ca.as_deref())?;
    let tls = if ldap.uses_tls() {
        Some(tls::directory_config(ldap.ca.as_deref())?)
    } else {
        None
    };
    Ok(Some(memory.directory(ldap, tls.as_ref(), &ca)))
}

/// What the configuration's `order` names, in that order.
fn back_ends(
    order: &[BackEndKind],
    users: Option<Users>,
    directory: Option<&Arc<Directory>>,
) -> Vec<BackEnd> {
    let users = users.map(Arc::new);
    let named = order.iter().filter_map(|named| match named {
        BackEndKind::Htpasswd => users.clone().map(BackEnd::Htpasswd),
        BackEndKind::Ldap => directory.cloned().map(BackEnd::Ldap),
    });
    named.collect()
}

/// The store that a configuration names: the one in force if nothing about it has changed.
fn store(config: &Config, parts: &RetainedParts<'_>) -> Result<Option<Arc<Store>>, TlsError> {
    let Some(store) = &config.store else {
        return Ok(None);
    };
    let (tls, ca) = match store.url {
        StoreUrl::Tcp { tls: true, .. } => (
            Some(tls::directory_config(store.ca.as_deref())?),
            authorities(store.ca.as_deref())?,
        ),
        StoreUrl::Tcp { tls: false, .. } | StoreUrl::Unix(_) => (None, Vec::new()),
    };
    let (known, counts) = (parts.store, parts.store_counts);
    Ok(Some(Store::new(store, tls, &ca, known, counts)))
}

/// The certificates in a file of authorities.
fn authorities(path: Option<&Path>) -> Result<Vec<u8>, TlsError> {
    let certificates = path.map(tls::certificates).transpose()?.unwrap_or_default();
    Ok(certificates.iter().flat_map(|one| one.to_vec()).collect())
}

/// The listener's TLS, and the judgement of the client certificates that it lets through. All errors,
/// not the first.
fn client_tls(
    config: &Config,
    generation: u64,
) -> Result<(Arc<rustls::ServerConfig>, Certificates, Timestamp), Vec<TlsError>> {
    let clients = &config.tls.client_certificates;
    let verifier = tls::client_verifier(clients);
    let shown = verifier.as_ref().ok().and_then(Option::as_ref);
    let server = tls::server_config(&config.tls, shown).and_then(|server| {
        let ends = tls::not_after(&config.tls.certificate).map_err(|error| vec![error])?;
        Ok((server, ends))
    });
    match (verifier, server) {
        (Ok(verifier), Ok((server, ends))) => {
            let certificates = Certificates::new(clients, verifier, generation);
            Ok((server, certificates, ends))
        }
        (verifier, server) => {
            let found = [verifier.err(), server.err()].into_iter().flatten();
            Err(found.flatten().collect())
        }
    }
}

fn keys(config: &Config, spare: &[u8]) -> Result<Keys, BuildError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::SigningKey { path, source }
    };
    let keys = match &config.token.signing_key {
        Some(path) => {
            let key = tls::private_key(path)?;
            Keys::new(key.secret_der()).map_err(unusable(path))
        }
        None => Keys::new(spare).map_err(unusable(Path::new("in memory"))),
    };
    config
        .token
        .verify_keys
        .iter()
        .try_fold(keys?, |keys, path| {
            let key = tls::private_key(path)?;
            keys.and_older(key.secret_der()).map_err(unusable(path))
        })
}

/// Reads the files of the audit trail: its keys, and the authorities of a syslog receiver.
pub fn audit_plan(config: &Config) -> Result<Plan, BuildError> {
    let audit = &config.audit;
    let unusable = |path: &Path, why: &dyn std::fmt::Display| BuildError::AuditKey {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let mut plan = Plan::new(audit.clone());
    if let Some(path) = &audit.key_file {
        let bytes = whole_file::read(path, MAX_SECRET).map(Zeroizing::new);
        let bytes = bytes.map_err(|source| {
            let path = path.clone();
            BuildError::Read { path, source }
        })?;
        plan.key = ChainKey::from_bytes(&bytes).map_err(|error| unusable(path, &error))?;
    }
    if let Some(path) = &audit.signing_key {
        let key = tls::private_key(path)?;
        let signer = Signer::new(key.secret_der()).map_err(|error| unusable(path, &error))?;
        plan.signer = Some(Arc::new(signer));
    }
    if let Some(syslog) = &audit.syslog
        && matches!(syslog.address, SyslogAddress::Tls { .. })
    {
        plan.tls = Some(tls::directory_config(syslog.ca.as_deref())?);
    }
    Ok(plan)
}

fn upstream(config: &Config, keys: &Keys, pool: &Arc<Pool>) -> Result<Upstream, BuildError> {
    let mut session_keys = keys.session_keys();
    let seal = session_keys.next().and_then(Seal::new);
    let seal = seal.and_then(|seal| session_keys.try_fold(seal, Seal::and_older));
    let seal = seal.ok_or(BuildError::Seal)?;
    Ok(Upstream::new(&config.upstream, Arc::clone(pool), seal)?)
}

/// Parts of the process, other than the proxy, that a reload changes or compares.
pub struct ProcessHandles {
    /// The address and the socket of health and metrics.
    pub admin: Admin,
    /// `[server]` as it was at the start.
    pub server: transport::Settings,
}

/// Reads the configuration again and puts it in force, or keeps the one in force. Returns the reason
/// why it was kept.
pub async fn reload(
    proxy: &Arc<Proxy>,
    handles: &ProcessHandles,
    path: &Path,
) -> Result<(), String> {
    let retained = proxy.retained();
    let result = apply(proxy, handles, path).await;
    retained
        .reloads
        .note(Timestamp::now(), result.as_ref().err().cloned());
    let mut record = Record::open(&retained.audit, Event::Reload);
    match &result {
        Ok(generation) => {
            tracing::info!(generation, "configuration reloaded");
            record.answer(Outcome::Allowed, 0);
        }
        Err(reason) => {
            tracing::error!(
                reason,
                "configuration not reloaded, the old one stays in force"
            );
            record.answer(Outcome::Error, 0);
            record.reason(reason);
        }
    }
    record.close();
    result.map(drop)
}

/// Time between two looks at the file of robot keys, for the audit trail.
const KEYS_INTERVAL: Duration = Duration::from_secs(1);

/// Records robot keys that are made, changed or revoked, for ever. (Keys come into force without it:
/// each use of a key looks at the file.)
pub fn watch_keys(proxy: Arc<Proxy>) -> impl Future<Output = ()> + Send {
    // Already now: keys that are made before the task begins are recorded as well.
    let mut known = proxy.rules().robots.current();
    async move {
        let mut ticks = tokio::time::interval(KEYS_INTERVAL);
        loop {
            ticks.tick().await;
            let now = proxy.rules().robots.current();
            if Arc::ptr_eq(&known, &now) {
                continue;
            }
            let audit = &proxy.retained().audit;
            for (name, change) in now.changes_since(&known) {
                tracing::info!(key = %name, "{}", change.as_str());
                let mut record = Record::open(audit, Event::Key);
                record.claim(&Claim::of(&Subject::Robot(Robot::named(&name))));
                record.outcome(Outcome::Allowed);
                record.reason(change.as_str());
                record.close();
            }
            known = now;
        }
    }
}

/// What a configuration has become, before any of it is in force.
struct Built {
    config: Config,
    rules: Rules,
    trail: Prepared,
    /// Keys that have changed and need a restart.
    waiting: Vec<&'static str>,
}

/// Reads and builds all that a configuration names.
fn read(
    path: &Path,
    server: &transport::Settings,
    retained: &Retained,
    in_force: &Rules,
) -> Result<Built, String> {
    let (mut config, warnings) = Config::load(path).map_err(|errors| errors.to_string())?;
    if let Some(failed) = config.run_policy_tests(Timestamp::now()).first() {
        return Err(failed.to_string());
    }
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
    let (server, waiting) = server.reloaded(config.server);
    config.server = server;
    let parts = RetainedParts {
        memory: &retained.memory,
        pool: &retained.pool,
        store: in_force.store.as_ref(),
        store_counts: &retained.store_counts,
        robots: Some(&in_force.robots),
        spare_key: &retained.spare_key,
    };
    let generation = in_force.generation.saturating_add(1);
    let (rules, warnings) = build(&config, &parts, generation).map_err(first_of)?;
    let plan = audit_plan(&config).map_err(|error| error.to_string())?;
    let trail = retained.audit.prepare(plan);
    let trail = trail.map_err(|error| error.to_string())?;
    for warning in warnings {
        tracing::warn!(%warning, "htpasswd");
    }
    Ok(Built {
        config,
        rules,
        trail,
        waiting,
    })
}

async fn apply(proxy: &Arc<Proxy>, handles: &ProcessHandles, path: &Path) -> Result<u64, String> {
    let retained = proxy.retained();
    let in_force = Arc::clone(&proxy.rules());
    let work = {
        let (path, server) = (path.to_owned(), handles.server.clone());
        let (retained, in_force) = (Arc::clone(retained), Arc::clone(&in_force));
        move || read(&path, &server, &retained, &in_force)
    };
    let built = timeout(READ_TIMEOUT, beside_runtime(work)).await;
    let Built {
        config,
        rules,
        trail,
        mut waiting,
    } = match built {
        Ok(Ok(Some(built))) => built?,
        Ok(Ok(None)) => return Err("reading the configuration has failed".to_owned()),
        Ok(Err(error)) => return Err(format!("no thread can be started: {error}")),
        Err(_elapsed) => {
            return Err(format!(
                "the files of the configuration were not read within {READ_TIMEOUT:?}: a file system \
                 does not answer"
            ));
        }
    };
    if handles.admin.socket_waits(config.admin.socket.as_deref()) {
        waiting.push("admin.socket");
    }
    let generation = rules.generation;
    let admin = handles.admin.prepare(config.admin.listen);
    let admin = admin.map_err(|error| format!("admin.listen: {error}"))?;
    retained.audit.adopt(trail).await;
    if let Some(store) = &rules.store {
        store.start(&retained.audit).await;
    }
    retained.memory.set_cache_ttl(config.auth.cache_ttl);
    proxy.swap(rules);
    proxy.rules().upstream.close_others();
    if let Some(admin) = admin {
        handles.admin.take(admin, proxy);
    }
    telemetry::set_format(config.log);
    if in_force.public_authority != config.server.public_authority {
        let host = config.server.public_authority.as_deref();
        tracing::info!(host, "`server.public_url` has changed and is in force");
    }
    for key in waiting {
        tracing::warn!(
            key,
            "this key has changed and is not in force: it needs a restart"
        );
    }
    Ok(generation)
}

fn first_of(errors: Vec<BuildError>) -> String {
    let more = errors.len().saturating_sub(1);
    match errors.into_iter().next() {
        Some(error) if more == 0 => error.to_string(),
        Some(error) => format!("{error} (and {more} more; run `portcullis check`)"),
        None => String::new(),
    }
}
