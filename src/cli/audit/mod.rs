//! `portcullis audit`: reading the trail, and cutting it.

mod prune;
mod report;
mod tail;
mod trail;
mod verify;

use std::process::ExitCode;

use anyhow::Result;

/// Read the audit trail, and prune it
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    Prune(prune::Prune),
    Report(report::Report),
    Tail(tail::Tail),
    Verify(verify::Verify),
}

impl Audit {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            AuditCommand::Prune(command) => command.run(),
            AuditCommand::Report(command) => command.run(),
            AuditCommand::Tail(command) => command.run(),
            AuditCommand::Verify(command) => command.run(),
        }
    }
}
