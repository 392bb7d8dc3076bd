//! The commands, one file each. Here and in `main` errors are `anyhow`'s and become exit codes:
//! 0 good, 1 findings or failure, 2 usage, 3 `explain` says deny, 78 wrong configuration.

mod account;
mod audit;
mod certs;
mod check;
mod check_ldap;
mod completions;
mod config_file;
mod demo;
mod explain;
mod files;
mod key;
mod man;
mod passwd;
mod schema;
mod serve;
mod service;
mod terminal;
mod token_key;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::terminal::print_error;

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
    Serve(serve::Serve),
    Check(check::Check),
    Explain(explain::Explain),
    Passwd(passwd::Passwd),
    Key(key::Key),
    Audit(audit::Audit),
    Certs(certs::Certs),
    Demo(demo::Demo),
    Schema(schema::Schema),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Cli {
    /// Runs the command and returns its exit code.
    pub(crate) fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Serve(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Passwd(command) => command.run(),
            Command::Key(command) => command.run(),
            Command::Audit(command) => command.run(),
            Command::Certs(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Completions(command) => command.run(Self::command()),
            Command::Man(command) => command.run(Self::command()),
        };
        result.unwrap_or_else(|error| {
            print_error(&format!("error: {}", error_chain(&error)));
            ExitCode::FAILURE
        })
    }
}

/// An error and its causes, but for those that it has named itself.
fn error_chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |chain, cause| {
        let cause = cause.to_string();
        match chain.as_str() {
            "" => cause,
            _ if chain.contains(&cause) => chain,
            _ => format!("{chain}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Cli, error_chain};
    use anyhow::{Context, anyhow};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_named_once() {
        let error = Err::<(), _>(anyhow!("no such file")).context("cannot read it: no such file");
        assert_eq!(
            error_chain(&error.unwrap_err()),
            "cannot read it: no such file"
        );
        let error = Err::<(), _>(anyhow!("no such file")).context("cannot read it");
        assert_eq!(
            error_chain(&error.unwrap_err()),
            "cannot read it: no such file"
        );
    }
}
