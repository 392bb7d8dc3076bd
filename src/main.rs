//! `portcullis`: arguments in, exit code out. What each command does is in `command`.

use std::process::ExitCode;

use clap::Parser;

mod command;

fn main() -> ExitCode {
    command::Cli::parse().run()
}
