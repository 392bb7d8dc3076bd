//! The reading side: records for reports, filters and the replay of decisions.
//!
//! A line only claims to be a record. Missing keys are absent, keys of later versions are ignored, and a
//! line that is no record is a [`Flaw`] and never ends the reading. Memory is bounded by the longest line
//! that is read.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::record::event::{Event, Outcome};
use crate::identity::{ROBOT, Subject, SubjectKind};

/// No record is longer, in bytes.
const LONGEST: usize = 1 << 20;

/// One record of a trail.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// When the request began.
    #[serde(deserialize_with = "time")]
    pub time: Timestamp,
    /// The reference that the client was given.
    #[serde(rename = "ref", default)]
    pub reference_id: String,
    /// The word of the event, also one of a later version.
    pub event: String,
    /// The outcome.
    #[serde(deserialize_with = "outcome")]
    pub outcome: Outcome,
    /// The client's address.
    #[serde(default, deserialize_with = "address")]
    pub client: Option<IpAddr>,
    /// The user, or the user that the caller claimed to be; see [`Entry::is_proven`].
    pub user: Option<String>,
    /// The kind of user; absent in older records, see [`Entry::subject_kind`].
    pub kind: Option<String>,
    /// All groups that counted.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Those of them that a back end or a certificate named.
    pub outside_groups: Option<Vec<String>>,
    /// The way of authentication.
    pub auth: Option<String>,
    /// Proofs of the identity: `password`, `certificate`.
    pub proof: Option<Vec<String>>,
    /// The certificate of the connection.
    pub certificate: Option<Certificate>,
    /// The request's method.
    pub method: Option<String>,
    /// The action, in the policy's terms.
    pub action: Option<String>,
    /// The kind of object: `manifest`, `blob`, `tags`...
    pub object: Option<String>,
    /// The repository.
    pub repository: Option<String>,
    /// The tag, digest, upload or scope.
    pub reference: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Body bytes from the client.
    #[serde(default)]
    pub bytes_in: u64,
    /// Body bytes to the client.
    #[serde(default)]
    pub bytes_out: u64,
    /// The reason.
    pub reason: Option<String>,
    /// The number of requests in a `suppressed` record.
    pub count: Option<u64>,
    /// The edition of the record; `None` in the first.
    pub schema: Option<u32>,
}

/// A certificate, as a record names it.
#[derive(Clone, Debug, Deserialize)]
pub struct Certificate {
    /// The distinguished name of its subject.
    pub subject: String,
}

impl Entry {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, Flaw> {
        serde_json::from_slice(line).map_err(|error| {
            if error.is_data() {
                Flaw::Foreign
            } else {
                Flaw::Torn
            }
        })
    }

    /// Returns true for a record of this event.
    pub fn is(&self, event: Event) -> bool {
        self.event == event.as_str()
    }

    /// Returns true if `user` is authenticated and not a mere claim.
    pub fn is_proven(&self) -> bool {
        let identified = match self.outcome {
            Outcome::Challenged | Outcome::Failed => false,
            // A lock-out limits a claim; a limit on pulls comes after the rule that allowed one.
            Outcome::Limited => self.rule.is_some(),
            Outcome::Aborted | Outcome::Allowed | Outcome::Denied | Outcome::Error => true,
        };
        identified && self.auth.is_some() && self.user.is_some() && !self.is(Event::Lockout)
    }

    /// The kind of user. Where the record does not have it, it follows from the credential, because a
    /// person could have a robot's name then.
    pub fn subject_kind(&self) -> SubjectKind {
        let told = self.kind.as_deref().and_then(SubjectKind::parse);
        told.unwrap_or_else(|| match (&self.user, self.auth.as_deref()) {
            (None, _) => SubjectKind::Nobody,
            (Some(_), Some("certificate" | "htpasswd" | "ldap")) => SubjectKind::Person,
            (Some(user), _) if user.starts_with(ROBOT) => SubjectKind::Robot,
            (Some(_), _) => SubjectKind::Person,
        })
    }

    /// The subject; `None` for a user whose name is no longer possible.
    pub fn subject(&self) -> Option<Subject> {
        let user = self.user.as_deref().unwrap_or_default();
        Subject::read_as(self.subject_kind(), user)
    }

