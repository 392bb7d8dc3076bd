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

use super::Refusal;
use super::shared::{Counters, Held};
use crate::identity::Identity;
use crate::limit::{Bucket, Exceeded, Quota, Subject};
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

/// What headers say about a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// How many in what time.
    pub quota: Quota,
    /// How many are left.
    pub remaining: u32,
    /// Whose they are.
    pub subject: Subject,
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

/// Pulls used up: whose, and for how long.
#[derive(Debug)]
pub struct PullsExceeded {
    /// What headers say.
    pub status: QuotaStatus,
    /// Until there is room for another.
    pub wait: Duration,
}

impl From<Exceeded> for Box<PullsExceeded> {
    fn from(exceeded: Exceeded) -> Self {
        let Exceeded { bucket, wait } = exceeded;
        let status = QuotaStatus {
            quota: bucket.quota,
            remaining: 0,
            subject: bucket.subject,
        };
        Box::new(PullsExceeded { status, wait })
    }
}

impl PullsExceeded {
    /// What the user reads: what happened, and the line that helps.
    pub(super) fn message(&self, host: Option<&str>) -> String {
        let QuotaStatus { quota, subject, .. } = &self.status;
        let (count, per, wait) = (quota.count, spoken(quota.per), spoken(self.wait));
        let pulls = if count == 1 { "pull" } else { "pulls" };
        match subject {
            Subject::Source(source) => {
                let login =
                    host.map_or_else(String::new, |host| format!(" with `docker login {host}`"));
                format!(
                    "{source} has used its {count} {pulls} in {per} without an account: \
                     log in{login}, or try again in {wait}"
                )
            }
            Subject::User(user) => format!(
                "the user {} has used the {count} {pulls} in {per} that this registry allows: \
                 try again in {wait}, or ask its administrator for more",
                user.shown()
            ),
        }
    }
}

/// A time in at most two units, a fraction of a second rounded up: `3 h 12 min`, `6 h`, `40 s`.
fn spoken(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut seconds = time.as_secs();
    if time.subsec_nanos() > 0 || seconds == 0 {
        seconds = seconds.saturating_add(1);
    }
    let mut parts = Vec::new();
    for (size, name) in UNITS {
        let many = seconds.checked_div(size).unwrap_or(0);
        if many > 0 && parts.len() < 2 {
            parts.push(format!("{many} {name}"));
        } else if !parts.is_empty() {
            break;
        }
        seconds = seconds.checked_rem(size).unwrap_or(0);
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Counters, Pull, spoken};
    use crate::access::Refusal;
    use crate::identity::{Identity, Subject};
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
            limit(vec![Who::Group("ci".into())], &[], 20),
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

    #[test]
    fn times_are_spoken_in_two_units() {
        for (seconds, words) in [
            (0, "1 s"),
            (40, "40 s"),
            (60, "1 min"),
            (90, "1 min 30 s"),
            (3_600, "1 h"),
            (3_605, "1 h"),
            (21_600, "6 h"),
            (11_520, "3 h 12 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(spoken(Duration::from_secs(seconds)), words);
        }
        assert_eq!(spoken(Duration::from_millis(1_001)), "2 s");
    }
}
