//! Fuzz targets: what a store answers.

use std::time::Duration;

use redis::{Value, from_redis_value, parse_redis_value};

use super::StoreError;
use super::guesses::{Begun, Locks, begun, ended};
use super::pulls::{Answer, FOR_ASKING, Settled, TAKEN, settled, taken};
use super::tags::granted;
use crate::limit::Quota;

const QUOTA: Quota = Quota {
    count: 5,
    per: Duration::from_mins(1),
};

/// What a server writes: it is numbers that mean something, within the limits that are configured, or
/// an error that repeats nothing of it but a code.
pub(crate) fn answer(bytes: &[u8]) {
    let read = parse_redis_value(bytes)
        .and_then(Value::extract_error)
        .and_then(|value| from_redis_value::<Vec<i64>>(value).map_err(Into::into));
    match read {
        Ok(numbers) => meaning(&numbers),
        Err(error) => told(bytes, &StoreError::from(&error)),
    }
}

fn meaning(numbers: &[i64]) {
    match taken(numbers, QUOTA) {
        Some(Answer::Exceeded(wait)) => assert!(wait <= QUOTA.per),
        Some(Answer::Taken(remaining, pull)) => assert!(remaining <= QUOTA.count && pull > 0),
        Some(Answer::Repeat) | None => {}
    }
    for paid in [TAKEN, FOR_ASKING] {
        if let Some(Settled::Paid(left) | Settled::Free(left)) = settled(numbers, paid, QUOTA) {
            assert!(left <= QUOTA.count);
        }
    }
    match begun(numbers, QUOTA.per) {
        Some(Begun::Busy(wait)) => assert!(wait <= QUOTA.per),
        Some(Begun::Locked(locks)) => {
            bounded(locks);
            assert!(locks.pair.is_some() != locks.network.is_some());
        }
        Some(Begun::Try(_)) | None => {}
    }
    if let Some(locks) = ended(numbers, QUOTA.per) {
        bounded(locks);
        assert!(locks.pair.is_none_or(|time| !time.is_zero()));
    }
    // Who answers with one number, or with many, has not understood the question.
    if !(2..=3).contains(&numbers.len()) {
        assert!(taken(numbers, QUOTA).is_none() && begun(numbers, QUOTA.per).is_none());
        assert!(settled(numbers, TAKEN, QUOTA).is_none() && ended(numbers, QUOTA.per).is_none());
        assert!(granted(numbers).is_none());
    }
}

fn bounded(locks: Locks) {
    for time in [locks.pair, locks.network].into_iter().flatten() {
        assert!(time <= QUOTA.per);
    }
}

/// Nothing that a server could choose stands in a reason, but a short word in capitals.
fn told(bytes: &[u8], error: &StoreError) {
    let text = error.to_string();
    assert!(text.len() <= 60 && text.chars().all(|c| c.is_ascii() && !c.is_ascii_control()));
    if let StoreError::Refused(code) = error {
        let is_of_it = |window: &[u8]| window == code.as_bytes();
        assert!(bytes.windows(code.len()).any(is_of_it), "{code}");
        assert!(
            code.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        );
    }
}
