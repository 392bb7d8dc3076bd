//! A record under construction, from a request's head to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::journal::error::AuditError;
use super::record::event::{Event, Outcome};
use super::record::fields::{CertificateMember, Fields, bounded};
use super::suppress::Marks;
use super::writer::{Audit, Reservation};
use crate::hash::hex;
use crate::identity::{Authentication, Claim, ClientCertificate, Identity, recorded};
use crate::limit::{Claimant, Place};
use crate::registry::{Call, Digest, References};
use crate::trace::{Span, TraceId};

/// No record names more groups.
const MAX_GROUPS: usize = 100;

/// A record under construction. Whatever happens, it is written once.
#[derive(Debug)]
pub struct Record {
    fields: Option<Box<Fields>>,
    started: Instant,
    /// Bytes of the request's body, where they are counted.
    bytes_in: Option<Arc<AtomicU64>>,
    audit: Arc<Audit>,
    /// Its place in the queue, where one is reserved.
    place: Option<Arc<Mutex<Option<Place>>>>,
    is_permitted: bool,
    marks: Marks,
    disposition: Disposition,
}

/// The line that a record goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    /// Undecided so far.
    Undecided,
    /// A line of its own.
    Own,
    /// The line of a suppressed run.
    Suppressed,
    /// None: it is only counted in the metrics.
    None,
}

impl Record {
    /// Opens a record for a request. Its outcome is [`Outcome::Aborted`] until another one is set.
    pub fn open(audit: &Arc<Audit>, event: Event) -> Self {
        let mut fields = Fields::new(event, Outcome::Aborted);
        fields.reference_id = audit.next_reference();
        fields.first = (event == Event::Start).then(|| audit.first_record());
        Self {
            fields: Some(Box::new(fields)),
            started: Instant::now(),
            bytes_in: None,
            audit: Arc::clone(audit),
            place: None,
            is_permitted: false,
            marks: Marks::default(),
            disposition: Disposition::Undecided,
        }
    }

    /// The reference that the client reads in an error: six letters and digits.
    pub fn reference_id(&self) -> &str {
        self.fields
            .as_ref()
            .map_or("", |fields| &fields.reference_id)
    }

    /// The counter of request body bytes, for their reader.
    pub fn bytes_in(&mut self) -> Arc<AtomicU64> {
        Arc::clone(self.bytes_in.get_or_insert_default())
    }

    /// Sets the event, once it is known better.
    pub fn event(&mut self, event: Event) {
        self.set(|fields| fields.event = event);
    }

    /// Returns true for logins and tokens, whose answers wait for their record.
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

    /// Notes the connection of a malformed request, and its method if that could be read.
    pub fn unread(&mut self, address: IpAddr, tls: Option<&str>, method: Option<&str>) {
        self.set(|fields| {
            fields.client = Some(address);
            fields.tls = tls.map(Into::into);
            fields.method = method.map(bounded);
        });
    }

    /// Notes the client's address, when there is no head to note.
    pub fn source(&mut self, address: IpAddr) {
        self.set(|fields| fields.client = Some(address));
    }

    /// Notes the user that the caller claims to be; authentication overrides it later.
    pub fn claim(&mut self, claim: &Claim) {
        self.set(|fields| {
            fields.user = Some(bounded(claim.user()));
            fields.subject = Some(claim.kind());
        });
    }

    /// Notes that the claimed user exists, whatever came of the claim.
    pub fn names_somebody(&mut self) {
        self.marks.is_of_somebody = true;
    }

    /// Notes how the caller tried to authenticate.
    pub fn authentication(&mut self, authentication: Authentication) {
        self.set(|fields| fields.auth = Some(authentication.as_str()));
    }

