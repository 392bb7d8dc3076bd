//! `portcullis completions`: scripts with which shells complete our commands.

use std::process::ExitCode;

use anyhow::Result;
use clap::Command;
use clap_complete::Shell;

use super::terminal::print;

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut cli: Command) -> Result<ExitCode> {
        // Into memory first: the generator panics where the reader goes away.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli, "portcullis", &mut script);
        print(&String::from_utf8(script)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
