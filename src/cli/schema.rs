//! `portcullis schema`: the schema with which editors complete and check the configuration.

use std::process::ExitCode;

use anyhow::Result;
use portcullis::config;

use super::terminal::print;

/// Print the JSON schema of the configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Schema {}

impl Schema {
    #[expect(clippy::unused_self, reason = "every command runs itself")]
    pub(crate) fn run(self) -> Result<ExitCode> {
        let schema = serde_json::to_string_pretty(&config::schema())?;
        print(&format!("{schema}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
