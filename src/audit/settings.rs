//! What the configuration says about the trail.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where and how the trail is written, `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// JSON lines are appended here.
    pub file: PathBuf,
    /// What happens when a required sink fails.
    pub when_unwritable: WhenUnwritable,
    /// Whether the file is a required sink.
    pub required: bool,
    /// A sink that takes nothing for so long fails.
    pub timeout: Duration,
    /// When the file is brought to the disk.
    pub sync: AuditSync,
    /// When the file is given another name and a new one is begun.
    pub rotate: Rotate,
    /// The key of the chain.
    pub key_file: Option<PathBuf>,
    /// PEM, the key that signs checkpoints.
    pub signing_key: Option<PathBuf>,
    /// `[audit.stdout]`
    pub stdout: Option<StdoutSettings>,
    /// `[audit.syslog]`
    pub syslog: Option<SyslogSettings>,
}

impl Settings {
    /// A file, and everything else as by default.
    pub fn of_file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            when_unwritable: WhenUnwritable::RefuseWrites,
            required: true,
            timeout: Duration::from_secs(5),
            sync: AuditSync::Second,
            rotate: Rotate::default(),
            key_file: None,
            signing_key: None,
            stdout: None,
            syslog: None,
        }
    }
}

/// What happens to requests when the audit file cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnwritable {
    /// Every request is refused.
    Refuse,
    /// Pushes, deletes, logins and tokens are refused.
    RefuseWrites,
    /// Requests are served.
    Serve,
}

/// When the audit file is brought to the disk. It is always with the system before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditSync {
    /// Before any answer that waits for its record.
    Always,
    /// Once a second.
    Second,
    /// When the system likes.
    Never,
}

/// When the audit file is rotated; by default never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotate {
    /// Before it grows beyond so many bytes.
    pub size: Option<u64>,
    /// When its first record is so old.
    pub every: Option<Duration>,
}

/// Records on stdout, `[audit.stdout]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdoutSettings {
    /// Whether requests are refused while it fails.
    pub required: bool,
}

/// Records to a syslog receiver, `[audit.syslog]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogSettings {
    /// The receiver.
    pub address: SyslogAddress,
    /// PEM, the authorities of its certificate; the system's when absent.
    pub ca: Option<PathBuf>,
    /// Whether requests are refused while it fails.
    pub required: bool,
}

/// Where a syslog receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A socket on this machine.
    Unix(PathBuf),
    /// In the clear.
    Tcp {
        /// Its name or address.
        host: Box<str>,
        /// Its port.
        port: u16,
    },
    /// Encrypted.
    Tls {
        /// Its name or address.
        host: Box<str>,
        /// Its port.
        port: u16,
    },
}
