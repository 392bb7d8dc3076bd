//! Distinguished names (RFC 4514), as they are compared: part by part, without regard to the case of
//! attribute types and values, to how characters are escaped, and to spaces around and between words.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::identity::fold;

/// A distinguished name, the entry's own part first.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dn(Vec<Vec<Part>>);

/// One attribute and its value. A part of a name may have several (`a=1+b=2`), in any order.
#[derive(Clone)]
struct Part {
    /// In lower case, and not by number where it has a name.
    attribute: Box<str>,
    value: Value,
}

#[derive(Clone)]
enum Value {
    /// The hexadecimal digits of its encoding, in lower case.
    Encoded(Box<str>),
    /// As written, unescaped; and as it is compared.
    Text { written: Box<str>, folded: Box<str> },
}

/// Attribute types that have several names (RFC 4519 and RFC 4524).
const NAMES: [(&str, &[&str]); 9] = [
    ("cn", &["2.5.4.3", "commonname"]),
    ("c", &["2.5.4.6", "countryname"]),
    ("l", &["2.5.4.7", "localityname"]),
    ("st", &["2.5.4.8", "stateorprovincename"]),
    ("street", &["2.5.4.9", "streetaddress"]),
    ("o", &["2.5.4.10", "organizationname"]),
    ("ou", &["2.5.4.11", "organizationalunitname"]),
    ("uid", &["0.9.2342.19200300.100.1.1", "userid"]),
    ("dc", &["0.9.2342.19200300.100.1.25", "domaincomponent"]),
];

impl Dn {
    /// Reads a name; `None` for what is none. The empty name is that of the root.
    pub fn parse(text: &str) -> Option<Self> {
        let mut dn = Vec::new();
        let mut own = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (attribute, tail) = rest.split_once('=')?;
            let (part, tail) = Part::parse(attribute, tail)?;
            own.push(part);
            let mut after = tail.chars();
            match after.next() {
                Some('+') => {}
                Some(',' | ';') | None => {
                    own.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
                    dn.push(std::mem::take(&mut own));
                }
                Some(_) => return None,
            }
            rest = after.as_str();
            // A separator promises another part.
            if rest.is_empty() && !tail.is_empty() {
                return None;
            }
        }
        Some(Self(dn))
    }

    /// Whether it lies below another, or is it.
    pub fn is_below(&self, base: &Self) -> bool {
        self.0.ends_with(&base.0)
    }

    /// The common name by which the entry itself is filed: `cn=` its own part, alone.
    pub(super) fn common_name(&self) -> Option<&str> {
        match self.0.first()?.as_slice() {
            [
                Part {
                    attribute,
                    value: Value::Text { written, .. },
                },
            ] if &**attribute == "cn" => Some(written),
            [..] => None,
        }
    }
}

impl fmt::Debug for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().flatten()).finish()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Encoded(digits) => write!(f, "{}=#{digits}", self.attribute),
            Value::Text { written, .. } => write!(f, "{}={written:?}", self.attribute),
        }
    }
}

impl Part {
    /// Reads a value, and gives what follows it.
    fn parse<'t>(attribute: &str, text: &'t str) -> Option<(Self, &'t str)> {
        let attribute = attribute.trim().to_ascii_lowercase();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if attribute.is_empty() || !attribute.chars().all(legal) {
            return None;
        }
        let number = attribute.strip_prefix("oid.").unwrap_or(&attribute);
        let known = NAMES
            .iter()
            .find(|(_, others)| others.contains(&number))
            .map_or(number, |(name, _)| name);
        let (value, rest) = if let Some(digits) = text.trim_start_matches(' ').strip_prefix('#') {
            encoded(digits)?
        } else {
            let (written, rest) = text_value(text)?;
            let folded = words(&fold(&written)).into();
            let written = written.into();
            (Value::Text { written, folded }, rest)
        };
        let attribute = known.into();
        Some((Self { attribute, value }, rest))
    }

    fn key(&self) -> (&str, bool, &str) {
        match &self.value {
            Value::Encoded(digits) => (&self.attribute, true, digits),
            Value::Text { folded, .. } => (&self.attribute, false, folded),
        }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Part {}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// With one space between words, and none around them (RFC 4518 section 2.6.1).
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The digits at the beginning, and what follows them.
fn encoded(text: &str) -> Option<(Value, &str)> {
    let end = text.find([',', ';', '+']).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let digits = digits.trim_end_matches(' ').to_ascii_lowercase();
    let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| (Value::Encoded(digits.into()), rest))
}

