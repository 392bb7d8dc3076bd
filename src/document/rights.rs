//! What every document says about rights in the same words: repositories, networks, roles, times.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use jiff::Timestamp;

use super::error::nearest;
use super::{Interpreter, List, Text, Wrong};
use crate::policy::{Pattern, Roles};
use crate::registry::Action;

/// For optional lists of conditions, whose emptiness could mean "none" or "any".
pub(crate) const EMPTY: &str = "the list is empty; leave it out to ask for nothing";

impl Interpreter<'_> {
    pub(crate) fn networks(&mut self, list: Option<&List>) -> Vec<IpNet> {
        self.not_empty(list, EMPTY);
        self.list(list, network)
    }

    pub(crate) fn patterns(&mut self, list: Option<&List>) -> Vec<Pattern> {
        self.not_empty(list, "no repository is named: this rule is about nothing");
        let items = list.into_iter().flat_map(|list| &list.value);
        let pattern = |item: &Text| match Pattern::parse(&item.value) {
            Ok(pattern) => Some(pattern),
            Err(wrong) => {
                self.error(&at_byte(item, wrong.at), Wrong::new(wrong.message));
                None
            }
        };
        items.filter_map(pattern).collect()
    }
}

/// A network, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, Wrong> {
    let network: IpNet = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => address.into(),
        (Err(_), Err(_)) => {
            let wrong = Wrong::new(format!("{text:?} is not a network"));
            return Err(wrong.help("write for example \"10.0.0.0/8\" or \"2001:db8::/32\""));
        }
    };
    if network.trunc() != network {
        let wrong = Wrong::new(format!("{text:?} is an address inside a network"));
        return Err(wrong.help(format!("write \"{}\"", network.trunc())));
    }
    Ok(network)
}

pub(crate) fn find_role(name: &str, roles: &Roles) -> Result<Vec<Action>, Wrong> {
    if let Some(actions) = roles.get(name) {
        return Ok(actions.clone());
    }
    let mut known: Vec<&str> = roles.keys().map(|role| &**role).collect();
    known.sort_unstable();
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are {}; define others in `[roles]`", known.join(", ")),
    };
    Err(Wrong::new(format!("unknown role {name:?}")).help(help))
}

pub(crate) fn timestamp(text: &str) -> Result<Timestamp, Wrong> {
    text.parse().map_err(|_not_a_time| {
        Wrong::new(format!("{text:?} is not a time"))
            .help("write date, time and zone, for example \"2027-01-31T00:00:00Z\"")
    })
}

/// One byte of a string, given by its offset in the value. Escapes would shift it; patterns have
/// none that are legal.
fn at_byte(text: &Text, offset: usize) -> Range<usize> {
    let quotes = text.span.len().saturating_sub(text.value.len());
    if quotes != 2 || text.value.is_empty() {
        return text.span.clone();
    }
    let start = text.span.start.saturating_add(1).saturating_add(offset);
    let length = text
        .value
        .get(offset..)
        .and_then(|rest| rest.chars().next());
    start..start.saturating_add(length.map_or(1, char::len_utf8))
}
