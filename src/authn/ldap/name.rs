//! Names on their way into filters and DNs, and out of DNs. Each has its own rule of escaping; text
//! never becomes a part of either in another way than through here.

use std::sync::Arc;

use ldap3::{dn_escape, ldap_escape, parse_filter};

use super::dn::Dn;

/// The longest user name, in bytes.
const MAX_NAME: usize = 256;
/// Where the name goes in a user filter.
const PLACE: &str = "{username}";

/// Whether a name can be looked for at all.
pub(super) fn is_fit(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// Why a user filter cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Without a place for the name.
    #[error("the filter finds the same entry for everybody")]
    SameForAll,
    /// The name compared with nothing that an entry could name its user by.
    #[error("the filter does not look for the attribute that names the user")]
    NotByName,
    /// Not a filter of RFC 4515.
    #[error("this is not an LDAP filter")]
    Syntax,
}

/// A user filter, with the attribute by which an entry names its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFilter {
    text: Box<str>,
    attribute: Box<str>,
}

impl UserFilter {
    /// Checks a filter. `attribute` is the one that names the user; without it, the first that the
    /// filter compares with the name.
    pub fn new(text: &str, attribute: Option<&str>) -> Result<Self, FilterError> {
        if !text.contains(PLACE) {
            return Err(FilterError::SameForAll);
        }
        let mut compared = compared(text);
        let attribute = match attribute {
            None => compared.next(),
            Some(named) => compared.find(|one| one.eq_ignore_ascii_case(named)),
        };
        let attribute = attribute.ok_or(FilterError::NotByName)?.into();
        let filter = Self {
            text: text.into(),
            attribute,
        };
        parse_filter(filter.find("x")).map_err(|()| FilterError::Syntax)?;
        Ok(filter)
    }

    /// The usual one: by `uid`.
    pub fn by_uid() -> Self {
        Self {
            text: "(uid={username})".into(),
            attribute: "uid".into(),
        }
    }

    /// The attribute that names the user.
    pub(super) fn attribute(&self) -> &str {
        &self.attribute
    }

    /// The filter that finds a user.
    pub(super) fn find(&self, name: &str) -> String {
        self.text.replace(PLACE, &ldap_escape(name))
    }
}

/// The attributes that are compared with the name, as in `(uid={username})`.
fn compared(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('(').filter_map(|item| {
        let (attribute, rest) = item.split_once('=')?;
        let whole = rest.strip_prefix(PLACE)?.starts_with(')');
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let plain = !attribute.is_empty() && attribute.chars().all(legal);
        (whole && plain).then_some(attribute)
    })
}

/// `(attribute=value)`.
pub(super) fn equals(attribute: &str, value: &str) -> String {
    format!("({attribute}={})", ldap_escape(value))
}

/// A DN below `base` that nobody has: binding as it costs what a wrong password costs.
pub(super) fn nobody(name: &str, base: &str) -> String {
    format!("cn={},ou=nobody by this name,{base}", dn_escape(name))
}

/// The common name by which a DN's own entry is filed: `cn=` its first part, alone. Groups are
/// called so; an entry that is filed otherwise names no group.
pub(super) fn common_name(dn: &str) -> Option<Arc<str>> {
    let dn = Dn::parse(dn)?;
    let name = dn.common_name()?;
    is_fit(name).then(|| name.into())
}

