//! The option with which every command is told where the configuration is, and how it ends where that
//! is wrong.

use std::path::PathBuf;

/// Exit code where the configuration is wrong (`EX_CONFIG` of sysexits.h).
pub(super) const WRONG_CONFIGURATION: u8 = 78;

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    /// Configuration file
    #[arg(
        long,
        value_name = "FILE",
        env = "PORTCULLIS_CONFIG",
        default_value = "/etc/portcullis/portcullis.toml"
    )]
    pub(super) config: PathBuf,
}
