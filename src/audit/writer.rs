//! The audit trail as the rest of the house sees it.
//!
//! A record takes a place in the queue when it is closed; a write that commits takes its record's place
//! before its last byte goes upstream. No place is held while a client's byte is awaited. When no place is
//! left, requests wait before any work is done for them, fairly between sources: slow sinks slow requests
//! and lose nothing. A record is chained and queued for every sink; where the answer must wait for it, the
//! request continues when all required sinks have it. When one of them fails or hangs, records are kept,
//! requests are refused as `when_unwritable` says, and the sink is retried until it works.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::oneshot;

use super::journal::batch::{Retarget, Target};
use super::journal::chain::ChainKey;
use super::journal::error::AuditError;
use super::journal::file::{FileTarget, Stream, Syncer};
use super::journal::lock::Lock;
use super::journal::prune_request::PruneRequest;
use super::journal::resume::resume;
use super::journal::sign::Signer;
use super::journal::sink;
use super::journal::syslog::Syslog;
use super::journal::trail::{Ack, SinkState, Trail};
use super::record::event::Outcome;
use super::record::fields::Fields;
use super::record::tally::Tally;
use super::reference::References;
use super::suppress::{Marks, Named, Refusal, Suppressor, Verdict};
use super::{Settings, StdoutSettings, SyslogSettings, WhenUnwritable};
use crate::identity::Authentication;
use crate::limit::{Claimant, Place, Shared, Trust, Usage};

/// Records that wait to be written at a time, with those that commits have a place for.
const PLACES: usize = 32 * 1024;
/// Requests that wait for a place at a time.
const WAITING: usize = 32 * 1024;
/// Longest time that a source over its rate waits; beyond it the source is refused.
const LONGEST_DEBT: Duration = Duration::from_secs(5);
/// Interval of the checks for hanging sinks, due checkpoints and ended runs of suppressed requests.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// A request that cannot be served now because of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The queue has no place for it in time.
    Full,
    /// Its source makes more records than can be afforded.
    TooFast,
}

/// The names that exist, for suppressed requests.
pub trait Known: Send + Sync {
    /// Returns true if an account or a key has this name, as far as is known without a query.
    fn is_user(&self, name: &str) -> bool;
    /// Returns true if a repository has this name, or a rule spells it out.
    fn is_repository(&self, name: &str) -> bool;
    /// Called when suppressed requests name unknown repositories, so that the existing ones can be
    /// learnt.
    fn unknown_repositories(&self);
}

/// The source of existing names, once it is set.
#[derive(Default)]
struct KnownNames(OnceLock<Box<dyn Known>>);

impl std::fmt::Debug for KnownNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KnownNames")
            .field(&self.0.get().is_some())
            .finish()
    }
}

/// The place in the queue of a record whose request commits something.
#[derive(Debug)]
pub struct Reservation {
    audit: Arc<Audit>,
    whom: Option<Claimant>,
    place: Arc<Mutex<Option<Place>>>,
}

impl Reservation {
    pub(super) fn new(
        audit: &Arc<Audit>,
        whom: Option<Claimant>,
        place: &Arc<Mutex<Option<Place>>>,
    ) -> Self {
        Self {
            audit: Arc::clone(audit),
            whom,
            place: Arc::clone(place),
        }
    }

    /// Waits for the place, as long as a sink may take, and gives it to the record.
    pub async fn take(self) -> Result<(), AuditError> {
        let Self { audit, whom, place } = self;
        if let Some(whom) = whom {
            let waiting = tokio::time::timeout(audit.trail.timeout(), audit.places.acquire(whom));
            match waiting.await {
                Ok(Ok(found)) => {
                    *place.lock() = Some(found);
                }
                Ok(Err(_)) | Err(_) => audit.may_lack_record(Purpose::Write)?,
            }
        }
        audit.ready_for(Purpose::Write)
    }
}

/// The kind of a request, as far as `when_unwritable` is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It reads.
    Read,
    /// It pushes or deletes.
    Write,
}

/// Everything that a trail is made of: its section of the configuration, and the contents of its files.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `[audit]`
    pub config: Settings,
    /// The key in `key_file`.
    pub key: ChainKey,
    /// The key in `signing_key`.
    pub signer: Option<Arc<Signer>>,
    /// For a syslog receiver behind TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// A plan without keys.
    pub fn new(config: Settings) -> Self {
        Self {
            config,
            key: ChainKey::NONE,
            signer: None,
            tls: None,
        }
    }
}

/// A plan whose file is open.
pub struct Prepared {
    plan: Plan,
    file: FileTarget,
    lock: Option<Arc<Lock>>,
}

/// The sinks other than the file, each with its settings and its number.
#[derive(Debug, Default)]
struct Sinks {
    stdout: Option<(StdoutSettings, usize)>,
    syslog: Option<(SyslogSettings, usize)>,
}

