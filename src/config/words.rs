//! The words of the configuration that stand for values of the rooms.

use super::Expected;
use crate::audit::{AuditSync, WhenUnwritable};
use crate::authn::ldap::LdapGroups;
use crate::authn::{Anonymous, Challenge};
use crate::document::Words;
use crate::registry::Action;
use crate::telemetry::LogFormat;
use crate::tls::{ClientCertificateMode, TlsVersion};
use crate::transport::ProxyProtocol;

macro_rules! words {
    ($($type:ident: $($word:literal => $meaning:ident),+;)+) => {
        $(impl Words for $type {
            fn words() -> Vec<(&'static str, Self)> {
                vec![$(($word, Self::$meaning)),+]
            }
        })+
    };
}

words! {
    Anonymous: "token" => Token, "direct" => Direct;
    AuditSync: "always" => Always, "second" => Second, "never" => Never;
    Challenge: "bearer" => Bearer, "basic" => Basic;
    ClientCertificateMode: "off" => Off, "optional" => Optional, "required" => Required;
    Expected: "allow" => Allow, "deny" => Deny;
    LdapGroups: "member_of" => MemberOf, "group_of_names" => GroupOfNames, "posix" => Posix,
        "ad_nested" => AdNested, "none" => None;
    LogFormat: "text" => Text, "json" => Json;
    ProxyProtocol: "off" => Off, "required" => Required;
    TlsVersion: "1.2" => Tls12, "1.3" => Tls13;
    WhenUnwritable: "refuse" => Refuse, "refuse-writes" => RefuseWrites, "serve" => Serve;
}

impl Words for Action {
    fn words() -> Vec<(&'static str, Self)> {
        Action::ALL.map(|action| (action.as_str(), action)).to_vec()
    }
}
