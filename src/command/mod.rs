//! The commands, one file each. Here and in `main` errors are `anyhow`'s and become exit codes:
//! 0 good, 1 findings or failure, 2 usage, 3 `explain` says deny, 78 wrong configuration.

mod passwd;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An authenticating reverse proxy in front of a container registry.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Passwd(passwd::Passwd),
}

impl Cli {
    /// Runs the command and says how it ended.
    pub(crate) fn run(self) -> ExitCode {
        let ended = match self.command {
            Command::Passwd(passwd) => passwd.run(),
        };
        ended.unwrap_or_else(|error| {
            // Where standard error is closed there is nobody to tell.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        })
    }
}
