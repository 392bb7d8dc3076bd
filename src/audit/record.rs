//! What one record says, and its life from a request's head to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::fold::{Folded, Kind, source_of};
use super::members::Members;
use super::served::Request;
use super::sign::Checkpoint;
use super::tally::{Entry, Refused};
use super::writer::{Audit, AuditError, Slot};
use crate::identity::{Authentication, ClientCertificate, Identity};
use crate::registry::Call;
use crate::trace::{Span, TraceId};

/// No field of a record is longer, in bytes; whatever an attacker sends.
const MAX_FIELD: usize = 256;
/// Nor are there more groups in it.
const MAX_GROUPS: usize = 100;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A sink of the trail fails, or works again.
    Audit,
    /// Everything before is signed.
    Checkpoint,
    /// A robot key made, changed or revoked.
    Key,
    /// A user locked out for wrong passwords, or free again.
    Lockout,
    /// A password or key presented to log in.
    Login,
    /// The chain goes on with another key.
    Rekey,
    /// The configuration was read again.
    Reload,
    /// A call to the API.
    Request,
    /// The proxy started.
    Start,
    /// The proxy stopped.
    Stop,
    /// The store that replicas share limits by was lost, or is back.
    Store,
    /// Requests turned away, many in one record.
    Suppressed,
    /// A token minted, refreshed or refused.
    Token,
    /// A crash tore the end of the trail, or it was cut off.
    Torn,
}

impl Event {
    /// Every event, in the order of their declaration.
    pub const ALL: [Self; 14] = [
        Self::Audit,
        Self::Checkpoint,
        Self::Key,
        Self::Lockout,
        Self::Login,
        Self::Rekey,
        Self::Reload,
        Self::Request,
        Self::Start,
        Self::Stop,
        Self::Store,
        Self::Suppressed,
        Self::Token,
        Self::Torn,
    ];

    /// The word of the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Checkpoint => "checkpoint",
            Self::Key => "key",
            Self::Lockout => "lockout",
            Self::Login => "login",
            Self::Rekey => "rekey",
            Self::Reload => "reload",
            Self::Request => "request",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Store => "store",
            Self::Suppressed => "suppressed",
            Self::Token => "token",
            Self::Torn => "torn",
        }
    }
}

impl Outcome {
    /// Every outcome, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Aborted,
        Self::Allowed,
        Self::Denied,
        Self::Error,
        Self::Failed,
        Self::Limited,
    ];

    /// The word of the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Error => "error",
            Self::Failed => "failed",
            Self::Limited => "limited",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The client went away before the end of the answer.
    Aborted,
    /// Done as asked.
    Allowed,
    /// Refused by the policy, or not a request of the API.
    Denied,
    /// Something behind us, or we ourselves, could not.
    Error,
    /// The credential is missing, malformed or wrong.
    Failed,
    /// Refused for now: too many.
    Limited,
}

/// The members of a record, in the order in which they are written. Absent ones are `null`, so
/// that every record has the same keys, but for the last.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    time: Timestamp,
    reference_id: String,
    event: Event,
    outcome: Outcome,
    client: Option<IpAddr>,
    user: Option<String>,
    groups: Vec<String>,
    outside_groups: Vec<String>,
    auth: Option<&'static str>,
    proof: Vec<&'static str>,
    cached: bool,
    certificate: Option<Shown>,
    tls: Option<Box<str>>,
    method: Option<String>,
    action: Option<&'static str>,
    object: Option<&'static str>,
    repository: Option<String>,
    reference: Option<String>,
    rule: Option<String>,
    status: Option<u16>,
    upstream_status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    agent: Option<String>,
    trace: Option<String>,
    span: Option<Span>,
    reason: Option<String>,
    count: Option<u64>,
    /// In checkpoints alone.
    checkpoint: Option<Checkpoint>,
}

/// The certificate of a connection, as a record names it.
#[derive(Clone, Debug)]
struct Shown {
    subject: String,
    sha256: String,
}