/// Whether a DN lies below another, or is it.
pub(super) fn is_below(dn: &str, base: &str) -> bool {
    match (Dn::parse(dn), Dn::parse(base)) {
        (Some(dn), Some(base)) => dn.is_below(&base),
        (None, _) | (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{FilterError, UserFilter, common_name, equals, is_below, is_fit, nobody};
    use ldap3::{ldap_unescape, parse_filter};
    use proptest::prelude::*;

    #[test]
    fn a_name_stays_a_value_of_the_filter() {
        let filter = UserFilter::new("(&(objectClass=person)(uid={username}))", None).unwrap();
        for (name, found) in [
            ("alice", "alice"),
            ("*", "\\2a"),
            ("alice)(uid=*", "alice\\29\\28uid=\\2a"),
            ("bob, jr (x)*", "bob, jr \\28x\\29\\2a"),
            ("a\\2ab", "a\\5c2ab"),
            ("{username}", "{username}"),
            ("müller", "müller"),
        ] {
            let expected = format!("(&(objectClass=person)(uid={found}))");
            assert_eq!(filter.find(name), expected);
            parse_filter(filter.find(name)).unwrap();
        }
    }

    #[test]
    fn the_attribute_that_names_the_user_is_found() {
        let attribute = |text, named| UserFilter::new(text, named).map(|f| f.attribute.into());
        let both = "(|(uid={username})(mail={username}))";
        for (text, named, expected) in [
            ("(uid={username})", None, Ok("uid")),
            (both, None, Ok("uid")),
            (both, Some("MAIL"), Ok("mail")),
            (both, Some("cn"), Err(FilterError::NotByName)),
            (
                "(&(a=b)(sAMAccountName={username}))",
                None,
                Ok("sAMAccountName"),
            ),
            (
                "(mail={username}@example.com)",
                None,
                Err(FilterError::NotByName),
            ),
            ("(uid=alice)", None, Err(FilterError::SameForAll)),
            ("(uid={username}", None, Err(FilterError::NotByName)),
            ("(&(uid={username})", None, Err(FilterError::Syntax)),
            ("(uid={username}))", None, Err(FilterError::Syntax)),
            (
                "(uid:caseExactMatch:={username})",
                None,
                Err(FilterError::NotByName),
            ),
        ] {
            assert_eq!(
                attribute(text, named),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }

    #[test]
    fn names_that_no_directory_has_are_not_looked_for() {
        for name in ["", "a\0", "a\nb", "a\u{7f}", &"x".repeat(257)] {
            assert!(!is_fit(name), "{name:?}");
        }
        assert!(is_fit("müller") && is_fit(&"x".repeat(256)));
    }

    #[test]
    fn a_group_is_called_by_the_common_name_it_is_filed_under() {
        for (dn, name) in [
            ("cn=admins,ou=groups,dc=example,dc=com", Some("admins")),
            ("CN=Domain Admins,DC=x", Some("Domain Admins")),
            ("cn=a\\, b\\2c c,dc=x", Some("a, b, c")),
            ("cn= a \\20 ,dc=x", Some("a  ")),
            ("2.5.4.3=x,dc=y", Some("x")),
            ("cn=m\\C3\\BCller,dc=x", Some("müller")),
            ("ou=admins,dc=x", None),
            ("cn=a+ou=b,dc=x", None),
            ("cn=\\ff,dc=x", None),
            ("cn=a\\0ab,dc=x", None),
            ("cn=#0401,dc=x", None),
            ("cn=,dc=x", None),
            ("cn=admins,", None),
            ("cn=admins,dc", None),
            ("cn=a\\", None),
            ("admins", None),
            ("", None),
        ] {
            assert_eq!(common_name(dn).as_deref(), name, "{dn}");
        }
    }

    #[test]
    fn what_lies_below_is_told_part_by_part() {
        let base = "ou=groups,dc=example,dc=com";
        for (dn, below) in [
            ("cn=a,ou=groups,dc=example,dc=com", true),
            ("CN=a, OU=Groups, DC=Example,dc=com", true),
            ("ou=groups,dc=example,dc=com", true),
            ("cn=a,ou=other,dc=example,dc=com", false),
            ("cn=a\\,ou=groups\\,dc=example\\,dc=com", false),
            ("cn=a,xou=groups,dc=example,dc=com", false),
            ("dc=example,dc=com", false),
        ] {
            assert_eq!(is_below(dn, base), below, "{dn}");
        }
        assert!(is_below("cn=a,dc=x", ""));
        assert!(!is_below("cn=a,dc=x", "no dn"));
    }

    proptest! {
        #[test]
        fn a_filter_holds_what_was_put_in(name in "\\PC{1,40}") {
            let filter = equals("uid", &name);
            let inner = filter.strip_prefix("(uid=").unwrap().strip_suffix(')').unwrap();
            prop_assert!(!inner.contains(['(', ')', '*', '\0']));
            prop_assert_eq!(ldap_unescape(inner).unwrap(), name);
            prop_assert!(parse_filter(&filter).is_ok());
        }

        #[test]
        fn nobody_lies_below_the_base(name in "\\PC{1,20}") {
            prop_assert!(is_below(&nobody(&name, "dc=x"), "ou=nobody by this name,dc=x"));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _: [bool; 3] = [
                common_name(&text).is_some(),
                is_below(&text, &text),
                UserFilter::new(&text, None).is_ok(),
            ];
        }
    }
}