/// The value at the beginning, unescaped, and what follows it.
fn text_value(text: &str) -> Option<(String, &str)> {
    let mut bytes = Vec::new();
    let mut kept = 0;
    let text = text.trim_start_matches(' ');
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | ';' | '+' => {
                bytes.truncate(trimmed(&bytes, kept));
                return Some((String::from_utf8(bytes).ok()?, text.get(at..)?));
            }
            '"' | '<' | '>' | '\0' => return None,
            '\\' => {
                let (_, escaped) = chars.next()?;
                if let Some(high) = escaped.to_digit(16) {
                    let (_, low) = chars.next()?;
                    let byte = high.checked_mul(16)?.checked_add(low.to_digit(16)?)?;
                    bytes.push(u8::try_from(byte).ok()?);
                } else if " \"#+,;<=>\\".contains(escaped) {
                    bytes.push(u8::try_from(escaped).ok()?);
                } else {
                    return None;
                }
                kept = bytes.len();
            }
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes.truncate(trimmed(&bytes, kept));
    Some((String::from_utf8(bytes).ok()?, ""))
}

/// The length without the spaces at the end, but for those that were escaped.
fn trimmed(bytes: &[u8], kept: usize) -> usize {
    let end = bytes.iter().rposition(|byte| *byte != b' ');
    end.map_or(0, |at| at.saturating_add(1)).max(kept)
}

#[cfg(test)]
mod tests {
    use super::Dn;
    use ldap3::dn_escape;
    use proptest::prelude::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn one_name_has_many_spellings() {
        let group = dn("cn=team a,ou=groups,dc=example,dc=com");
        for same in [
            "CN=Team A,OU=Groups,DC=Example,DC=COM",
            "cn = team a , ou= groups ,dc=example, dc=com",
            "cn=team  a;ou=groups;dc=example;dc=com",
            "2.5.4.3=team a,2.5.4.11=groups,0.9.2342.19200300.100.1.25=example,dc=com",
            "OID.2.5.4.3=team a,ou=groups,dc=example,dc=com",
            "commonName=team a,organizationalUnitName=groups,domainComponent=example,dc=com",
            "cn=te\\61m\\20a,ou=groups,dc=example,dc=com",
            "cn=\u{ff34}eam a,ou=groups,dc=example,dc=com",
        ] {
            assert_eq!(dn(same), group, "{same}");
        }
        for other in [
            "cn=team a",
            "cn=team-a,ou=groups,dc=example,dc=com",
            "cn=teama,ou=groups,dc=example,dc=com",
            "ou=team a,ou=groups,dc=example,dc=com",
            "cn=team a,ou=people,dc=example,dc=com",
            "cn=team a,ou=groups,ou=x,dc=example,dc=com",
            "cn=team a\\,ou=groups,dc=example,dc=com",
            "cn=#74,ou=groups,dc=example,dc=com",
        ] {
            assert_ne!(dn(other), group, "{other}");
        }
        assert_eq!(dn("cn=a+ou=b,dc=x"), dn("OU=B+CN=A,dc=x"));
        assert_ne!(dn("cn=a+ou=b,dc=x"), dn("cn=a,ou=b,dc=x"));
        assert_eq!(dn("x=#04AB,dc=x"), dn("X=#04ab ,dc=x"));
        assert_ne!(dn("cn=#04ab,dc=x"), dn("cn=\\#04ab,dc=x"));
        assert_eq!(dn("cn=stra\\C3\\9Fe"), dn("cn=STRASSE"));
    }

    #[test]
    fn what_is_no_name_is_none() {
        for text in [
            "team-a",
            "cn",
            "=x",
            "c n=x",
            "cn=a,",
            "cn=a+",
            "cn=a,,dc=x",
            "cn=\"a\"",
            "cn=a\\",
            "cn=a\\q",
            "cn=\\ff",
            "cn=#",
            "cn=#xy",
            "cn=a<b",
        ] {
            assert_eq!(Dn::parse(text), None, "{text}");
        }
        assert!(dn("cn=a,dc=x").is_below(&dn("")));
    }

    proptest! {
        #[test]
        fn a_dn_gives_back_what_was_put_in(name in "[ a-z,+=\"\\\\<>;#(*)ü]{1,20}") {
            let written = dn(&format!("cn={},ou=x", dn_escape(name.as_str())));
            prop_assert_eq!(written.common_name(), Some(name.as_str()));
            prop_assert!(written.is_below(&dn("OU=X")) && !written.is_below(&dn("ou=y")));
            let shouted = dn(&format!("CN={},OU=X", dn_escape(name.to_uppercase())));
            prop_assert_eq!(written, shouted);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _no_dn = Dn::parse(&text).is_none();
        }
    }
}
