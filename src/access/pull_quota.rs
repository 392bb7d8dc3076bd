//! What a pull costs, and whom.
//!
//! A pull is a GET of a manifest that the registry answers with 200. It is reserved when it has been
//! permitted and before anything is asked of the registry, and given back if it turns out to be
//! none. A HEAD of a manifest says how much is left and costs nothing; nothing else is limited.
//! A caller who may not read is told so whatever is left: an anonymous caller has to be asked for
//! credentials, not to be sent away.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::pull_counters::{Counters, Held};
use super::quota_status::QuotaStatus;
use super::refusal::Refusal;
use crate::identity::Identity;
use crate::limit::Bucket;
use crate::policy::LimitedRead;
use crate::registry::{Call, Read};
use crate::request::RequestContext;

/// A read of a manifest by a caller who is limited.
pub struct Pull {
    bucket: Bucket,
    counters: Counters,
    repeat_free: Duration,
    /// None for what costs nothing anyway.
    held: Option<Held>,
}

/// Reserves what a call costs. `None` if it is not a read of a manifest or not limited.
pub(super) async fn reserve(
    context: &RequestContext,
    who: &Identity,
    call: &Call,
) -> Result<Option<Pull>, Refusal> {
    let RequestContext {
        rules,
        retained,
        peer,
        ..
    } = context;
    let limited = rules.pulls.limited(&rules.policy, who, peer.address, call);
    let Some(limited) = limited else {
        return Ok(None);
    };
    let counters = Counters {
        quotas: Arc::clone(&retained.quotas),
        store: rules.store.clone(),
    };
    let begun = Pull::begin(limited, counters, rules.pulls.repeat_free, retained.now());
    begun.await.map(Some)
}

impl Pull {
    /// Reserves what a read costs.
    async fn begin(
        limited: LimitedRead<'_>,
        counters: Counters,
        repeat_free: Duration,
        now: Duration,
    ) -> Result<Self, Refusal> {
        let LimitedRead {
            bucket,
            read,
            digest,
        } = limited;
        let held = match read {
            Read::Head => None,
            Read::Get => {
                let reserved = counters.reserve(&bucket, digest, repeat_free, now).await;
                reserved.map_err(|exceeded| Refusal::Limited(exceeded.into()))?
            }
        };
        Ok(Self {
            bucket,
            counters,
            repeat_free,
            held,
        })
    }