/// One record under construction. Whatever happens, it is written once.
#[derive(Debug)]
pub struct Record {
    fields: Option<Box<Fields>>,
    started: Instant,
    bytes_in: Arc<AtomicU64>,
    audit: Arc<Audit>,
    slot: Option<Slot>,
    is_folded: bool,
}

impl Record {
    /// Opens a record for a request. Until told otherwise its outcome is [`Outcome::Aborted`].
    pub fn open(audit: &Arc<Audit>, slot: Slot, event: Event) -> Self {
        let mut fields = Fields::new(event, Outcome::Aborted);
        fields.reference_id = audit.next_reference();
        Self {
            fields: Some(Box::new(fields)),
            started: Instant::now(),
            bytes_in: Arc::default(),
            audit: Arc::clone(audit),
            slot: Some(slot),
            is_folded: false,
        }
    }

    /// The reference that the client reads in an error: six letters and digits.
    pub fn reference_id(&self) -> &str {
        self.fields
            .as_ref()
            .map_or("", |fields| &fields.reference_id)
    }

    /// The counter of request body bytes, for whoever reads them.
    pub fn bytes_in(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_in)
    }

    /// Says what the record is about, once that is known better.
    pub fn event(&mut self, event: Event) {
        self.set(|fields| fields.event = event);
    }

    /// Whether it is about a login or a token, whose answers wait for their record.
    pub fn is_about_credentials(&self) -> bool {
        let event = self.fields.as_ref().map(|fields| fields.event);
        matches!(event, Some(Event::Login | Event::Token))
    }

    /// Notes the connection and the head.
    pub fn client(&mut self, address: IpAddr, tls: &str, method: &str, agent: Option<&str>) {
        self.set(|fields| {
            fields.client = Some(address);
            fields.tls = Some(tls.into());
            fields.method = Some(bounded(method));
            fields.agent = agent.map(bounded);
        });
    }

    /// Notes the connection, and the method if that was read, of what came instead of a request.
    pub fn unread(&mut self, address: IpAddr, tls: Option<&str>, method: Option<&str>) {
        self.set(|fields| {
            fields.client = Some(address);
            fields.tls = tls.map(Into::into);
            fields.method = method.map(bounded);
        });
    }

    /// Notes where it came from, when there is no head to note.
    pub fn source(&mut self, address: IpAddr) {
        self.set(|fields| fields.client = Some(address));
    }

    /// Notes whom the caller claims to be; what is found out later overrides it.
    pub fn claim(&mut self, user: &str) {
        self.set(|fields| fields.user = Some(bounded(user)));
    }

    /// Notes how the caller tried to authenticate.
    pub fn authentication(&mut self, authentication: Authentication) {
        self.set(|fields| fields.auth = Some(authentication.as_str()));
    }

    /// Notes who the caller is, and all groups that count for the policy.
    pub fn identify<'a>(&mut self, who: &Identity, groups: impl Iterator<Item = &'a str>) {
        self.set(|fields| {
            fields.user = who.user().map(bounded);
            fields.groups = groups.take(MAX_GROUPS).map(bounded).collect();
            fields.outside_groups = who
                .groups()
                .iter()
                .take(MAX_GROUPS)
                .map(|group| bounded(group))
                .collect();
            fields.proof = proof(who);
            fields.auth = Some(who.authentication().as_str());
            fields.cached = who.cached();
            if who.is_stale() {
                fields.reason = Some("directory down".to_owned());
            }
        });
    }

    /// Notes the certificate of the connection.
    pub fn certificate(&mut self, shown: Option<&ClientCertificate>) {
        let shown = shown.map(|certificate| Shown {
            subject: bounded(&certificate.subject),
            sha256: blake3::Hash::from_bytes(certificate.fingerprint)
                .to_hex()
                .to_string(),
        });
        self.set(|fields| fields.certificate = shown);
    }

    /// Notes what is asked for.
    pub fn call(&mut self, call: &Call) {
        self.set(|fields| {
            fields.action = call.action().map(crate::registry::Action::as_str);
            fields.object = Some(call.object());
            fields.repository = call.repository().map(|name| bounded(name.as_str()));
            fields.reference = call.reference().map(bounded);
        });
    }

    /// Notes what a token was asked for, in the scopes' own words.
    pub fn scope(&mut self, scope: &str) {
        self.set(|fields| fields.reference = Some(bounded(scope)));
    }

    /// Notes the rule that decided.
    pub fn rule(&mut self, rule: &str) {
        self.set(|fields| fields.rule = Some(bounded(rule)));
    }

    /// Notes the upstream's answer.
    pub fn upstream_status(&mut self, status: u16) {
        self.set(|fields| fields.upstream_status = Some(status));
    }

    /// Notes the answer and what it means.
    pub fn answer(&mut self, outcome: Outcome, status: u16) {
        self.set(|fields| {
            fields.outcome = outcome;
            fields.status = Some(status);
        });
    }

    /// Notes how it ended, whatever was noted before.
    pub fn outcome(&mut self, outcome: Outcome) {
        self.set(|fields| fields.outcome = outcome);
    }

    /// Notes which distributed trace it belongs to, as the client has it.
    pub fn trace(&mut self, trace: TraceId) {
        self.set(|fields| fields.trace = Some(trace.to_string()));
    }

    /// Notes its own part of a trace.
    pub fn span(&mut self, span: Span) {
        self.set(|fields| fields.span = Some(span));
    }

    /// Notes why; for people who may read the trail, so it may say more than the client was told.
    pub fn reason(&mut self, reason: &str) {
        self.set(|fields| fields.reason = Some(bounded(reason)));
    }

    /// Notes how many requests it stands for.
    pub fn count(&mut self, count: u64) {
        self.set(|fields| fields.count = Some(count));
    }

    /// Lets a refusal that is one of a flood be counted, instead of having a record of its own. Its
    /// reference becomes that of the record that tells of the flood.
    pub fn join_flood(&mut self) {
        let Some(kind) = self.fields.as_ref().and_then(|fields| fields.kind()) else {
            return;
        };
        if let Some(reference) = self.audit.fold(kind, self.reference_id()) {
            self.set(|fields| fields.reference_id = reference);
            self.is_folded = true;
        }
    }

    /// Counts answer bytes.
    pub fn add_bytes_out(&mut self, bytes: u64) {
        self.set(|fields| fields.bytes_out = fields.bytes_out.saturating_add(bytes));
    }

    /// Sends the record to the writer.
    pub fn close(mut self) {
        self.send(None);
    }

    /// Sends the record and waits until it is on its way to disk.
    pub async fn close_and_wait(mut self) -> Result<(), AuditError> {
        let (ack, written) = tokio::sync::oneshot::channel();
        self.send(Some(ack));
        written.await.unwrap_or(Err(AuditError::Unwritable))
    }

    fn set(&mut self, change: impl FnOnce(&mut Fields)) {
        if let Some(fields) = &mut self.fields {
            change(fields);
        }
    }

    fn send(&mut self, ack: Option<tokio::sync::oneshot::Sender<Result<(), AuditError>>>) {
        let (Some(mut fields), Some(slot)) = (self.fields.take(), self.slot.take()) else {
            return;
        };
        fields.bytes_in = self.bytes_in.load(Ordering::Relaxed);
        fields.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.audit.tally().add(fields.entry());
        if !self.is_folded {
            self.audit.write(&fields, slot, ack);
        } else if let Some(ack) = ack {
            // Whoever waited may have gone.
            let _gone = ack.send(Ok(()));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.send(None);
    }
}