/// The audit trail. One for the life of the process; its sinks can be changed.
#[derive(Debug)]
pub struct Audit {
    trail: Arc<Trail>,
    syncer: Arc<Syncer>,
    sinks: Mutex<Sinks>,
    /// The plan in force.
    plan: Mutex<Plan>,
    /// The lock of the trail: there is no other writer.
    lock: Mutex<Option<Arc<Lock>>>,
    suppressor: Mutex<Suppressor>,
    known: KnownNames,
    begun: Instant,
    places: Arc<Shared>,
    mode: AtomicU8,
    references: References,
    /// The last record of a cut that was asked for, until it is written.
    pruning: Mutex<Option<u64>>,
    tally: Tally,
}

impl Audit {
    /// Opens the file, goes on where its chain ended, and starts the sinks.
    pub fn open(plan: Plan) -> Result<Arc<Self>, AuditError> {
        let path = plan.config.file.clone();
        let failed = |source| AuditError::Open {
            path: path.clone(),
            source,
        };
        let lock = Lock::acquire(&path)?;
        let resumed = resume(&plan.config.file, &plan.key).map_err(failed)?;
        let trail = Trail::new(resumed.link, plan.key.clone(), plan.config.timeout);
        let audit = Arc::new(Self {
            trail,
            syncer: Arc::default(),
            sinks: Mutex::default(),
            plan: Mutex::new(plan.clone()),
            lock: Mutex::new(lock),
            suppressor: Mutex::new(Suppressor::new(RandomState::new().hash_one("sample"))),
            known: KnownNames::default(),
            begun: Instant::now(),
            places: Shared::new(PLACES, WAITING),
            mode: AtomicU8::new(mode_number(plan.config.when_unwritable)),
            references: References::new().map_err(failed)?,
            pruning: Mutex::default(),
            tally: Tally::default(),
        });
        let Prepared { plan, file, .. } = audit.prepare(plan)?;
        let required = plan.config.required;
        sink::start(&audit.trail, FILE_NAME, required, Box::new(file)).map_err(failed)?;
        audit.other_sinks(&plan).map_err(failed)?;
        for (event, note) in &resumed.notes {
            audit.trail.record_event(*event, Outcome::Error, note);
        }
        if !resumed.same_key {
            audit.trail.record_key();
        }
        audit
            .trail
            .rekey(plan.key, plan.signer, plan.config.timeout);
        audit.watch().map_err(failed)?;
        Ok(audit)
    }

