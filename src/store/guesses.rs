//! Wrong passwords that replicas count together: the same state machine as in `limit::lockout`, kept
//! in the store. The store sees hashes of passwords under a key that it does not know.

use std::sync::Arc;
use std::time::Duration;

use super::{Question, Store, millis};
use crate::limit::lockout::{Attempt, Counts, Judged, REMEMBERED, SOURCE_FACTOR, Setting};

/// For how long a password counts as being verified whose end is never told: a replica may die.
const LONGEST_TRIAL: Duration = Duration::from_mins(1);

/// One password of one user from one network, as the store knows it.
#[derive(Clone, Debug)]
pub struct Guess {
    keys: Vec<String>,
    tag: String,
    counts: Counts,
}

/// What the store says to a guess.
pub enum Judgement {
    /// It may be verified; there were so many wrong ones.
    Try(Trial, u32),
    /// Too many are being verified.
    Busy(Duration),
    /// Somebody is locked for so long.
    Locked(Locks),
}

/// What is locked, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// The user from that network.
    pub pair: Option<Duration>,
    /// The network, for every user.
    pub network: Option<Duration>,
}

/// A guess that is being verified. Dropped without an end, nobody knows how it ended.
pub struct Trial {
    store: Arc<Store>,
    setting: Setting,
    /// None once it has ended.
    guess: Option<Guess>,
}

impl Store {
    /// How the store knows an attempt; `tag` is a keyed hash of the password.
    pub fn guess(&self, attempt: &Attempt, tag: u64) -> Guess {
        let (user, network) = (attempt.user(), attempt.network().to_string());
        Guess {
            keys: vec![
                self.key("wrong", &["user", user, &network]),
                self.key("trying", &["user", user, &network]),
                self.key("wrong", &["network", &network]),
            ],
            tag: format!("{tag:016x}"),
            counts: attempt.counts(),
        }
    }

    /// Lets a guess be verified, or says why not.
    pub async fn begin(self: &Arc<Self>, guess: Guess, setting: Setting) -> Option<Judgement> {
        let store = Arc::clone(self);
        // A task of its own: whoever goes away before the answer has come drops the trial in it.
        let task = tokio::spawn(async move {
            let question = Question {
                script: &store.scripts.begin,
                keys: guess.keys.clone(),
                arguments: vec![
                    guess.tag.clone(),
                    setting.count.to_string(),
                    millis(setting.per),
                    millis(LONGEST_TRIAL),
                ],
            };
            let answer = store.ask(&question, |answer| begun(answer, setting.per));
            Some(match answer.await? {
                Begun::Locked(locks) => Judgement::Locked(locks),
                Begun::Busy(wait) => Judgement::Busy(wait),
                Begun::Try(wrong) => {
                    let trial = Trial {
                        setting,
                        guess: Some(guess),
                        store,
                    };
                    Judgement::Try(trial, wrong)
                }
            })
        });
        task.await.ok().flatten()
    }
}

impl Trial {
    /// Tells how it ended. Gives what is locked because of it, as soon as the store has counted it.
    pub fn end(mut self, judged: Judged) -> impl Future<Output = Locks> {
        // Told in any case: a guesser who goes away before the answer is counted as well.
        let told = self.told(judged).map(tokio::spawn);
        async move {
            match told {
                Some(told) => told.await.unwrap_or_default(),
                None => Locks::default(),
            }
        }
    }

    fn told(&mut self, judged: Judged) -> Option<impl Future<Output = Locks> + Send + 'static> {
        let guess = self.guess.take()?;
        let (store, Setting { count, per }) = (Arc::clone(&self.store), self.setting);
        let factor = match guess.counts {
            Counts::ForBoth => SOURCE_FACTOR,
            Counts::ForUser => 0,
        };
        let word = match judged {
            Judged::Right => "right",
            Judged::Wrong => "wrong",
            Judged::Unknown => "unknown",
        };
        let arguments = vec![
            word.to_owned(),
            guess.tag,
            count.to_string(),
            millis(per),
            factor.to_string(),
            REMEMBERED.to_string(),
        ];
        Some(async move {
            let question = Question {
                script: &store.scripts.end,
                keys: guess.keys,
                arguments,
            };
            let locks = store.ask(&question, |answer| ended(answer, per)).await;
            locks.unwrap_or_default()
        })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(told) = self.told(Judged::Unknown)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(told);
        }
    }
}

/// An answer to a guess that has been read.
#[derive(Debug)]
pub(super) enum Begun {
    Busy(Duration),
    Locked(Locks),
    Try(u32),
}

/// Reads what came of a guess. No lock is longer than `per`.
pub(super) fn begun(answer: &[i64], per: Duration) -> Option<Begun> {
    let [what, number] = *answer else { return None };
    let number = u64::try_from(number).ok()?;
    let wait = Duration::from_millis(number).min(per);
    let locks = Locks::default();
    match what {
        0 => Some(Begun::Try(u32::try_from(number).unwrap_or(u32::MAX))),
        1 => Some(Begun::Locked(Locks {
            pair: Some(wait),
            ..locks
        })),
        2 => Some(Begun::Locked(Locks {
            network: Some(wait),
            ..locks
        })),
        3 => Some(Begun::Busy(wait)),
        _ => None,
    }
}

/// Reads what is locked after a guess. No lock is longer than `per`.
pub(super) fn ended(answer: &[i64], per: Duration) -> Option<Locks> {
    let [pair, network] = *answer else {
        return None;
    };
    let lock = |number: i64| {
        let time = Duration::from_millis(u64::try_from(number).ok()?).min(per);
        Some(Some(time).filter(|time| !time.is_zero()))
    };
    Some(Locks {
        pair: lock(pair)?,
        network: lock(network)?,
    })
}
