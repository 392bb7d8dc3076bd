//! Whether an account may still be used, as its entry says. A bind asks the same, but a look-up for a
//! token binds as the service account.
//!
//! A lock that wrong guesses bring about (`lockoutTime`, `pwdAccountLockedTime` with a time) is the
//! bind's to judge and ends no token: strangers could set it. An attribute that is not there may be
//! one that the service account cannot read: it says nothing.

use jiff::Timestamp;
use ldap3::SearchEntry;

use super::connection::Trouble;
use super::entry::values;

/// Attributes that end accounts, and how each is read.
const ATTRIBUTES: [(&str, Reading); 9] = [
    // Active Directory
    ("userAccountControl", Reading::Flags),
    ("accountExpires", Reading::FileTime),
    ("msDS-UserAccountDisabled", Reading::Flag),
    // Password policies (draft-behera-ldap-password-policy), as in OpenLDAP
    ("pwdAccountLockedTime", Reading::LockedForEver),
    ("pwdEndTime", Reading::Time),
    // 389 Directory Server and FreeIPA
    ("nsAccountLock", Reading::Flag),
    ("krbPrincipalExpiration", Reading::Time),
    // eDirectory
    ("loginDisabled", Reading::Flag),
    // RFC 2307
    ("shadowExpire", Reading::Days),
];

/// `ACCOUNTDISABLE` of `userAccountControl`.
const DISABLED: i64 = 2;
/// Seconds from 1601, where Active Directory begins to count, to 1970.
const SINCE_1601: i64 = 11_644_473_600;
/// Active Directory counts in units of 100 ns.
const UNITS_PER_SECOND: i64 = 10_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

#[derive(Clone, Copy)]
enum Reading {
    /// Days since 1970; -1 is never, and so is 0, which shadow(5) warns of.
    Days,
    /// Units of 100 ns since 1601; 0 and the greatest are never.
    FileTime,
    /// `TRUE`
    Flag,
    /// Bits.
    Flags,
    /// The moment `000001010000Z`, which only an administrator sets.
    LockedForEver,
    /// `GeneralizedTime` (RFC 4517 section 3.3.13).
    Time,
}

/// The attributes to ask for.
pub(super) fn attributes() -> impl Iterator<Item = &'static str> {
    ATTRIBUTES.into_iter().map(|(attribute, _)| attribute)
}

/// The attribute by which an account is disabled or expired.
pub(super) fn ended(entry: &SearchEntry, now: Timestamp) -> Result<Option<&'static str>, Trouble> {
    for (attribute, reading) in ATTRIBUTES {
        for value in values(entry, attribute) {
            let unreadable = Trouble::Odd("the state of an account cannot be read");
            if reading.ends(value, now).ok_or(unreadable)? {
                return Ok(Some(attribute));
            }
        }
    }
    Ok(None)
}

/// The state of an account in words, with what is not known of it.
pub(super) fn described(entry: &SearchEntry, now: Timestamp) -> String {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for attribute in attributes() {
        let mut values = values(entry, attribute).peekable();
        if values.peek().is_none() {
            unknown.push(attribute);
        }
        known.extend(values.map(|value| format!("{attribute}={value}")));
    }
    let state = match ended(entry, now) {
        Ok(Some(attribute)) => format!("disabled or expired by {attribute}"),
        Ok(None) => "neither disabled nor expired, as far as is known".to_owned(),
        Err(trouble) => trouble.to_string(),
    };
    let known = match known.as_slice() {
        [] => String::new(),
        known => format!(" ({})", known.join(", ")),
    };
    let unknown = unknown.join(", ");
    format!("{state}{known}; unknown, absent or not readable by the service account: {unknown}")
}

/// Attributes that some entries show and that none does, in words.
pub(super) fn readable(entries: &[SearchEntry]) -> String {
    let is_shown = |attribute: &&str| {
        let mut shown = entries
            .iter()
            .filter_map(|one| values(one, attribute).next());
        shown.next().is_some()
    };
    let (known, unknown): (Vec<_>, Vec<_>) = attributes().partition(is_shown);
    let list = |names: Vec<&str>| match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let (count, known, unknown) = (entries.len(), list(known), list(unknown));
    format!(
        "of {count} entries some show {known}; unknown, absent or not readable by the service \
         account: {unknown}"
    )
}