    /// The user, for lists of users. A person of an older trail with a robot's name is marked.
    pub fn listed_user(&self) -> Option<Cow<'_, str>> {
        let user = self.user.as_deref()?;
        let is_like_a_robot = user.starts_with(ROBOT) && self.subject_kind() != SubjectKind::Robot;
        Some(if is_like_a_robot {
            Cow::Owned(format!("person {user}"))
        } else {
            Cow::Borrowed(user)
        })
    }

    /// Returns true for a request with a token that was minted for less: the user may do it, and the client
    /// is challenged to fetch a better one. Also how clients work, so it is no denial.
    pub fn is_step_up(&self) -> bool {
        self.outcome == Outcome::Denied && self.status == Some(401)
    }

    /// Returns true for a request without a credential that was challenged for one. Every client begins
    /// like this, so it is no sign of trouble.
    pub fn is_challenge(&self) -> bool {
        match self.outcome {
            Outcome::Challenged => true,
            // Before there was a word for it.
            Outcome::Failed => self.user.is_none() && self.auth.as_deref() == Some("anonymous"),
            Outcome::Aborted
            | Outcome::Allowed
            | Outcome::Denied
            | Outcome::Error
            | Outcome::Limited => false,
        }
    }

    /// The number of requests in a `suppressed` record; 0 for every other record.
    pub fn suppressed(&self) -> u64 {
        if !self.is(Event::Suppressed) {
            return 0;
        }
        // Before there was a `count`, the reason began with it.
        let told = || self.reason.as_ref()?.split(' ').next()?.parse().ok();
        self.count.or_else(told).unwrap_or(1)
    }

    /// Returns true if an image was pulled: a manifest was requested and served.
    pub fn is_pull(&self) -> bool {
        self.did("GET", "manifest") && self.status == Some(200)
    }

    /// Returns true if an image was pushed: the registry took its manifest.
    pub fn is_push(&self) -> bool {
        self.did("PUT", "manifest") && self.status == Some(201)
    }

    /// Returns true if something was deleted.
    pub fn is_delete(&self) -> bool {
        self.action.as_deref() == Some("delete") && self.status == Some(202)
    }

    fn did(&self, method: &str, object: &str) -> bool {
        self.method.as_deref() == Some(method) && self.object.as_deref() == Some(object)
    }
}

/// A line that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// JSON, but something else.
    #[error("JSON, but no audit record")]
    Foreign,
    /// Longer than any record.
    #[error("longer than any record")]
    TooLong,
    /// A part of a record, or damaged, or no JSON at all.
    #[error("torn or damaged")]
    Torn,
}

