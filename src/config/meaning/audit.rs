//! `[audit]`: where the trail is written.

use std::time::Duration;

use super::exposure::Content;
use super::is_true;
use crate::audit::{AuditSync, Rotate, Settings, StdoutSettings, SyslogSettings, WhenUnwritable};
use crate::config::{file, value};
use crate::document::{At, Interpreter, Wrong};

impl Interpreter<'_> {
    pub(super) fn audit(&mut self, audit: &file::Audit) -> Settings {
        self.warn_if_exposed(audit.key_file.as_ref(), Content::Secret);
        self.warn_if_exposed(audit.signing_key.as_ref(), Content::Secret);
        Settings {
            file: self
                .path(audit.file.as_ref())
                .unwrap_or_else(|| self.folder.join("audit.jsonl")),
            when_unwritable: At::or(audit.when_unwritable.as_ref(), WhenUnwritable::RefuseWrites),
            required: audit
                .required
                .as_ref()
                .is_none_or(|required| required.value),
            timeout: self.time_out(audit.timeout.as_ref(), Duration::from_secs(5)),
            sync: At::or(audit.sync.as_ref(), AuditSync::Second),
            rotate: Rotate {
                size: self.text(audit.rotate_size.as_ref(), value::size),
                every: self.text(audit.rotate_every.as_ref(), value::interval),
            },
            key_file: self.path(audit.key_file.as_ref()),
            signing_key: self.path(audit.signing_key.as_ref()),
            stdout: audit.stdout.as_ref().map(|stdout| StdoutSettings {
                required: is_true(stdout.value.required.as_ref()),
            }),
            syslog: self.syslog(audit.syslog.as_ref()),
        }
    }

    fn syslog(&mut self, syslog: Option<&At<file::AuditSyslog>>) -> Option<SyslogSettings> {
        let at = syslog?;
        let syslog = &at.value;
        let folder = self.folder.to_owned();
        let address = self.text(syslog.address.as_ref(), |text| value::syslog(text, &folder));
        if syslog.address.is_none() {
            let wrong = Wrong::new("a syslog receiver needs an address");
            self.error(&at.span, wrong.help("write address = \"unix:/dev/log\""));
        }
        Some(SyslogSettings {
            address: address?,
            ca: self.path(syslog.ca.as_ref()),
            required: is_true(syslog.required.as_ref()),
        })
    }
}
