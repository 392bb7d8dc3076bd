//! `[limits]`: how many pulls and failures, and where they are counted.

use std::path::PathBuf;
use std::time::Duration;

use super::secrets::Password;
use crate::config::file::{self, File};
use crate::config::value;
use crate::document::{At, Interpreter, Text, Wrong};
use crate::limit::{Quota, Rates};
use crate::policy::{Limits, PullLimit};
use crate::store::{self, StoreUrl};

impl Interpreter<'_> {
    pub(super) fn limits(&mut self, limits: &file::Limits, pulls: Vec<PullLimit>) -> Limits {
        let rate = |rate: Option<&At<u32>>, default| rate.map_or(default, |rate| rate.value);
        let six_hours = Duration::from_hours(6);
        Limits {
            anonymous_pulls: self.pulls(limits.anonymous_pulls.as_ref(), (100, six_hours)),
            authenticated_pulls: self.pulls(limits.authenticated_pulls.as_ref(), (0, six_hours)),
            pulls,
            repeat_free: self.duration(limits.repeat_free.as_ref(), Duration::ZERO),
            failed_logins: self.quota(limits.failed_logins.as_ref(), (10, Duration::from_mins(5))),
            rates: Rates {
                requests_per_second: rate(limits.requests_per_second.as_ref(), 100_000),
                connections_per_second: rate(limits.connections_per_second.as_ref(), 10_000),
                concurrent_requests: rate(limits.concurrent_requests.as_ref(), 10_000),
            },
        }
    }

    pub(super) fn store(&mut self, store: &file::LimitStore) -> store::Settings {
        const LONGEST: Duration = Duration::from_secs(5);
        let url = match self.text(store.url.as_ref(), value::store) {
            Some(StoreUrl::Unix(path)) => StoreUrl::Unix(self.folder.join(path)),
            Some(url) => url,
            None => StoreUrl::Unix(PathBuf::new()),
        };
        let is_tls = matches!(url, StoreUrl::Tcp { tls: true, .. });
        if let Some(ca) = store.ca.as_ref().filter(|_| !is_tls) {
            let wrong = Wrong::new("`ca` has no effect: the URL does not begin with rediss://");
            self.warning(&ca.span, wrong);
        }
        let password = Password {
            key: "password",
            literal: store.password.as_ref(),
            file: store.password_file.as_ref(),
        };
        let login = match &store.username {
            Some(_) => self
                .login(("username", store.username.as_ref()), password)
                .map(|(user, password)| (Some(user), password)),
            None => self.secret(password).map(|password| (None, password)),
        };
        let timeout = self.time_out(store.timeout.as_ref(), Duration::from_millis(50));
        if let Some(text) = store.timeout.as_ref().filter(|_| timeout > LONGEST) {
            let wrong = Wrong::new("requests wait for the store, so this is too long");
            self.error(&text.span, wrong.help("write at most \"5s\""));
        }
        store::Settings {
            url,
            login,
            ca: self.path(store.ca.as_ref()),
            timeout,
            prefix: self
                .text(store.prefix.as_ref(), store_prefix)
                .unwrap_or_else(|| "portcullis".into()),
        }
    }

    /// Replicas take each other's tokens, and tell wrong passwords apart alike, only by a common key.
    pub(super) fn check_replicas(&mut self, file: &File) {
        if let (Some(store), None) = (&file.limits.value.store, &file.token.value.signing_key) {
            let wrong =
                Wrong::new("replicas that share limits also need the same `token.signing_key`");
            let help = "without it no replica takes the tokens of another, and the same wrong \
                        password counts once at each";
            self.warning(&store.span, wrong.help(help));
        }
    }

    fn pulls(&mut self, quota: Option<&At<file::Quota>>, default: (u32, Duration)) -> Quota {
        let meant = self.quota(quota, default);
        if let Some(At { value, .. }) = quota {
            self.check_pulls(value.count.as_ref(), value.per.as_ref(), meant);
        }
        meant
    }

    /// Limits on pulls are exact, which has its price for each pull of each caller.
    pub(in crate::config) fn check_pulls(
        &mut self,
        count: Option<&At<u32>>,
        per: Option<&Text>,
        meant: Quota,
    ) {
        if let Some(count) = count.filter(|count| count.value > Quota::LARGEST) {
            let wrong = Wrong::new(format!("more than {} are not counted", Quota::LARGEST));
            self.error(&count.span, wrong.help("write 0 for no limit"));
        }
        let short = !meant.per.is_zero() && meant.per < Duration::from_secs(1);
        if let Some(per) = per.filter(|_| short || meant.per > Quota::LONGEST) {
            self.error(&per.span, Wrong::new("write a time from 1s to 31d"));
        }
    }

    fn quota(&mut self, quota: Option<&At<file::Quota>>, default: (u32, Duration)) -> Quota {
        let (count, per) = default;
        quota.map_or(Quota { count, per }, |quota| Quota {
            count: quota
                .value
                .count
                .as_ref()
                .map_or(count, |count| count.value),
            per: self.time_out(quota.value.per.as_ref(), per),
        })
    }
}

fn store_prefix(text: &str) -> Result<Box<str>, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        let wrong = Wrong::new("a prefix has 1 to 64 letters, digits or any of - . _ :");
        return Err(wrong.help("for example \"portcullis\""));
    }
    Ok(text.into())
}
