//! The members of a record, and the line that they make.

use std::net::IpAddr;

use jiff::Timestamp;

use super::checkpoint::Checkpoint;
use super::event::{Event, Outcome};
use super::members::{Members, key};
use super::served::Request;
use super::tally::{Entry, Refused};
use crate::identity::{SubjectKind, address_text};
use crate::trace::Span;

/// No field of a record is longer, in bytes; whatever an attacker sends.
const MAX_FIELD: usize = 256;

/// Of the members of a record. Records of the first edition have none.
const SCHEMA: u32 = 2;

/// The members of a record, in the order in which they are written. Up to `count` absent ones are
/// `null`, so that every record has the same keys; those after `schema` are written only if they are set.
#[derive(Clone, Debug)]
pub(in crate::audit) struct Fields {
    pub(in crate::audit) time: Timestamp,
    pub(in crate::audit) reference_id: String,
    pub(in crate::audit) event: Event,
    pub(in crate::audit) outcome: Outcome,
    pub(in crate::audit) client: Option<IpAddr>,
    pub(in crate::audit) user: Option<String>,
    /// The kind of user; `None` where no caller is concerned.
    pub(in crate::audit) subject: Option<SubjectKind>,
    pub(in crate::audit) groups: Vec<String>,
    pub(in crate::audit) outside_groups: Vec<String>,
    pub(in crate::audit) auth: Option<&'static str>,
    pub(in crate::audit) proof: Vec<&'static str>,
    pub(in crate::audit) cached: bool,
    pub(in crate::audit) certificate: Option<CertificateMember>,
    pub(in crate::audit) tls: Option<Box<str>>,
    pub(in crate::audit) method: Option<String>,
    pub(in crate::audit) action: Option<&'static str>,
    pub(in crate::audit) object: Option<&'static str>,
    pub(in crate::audit) repository: Option<String>,
    pub(in crate::audit) reference: Option<String>,
    /// The source of a mount, and true if the policy lets the caller read it.
    pub(in crate::audit) from: Option<String>,
    pub(in crate::audit) from_allowed: bool,
    pub(in crate::audit) rule: Option<String>,
    pub(in crate::audit) status: Option<u16>,
    pub(in crate::audit) upstream_status: Option<u16>,
    pub(in crate::audit) bytes_in: u64,
    pub(in crate::audit) bytes_out: u64,
    pub(in crate::audit) duration_us: u64,
    pub(in crate::audit) agent: Option<String>,
    pub(in crate::audit) trace: Option<String>,
    pub(in crate::audit) span: Option<Span>,
    pub(in crate::audit) reason: Option<String>,
    pub(in crate::audit) count: Option<u64>,
    /// The first record that the trail is supposed to have, in the records that say so.
    pub(in crate::audit) first: Option<u64>,
    /// The origin of the answer: `registry` or `proxy`.
    pub(in crate::audit) served: Option<&'static str>,
    /// The digest of the object that was served, pushed or deleted.
    pub(in crate::audit) digest: Option<String>,
    /// The digest that a tag pointed to before.
    pub(in crate::audit) digest_before: Option<String>,
    /// The parameters of the call.
    pub(in crate::audit) query: Option<String>,
    /// The users and repositories that suppressed requests named.
    pub(in crate::audit) users: Vec<String>,
    pub(in crate::audit) repositories: Vec<String>,
    /// All tags that a push writes.
    pub(in crate::audit) tags: Vec<String>,
    /// The digests that a pushed manifest names.
    pub(in crate::audit) refers: Vec<String>,
    pub(in crate::audit) refers_count: u64,
    /// The name of a token, and the login that it comes from.
    pub(in crate::audit) jti: Option<String>,
    pub(in crate::audit) session: Option<String>,
    /// True if the client did not wait for the answer.
    pub(in crate::audit) client_left: bool,
    /// In checkpoints alone.
    pub(in crate::audit) checkpoint: Option<Checkpoint>,
}

/// The certificate of a connection, as a record names it.
#[derive(Clone, Debug)]
pub(in crate::audit) struct CertificateMember {
    pub(in crate::audit) subject: String,
    pub(in crate::audit) sha256: String,
}

