//! Passwords, and from where they may come.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::exposure::Content;
use crate::config::file::File;
use crate::document::{Interpreter, Text, Wrong};
use crate::identity::Secret;
use crate::whole_file::{BYTE_ORDER_MARK, MAX_SECRET, read_text};

/// A key's name and what is written there.
pub(super) type Written<'a> = (&'static str, Option<&'a Text>);

/// The keys that can give a password: `key` itself and `key_file`.
#[derive(Clone, Copy)]
pub(super) struct Password<'a> {
    pub(super) key: &'static str,
    pub(super) literal: Option<&'a Text>,
    pub(super) file: Option<&'a Text>,
}

pub(super) type Login = (Box<str>, Secret<String>);

impl Interpreter<'_> {
    /// A user name and a password, which only make sense together.
    pub(super) fn login(&mut self, user: Written<'_>, password: Password<'_>) -> Option<Login> {
        let (user_key, user) = user;
        let given = password.literal.or(password.file);
        match (user, given) {
            (Some(user), Some(_)) => {
                let secret = self.secret(password)?;
                Some((user.value.as_str().into(), secret))
            }
            (Some(user), None) => {
                let wrong = Wrong::new(format!("`{user_key}` without a password"));
                self.error(
                    &user.span,
                    wrong.help(format!("add `{}_file`", password.key)),
                );
                None
            }
            (None, Some(given)) => {
                let wrong = Wrong::new(format!("a password without `{user_key}`"));
                self.error(&given.span, wrong);
                None
            }
            (None, None) => None,
        }
    }

    /// A password from a file, a variable, a credential of systemd or, alas, the text itself.
    pub(super) fn secret(&mut self, password: Password<'_>) -> Option<Secret<String>> {
        let Password { key, literal, file } = password;
        let (text, secret) = match (literal, file) {
            (None, None) => return None,
            (Some(_), Some(file)) => {
                let wrong = Wrong::new(format!("both `{key}` and `{key}_file`"));
                self.error(&file.span, wrong.help("leave one of them out"));
                return None;
            }
            (None, Some(file)) => {
                self.warn_if_exposed(Some(file), Content::Secret);
                (file, read_secret(&self.folder.join(&file.value)))
            }
            (Some(text), None) => (text, self.referred(key, text)),
        };
        secret.map_err(|wrong| self.error(&text.span, wrong)).ok()
    }

    fn referred(&mut self, key: &str, text: &Text) -> Result<Secret<String>, Wrong> {
        let help = "write \"${env:NAME}\" or \"${credential:NAME}\"";
        let Some(reference) = text.value.strip_prefix("${") else {
            let wrong = Wrong::new(format!("`{key}` stands in the file for all to read"));
            self.warning(
                &text.span,
                wrong.help(format!("use `{key}_file`, or {help}")),
            );
            return filled_secret(&text.value);
        };
        let reference = reference
            .strip_suffix('}')
            .and_then(|inner| inner.split_once(':'));
        match reference {
            Some(("env", name)) => match (self.env)(name).map(Zeroizing::new) {
                Some(value) => filled_secret(&value),
                None => Err(Wrong::new(format!("the variable {name} is not set"))),
            },
            Some(("credential", name)) if is_file_name(name) => {
                let folder = (self.env)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    Wrong::new("systemd passes no credentials: $CREDENTIALS_DIRECTORY is not set")
                        .help(format!("add LoadCredential={name}:PATH to the unit"))
                })?;
                read_secret(&Path::new(&folder).join(name))
            }
            Some(_) | None => Err(Wrong::new("this refers to nothing").help(help)),
        }
    }

    /// The files that passwords are read from, with their keys.
    pub(super) fn password_files(&self, file: &File) -> Vec<(&'static str, PathBuf)> {
        let ldap = file.auth.value.ldap.as_ref();
        let store = file.limits.value.store.as_ref();
        let named = [
            (
                "upstream.password_file",
                file.upstream.value.password_file.as_ref(),
            ),
            (
                "auth.ldap.bind_password_file",
                ldap.and_then(|ldap| ldap.value.bind_password_file.as_ref()),
            ),
            (
                "limits.store.password_file",
                store.and_then(|store| store.value.password_file.as_ref()),
            ),
        ];
        let named = named.into_iter();
        named
            .filter_map(|(key, file)| Some((key, self.folder.join(&file?.value))))
            .collect()
    }

    /// A literal password makes the configuration itself a secret. Nobody else may change it, nor whom
    /// it trusts.
    pub(super) fn look_at_file(&mut self, file: &File, path: &Path) {
        let ldap = file.auth.value.ldap.as_ref();
        let store = file.limits.value.store.as_ref();
        let passwords = [
            file.upstream.value.password.as_ref(),
            ldap.and_then(|ldap| ldap.value.bind_password.as_ref()),
            store.and_then(|store| store.value.password.as_ref()),
        ];
        let literal = passwords
            .into_iter()
            .flatten()
            .find(|text| !text.value.starts_with("${"));
        if let Some(text) = literal.filter(|_| is_readable_by_others(path)) {
            let wrong = Wrong::new("every user of this machine can read the password in this file");
            self.warning(&text.span, wrong.help("chmod o-r the configuration"));
        }
        self.warn_if_file_exposed(path, Content::Trusted);
        let auth = &file.auth.value;
        match auth.keys.as_ref().and_then(|keys| keys.value.file.as_ref()) {
            Some(keys) => self.warn_if_exposed(Some(keys), Content::Secret),
            None => self.warn_if_file_exposed(&self.folder.join("keys.toml"), Content::Secret),
        }
        if let Some(htpasswd) = &auth.htpasswd {
            self.warn_if_exposed(htpasswd.value.file.as_ref(), Content::Secret);
        }
        let clients = &file.tls.value.client_certificates.value;
        let store = store.and_then(|store| store.value.ca.as_ref());
        let ldap = ldap.and_then(|ldap| ldap.value.ca.as_ref());
        for authorities in [
            clients.ca.as_ref(),
            file.upstream.value.ca.as_ref(),
            ldap,
            store,
        ] {
            self.warn_if_exposed(authorities, Content::Trusted);
        }
        self.warn_if_any_exposed(clients.crl.as_ref(), Content::Trusted);
    }
}

fn read_secret(path: &Path) -> Result<Secret<String>, Wrong> {
    match read_text(path, MAX_SECRET).map(Zeroizing::new) {
        // It would be a part of the password, which no editor shows.
        Ok(text) if text.starts_with(BYTE_ORDER_MARK) => {
            let wrong =
                Wrong::new("a byte order mark (BOM) stands before the password in this file");
            let path = path.display();
            Err(wrong.help(format!(r"take it out: sed -i '1s/^\xEF\xBB\xBF//' {path}")))
        }
        Ok(text) => filled_secret(text.trim_end_matches(['\r', '\n'])),
        Err(error) => Err(Wrong::new(format!("the password cannot be read: {error}"))),
    }
}

fn filled_secret(text: &str) -> Result<Secret<String>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("the password is empty"));
    }
    if text.contains(char::is_control) {
        let wrong = Wrong::new("the password holds a control character");
        return Err(wrong.help("a file has one line, with nothing but the password"));
    }
    Ok(Secret::new(text.to_owned()))
}

fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}