impl Fields {
    fn new(event: Event, outcome: Outcome) -> Self {
        Self {
            time: Timestamp::now(),
            reference_id: String::new(),
            event,
            outcome,
            client: None,
            user: None,
            groups: Vec::new(),
            outside_groups: Vec::new(),
            auth: None,
            proof: Vec::new(),
            cached: false,
            certificate: None,
            tls: None,
            method: None,
            action: None,
            object: None,
            repository: None,
            reference: None,
            rule: None,
            status: None,
            upstream_status: None,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            agent: None,
            trace: None,
            span: None,
            reason: None,
            count: None,
            checkpoint: None,
        }
    }

    /// What the writer has to say itself.
    pub(super) fn of_our_own(event: Event, outcome: Outcome, reason: &str) -> Self {
        Self {
            reason: Some(bounded(reason)),
            ..Self::new(event, outcome)
        }
    }

    /// A signature over everything before.
    pub(super) fn of_checkpoint(checkpoint: Checkpoint, reason: &str) -> Self {
        Self {
            checkpoint: Some(checkpoint),
            ..Self::of_our_own(Event::Checkpoint, Outcome::Allowed, reason)
        }
    }

    /// Refusals of one kind that have no record of their own.
    pub(super) fn of_folded(folded: &Folded) -> Self {
        let Folded {
            kind,
            count,
            reference,
        } = folded;
        let why = kind.reason.as_deref().unwrap_or("refused");
        let event = kind.event.as_str();
        Self {
            reference_id: reference.clone(),
            client: Some(kind.source),
            user: kind.user.clone(),
            status: kind.status,
            count: Some(*count),
            ..Self::of_our_own(
                Event::Suppressed,
                kind.outcome,
                &format!("{count} more {event} records like those before: {why}"),
            )
        }
    }

