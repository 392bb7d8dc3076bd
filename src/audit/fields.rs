//! The members of a record, and the line that they make.

use std::net::IpAddr;

use jiff::Timestamp;

use super::event::{Event, Outcome};
use super::fold::{Folded, Kind, source_of};
use super::members::Members;
use super::served::Request;
use super::sign::Checkpoint;
use super::tally::{Entry, Refused};
use crate::identity::SubjectKind;
use crate::trace::Span;

/// No field of a record is longer, in bytes; whatever an attacker sends.
const MAX_FIELD: usize = 256;

/// The members of a record, in the order in which they are written. Absent ones are `null`, so
/// that every record has the same keys, but for the last.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) time: Timestamp,
    pub(super) reference_id: String,
    pub(super) event: Event,
    pub(super) outcome: Outcome,
    pub(super) client: Option<IpAddr>,
    pub(super) user: Option<String>,
    /// What the user is; `None` where no caller is concerned.
    pub(super) subject: Option<SubjectKind>,
    pub(super) groups: Vec<String>,
    pub(super) outside_groups: Vec<String>,
    pub(super) auth: Option<&'static str>,
    pub(super) proof: Vec<&'static str>,
    pub(super) cached: bool,
    pub(super) certificate: Option<Shown>,
    pub(super) tls: Option<Box<str>>,
    pub(super) method: Option<String>,
    pub(super) action: Option<&'static str>,
    pub(super) object: Option<&'static str>,
    pub(super) repository: Option<String>,
    pub(super) reference: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) upstream_status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration_us: u64,
    pub(super) agent: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) span: Option<Span>,
    pub(super) reason: Option<String>,
    pub(super) count: Option<u64>,
    /// In checkpoints alone.
    pub(super) checkpoint: Option<Checkpoint>,
}

/// The certificate of a connection, as a record names it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) subject: String,
    pub(super) sha256: String,
}

impl Fields {
    pub(super) fn new(event: Event, outcome: Outcome) -> Self {
        Self {
            time: Timestamp::now(),
            reference_id: String::new(),
            event,
            outcome,
            client: None,
            user: None,
            subject: None,
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
    pub(super) fn kind(&self) -> Option<Kind> {
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
    pub(super) fn entry(&self) -> Entry<'_> {
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
        to.text("kind", self.subject.map(SubjectKind::as_str));
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

/// As much of a text as a field may hold.
pub(super) fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::bounded;

    #[test]
    fn fields_are_cut_between_characters() {
        assert_eq!(bounded(&"ä".repeat(200)).len(), 256);
        assert_eq!(bounded(&format!("x{}", "ä".repeat(200))).len(), 255);
    }
}