/// Reads a trail line by line, past lines that are no records.
pub struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads from here on.
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            number: 0,
            bytes: 0,
        }
    }

    /// The next line that is not empty; `None` at the end.
    pub fn read(&mut self) -> io::Result<Option<Result<Entry, Flaw>>> {
        loop {
            self.buffer.clear();
            let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
            let length = (&mut self.from)
                .take(most)
                .read_until(b'\n', &mut self.buffer)?;
            if length == 0 {
                return Ok(None);
            }
            self.number = self.number.saturating_add(1);
            self.count(length);
            if length >= LONGEST && !self.buffer.ends_with(b"\n") {
                self.skip()?;
                return Ok(Some(Err(Flaw::TooLong)));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(Entry::parse(&self.buffer)));
            }
        }
    }

    /// The last line read.
    pub fn text(&self) -> &[u8] {
        self.buffer.trim_ascii()
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of bytes read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn count(&mut self, length: usize) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
    }

    fn skip(&mut self) -> io::Result<()> {
        loop {
            let waiting = self.from.fill_buf()?;
            let end = waiting.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(waiting.len(), |end| end.saturating_add(1));
            self.from.consume(length);
            self.count(length);
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text: Cow<'de, str> = Cow::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn outcome<'de, D: Deserializer<'de>>(from: D) -> Result<Outcome, D::Error> {
    let text: Cow<'de, str> = Cow::deserialize(from)?;
    let known = Outcome::ALL.into_iter().find(|one| one.as_str() == text);
    known.ok_or_else(|| serde::de::Error::custom("no outcome"))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<Cow<'de, str>> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::{Entry, Flaw, LONGEST, Lines};
    use crate::audit::{Audit, Event, Outcome, Plan, Record};

    fn entry(fields: &str) -> Entry {
        let line =
            format!("{{\"time\":\"2026-11-22T00:59:42.666457Z\",\"event\":\"request\",{fields}}}");
        Entry::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_record_is_told_and_passed_over() {
        let good = "{\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"later\",\"outcome\":\"allowed\",\
                    \"new\":[1]}";
        let long = "x".repeat(LONGEST * 2 + 5);
        let text = format!(
            "{good}\n\n{{\"time\":\"2026-01-\n[1]\n{{\"a\":1}}\n{}\n{long}\n{good}\r\n{good}",
            good.replace("allowed", "perhaps")
        );
        let mut lines = Lines::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(line) = lines.read().unwrap() {
            found.push((lines.number(), line.map(|entry| entry.event)));
        }
        let good = |number| (number, Ok("later".to_owned()));
        let bad = |number, flaw| (number, Err(flaw));
        assert_eq!(
            found,
            [
                good(1),
                bad(3, Flaw::Torn),
                bad(4, Flaw::Foreign),
                bad(5, Flaw::Foreign),
                bad(6, Flaw::Foreign),
                bad(7, Flaw::TooLong),
                good(8),
                good(9),
            ]
        );
        assert_eq!(lines.bytes(), u64::try_from(text.len()).unwrap());
    }

    #[tokio::test]
    async fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = Audit::open(Plan::new(crate::audit::Settings::of_file(&file))).unwrap();
        let mut record = Record::open(&audit, Event::Suppressed);
        let reference = record.reference_id().to_owned();
        record.source("2001:db8::1".parse().unwrap());
        record.claim(&crate::identity::Claim::of_text("\u{1b}[31mä\n"));
        record.count(41);
        record.answer(Outcome::Limited, 429);
        record.close_and_wait().await.unwrap();
        let text = std::fs::read(&file).unwrap();
        let read = Lines::new(text.as_slice()).read().unwrap();
        let read = read.unwrap().unwrap();
        assert_eq!(read.reference_id, reference);
        assert_eq!(read.user.as_deref(), Some("\u{1b}[31mä\n"));
        assert_eq!(read.client, Some("2001:db8::1".parse().unwrap()));
        assert_eq!((read.suppressed(), read.status), (41, Some(429)));
        assert!(!read.is_proven());
    }

    #[test]
    fn claims_are_not_taken_for_users() {
        for (fields, proven) in [
            (r#""outcome":"allowed","user":"a","auth":"htpasswd""#, true),
            (r#""outcome":"denied","user":"a","auth":"token""#, true),
            (r#""outcome":"failed","user":"a","auth":"key""#, false),
            (r#""outcome":"limited","user":"a","auth":"key""#, false),
            (
                r#""outcome":"limited","user":"a","auth":"key","rule":"f:1""#,
                true,
            ),
            (r#""outcome":"error","user":"a""#, false),
            (r#""outcome":"allowed","auth":"anonymous""#, false),
            (
                r#""outcome":"challenged","user":"a","auth":"certificate""#,
                false,
            ),
        ] {
            assert_eq!(entry(fields).is_proven(), proven, "{fields}");
        }
        for (fields, is_challenge) in [
            (r#""outcome":"challenged","auth":"anonymous""#, true),
            (r#""outcome":"failed","auth":"anonymous","user":null"#, true),
            (r#""outcome":"failed","auth":"token","user":null"#, false),
            (r#""outcome":"denied","auth":"anonymous""#, false),
        ] {
            assert_eq!(entry(fields).is_challenge(), is_challenge, "{fields}");
        }
    }

    #[test]
    fn a_person_called_as_a_robot_is_stays_a_person_in_an_old_trail() {
        for (fields, kind, listed) in [
            (r#""user":"key:ci","auth":"key""#, "robot", Some("key:ci")),
            (r#""user":"key:ci","auth":"token""#, "robot", Some("key:ci")),
            (
                r#""user":"key:ci","auth":"ldap""#,
                "person",
                Some("person key:ci"),
            ),
            (
                r#""user":"key:ci","kind":"robot","auth":"token""#,
                "robot",
                Some("key:ci"),
            ),
            (r#""user":"alice","auth":"token""#, "person", Some("alice")),
            (r#""user":"alice","kind":"person""#, "person", Some("alice")),
            (r#""user":null,"auth":"anonymous""#, "nobody", None),
            (
                r#""user":"alice","kind":"machine""#,
                "person",
                Some("alice"),
            ),
        ] {
            let entry = entry(&format!("\"outcome\":\"allowed\",{fields}"));
            assert_eq!(entry.subject_kind().as_str(), kind, "{fields}");
            assert_eq!(entry.listed_user().as_deref(), listed, "{fields}");
        }
        let person = r#""outcome":"allowed","user":"key:ci","auth":"ldap""#;
        assert_eq!(entry(person).subject(), None);
    }

    #[test]
    fn pulls_and_pushes_are_manifests_that_came_or_went() {
        let step_up = |fields: &str| entry(fields).is_step_up();
        assert!(step_up(r#""outcome":"denied","user":"alice","status":401"#));
        assert!(!step_up(
            r#""outcome":"denied","user":"alice","status":403"#
        ));
        assert!(!step_up(
            r#""outcome":"failed","user":"alice","status":401"#
        ));
        let counts = |fields: &str| {
            let entry = entry(&format!("\"outcome\":\"allowed\",{fields}"));
            (entry.is_pull(), entry.is_push(), entry.is_delete())
        };
        let pull = r#""method":"GET","object":"manifest","status":200"#;
        assert_eq!(counts(pull), (true, false, false));
        assert_eq!(counts(&pull.replace("GET", "HEAD")), (false, false, false));
        assert_eq!(counts(&pull.replace("200", "404")), (false, false, false));
        let push = r#""method":"PUT","object":"manifest","status":201"#;
        assert_eq!(counts(push), (false, true, false));
        assert_eq!(
            counts(&push.replace("manifest", "upload")),
            (false, false, false)
        );
        let delete = r#""method":"DELETE","action":"delete","object":"blob","status":202"#;
        assert_eq!(counts(delete), (false, false, true));
    }

    #[test]
    fn suppressed_records_stand_for_many() {
        let flood = |more: &str| {
            let line = format!(
                "{{\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"suppressed\",\
                 \"outcome\":\"limited\"{more}}}"
            );
            Entry::parse(line.as_bytes()).unwrap().suppressed()
        };
        assert_eq!(flood(",\"count\":7,\"reason\":\"9 requests\""), 7);
        assert_eq!(flood(",\"reason\":\"9 requests over x turned away\""), 9);
        assert_eq!(flood(",\"reason\":null"), 1);
        assert_eq!(entry("\"outcome\":\"allowed\",\"count\":5").suppressed(), 0);
    }
}