    /// What makes it one of many, if it is a refusal.
    fn kind(&self) -> Option<Kind> {
        let is_refusal = matches!(
            self.outcome,
            Outcome::Denied | Outcome::Failed | Outcome::Limited
        );
        is_refusal.then_some(Kind {
            source: source_of(self.client?),
            event: self.event,
            outcome: self.outcome,
            status: self.status,
            user: self.user.clone(),
            reason: self.reason.clone(),
        })
    }

    /// What the record adds to the tally.
    fn entry(&self) -> Entry<'_> {
        let is_refused = matches!(self.outcome, Outcome::Denied | Outcome::Limited);
        let is_failed = self.outcome == Outcome::Failed && self.user.is_some();
        let refused = (is_refused || is_failed).then(|| Refused {
            time: format!("{:.0}", self.time),
            reference: self.reference_id.clone(),
            client: self.client.map(|address| address.to_string()),
            user: self.user.clone(),
            action: self.action,
            repository: self.repository.clone(),
            reason: self.reason.clone(),
        });
        let is_request = matches!(self.event, Event::Login | Event::Request | Event::Token);
        let request = is_request.then(|| Request {
            method: self.method.as_deref(),
            action: self.action,
            repository: self.repository.as_deref(),
            status: self.status.unwrap_or_default(),
            outcome: self.outcome,
            rule: self.rule.as_deref(),
            began: self.time,
            duration_us: self.duration_us,
            span: self.span,
        });
        Entry {
            event: self.event,
            outcome: self.outcome,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            request,
            refused,
        }
    }

    /// As they stand in a line, without the braces around them.
    pub(super) fn write(&self) -> String {
        let mut to = Members::new();
        to.plain("time", format_args!("{:.6}", self.time));
        to.text("ref", Some(&self.reference_id));
        to.text("event", Some(self.event.as_str()));
        to.text("outcome", Some(self.outcome.as_str()));
        match self.client {
            Some(client) => to.plain("client", client),
            None => to.text("client", None),
        }
        to.text("user", self.user.as_deref());
        to.texts("groups", self.groups.iter().map(String::as_str));
        let outside = self.outside_groups.iter().map(String::as_str);
        to.texts("outside_groups", outside);
        to.text("auth", self.auth);
        to.texts("proof", self.proof.iter().copied());
        to.flag("cached", self.cached);
        match &self.certificate {
            Some(certificate) => to.json("certificate", &certificate.write()),
            None => to.text("certificate", None),
        }
        to.text("tls", self.tls.as_deref());
        to.text("method", self.method.as_deref());
        to.text("action", self.action);
        to.text("object", self.object);
        to.text("repository", self.repository.as_deref());
        to.text("reference", self.reference.as_deref());
        to.text("rule", self.rule.as_deref());
        to.number("status", self.status);
        to.number("upstream_status", self.upstream_status);
        to.number("bytes_in", Some(self.bytes_in));
        to.number("bytes_out", Some(self.bytes_out));
        to.number("duration_us", Some(self.duration_us));
        to.text("agent", self.agent.as_deref());
        to.text("trace", self.trace.as_deref());
        to.text("reason", self.reason.as_deref());
        to.number("count", self.count);
        if let Some(checkpoint) = &self.checkpoint {
            to.json("checkpoint", &checkpoint.write());
        }
        to.into_text()
    }
}

