//! The groups of a user. They come from the attribute that the configuration names and from no
//! other, and nobody gets some of their groups: what cannot be read whole is an error, because a
//! rule may deny by a group.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ldap3::SearchEntry;

use super::LdapGroups;
use super::connection::{SIZE_LIMIT_EXCEEDED, Trouble};
use super::dn::Dn;
use super::entry::values;
use super::journal::Journal;
use super::name::{common_name, equals, is_below};
use super::server::Server;
use crate::identity::Group;

/// More groups than anybody is in.
const MOST: usize = 1_000;
/// How deep groups may lie in groups.
const MAX_DEPTH: usize = 8;
/// How many groups are asked about at once.
const PER_FILTER: usize = 50;
/// No attribute at all (RFC 4511 section 4.5.1.8): the DN is enough.
const NOTHING: [&str; 1] = ["1.1"];

/// How groups are found.
pub(super) struct Groups {
    pub(super) by: LdapGroups,
    pub(super) base: Option<Box<str>>,
    /// Groups of the directory that count, and their names here; without it all do, by their common names.
    pub(super) map: Option<HashMap<Dn, BTreeSet<Arc<str>>>>,
    pub(super) nested: bool,
}

impl Groups {
    /// The attributes of a user's own entry that are needed.
    pub(super) fn attributes(&self) -> &'static [&'static str] {
        match self.by {
            LdapGroups::MemberOf => &["memberOf"],
            LdapGroups::Posix => &["gidNumber"],
            LdapGroups::AdNested | LdapGroups::GroupOfNames | LdapGroups::None => &[],
        }
    }

    /// The groups of a user, by name and in order.
    pub(super) async fn of(
        &self,
        user: &str,
        entry: &SearchEntry,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Arc<[Group]>, Trouble> {
        let dns = match self.by {
            LdapGroups::None => Vec::new(),
            LdapGroups::MemberOf => self.member_of(entry)?,
            LdapGroups::GroupOfNames => self.walk(&entry.dn, server, journal).await?,
            LdapGroups::Posix => {
                let filter = posix(user, values(entry, "gidNumber"));
                self.search(&filter, server, journal).await?
            }
            LdapGroups::AdNested => {
                let member = equals("member:1.2.840.113556.1.4.1941:", &entry.dn);
                let filter = format!("(&(objectClass=group){member})");
                self.search(&filter, server, journal).await?
            }
        };
        let names = self.names_of(&dns)?;
        journal.note("groups", || {
            let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
            names.join(", ")
        });
        Ok(names.into_iter().map(Group::new).collect())
    }

    /// What groups are called in rules.
    fn names_of(&self, dns: &[String]) -> Result<BTreeSet<Arc<str>>, Trouble> {
        let Some(map) = &self.map else {
            return Ok(dns.iter().filter_map(|dn| common_name(dn)).collect());
        };
        let mut names = BTreeSet::new();
        for dn in dns {
            // One that cannot be read may be one that a rule denies something.
            let dn = Dn::parse(dn).ok_or(Trouble::Odd("a group whose DN cannot be read"))?;
            names.extend(map.get(&dn).into_iter().flatten().cloned());
        }
        Ok(names)
    }

    fn member_of(&self, entry: &SearchEntry) -> Result<Vec<String>, Trouble> {
        // Active Directory hands out long lists in pieces, under names of their own.
        let is_piece = |name: &String| name.to_ascii_lowercase().starts_with("memberof;range=");
        if entry.attrs.keys().any(is_piece) {
            return Err(Trouble::Odd(
                "more groups than one answer holds; use groups = \"ad_nested\"",
            ));
        }
        let base = self.base.as_deref();
        let ours = |dn: &&String| base.is_none_or(|base| is_below(dn, base));
        let dns: Vec<_> = values(entry, "memberOf").filter(ours).cloned().collect();
        Ok(dns)
    }

    /// The groups that name the user and, if wanted, those that name these groups, and so on.
    async fn walk(
        &self,
        user: &str,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Vec<String>, Trouble> {
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        let mut level = vec![user.to_owned()];
        for _ in 0..MAX_DEPTH {
            let mut above = Vec::new();
            for members in level.chunks(PER_FILTER) {
                let filter = naming(members);
                for dn in self.search(&filter, server, journal).await? {
                    if seen.insert(dn.to_lowercase()) {
                        above.push(dn);
                    }
                }
                if seen.len() > MOST {
                    return Err(Trouble::TooMuch("the groups of a user"));
                }
            }
            all.extend_from_slice(&above);
            if above.is_empty() || !self.nested {
                return Ok(all);
            }
            level = above;
        }
        Err(Trouble::Odd("groups lie in groups more than eight deep"))
    }

    async fn search(
        &self,
        filter: &str,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<Vec<String>, Trouble> {
        let base = self.base.as_deref().unwrap_or_default();
        let found = server.search(base, filter, &NOTHING, MOST).await?;
        journal.note("group filter", || filter.to_owned());
        match found.code {
            0 => {}
            SIZE_LIMIT_EXCEEDED => return Err(Trouble::TooMuch("the groups of a user")),
            code => {
                return Err(Trouble::Result {
                    code,
                    what: "the search for groups",
                });
            }
        }
        let dns: Vec<_> = found.entries.into_iter().map(|entry| entry.dn).collect();
        journal.note("groups found", || dns.join("; "));
        Ok(dns)
    }
}

/// Groups of either kind that name one of these members.
fn naming(members: &[String]) -> String {
    let each = |attribute: &str| -> String {
        let members = members.iter().map(|member| equals(attribute, member));
        members.collect()
    };
    let (names, unique) = (each("member"), each("uniqueMember"));
    format!(
        "(|(&(objectClass=groupOfNames)(|{names}))(&(objectClass=groupOfUniqueNames)(|{unique})))"
    )
}

/// Groups that name the user, and the one whose number the user's entry holds.
fn posix<'a>(user: &str, numbers: impl Iterator<Item = &'a String>) -> String {
    let is_number = |text: &&String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let primary = numbers
        .filter(is_number)
        .map(|gid| equals("gidNumber", gid));
    let primary: String = primary.collect();
    let member = equals("memberUid", user);
    format!("(&(objectClass=posixGroup)(|{member}{primary}))")
}

#[cfg(test)]
mod tests {
    use super::{naming, posix};
    use ldap3::parse_filter;

    #[test]
    fn filters_hold_names_and_no_more() {
        let odd = "cn=bob\\, jr (x)*,dc=x".to_owned();
        let filter = naming(&["cn=a,dc=x".to_owned(), odd]);
        assert_eq!(
            filter,
            "(|(&(objectClass=groupOfNames)(|(member=cn=a,dc=x)(member=cn=bob\\5c, jr \\28x\\29\\2a,dc=x)))\
             (&(objectClass=groupOfUniqueNames)(|(uniqueMember=cn=a,dc=x)(uniqueMember=cn=bob\\5c, jr \\28x\\29\\2a,dc=x))))"
        );
        parse_filter(filter).unwrap();
        let numbers = ["1000".to_owned(), "1)(cn=*".to_owned(), String::new()];
        let filter = posix("*", numbers.iter());
        assert_eq!(
            filter,
            "(&(objectClass=posixGroup)(|(memberUid=\\2a)(gidNumber=1000)))"
        );
        parse_filter(filter).unwrap();
    }
}
