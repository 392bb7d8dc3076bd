//! The option with which every command is told where the configuration is, and how it ends where that
//! is wrong.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::config::{Config, Warning};

use super::terminal::{error_colours, print_error};

/// Exit code where the configuration is wrong (`EX_CONFIG` of sysexits.h).
pub(super) const WRONG_CONFIGURATION: u8 = 78;

/// Reads the configuration. Where it is wrong, says so, and gives the exit code.
pub(super) fn load(path: &Path) -> Result<(Config, Vec<Warning>), ExitCode> {
    Config::load(path).map_err(|errors| {
        print_error(&errors.render(error_colours()));
        WRONG_CONFIGURATION.into()
    })
}

/// Where it is unless something else is said.
const USUAL: &str = "/etc/portcullis/portcullis.toml";

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    /// Configuration file
    #[arg(
        long,
        value_name = "FILE",
        env = "PORTCULLIS_CONFIG",
        default_value = USUAL
    )]
    pub(super) config: PathBuf,
}

impl ConfigFile {
    /// Where it is without the option.
    pub(super) fn usual() -> PathBuf {
        let named = std::env::var_os("PORTCULLIS_CONFIG");
        named.map_or_else(|| PathBuf::from(USUAL), PathBuf::from)
    }
}