    /// Starts the threads that look after the sinks, for the life of the trail.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let weak = Arc::downgrade(self);
        let watch = move || {
            while let Some(audit) = weak.upgrade() {
                audit.trail.tick(Instant::now());
                audit.record_suppressed(Some(audit.begun.elapsed()));
                audit.prune_as_asked();
                drop(audit);
                std::thread::sleep(WATCH_INTERVAL);
            }
        };
        std::thread::Builder::new()
            .name("audit-watch".to_owned())
            .spawn(watch)?;
        let syncer = Arc::downgrade(&self.syncer);
        std::thread::Builder::new()
            .name("audit-sync".to_owned())
            .spawn(move || Syncer::run(&syncer))?;
        Ok(())
    }

    /// Records the cut that a file beside the trail asks for, and removes that file when the record is
    /// written.
    fn prune_as_asked(&self) {
        let mut pruning = self.pruning.lock();
        let trail = self.plan.lock().config.file.clone();
        let recorded = match (*pruning, PruneRequest::find(&trail)) {
            (None, Ok(None)) => return,
            (None, Ok(Some(request))) => self.trail.prune(request.first, &request.reason),
            (None, Err(error)) => {
                tracing::warn!(%error, "the request to cut the audit trail cannot be read");
                None
            }
            // It could not be removed then, and is gone now.
            (Some(u64::MAX), Ok(None)) => {
                *pruning = None;
                return;
            }
            (Some(seq), _) => Some(seq),
        };
        *pruning = recorded;
        if recorded.is_some_and(|seq| !self.trail.has_written(FILE, seq)) {
            return;
        }
        match PruneRequest::remove(&trail) {
            Ok(()) => *pruning = None,
            // Not recorded again and again.
            Err(error) => {
                tracing::error!(%error, "the request to cut the audit trail cannot be removed");
                *pruning = Some(u64::MAX);
            }
        }
        if let Some(seq) = recorded {
            tracing::info!(seq, "a cut of the audit trail is recorded");
        } else {
            tracing::warn!("a cut of the audit trail was asked for and is not possible");
        }
    }

    /// Opens the file of a plan, and changes nothing yet.
    pub fn prepare(&self, plan: Plan) -> Result<Prepared, AuditError> {
        let config = &plan.config;
        let lock = Lock::take(&config.file, self.lock.lock().clone())?;
        let file = FileTarget::open(&config.file, config.rotate, config.sync, &self.syncer)?;
        Ok(Prepared { plan, file, lock })
    }

    /// Goes on as planned: in a file opened anew (`SIGHUP`, after rotation), with other sinks, keys
    /// or another mode. Returns when everything written before is in the old file, or when that
    /// takes longer than a sink may.
    pub async fn adopt(&self, prepared: Prepared) {
        let Prepared { plan, file, lock } = prepared;
        self.flush_suppressed();
        let mode = mode_number(plan.config.when_unwritable);
        self.mode.store(mode, Ordering::Relaxed);
        let (ack, done) = oneshot::channel();
        let retarget = Retarget {
            target: Box::new(file),
            ack: Some(ack),
        };
        self.trail.retarget(FILE, plan.config.required, retarget);
        if let Err(error) = self.other_sinks(&plan) {
            tracing::error!(%error, "an audit sink cannot be started");
        }
        let timeout = plan.config.timeout;
        if tokio::time::timeout(timeout, done).await.is_err() {
            tracing::error!("the old audit file hangs; the new one is used when it does not");
        }
        *self.lock.lock() = lock;
        plan.clone_into(&mut self.plan.lock());
        self.trail.rekey(plan.key, plan.signer, timeout);
    }

    /// Opens the file again after another process has moved it, and changes nothing else.
    pub async fn reopen(&self) -> Result<(), AuditError> {
        let plan = self.plan.lock().clone();
        self.adopt(self.prepare(plan)?).await;
        Ok(())
    }

    /// Starts, changes and ends the sinks other than the file.
    fn other_sinks(&self, plan: &Plan) -> io::Result<()> {
        let mut sinks = self.sinks.lock();
        let config = &plan.config;
        let stdout = |_: &StdoutSettings| -> io::Result<Box<dyn Target>> {
            let copy = rustix::io::dup(rustix::stdio::stdout())?;
            Ok(Box::new(Stream(File::from(copy))))
        };
        let required = config.stdout.as_ref().is_some_and(|sink| sink.required);
        let current = sinks.stdout.take().map(|(_, id)| id);
        sinks.stdout = self.change("stdout", current, config.stdout.clone(), required, stdout)?;
        let syslog = |to: &SyslogSettings| -> io::Result<Box<dyn Target>> {
            let tls = plan.tls.clone();
            Ok(Box::new(Syslog::new(
                to.address.clone(),
                tls,
                config.timeout,
            )))
        };
        let required = config.syslog.as_ref().is_some_and(|sink| sink.required);
        let current = sinks.syslog.take().map(|(_, id)| id);
        sinks.syslog = self.change("syslog", current, config.syslog.clone(), required, syslog)?;
        Ok(())
    }

    fn change<T>(
        &self,
        name: &'static str,
        current: Option<usize>,
        wanted: Option<T>,
        required: bool,
        make: impl Fn(&T) -> io::Result<Box<dyn Target>>,
    ) -> io::Result<Option<(T, usize)>> {
        let Some(wanted) = wanted else {
            if let Some(id) = current {
                self.trail.end(id);
            }
            return Ok(None);
        };
        let target = make(&wanted)?;
        let id = match current {
            Some(id) => {
                self.trail
                    .retarget(id, required, Retarget { target, ack: None });
                id
            }
            None => sink::start(&self.trail, name, required, target)?,
        };
        Ok(Some((wanted, id)))
    }

    /// Waits until there is room for another record of a source, as long as a sink may take, and until
    /// the source can afford it. Nothing is held after that.
    pub async fn room_for(&self, client: IpAddr) -> Result<(), NotNow> {
        let debt = self.suppressor.lock().debt(client, self.begun.elapsed());
        if debt > LONGEST_DEBT {
            return Err(NotNow::TooFast);
        }
        if !debt.is_zero() {
            tokio::time::sleep(debt).await;
        }
        if self.places.has_room(Trust::Stranger) {
            return Ok(());
        }
        let whom = Claimant::stranger(client);
        match tokio::time::timeout(self.trail.timeout(), self.places.acquire(whom)).await {
            Ok(Ok(_place)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotNow::Full),
        }
    }

    /// The number of places of the queue that are taken and waited for.
    pub fn usage(&self) -> Usage {
        self.places.usage()
    }

    /// Sets the source of existing names. A second one is ignored.
    pub fn ask(&self, known: Box<dyn Known>) {
        let _is_first = self.known.0.set(known).is_ok();
    }

    /// Fails if a request must be refused because its record could not be written.
    pub fn ready_for(&self, purpose: Purpose) -> Result<(), AuditError> {
        if self.trail.failing() {
            self.may_lack_record(purpose)
        } else {
            Ok(())
        }
    }

    /// Fails if a request must be refused whose record cannot be written at the moment.
    pub fn may_lack_record(&self, purpose: Purpose) -> Result<(), AuditError> {
        match (self.mode.load(Ordering::Relaxed), purpose) {
            (SERVE, _) | (REFUSE_WRITES, Purpose::Read) => Ok(()),
            _ => {
                self.trail.refuse();
                Err(AuditError::Unwritable)
            }
        }
    }

    /// The first record that the trail is supposed to have.
    pub(super) fn first_record(&self) -> u64 {
        self.trail.first()
    }

    /// The counts of all records since the start.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns true if no required sink fails.
    pub fn writable(&self) -> bool {
        !self.trail.failing()
    }

    /// The state of each sink.
    pub fn sinks(&self) -> Vec<SinkState> {
        self.trail.sinks()
    }

    /// Records all suppressed requests that are not recorded yet.
    pub fn flush_suppressed(&self) {
        self.record_suppressed(None);
    }

    fn record_suppressed(&self, now: Option<Duration>) {
        let over = self.suppressor.lock().take(now);
        for suppressed in over {
            self.write(&suppressed.fields(), None, None);
        }
    }

    /// Suppresses a request without a permit if its source has used up its budget. Returns the reference of
    /// the run's record, or `None` if the request has a record of its own.
    pub(super) fn suppress(&self, fields: &Fields, marks: Marks) -> Option<String> {
        let client = fields.client?;
        let known = self.known.0.get();
        let user = fields.user.as_deref().map(|name| Named {
            name,
            exists: marks.is_of_somebody || known.is_some_and(|known| known.is_user(name)),
        });
        let repository = fields.repository.as_deref().map(|name| Named {
            name,
            exists: known.is_some_and(|known| known.is_repository(name)),
        });
        let refusal = Refusal {
            client,
            event: fields.event,
            outcome: fields.outcome,
            status: fields.status,
            is_anonymous: fields.user.is_none()
                && fields.auth == Some(Authentication::Anonymous.as_str()),
            reference: &fields.reference_id,
            user,
            repository,
            reason: fields.reason.as_deref(),
            bytes: fields.size(),
            is_one_of_many: marks.is_one_of_many || fields.outcome == Outcome::Challenged,
        };
        let verdict = self.suppressor.lock().judge(&refusal, self.begun.elapsed());
        match verdict {
            Verdict::Record => None,
            Verdict::Suppress { reference, full } => {
                // An ordinary challenge is no reason to ask the registry anything.
                if let (Some(known), Some(Named { exists: false, .. })) = (known, repository)
                    && fields.outcome != Outcome::Challenged
                {
                    known.unknown_repositories();
                }
                if let Some(suppressed) = full {
                    self.write(&suppressed.fields(), None, None);
                }
                Some(reference)
            }
        }
    }

    /// Signs all records that are not signed yet and waits, for a limited time, until every sink has
    /// everything. For the end of the process; the log has the number of records that are lost. After it,
    /// another process may write the trail.
    pub async fn finish(&self) {
        self.trail.sign();
        let begun = Instant::now();
        while !self.trail.is_drained() && begun.elapsed() < self.trail.timeout() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let records = self.trail.unwritten();
        if records > 0 {
            tracing::error!(
                records,
                "audit records are lost: the process ended while they could not be written"
            );
        }
        *self.lock.lock() = None;
    }

    /// The reference of the next record.
    pub(super) fn next_reference(&self) -> String {
        self.references.next()
    }

    /// Writes a record of something that got a permit.
    pub(super) fn write_permitted(&self, fields: &Fields, place: Option<Place>, ack: Option<Ack>) {
        if let Some(client) = fields.client {
            let bytes = fields.size();
            self.suppressor
                .lock()
                .charge(client, bytes, self.begun.elapsed());
        }
        self.write(fields, place, ack);
    }

    /// A place in the queue for a record that cannot wait.
    pub(super) fn spare_place(&self, whom: Claimant) -> Option<Place> {
        self.places.try_acquire(whom)
    }

    pub(super) fn write(&self, fields: &Fields, place: Option<Place>, ack: Option<Ack>) {
        self.trail.write(&fields.write(), place, ack);
    }
}

/// The number of the first sink.
const FILE: usize = 0;
const FILE_NAME: &str = "file";

const REFUSE: u8 = 0;
const REFUSE_WRITES: u8 = 1;
const SERVE: u8 = 2;

fn mode_number(mode: WhenUnwritable) -> u8 {
    match mode {
        WhenUnwritable::Refuse => REFUSE,
        WhenUnwritable::RefuseWrites => REFUSE_WRITES,
        WhenUnwritable::Serve => SERVE,
    }
}

#[cfg(test)]
mod tests;