impl Shown {
    fn write(&self) -> String {
        let mut to = Members::new();
        to.text("subject", Some(&self.subject));
        to.text("sha256", Some(&self.sha256));
        format!("{{{}}}", to.into_text())
    }
}

/// What a rule can `require` of a caller and this one has.
fn proof(who: &Identity) -> Vec<&'static str> {
    let password = who.has_password().then_some("password");
    let certificate = who.has_certificate().then_some("certificate");
    password.into_iter().chain(certificate).collect()
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::bounded;
    use crate::audit::{Audit, Event, Outcome, Plan, Record};

    #[tokio::test]
    async fn a_record_is_one_line_of_ascii_whatever_it_holds() {
        let folder = std::env::temp_dir().join(format!("portcullis-record-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("audit.jsonl");
        let audit = Audit::open(Plan::new(crate::config::Audit::of_file(&file))).unwrap();
        let mut record = Record::open(&audit, audit.slot().await, Event::Login);
        record.client(
            [127, 0, 0, 1].into(),
            "TLSv1.3",
            "GET",
            Some("a\u{202e}\u{1b}[31m\"\r\n\u{7f}ä"),
        );
        record.claim(&"x".repeat(1000));
        record.answer(Outcome::Failed, 401);
        record.close_and_wait().await.unwrap();
        let dropped = Record::open(&audit, audit.slot().await, Event::Request);
        drop(dropped);
        Record::open(&audit, audit.slot().await, Event::Stop)
            .close_and_wait()
            .await
            .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert!(
            text.bytes()
                .all(|b| b == b'\n' || (b' '..0x7f).contains(&b))
        );
        assert_eq!(lines[0]["agent"], "a\u{202e}\u{1b}[31m\"\r\n\u{7f}ä");
        assert_eq!(lines[0]["user"].as_str().unwrap().len(), 256);
        assert_eq!(
            (&lines[0]["outcome"], &lines[1]["outcome"]),
            (&"failed".into(), &"aborted".into())
        );
        let time = lines[0]["time"].as_str().unwrap();
        assert_eq!((time.len(), time.ends_with('Z')), (27, true), "{time}");
        for key in [
            "time",
            "seq",
            "ref",
            "event",
            "outcome",
            "client",
            "user",
            "groups",
            "outside_groups",
            "auth",
            "proof",
            "cached",
            "certificate",
            "tls",
            "method",
            "action",
            "object",
            "repository",
            "reference",
            "rule",
            "status",
            "upstream_status",
            "bytes_in",
            "bytes_out",
            "duration_us",
            "agent",
            "trace",
            "reason",
            "count",
            "prev",
            "hash",
        ] {
            assert!(lines[0].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn fields_are_cut_between_characters() {
        assert_eq!(bounded(&"ä".repeat(200)).len(), 256);
        assert_eq!(bounded(&format!("x{}", "ä".repeat(200))).len(), 255);
    }
}