impl Reading {
    /// Whether a value ends the account; `None` if it cannot be read.
    fn ends(self, value: &str, now: Timestamp) -> Option<bool> {
        let number = || value.trim().parse::<i64>().ok();
        let seconds = now.as_second();
        Some(match self {
            Self::Days => number().map(|days| days > 0 && days <= seconds / SECONDS_PER_DAY)?,
            Self::FileTime => {
                let now = seconds.saturating_add(SINCE_1601);
                let now = now.saturating_mul(UNITS_PER_SECOND);
                number().map(|until| until != 0 && until != i64::MAX && until <= now)?
            }
            Self::Flag => value.trim().eq_ignore_ascii_case("true"),
            Self::Flags => number().map(|bits| bits & DISABLED != 0)?,
            Self::LockedForEver => digits(value)? == "00000101000000",
            Self::Time => digits(value)? <= now.strftime("%Y%m%d%H%M%S").to_string(),
        })
    }
}

/// Year to second of a time in UTC, as 14 digits; what is not named is 0.
fn digits(value: &str) -> Option<String> {
    let time = value.trim().strip_suffix('Z')?;
    let whole = time.split(['.', ',']).next()?;
    let sound = matches!(whole.len(), 10 | 12 | 14) && whole.bytes().all(|b| b.is_ascii_digit());
    sound.then(|| format!("{whole:0<14}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ldap3::SearchEntry;

    use super::{described, ended, readable};

    fn entry(attribute: &str, value: &str) -> SearchEntry {
        SearchEntry {
            dn: "uid=alice,dc=x".to_owned(),
            attrs: HashMap::from([(attribute.to_owned(), vec![value.to_owned()])]),
            bin_attrs: HashMap::new(),
        }
    }

    #[test]
    fn accounts_end_by_what_an_administrator_sets() {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        for (attribute, value, ends) in [
            ("userAccountControl", "512", false),
            ("useraccountcontrol", "514", true),
            ("userAccountControl", "66050", true),
            // The bit of a lock by guesses.
            ("userAccountControl", "528", false),
            ("accountExpires", "0", false),
            ("accountExpires", "9223372036854775807", false),
            ("accountExpires", "200000000000000000", false),
            ("accountExpires", "132223104000000000", true),
            ("accountExpires", "1", true),
            ("msDS-UserAccountDisabled", "TRUE", true),
            ("pwdAccountLockedTime", "000001010000Z", true),
            ("pwdAccountLockedTime", "00000101000000Z", true),
            ("pwdAccountLockedTime", "00000101000000.000000Z", true),
            ("pwdAccountLockedTime", "20261128115900Z", false),
            ("pwdAccountLockedTime", "20261128115900.123456Z", false),
            ("lockoutTime", "134000000000000000", false),
            ("pwdEndTime", "20261128120000Z", true),
            ("pwdEndTime", "20261128120001Z", false),
            ("krbPrincipalExpiration", "2026112811Z", true),
            ("krbPrincipalExpiration", "20261128115959Z", true),
            ("nsAccountLock", "true", true),
            ("nsaccountlock", "TRUE", true),
            ("nsAccountLock", "FALSE", false),
            ("loginDisabled", "TRUE", true),
            ("shadowExpire", "-1", false),
            ("shadowExpire", "0", false),
            ("shadowExpire", "1", true),
            // 2026-11-28 is day 20785.
            ("shadowExpire", "20785", true),
            ("shadowExpire", "20786", false),
        ] {
            let found = ended(&entry(attribute, value), now).unwrap();
            assert_eq!(found.is_some(), ends, "{attribute}: {value}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        for (attribute, value) in [
            ("userAccountControl", "normal"),
            ("accountExpires", "9223372036854775808"),
            ("pwdAccountLockedTime", "0000"),
            ("pwdEndTime", "20261128120000+0100"),
            ("shadowExpire", ""),
        ] {
            let found = ended(&entry(attribute, value), now);
            assert!(found.is_err(), "{attribute}: {value}");
        }
    }

    #[test]
    fn what_is_not_known_is_told() {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        let told = described(&entry("shadowExpire", "1"), now);
        let begin = "disabled or expired by shadowExpire (shadowExpire=1); unknown, absent or";
        assert!(told.starts_with(begin), "{told}");
        assert!(told.contains(": userAccountControl, "), "{told}");
        assert!(!told.contains(", shadowExpire"), "{told}");
    }

    #[test]
    fn what_no_entry_shows_is_told() {
        let told = readable(&[entry("uid", "a"), entry("SHADOWEXPIRE", "1")]);
        assert!(
            told.starts_with("of 2 entries some show shadowExpire; "),
            "{told}"
        );
        assert!(told.contains(": userAccountControl, "), "{told}");
        assert!(readable(&[]).starts_with("of 0 entries some show none; "));
    }
}
