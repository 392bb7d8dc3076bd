//! Fuzz targets: configurations, robot keys, single values.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::value;
use super::{Config, time_to_live};
use crate::audit::SyslogAddress;
use crate::authn::keys::{check_key_name, read_digest, robot_keys, write_digest};
use crate::document::{Diagnostic, Errors, MASK, Wrong, duration, mask};
use crate::policy::BUILT_IN_ROLES;
use crate::store::StoreUrl;
use crate::upstream::UpstreamUrl;

/// Nothing lies below, so no file is read.
const FOLDER: &str = "/nonexistent/portcullis";
/// What no message may say.
const SECRET: &str = "hunter2-hunter2";

/// The text of a configuration: understood or told what is wrong with it, in its place and without
/// its secrets.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // Names of files that begin so are not below the folder.
    if text.contains("_file")
        && (text.contains("\"/") || text.contains("'/") || text.contains(".."))
    {
        return;
    }
    assert_eq!(mask(text).len(), text.len());
    let path = Path::new(FOLDER).join("portcullis.toml");
    let env = |name: &str| (name == "SET").then(|| SECRET.to_owned());
    match Config::parse(text, &path, &env) {
        Ok((_, warnings)) => warnings.iter().for_each(|found| told(text, found)),
        Err(errors) => refused(text, &errors),
    }
}

/// The text of `keys.toml`.
pub(crate) fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let roles = BUILT_IN_ROLES
        .iter()
        .map(|(name, actions)| ((*name).into(), actions.to_vec()))
        .collect();
    match robot_keys(text, &Path::new(FOLDER).join("keys.toml"), &roles) {
        Ok(keys) => {
            let names: HashSet<_> = keys.iter().map(|key| &key.name).collect();
            assert_eq!(names.len(), keys.len());
            for key in &keys {
                assert_eq!(check_key_name(&key.name), Ok(()));
                assert!(key.line >= 1 && key.line <= text.split('\n').count());
                let digest = write_digest(&key.digest);
                assert!(text.to_ascii_lowercase().contains(&digest) || text.contains('\\'));
                assert_eq!(read_digest(&digest), Ok(key.digest));
            }
        }
        Err(errors) => refused(text, &errors),
    }
}

fn refused(text: &str, errors: &Errors) {
    assert!(!errors.diagnostics().is_empty());
    assert!(!errors.diagnostics().iter().all(Diagnostic::is_warning));
    errors
        .diagnostics()
        .iter()
        .for_each(|found| told(text, found));
    assert!(!errors.to_string().is_empty() && !errors.render(true).is_empty());
}

/// A finding has its place in the text, and quotes no secret of it.
fn told(text: &str, found: &Diagnostic) {
    if let Some((line, column)) = found.position() {
        let quoted = text.split('\n').nth(line.saturating_sub(1));
        let length = quoted.map(|quoted| quoted.chars().count());
        assert!(line >= 1 && column >= 1, "{found}");
        // A line is quoted, and counted, as it is shown: without its secrets.
        let is_masked = mask(text)
            .split('\n')
            .nth(line.saturating_sub(1))
            .is_some_and(|line| line.contains(MASK));
        assert!(
            is_masked || length.is_some_and(|length| column <= length.saturating_add(1)),
            "{found}"
        );
    }
    let said = format!("{found}{}{}", found.render(false), found.to_json());
    let as_password = |before: &str| before.ends_with("password = \"");
    let mut before: Vec<_> = text.split(SECRET).collect();
    before.pop();
    assert!(
        !before.into_iter().all(as_password) || !said.contains(SECRET),
        "{said}"
    );
}

/// A value of whatever kind: what is understood can be written so that it is understood again.
pub(crate) fn value(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(length) = duration(text) {
        assert!(length <= Duration::from_hours(10 * 365 * 24));
        assert_eq!(duration(&format!("{}ms", length.as_millis())), Ok(length));
        assert_eq!(
            value::interval(text).is_ok(),
            length >= Duration::from_secs(1)
        );
    }
    let lives = time_to_live(text).ok().flatten();
    assert_eq!(lives, duration(text).ok());
    if let Ok(size) = value::size(text) {
        assert!(size >= 1 << 16 && text.bytes().next().is_some_and(|b| b.is_ascii_digit()));
        let kib = size.checked_div(1 << 10).unwrap_or_default();
        assert_eq!(value::size(&format!("{kib}KiB")), Ok(size));
    }
    let folder = Path::new(FOLDER);
    if let Ok(UpstreamUrl::Http { host, port }) = value::upstream(text) {
        let again = format!("http://{}:{port}", bracketed(&host));
        assert_eq!(
            value::upstream(&again),
            Ok(UpstreamUrl::Http { host, port })
        );
    }
    if let Ok(SyslogAddress::Tls { host, port }) = value::syslog(text, folder) {
        let again = format!("tls://{}:{port}/", bracketed(&host));
        assert_eq!(
            value::syslog(&again, folder),
            Ok(SyslogAddress::Tls { host, port })
        );
    }
    if let Ok(StoreUrl::Tcp {
        tls,
        host,
        port,
        database,
    }) = value::store(text)
    {
        let scheme = if tls { "rediss" } else { "redis" };
        let again = format!("{scheme}://{}:{port}/{database}", bracketed(&host));
        let same = StoreUrl::Tcp {
            tls,
            host,
            port,
            database,
        };
        assert!(
            value::store(&again).is_ok_and(|read| read == same),
            "{again}"
        );
    }
    if let Ok(authority) = value::public_authority(text) {
        let again = value::public_authority(&format!("https://{authority}"));
        assert_eq!(again, Ok(authority));
    }
    if let Err(Wrong { message, help }) = value::host_and_port(text) {
        // It may hold a password.
        let said = format!("{message} {}", help.unwrap_or_default());
        assert!(text.len() < 16 || !text.contains('@') || !said.contains(text));
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
