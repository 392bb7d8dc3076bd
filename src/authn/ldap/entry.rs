//! What an entry says of its user.

use ldap3::SearchEntry;

use crate::authn::fingerprint::Fingerprint;

/// Attributes that say which entry it is and when its password was changed, where they exist.
pub(super) const STATE: [&str; 4] = ["entryUUID", "objectGUID", "pwdChangedTime", "pwdLastSet"];

/// The values of an attribute, by whatever case the server writes its name in.
pub(super) fn values<'a>(
    entry: &'a SearchEntry,
    attribute: &str,
) -> impl Iterator<Item = &'a String> {
    let named = |(name, _): &(&String, _)| name.eq_ignore_ascii_case(attribute);
    entry
        .attrs
        .iter()
        .filter(named)
        .flat_map(|(_, values)| values)
}

/// An entry and its state: tokens are good for this state only.
pub(super) fn fingerprint(entry: &SearchEntry) -> Fingerprint {
    let of = |attribute: &str| -> Vec<u8> {
        let text = entry
            .attrs
            .iter()
            .map(|(name, values)| (name, values.concat().into_bytes()));
        let bytes = entry
            .bin_attrs
            .iter()
            .map(|(name, values)| (name, values.concat()));
        let mut all = text.chain(bytes);
        let found = all.find(|(name, _)| name.eq_ignore_ascii_case(attribute));
        found.map(|(_, value)| value).unwrap_or_default()
    };
    let mut parts: Vec<_> = STATE.map(of).into();
    // Who has no number of its own is known by its place.
    if parts.iter().take(2).all(Vec::is_empty) {
        parts.push(entry.dn.to_lowercase().into_bytes());
    }
    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
    Fingerprint::of("portcullis 2026 ldap entry", &parts)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ldap3::SearchEntry;

    use super::{fingerprint, values};

    fn entry(attributes: &[(&str, &[&str])]) -> SearchEntry {
        let own = |(name, values): &(&str, &[&str])| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            ((*name).to_owned(), values)
        };
        SearchEntry {
            dn: "uid=alice,dc=x".to_owned(),
            attrs: attributes.iter().map(own).collect(),
            bin_attrs: HashMap::new(),
        }
    }

    #[test]
    fn attributes_are_found_in_any_case_and_under_no_other_name() {
        let entry = entry(&[
            ("UID", &["alice"]),
            ("uidNumber", &["1"]),
            ("memberof", &["a", "b"]),
        ]);
        assert_eq!(values(&entry, "uid").collect::<Vec<_>>(), ["alice"]);
        assert_eq!(values(&entry, "memberOf").count(), 2);
        assert_eq!(values(&entry, "member").count(), 0);
    }

    #[test]
    fn a_token_outlives_a_move_but_no_new_password_and_no_successor() {
        let numbered = |uuid: &str, changed: &str| {
            fingerprint(&entry(&[
                ("entryUUID", &[uuid]),
                ("pwdChangedTime", &[changed]),
            ]))
        };
        assert_eq!(numbered("1", "x"), numbered("1", "x"));
        assert_ne!(numbered("1", "x"), numbered("1", "y"));
        assert_ne!(numbered("1", "x"), numbered("2", "x"));
        let mut moved = entry(&[("entryUUID", &["1"]), ("pwdChangedTime", &["x"])]);
        moved.dn = "uid=alice,ou=elsewhere,dc=x".to_owned();
        assert_eq!(fingerprint(&moved), numbered("1", "x"));
        let mut moved = entry(&[]);
        moved.dn = "uid=bob,dc=x".to_owned();
        assert_ne!(fingerprint(&moved), fingerprint(&entry(&[])));
    }
}