    /// Notes the authenticated caller, and all groups that count for the policy.
    pub fn identify<'a>(&mut self, who: &Identity, groups: impl Iterator<Item = &'a str>) {
        self.set(|fields| {
            fields.user = who.user().map(bounded);
            fields.subject = Some(who.kind());
            fields.groups = groups.take(MAX_GROUPS).map(bounded).collect();
            fields.outside_groups = who
                .groups()
                .iter()
                .take(MAX_GROUPS)
                .map(|group| bounded(group.as_str()))
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
        let shown = shown.map(|certificate| CertificateMember {
            subject: bounded(&certificate.subject),
            sha256: hex(&certificate.fingerprint),
        });
        self.set(|fields| fields.certificate = shown);
    }

    /// Notes the call: every part of it that goes upstream, secrets as [`recorded`].
    pub fn call(&mut self, call: &Call) {
        let query = call.query_as(recorded);
        self.set(|fields| {
            fields.action = call.action().map(crate::registry::Action::as_str);
            fields.object = Some(call.object());
            fields.repository = call.repository().map(|name| bounded(name.as_str()));
            fields.reference = match (call.reference(), call.digest()) {
                // A digest has no room for a secret.
                (Some(name), Some(digest)) if name == digest.as_str() => Some(name.to_owned()),
                (name, _) => name.map(|name| bounded(&recorded(name))),
            };
            fields.from = call.mount_source().map(|name| bounded(name.as_str()));
            fields.query = Some(query).filter(|query| !query.is_empty());
            let tags = call.tags_written();
            fields.tags = tags
                .iter()
                .map(|tag| recorded(tag.as_str()).into())
                .collect();
        });
    }

    /// Notes the digest of the object that was served, pushed or deleted.
    pub fn digest(&mut self, digest: &Digest) {
        self.set(|fields| fields.digest = Some(digest.to_string()));
    }

    /// Notes the digest that the written tag pointed to before.
    pub fn digest_before(&mut self, digest: &Digest) {
        self.set(|fields| fields.digest_before = Some(digest.to_string()));
    }

    /// Notes the digests that a pushed manifest names.
    pub fn refers(&mut self, references: &References) {
        self.set(|fields| {
            let digests = references.digests.iter();
            fields.refers = digests.map(ToString::to_string).collect();
            fields.refers_count = references.count;
        });
    }

    /// Notes that the client did not wait for the answer.
    pub fn client_left(&mut self) {
        self.set(|fields| fields.client_left = true);
    }

    /// Notes that the policy lets the caller read the source of a mount.
    pub fn source_allowed(&mut self) {
        self.set(|fields| fields.from_allowed = true);
    }

    /// Notes the scope that a token was requested for, as it was sent.
    pub fn scope(&mut self, scope: &str) {
        self.set(|fields| fields.reference = Some(bounded(scope)));
    }

    /// Notes the name of a token, used or minted, and the login that it comes from.
    pub fn token(&mut self, name: &str, session: Option<&str>) {
        self.set(|fields| {
            fields.jti = Some(bounded(name));
            fields.session = session.map(bounded);
        });
    }

    /// Notes the rule that decided.
    pub fn rule(&mut self, rule: &str) {
        self.set(|fields| fields.rule = Some(bounded(rule)));
    }

    /// Notes the registry's answer, which the client gets, and its outcome.
    pub fn registry_answer(&mut self, outcome: Outcome, status: u16) {
        self.answer(outcome, status);
        self.registry_status(status);
        self.set(|fields| fields.served = Some("registry"));
    }

    /// Notes the registry's answer, in place of which the client gets another.
    pub fn registry_status(&mut self, status: u16) {
        self.set(|fields| fields.upstream_status = Some(status));
    }

    /// Notes an answer of our own and its outcome.
    pub fn answer(&mut self, outcome: Outcome, status: u16) {
        self.set(|fields| {
            fields.outcome = outcome;
            fields.status = Some(status);
            fields.served = (status > 0).then_some("proxy");
        });
    }

    /// Notes the outcome, whatever was noted before.
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

    /// Notes the reason, for readers of the trail: it may say more than the client's answer.
    pub fn reason(&mut self, reason: &str) {
        self.set(|fields| fields.reason = Some(bounded(reason)));
    }

    /// Notes the number of requests that it stands for.
    pub fn count(&mut self, count: u64) {
        self.set(|fields| fields.count = Some(count));
    }

    /// Marks it as permitted: it is never suppressed.
    pub fn permitted(&mut self) {
        self.is_permitted = true;
    }

    /// Marks it as one of so many that it is always suppressed.
    pub fn one_of_many(&mut self) {
        self.marks.is_one_of_many = true;
    }

    /// Leaves it out of the trail: a probe, which uses no credential and asks for no decision.
    pub fn leave_out(&mut self) {
        self.disposition = Disposition::None;
    }

    /// Its place in the queue, to be taken before a write is committed.
    pub fn reserve(&mut self) -> Reservation {
        let whom = self.claimant();
        Reservation::new(&self.audit, whom, self.place.get_or_insert_default())
    }

    /// Suppresses a request without a permit, if its source has used up its budget. Its reference becomes
    /// that of the run's record.
    pub fn settle_reference(&mut self) {
        let Some(fields) = self
            .fields
            .as_ref()
            .filter(|_| self.disposition == Disposition::Undecided)
        else {
            return;
        };
        let is_request = matches!(fields.event, Event::Login | Event::Request | Event::Token);
        self.disposition = Disposition::Own;
        if self.is_permitted || !is_request {
            return;
        }
        if let Some(reference) = self.audit.suppress(fields, self.marks) {
            self.set(|fields| fields.reference_id = reference);
            self.disposition = Disposition::Suppressed;
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

    /// Sends the record and waits until all required sinks have it.
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
        self.settle_reference();
        let whom = self.claimant();
        let Some(mut fields) = self.fields.take() else {
            return;
        };
        let bytes_in = self.bytes_in.as_ref();
        fields.bytes_in = bytes_in.map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        fields.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut entry = fields.entry();
        if self.disposition == Disposition::None {
            // It would push real refusals off the status page.
            entry.refused = None;
        }
        self.audit.tally().add(entry);
        match self.disposition {
            Disposition::Suppressed | Disposition::None => {
                // The request may be gone.
                let _gone = ack.is_some_and(|ack| ack.send(Ok(())).is_err());
                return;
            }
            Disposition::Own | Disposition::Undecided => {}
        }
        let reserved = self.place.as_ref();
        let place = reserved.and_then(|place| {
            let mut place = place.lock();
            place.take()
        });
        let place = place.or_else(|| self.audit.spare_place(whom?));
        if self.is_permitted {
            self.audit.write_permitted(&fields, place, ack);
        } else {
            self.audit.write(&fields, place, ack);
        }
    }

    /// The claimant of its place in the queue.
    fn claimant(&self) -> Option<Claimant> {
        let client = self.fields.as_ref()?.client?;
        Some(if self.is_permitted {
            Claimant::proven(client)
        } else {
            Claimant::stranger(client)
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.send(None);
    }
}

/// The proofs that a rule can `require` and this caller has.
fn proof(who: &Identity) -> Vec<&'static str> {
    let password = who.has_password().then_some("password");
    let certificate = who.has_certificate().then_some("certificate");
    password.into_iter().chain(certificate).collect()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use crate::audit::{Audit, Event, Outcome, Plan, Record};
    use crate::registry::Call;

    #[test]
    fn every_parameter_that_goes_upstream_is_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::open(Plan::new(crate::audit::Settings::of_file(&file))).unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        for (method, target) in [
            (Method::GET, "/v2/_catalog?n=5&last=m"),
            (Method::GET, "/v2/a/tags/list?n=7&last=v1"),
            (Method::GET, "/v2/a/referrers/DIGEST?artifactType=x%2Fy"),
            (Method::PUT, "/v2/a/manifests/DIGEST?tag=one&tag=two"),
            (Method::PUT, "/v2/a/manifests/v1"),
            (Method::POST, "/v2/a/blobs/uploads/?mount=DIGEST&from=b/c"),
            (Method::POST, "/v2/a/blobs/uploads/?digest=DIGEST"),
            (Method::POST, "/v2/a/blobs/uploads/?digest-algorithm=sha512"),
            (Method::PUT, "/v2/a/blobs/uploads/id?digest=DIGEST"),
            (Method::DELETE, "/v2/a/blobs/DIGEST"),
        ] {
            let target = target.replace("DIGEST", &digest);
            let (path, query) = target
                .split_once('?')
                .map_or((&*target, None), |(p, q)| (p, Some(q)));
            let call = Call::parse(&method, path, query).unwrap();
            let mut record = Record::open(&audit, Event::Request);
            record.call(&call);
            let fields = record.fields.take().unwrap();
            let line: serde_json::Value =
                serde_json::from_str(&format!("{{{}}}", fields.write())).unwrap();
            let upstream = call.target();
            let (path, query) = upstream.split_once('?').unwrap_or((&upstream, ""));
            assert_eq!(line["query"].as_str().unwrap_or_default(), query);
            let repository = line["repository"].as_str().unwrap_or("_catalog");
            assert!(path.starts_with(&format!("/v2/{repository}")), "{line:#}");
            let tags = call.tags_written().len();
            assert_eq!(line["tags"].as_array().map_or(0, Vec::len), tags);
        }
    }
    use crate::identity::Claim;

    #[test]
    fn no_part_of_a_call_tells_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(Plan::new(crate::audit::Settings::of_file(
            &folder.path().join("audit.jsonl"),
        )))
        .unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let key = "pcl_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789xyz";
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
        for secret in [key, token, "YWxpY2U6c2VjcmV0"] {
            for (method, target) in [
                (Method::GET, format!("/v2/a/manifests/{secret}")),
                (Method::PUT, format!("/v2/a/manifests/{secret}")),
                (
                    Method::PUT,
                    format!("/v2/a/manifests/{digest}?tag={secret}&tag=v1"),
                ),
                (Method::GET, format!("/v2/a/tags/list?n=1&last=%20{secret}")),
                (Method::GET, format!("/v2/_catalog?last=%22{secret}%22")),
            ] {
                let (path, query) = target
                    .split_once('?')
                    .map_or((&*target, None), |(path, query)| (path, Some(query)));
                let call = Call::parse(&method, path, query).unwrap();
                let mut record = Record::open(&audit, Event::Request);
                record.call(&call);
                let line = record.fields.take().unwrap().write();
                assert!(!line.contains(secret) && line.contains("****"), "{line}");
            }
        }
    }

    #[tokio::test]
    async fn a_record_is_one_line_of_ascii_whatever_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::open(Plan::new(crate::audit::Settings::of_file(&file))).unwrap();
        let mut record = Record::open(&audit, Event::Login);
        record.client(
            [127, 0, 0, 1].into(),
            "TLSv1.3",
            "GET",
            Some("a\u{202e}\u{1b}[31m\"\r\n\u{7f}ä"),
        );
        record.claim(&Claim::of_text(&"x".repeat(1000)));
        record.answer(Outcome::Failed, 401);
        record.close_and_wait().await.unwrap();
        let dropped = Record::open(&audit, Event::Request);
        drop(dropped);
        Record::open(&audit, Event::Stop)
            .close_and_wait()
            .await
            .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
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
        assert_eq!(lines[0]["kind"], "person");
        assert!(lines[1]["kind"].is_null());
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
            "kind",
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
            "from",
            "from_allowed",
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
}