    /// Settles the pull when the registry has answered; `digest` is what it names the manifest.
    pub async fn settle(
        self,
        status: StatusCode,
        digest: Option<&str>,
        now: Duration,
    ) -> QuotaStatus {
        let Self {
            bucket,
            counters,
            repeat_free,
            held,
        } = self;
        let remaining = match held {
            Some(held) if status == StatusCode::OK => {
                held.settle(digest, repeat_free, &counters, &bucket, now)
                    .await
            }
            Some(held) => held.give_back(&counters, &bucket, now).await,
            None => counters.remaining(&bucket, now).await,
        };
        QuotaStatus {
            quota: bucket.quota,
            remaining,
            subject: bucket.subject,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, Pull};
    use crate::access::Refusal;
    use crate::identity::{Group, Identity, Subject};
    use crate::limit::{Quota, Quotas};
    use crate::policy::{Pattern, Policy, PullLimit, PullLimits, Who};
    use crate::registry::Call;
    use http::{Method, StatusCode};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_hours(1);

    fn subject(name: &str) -> Subject {
        Subject::read(name).unwrap()
    }

    fn quota(count: u32) -> Quota {
        Quota { count, per: HOUR }
    }

    fn limit(who: Vec<Who>, repositories: &[&str], count: u32) -> PullLimit {
        let patterns = repositories.iter().map(|one| Pattern::parse(one).unwrap());
        PullLimit {
            who,
            repositories: patterns.collect(),
            quota: quota(count),
        }
    }

    fn limits(pulls: &[PullLimit]) -> PullLimits {
        PullLimits::new(pulls, quota(3), quota(0), Duration::ZERO)
    }

    async fn reserve(
        limits: &PullLimits,
        quotas: &Arc<Quotas>,
        who: &Identity,
        method: &Method,
        path: &str,
    ) -> Result<Option<Pull>, Refusal> {
        let groups = [("ci".into(), vec![subject("robot")])];
        let policy = Policy::new(vec![], vec![], groups.into());
        let from: IpAddr = "2001:db8::7".parse().unwrap();
        let call = Call::parse(method, path, None).unwrap();
        let counters = Counters {
            quotas: Arc::clone(quotas),
            store: None,
        };
        let Some(limited) = limits.limited(&policy, who, from, &call) else {
            return Ok(None);
        };
        let begun = Pull::begin(limited, counters, Duration::ZERO, Duration::ZERO);
        begun.await.map(Some)
    }

    async fn remaining(limits: &PullLimits, who: &Identity, path: &str) -> Option<u32> {
        let quotas = Quotas::new();
        let pull = reserve(limits, &quotas, who, &Method::HEAD, path).await;
        Some(settle(pull.ok().unwrap()?, StatusCode::OK).await)
    }

    async fn settle(pull: Pull, status: StatusCode) -> u32 {
        pull.settle(status, None, Duration::ZERO).await.remaining
    }

    #[tokio::test]
    async fn the_first_limit_that_fits_is_asked() {
        let limits = limits(&[
            limit(vec![Who::User(subject("robot"))], &["free/**"], 0),
            limit(vec![Who::Group(Group::new("ci"))], &[], 20),
            limit(vec![Who::Anonymous], &["rare/**"], 1),
            limit(vec![], &["rare/**"], 2),
        ]);
        let nobody = Identity::anonymous();
        let [robot, alice] = ["robot", "alice"].map(|name| Identity::supposed(subject(name), &[]));
        for (who, path, expected) in [
            (&nobody, "/v2/a/manifests/1", Some(3)),
            (&nobody, "/v2/rare/a/manifests/1", Some(1)),
            (&alice, "/v2/a/manifests/1", None),
            (&alice, "/v2/rare/a/manifests/1", Some(2)),
            (&robot, "/v2/rare/a/manifests/1", Some(20)),
            (&robot, "/v2/free/a/manifests/1", None),
        ] {
            assert_eq!(
                remaining(&limits, who, path).await,
                expected,
                "{:?} {path}",
                who.user()
            );
        }
        let member = Identity::supposed(subject("bob"), &["ci"]);
        let left = remaining(&limits, &member, "/v2/a/manifests/1").await;
        assert_eq!(left, Some(20));
    }

    #[tokio::test]
    async fn only_manifests_that_were_served_are_paid_for() {
        let (limits, quotas) = (limits(&[]), Quotas::new());
        let nobody = Identity::anonymous();
        let ask = async |method, path| reserve(&limits, &quotas, &nobody, &method, path).await;
        let get = async || {
            let pull = ask(Method::GET, "/v2/a/manifests/1").await;
            pull.ok().unwrap().unwrap()
        };
        for (method, path) in [
            (Method::GET, "/v2/"),
            (Method::GET, "/v2/a/tags/list"),
            (Method::GET, "/v2/_catalog"),
            (Method::PUT, "/v2/a/manifests/1"),
        ] {
            assert!(ask(method, path).await.ok().unwrap().is_none(), "{path}");
        }
        assert_eq!(settle(get().await, StatusCode::OK).await, 2);
        assert_eq!(settle(get().await, StatusCode::NOT_FOUND).await, 2);
        assert_eq!(settle(get().await, StatusCode::NOT_MODIFIED).await, 2);
        drop(get().await);
        let two = (get().await, get().await);
        let refused = ask(Method::GET, "/v2/a/manifests/1").await.err().unwrap();
        assert!(matches!(refused, Refusal::Limited(_)));
        // A HEAD is answered all the same.
        let head = ask(Method::HEAD, "/v2/a/manifests/1").await;
        assert_eq!(settle(head.ok().unwrap().unwrap(), StatusCode::OK).await, 0);
        // What was left when it was reserved, whatever others did since.
        assert_eq!(settle(two.0, StatusCode::OK).await, 1);
        drop(two.1);
        let status = get()
            .await
            .settle(StatusCode::OK, None, Duration::ZERO)
            .await;
        assert_eq!(status.remaining, 0);
        assert_eq!(status.subject.to_string(), "2001:db8::/64");
    }
}
