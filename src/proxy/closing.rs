//! The end of a request that is answered as a whole: its answer worded, its record closed.

use http::{Method, Response};

use super::body::AnswerBody;
use super::cors;
use super::instance::Proxy;
use super::opening::purpose;
use super::response::refused;
use crate::access::{Refusal, Wanted};
use crate::audit::{Event, Record};
use crate::limit::Source;
use crate::request::RequestContext;
use crate::state::Rules;
use crate::telemetry::LogLimit;
use crate::upstream::UpstreamError;

/// Of lines about the registry: each failure has a record as well.
static FAILED: LogLimit = LogLimit::new();

/// Whether the record must be on its way to disk before the answer.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    No,
    Yes,
}

impl Proxy {
    /// Answers with what a request came to, and closes its record before the client has the answer's
    /// end.
    pub(super) async fn end(
        &self,
        context: &RequestContext,
        result: Result<Response<AnswerBody>, Refusal>,
        wait: Wait,
        mut record: Record,
    ) -> Response<AnswerBody> {
        let is_refused = result.is_err();
        let response = result.unwrap_or_else(|refusal| self.refuse(context, &refusal, &mut record));
        let audit = &self.retained.audit;
        match wait {
            Wait::No => record.close(),
            Wait::Yes => {
                let is_late = record.close_and_wait().await.is_err();
                let purpose = purpose(&context.route, &context.head.method);
                // What is refused already is not changed by a late record.
                if is_late && !is_refused && audit.ready_for(purpose).is_err() {
                    let mut late = Record::open(audit, Event::Audit);
                    let response = self.refuse(context, &Refusal::AuditUnwritable, &mut late);
                    late.close();
                    return response;
                }
            }
        }
        response
    }

    /// The answer to what is refused; notes it in the record.
    fn refuse(
        &self,
        context: &RequestContext,
        refusal: &Refusal,
        record: &mut Record,
    ) -> Response<AnswerBody> {
        let wanted = Wanted::of(&context.route, &context.head.method);
        let authority = Some(&context.authority);
        let is_browser = cors::is_browser(&context.head.headers);
        let challenge = context.rules.challenge_of(is_browser);
        let reply = refusal.reply(challenge, authority, &wanted);
        if reply.is_wrong_credential {
            let from = Source::of(context.peer.address);
            self.retained.shield.failure(from, self.retained.now());
        }
        if let Refusal::Upstream(error) = refusal
            && !matches!(error, UpstreamError::Client(_))
            && let Some(omitted) = FAILED.due()
        {
            let reference = record.reference_id();
            tracing::warn!(%error, reference, omitted, "the registry failed");
        }
        refused(refusal, &reply, record)
    }
}

pub(super) fn wait_for(method: &Method, record: &Record) -> Wait {
    if method.is_safe() && !record.is_about_credentials() {
        Wait::No
    } else {
        Wait::Yes
    }
}

/// The answer to a request whose host is not known, so that no challenge can name it; closes its record.
pub(super) fn refuse_for_no_host(
    rules: &Rules,
    refusal: &Refusal,
    wanted: &Wanted,
    mut record: Record,
) -> Response<AnswerBody> {
    let reply = refusal.reply(rules.challenge, None, wanted);
    let response = refused(refusal, &reply, &mut record);
    record.close();
    response
}
