//! What the shield turns away: the cheapest answer there is, and one audit record for all that are
//! turned away within ten seconds. And client certificates that are refused in the handshake: one
//! record for each, as long as they are no flood.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::answer::{REFERENCE, json};
use super::body::AnswerBody;
use crate::audit::{Audit, Event, Outcome, Record};
use crate::identity::Authentication;
use crate::limit::TooFast;
use crate::registry::{Code, Problem};

/// How long a record is open for others to join.
const PERIOD: Duration = Duration::from_secs(10);

/// Certificates refused within a period that have records of their own.
const ONE_BY_ONE: u32 = 100;

/// The flood that is going on, if there is one.
#[derive(Default)]
pub(super) struct Floods {
    going_on: Mutex<Option<Flood>>,
    turned_away: AtomicU64,
}

struct Flood {
    record: Record,
    first: IpAddr,
    why: Why,
    turned_away: u64,
}

/// What there is a flood of.
#[derive(Clone, Copy)]
enum Why {
    Certificate,
    Requests(TooFast),
}

/// Client certificates that are refused in the handshake, when there is no request to answer.
#[derive(Default)]
pub(super) struct Handshakes {
    /// When the period began, and how many have been told of in it.
    told: Mutex<Option<(Instant, u32)>>,
    floods: Arc<Floods>,
}

impl Handshakes {
    /// Records a certificate that was refused.
    pub(super) fn refused(&self, audit: &Arc<Audit>, from: IpAddr, reason: &str) {
        let slot = if self.is_few() {
            audit.spare_slot()
        } else {
            None
        };
        let Some(slot) = slot else {
            self.floods.count(audit, from, Why::Certificate);
            return;
        };
        tracing::info!(address = %from, reason, "client certificate refused");
        let mut record = Record::open(audit, slot, Event::Login);
        record.source(from);
        record.authentication(Authentication::Certificate);
        record.outcome(Outcome::Failed);
        record.reason(&format!("client certificate refused: {reason}"));
        record.close();
    }

    /// Writes the record of the flood so far.
    pub(super) fn tell(&self) {
        self.floods.tell();
    }

    fn is_few(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (begun, count) = told
            .filter(|(begun, _)| now.duration_since(*begun) < PERIOD)
            .unwrap_or((now, 0));
        *told = Some((begun, count.saturating_add(1)));
        count < ONE_BY_ONE
    }
}

impl Floods {
    /// Answers a request that is one too many.
    pub(super) fn turn_away(
        self: &Arc<Self>,
        audit: &Arc<Audit>,
        from: IpAddr,
        why: TooFast,
    ) -> Response<AnswerBody> {
        let problem = Problem {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: Code::TooManyRequests,
            message: format!(
                "too many requests from {from}: try again in ten seconds, with fewer at a time"
            ),
        };
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        let reference = self.count(audit, from, Why::Requests(why));
        let mut response = json(problem.status, problem.body(&reference));
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
        if let Ok(reference) = HeaderValue::try_from(reference) {
            headers.insert(REFERENCE, reference);
        }
        response
    }

    /// How many requests there were in all floods.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Writes the record of the flood so far.
    pub(super) fn tell(&self) {
        drop(self.going_on().take());
    }

    /// Counts one for the record that is open, or opens one. Returns its reference.
    fn count(self: &Arc<Self>, audit: &Arc<Audit>, from: IpAddr, why: Why) -> String {
        let mut going_on = self.going_on();
        if going_on.is_none() {
            // Where there is no room for a record, there is none for a flood's either.
            *going_on = audit.spare_slot().map(|slot| {
                let floods = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(PERIOD).await;
                    floods.tell();
                });
                Flood {
                    record: Record::open(audit, slot, Event::Suppressed),
                    first: from,
                    why,
                    turned_away: 0,
                }
            });
        }
        going_on.as_mut().map_or_else(String::new, |flood| {
            flood.turned_away = flood.turned_away.saturating_add(1);
            flood.record.reference_id().to_owned()
        })
    }

    fn going_on(&self) -> MutexGuard<'_, Option<Flood>> {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever ends it, the record says how many they were.
impl Drop for Flood {
    fn drop(&mut self) {
        let Self {
            record,
            first,
            why,
            turned_away,
        } = self;
        record.source(*first);
        record.count(*turned_away);
        match why {
            Why::Certificate => {
                record.outcome(Outcome::Failed);
                record.authentication(Authentication::Certificate);
                record.reason(&format!(
                    "{turned_away} client certificates refused, the first from {first}"
                ));
            }
            Why::Requests(limit) => {
                record.answer(Outcome::Limited, StatusCode::TOO_MANY_REQUESTS.as_u16());
                record.reason(&format!(
                    "{turned_away} requests over {limit} turned away, the first from {first}"
                ));
            }
        }
    }
}
