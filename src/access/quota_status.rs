//! What a caller with limited pulls reads: how many are left, or that they are used up.

use std::time::Duration;

use crate::limit::{Exceeded, Quota, Subject};

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
    use super::spoken;
    use std::time::Duration;

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
