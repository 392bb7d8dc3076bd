//! The audit trail as the rest of the house sees it.
//!
//! A request takes its [`Slot`] before anything else happens, so slow sinks slow requests and lose
//! nothing. Its record is chained and handed to every sink; where the answer must wait for it, the
//! request is told when all required sinks have it. When one of them fails or hangs, records are
//! kept, requests are refused as `when_unwritable` says, and the sink is tried again until it works.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chain::ChainKey;
use super::event::Outcome;
use super::fields::Fields;
use super::file::{FileTarget, Stream, Syncer};
use super::fold::{Floods, Kind};
use super::lock::Lock;
use super::resume::resume;
use super::sign::Signer;
use super::sink::{self, Order, Target};
use super::syslog::Syslog;
use super::tally::Tally;
use super::trail::{Ack, SinkState, Trail};
use crate::config::{self, WhenUnwritable};

/// Records under way at a time: requests in flight and lines not yet written.
const SLOTS: usize = 32 * 1024;
/// How often it is looked whether a sink hangs, a checkpoint is due or a flood is over.
const TICK: Duration = Duration::from_millis(100);

/// The audit trail cannot take a record.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot open the audit file {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process writes it.
    #[error(
        "the audit trail {} is written by another process; give each proxy an `audit.file` of its \
         own, or end the other one",
        .0.display()
    )]
    Locked(PathBuf),
    /// The trail cannot be written at the moment.
    #[error("the audit trail cannot be written")]
    Unwritable,
}

/// The right to write one record, taken before a request is looked at.
#[derive(Debug)]
pub struct Slot(Option<OwnedSemaphorePermit>);

impl Slot {
    /// Whether the trail took so long to give it that the request is not to be served.
    pub fn is_late(&self) -> bool {
        self.0.is_none()
    }
}

/// What a request is about to do, as far as `when_unwritable` is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads.
    Read,
    /// It pushes or deletes.
    Write,
}