impl Fields {
    pub(in crate::audit) fn new(event: Event, outcome: Outcome) -> Self {
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
            from: None,
            from_allowed: false,
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
            first: None,
            served: None,
            digest: None,
            digest_before: None,
            query: None,
            users: Vec::new(),
            repositories: Vec::new(),
            tags: Vec::new(),
            refers: Vec::new(),
            refers_count: 0,
            jti: None,
            session: None,
            client_left: false,
            checkpoint: None,
        }
    }

    /// An event of the trail itself.
    pub(in crate::audit) fn of_our_own(event: Event, outcome: Outcome, reason: &str) -> Self {
        Self {
            reason: Some(bounded(reason)),
            ..Self::new(event, outcome)
        }
    }

    /// A signature over everything before.
    pub(in crate::audit) fn of_checkpoint(checkpoint: Checkpoint, reason: &str) -> Self {
        Self {
            checkpoint: Some(checkpoint),
            ..Self::of_our_own(Event::Checkpoint, Outcome::Allowed, reason)
        }
    }

    /// About how many bytes its line has.
    pub(in crate::audit) fn size(&self) -> u64 {
        /// The fixed part of all lines: keys, hashes, times, numbers.
        const FRAME: usize = 620;
        let texts = [
            &self.user,
            &self.method,
            &self.repository,
            &self.reference,
            &self.from,
            &self.rule,
            &self.agent,
            &self.reason,
            &self.query,
            &self.jti,
            &self.session,
        ];
        // Escapes make a character of two bytes one of six.
        let length = |text: &String| {
            if text.is_ascii() {
                text.len()
            } else {
                text.len().saturating_mul(3)
            }
        };
        let texts = texts.into_iter().flatten().map(length);
        let lists = [&self.groups, &self.outside_groups, &self.tags, &self.refers];
        let lists = lists.into_iter().flatten().map(String::len);
        let bytes = texts.chain(lists).fold(FRAME, usize::saturating_add);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The record's counts for the tally.
    pub(in crate::audit) fn entry(&self) -> Entry<'_> {
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

    /// Writes them as JSON, without the braces around them.
    pub(in crate::audit) fn write(&self) -> String {
        let mut to = Members::new();
        to.plain(key!("time"), format_args!("{:.6}", self.time));
        to.text(key!("ref"), Some(&self.reference_id));
        to.text(key!("event"), Some(self.event.as_str()));
        to.text(key!("outcome"), Some(self.outcome.as_str()));
        match self.client {
            Some(client) => to.text(key!("client"), Some(&address_text(client))),
            None => to.text(key!("client"), None),
        }
        to.text(key!("user"), self.user.as_deref());
        to.text(key!("kind"), self.subject.map(SubjectKind::as_str));
        to.texts(key!("groups"), self.groups.iter().map(String::as_str));
        let outside = self.outside_groups.iter().map(String::as_str);
        to.texts(key!("outside_groups"), outside);
        to.text(key!("auth"), self.auth);
        to.texts(key!("proof"), self.proof.iter().copied());
        to.flag(key!("cached"), self.cached);
        match &self.certificate {
            Some(certificate) => to.json(key!("certificate"), &certificate.write()),
            None => to.text(key!("certificate"), None),
        }
        to.text(key!("tls"), self.tls.as_deref());
        to.text(key!("method"), self.method.as_deref());
        to.text(key!("action"), self.action);
        to.text(key!("object"), self.object);
        to.text(key!("repository"), self.repository.as_deref());
        to.text(key!("reference"), self.reference.as_deref());
        to.text(key!("from"), self.from.as_deref());
        match self.from {
            Some(_) => to.flag(key!("from_allowed"), self.from_allowed),
            None => to.text(key!("from_allowed"), None),
        }
        to.text(key!("rule"), self.rule.as_deref());
        to.number(key!("status"), self.status);
        to.number(key!("upstream_status"), self.upstream_status);
        to.number(key!("bytes_in"), Some(self.bytes_in));
        to.number(key!("bytes_out"), Some(self.bytes_out));
        to.number(key!("duration_us"), Some(self.duration_us));
        to.text(key!("agent"), self.agent.as_deref());
        to.text(key!("trace"), self.trace.as_deref());
        to.text(key!("reason"), self.reason.as_deref());
        to.number(key!("count"), self.count);
        to.number(key!("schema"), Some(SCHEMA));
        self.write_what_few_have(&mut to);
        if let Some(checkpoint) = &self.checkpoint {
            to.json(key!("checkpoint"), &checkpoint.write());
        }
        to.into_text()
    }

    /// Writes the members that are written only if they are set.
    fn write_what_few_have(&self, to: &mut Members) {
        let some = [
            (key!("served"), self.served),
            (key!("digest"), self.digest.as_deref()),
            (key!("digest_before"), self.digest_before.as_deref()),
            (key!("query"), self.query.as_deref()),
            (key!("jti"), self.jti.as_deref()),
            (key!("session"), self.session.as_deref()),
        ];
        for (key, value) in some.into_iter().filter(|(_, value)| value.is_some()) {
            to.text(key, value);
        }
        let lists = [
            (key!("users"), &self.users),
            (key!("repositories"), &self.repositories),
            (key!("tags"), &self.tags),
        ];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            to.texts(key, list.iter().map(String::as_str));
        }
        if self.refers_count > 0 {
            to.texts(key!("refers"), self.refers.iter().map(String::as_str));
            to.number(key!("refers_count"), Some(self.refers_count));
        }
        if self.client_left {
            to.flag(key!("client_left"), true);
        }
        if self.first.is_some() {
            to.number(key!("first"), self.first);
        }
    }
}

impl CertificateMember {
    fn write(&self) -> String {
        let mut to = Members::new();
        to.text(key!("subject"), Some(&self.subject));
        to.text(key!("sha256"), Some(&self.sha256));
        format!("{{{}}}", to.into_text())
    }
}

/// As much of a text as a field may hold.
pub(in crate::audit) fn bounded(text: &str) -> String {
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
