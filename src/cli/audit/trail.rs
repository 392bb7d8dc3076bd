//! The trail that a command reads: the files that were named, or else all that rotation has made of the
//! configuration's.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueHint;
use portcullis::audit::siblings;
use portcullis::config::Config;

use crate::cli::config_file::{ConfigFile, load};

/// Files of the trail.
#[derive(Debug, clap::Args)]
pub(super) struct Trail {
    /// The trail and its rotated files, in any order, also compressed ones (gzip, zstd); by default all
    /// of the configuration's trail
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigFile,
}

impl Trail {
    /// The files; and the configuration, if it named them. The exit code where that is wrong.
    pub(super) fn find(self) -> Result<(Vec<PathBuf>, Option<Config>), ExitCode> {
        if !self.files.is_empty() {
            return Ok((self.files, None));
        }
        let (config, _warnings) = load(&self.config.config)?;
        Ok((of(&config), Some(config)))
    }
}

/// All files of the configuration's trail; the one that is to be written if there is none.
pub(super) fn of(config: &Config) -> Vec<PathBuf> {
    let files = siblings(&config.audit.file);
    if files.is_empty() {
        vec![config.audit.file.clone()]
    } else {
        files
    }
}