/// Everything a trail is made of: its section of the configuration, and what that names.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `[audit]`
    pub config: config::Audit,
    /// What `key_file` holds.
    pub key: ChainKey,
    /// What `signing_key` holds.
    pub signer: Option<Arc<Signer>>,
    /// For a syslog receiver behind TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// A plan without keys.
    pub fn new(config: config::Audit) -> Self {
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

/// The sinks that there are, by what they were made of.
#[derive(Debug, Default)]
struct Sinks {
    stdout: Option<(config::Stdout, usize)>,
    syslog: Option<(config::Syslog, usize)>,
}

/// The audit trail. One for the life of the process; its sinks can be changed.
#[derive(Debug)]
pub struct Audit {
    trail: Arc<Trail>,
    syncer: Arc<Syncer>,
    sinks: Mutex<Sinks>,
    /// What is in force.
    plan: Mutex<Plan>,
    /// Whoever holds it is alone in writing the trail.
    lock: Mutex<Option<Arc<Lock>>>,
    floods: Mutex<Floods>,
    slots: Arc<Semaphore>,
    mode: AtomicU8,
    references: AtomicU32,
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
        let lock = Lock::first(&path)?;
        let resumed = resume(&plan.config.file, &plan.key).map_err(failed)?;
        let trail = Trail::new(resumed.link, plan.key.clone(), plan.config.timeout);
        let mut seed = [0; 4];
        // Only the starting point of a counter: without randomness it is merely guessable.
        let _ok = aws_lc_rs::rand::fill(&mut seed);
        let audit = Arc::new(Self {
            trail,
            syncer: Arc::default(),
            sinks: Mutex::default(),
            plan: Mutex::new(plan.clone()),
            lock: Mutex::new(lock),
            floods: Mutex::default(),
            slots: Arc::new(Semaphore::new(SLOTS)),
            mode: AtomicU8::new(mode_number(plan.config.when_unwritable)),
            references: AtomicU32::new(u32::from_ne_bytes(seed)),
            tally: Tally::default(),
        });
        let Prepared { plan, file, .. } = audit.prepare(plan)?;
        let required = plan.config.required;
        sink::start(&audit.trail, FILE_NAME, required, Box::new(file)).map_err(failed)?;
        audit.other_sinks(&plan).map_err(failed)?;
        for (event, note) in &resumed.notes {
            audit.trail.say(*event, Outcome::Error, note);
        }
        if !resumed.same_key {
            audit.trail.say_key();
        }
        audit
            .trail
            .rekey(plan.key, plan.signer, plan.config.timeout);
        audit.watch().map_err(failed)?;
        Ok(audit)
    }

    /// The threads that look after the sinks, as long as there is a trail.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let weak = Arc::downgrade(self);
        let watch = move || {
            while let Some(audit) = weak.upgrade() {
                let now = Instant::now();
                audit.trail.tick(now);
                audit.tell(Some(now));
                drop(audit);
                std::thread::sleep(TICK);
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

    /// Opens what a plan names, and changes nothing yet.
    pub fn prepare(&self, plan: Plan) -> Result<Prepared, AuditError> {
        let config = &plan.config;
        let lock = Lock::take(&config.file, self.lock().clone())?;
        let file = FileTarget::open(&config.file, config.rotate, config.sync, &self.syncer)?;
        Ok(Prepared { plan, file, lock })
    }

    /// Goes on as planned: in a file opened anew (`SIGHUP`, after rotation), with other sinks, keys
    /// or another mode. Returns when everything written before is in the old file, or when that
    /// takes longer than a sink may.
    pub async fn adopt(&self, prepared: Prepared) {
        let Prepared { plan, file, lock } = prepared;
        self.tell_floods();
        let mode = mode_number(plan.config.when_unwritable);
        self.mode.store(mode, Ordering::Relaxed);
        let (ack, done) = oneshot::channel();
        let order = Order {
            target: Box::new(file),
            ack: Some(ack),
        };
        self.trail.order(FILE, plan.config.required, order);
        if let Err(error) = self.other_sinks(&plan) {
            tracing::error!(%error, "an audit sink cannot be started");
        }
        let timeout = plan.config.timeout;
        if tokio::time::timeout(timeout, done).await.is_err() {
            tracing::error!("the old audit file hangs; the new one is used when it does not");
        }
        *self.lock() = lock;
        plan.clone_into(&mut self.plan());
        self.trail.rekey(plan.key, plan.signer, timeout);
    }

    /// Opens the file again, which somebody has moved away, and changes nothing else.
    pub async fn reopen(&self) -> Result<(), AuditError> {
        let plan = self.plan().clone();
        self.adopt(self.prepare(plan)?).await;
        Ok(())
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Lock>>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts, changes and ends the sinks besides the file.
    fn other_sinks(&self, plan: &Plan) -> io::Result<()> {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let config = &plan.config;
        let stdout = |_: &config::Stdout| -> io::Result<Box<dyn Target>> {
            let copy = rustix::io::dup(rustix::stdio::stdout())?;
            Ok(Box::new(Stream(File::from(copy))))
        };
        let required = config.stdout.as_ref().is_some_and(|sink| sink.required);
        let current = sinks.stdout.take().map(|(_, id)| id);
        sinks.stdout = self.change("stdout", current, config.stdout.clone(), required, stdout)?;
        let syslog = |to: &config::Syslog| -> io::Result<Box<dyn Target>> {
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
                self.trail.order(id, required, Order { target, ack: None });
                id
            }
            None => sink::start(&self.trail, name, required, target)?,
        };
        Ok(Some((wanted, id)))
    }

    /// The right to write a record, if there is one at once.
    pub fn spare_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(Slot(Some(permit)))
    }

    /// The right to write a record for whoever cannot wait.
    pub fn slot_now(&self) -> Slot {
        self.spare_slot().unwrap_or(Slot(None))
    }

    /// Waits for the right to write a record, as long as a sink may take. After that the record may
    /// be written all the same, see [`Slot::is_late`].
    pub async fn slot(&self) -> Slot {
        if let Some(slot) = self.spare_slot() {
            return slot;
        }
        let waiting = Arc::clone(&self.slots).acquire_owned();
        match tokio::time::timeout(self.trail.timeout(), waiting).await {
            Ok(Ok(permit)) => Slot(Some(permit)),
            Ok(Err(_)) | Err(_) => Slot(None),
        }
    }

    /// Whether a request may go ahead at all, given whether its record could be written.
    pub fn ready_for(&self, effect: Effect) -> Result<(), AuditError> {
        if self.trail.failing() {
            self.may_lack_record(effect)
        } else {
            Ok(())
        }
    }

    /// Whether a request may go ahead whose record cannot be written just now.
    pub fn may_lack_record(&self, effect: Effect) -> Result<(), AuditError> {
        match (self.mode.load(Ordering::Relaxed), effect) {
            (SERVE, _) | (REFUSE_WRITES, Effect::Read) => Ok(()),
            _ => {
                self.trail.refuse();
                Err(AuditError::Unwritable)
            }
        }
    }

    /// What all records since the start add up to.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether all required sinks are being written.
    pub fn writable(&self) -> bool {
        !self.trail.failing()
    }

    /// How each sink is.
    pub fn sinks(&self) -> Vec<SinkState> {
        self.trail.sinks()
    }

    /// Writes what has not been written yet about floods of refusals.
    pub fn tell_floods(&self) {
        self.tell(None);
    }

    fn tell(&self, now: Option<Instant>) {
        let mut floods = self.floods.lock().unwrap_or_else(PoisonError::into_inner);
        let over = floods.take(now);
        drop(floods);
        for folded in over {
            self.write(&Fields::of_folded(&folded), Slot(None), None);
        }
    }

    /// Counts a refusal of a flood; the reference of the record that will tell of it.
    pub(super) fn fold(&self, kind: Kind, reference: &str) -> Option<String> {
        let mut floods = self.floods.lock().unwrap_or_else(PoisonError::into_inner);
        floods.count(kind, reference, Instant::now())
    }

    /// Signs what is not signed yet and waits, for a while, until every sink has everything. For the
    /// end of the process; what cannot be written even now is told to the log alone. After it, another
    /// process may write the trail.
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
        *self.lock() = None;
    }

    /// Six letters and digits, unique among a thousand million.
    pub(super) fn next_reference(&self) -> String {
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let count = self.references.fetch_add(1, Ordering::Relaxed);
        // An odd factor permutes the 30 bits, so that neighbours do not look alike.
        let mixed = count.wrapping_mul(0x9E37_79B1);
        let digit = |shift: u32| {
            let index = usize::try_from(mixed >> shift & 31).unwrap_or_default();
            LETTERS.get(index).copied().map_or('0', char::from)
        };
        [0, 5, 10, 15, 20, 25].into_iter().map(digit).collect()
    }

    pub(super) fn write(&self, fields: &Fields, slot: Slot, ack: Option<Ack>) {
        self.trail.write(&fields.write(), slot, ack);
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
