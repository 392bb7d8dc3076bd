//! `portcullis man`: the manual page, made of the texts of `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Command;

use super::terminal::print;

/// Print the manual page, or write the pages of all commands
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder for the pages of all commands; made if it does not exist
    folder: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, cli: Command) -> Result<ExitCode> {
        if let Some(folder) = self.folder {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(cli, &folder))
                .with_context(|| format!("cannot write to {}", folder.display()))?;
        } else {
            let mut page = Vec::new();
            clap_mangen::Man::new(cli).render(&mut page)?;
            print(&String::from_utf8(page)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
