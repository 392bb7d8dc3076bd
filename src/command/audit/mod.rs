//! `portcullis audit`: reading the trail.

mod report;
mod tail;

use std::process::ExitCode;

use anyhow::Result;

/// Read the audit trail
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    Report(report::Report),
    Tail(tail::Tail),
}

impl Audit {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            AuditCommand::Report(command) => command.run(),
            AuditCommand::Tail(command) => command.run(),
        }
    }
}
