//! The configuration: fills the settings that the rooms own. What is written is `file`'s, what it means
//! `meaning`'s; how it is read, and what is told when something is wrong, is [`document`]'s.

use std::path::Path;

use crate::document;
pub use crate::document::{Diagnostic, Errors, Warning};
use crate::whole_file::{self, BYTE_ORDER_MARK};

mod checked;
mod ending;
mod file;
mod fitness;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod meaning;
mod policy_test;
mod rules;
mod trial;
mod value;
mod words;

pub use checked::Config;
pub use file::schema;
pub use policy_test::{Expected, PolicyTest};
pub use value::time_to_live;

impl Config {
    /// Reads a file, with the process's environment. Errors come together with the warnings.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), Errors> {
        usable(path, Self::inspect(path))
    }

    /// The same for whoever looks for all that is wrong: what there is of a configuration, as far as
    /// it can be understood, beside the errors. With errors it must not be put in force.
    pub fn inspect(path: &Path) -> (Option<Self>, Vec<Diagnostic>) {
        match whole_file::read_text(path, whole_file::MAX_CONFIG) {
            Ok(text) => {
                let env = |name: &str| std::env::var(name).ok();
                let plain = text.strip_prefix(BYTE_ORDER_MARK);
                let (config, mut found) = Self::understand(plain.unwrap_or(&text), path, &env);
                if plain.is_some() {
                    let mark = "the file begins with a byte order mark (BOM), which other programs trip over";
                    let remedy = format!(
                        r"take it out: sed -i '1s/^\xEF\xBB\xBF//' {}",
                        path.display()
                    );
                    found.push(
                        Diagnostic::about_file(path, mark)
                            .with_help(remedy)
                            .as_warning(),
                    );
                }
                (config, found)
            }
            Err(error) => {
                let message = format!("the configuration cannot be read: {error}");
                let found = Diagnostic::about_file(path, message)
                    .with_help("name it with --config FILE or $PORTCULLIS_CONFIG");
                (None, vec![found])
            }
        }
    }

    /// Reads a text as if it stood at `path`. `env` is asked for `${env:NAME}`. The only files
    /// opened are those with passwords.
    pub fn parse(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<Warning>), Errors> {
        usable(path, Self::understand(text, path, env))
    }

    fn understand(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let document::Reading {
            file,
            source,
            mut found,
        } = document::read(text, path, &schema());
        let config = file.map(|file| meaning::understand(&file, source, path, env, &mut found));
        (config, found)
    }
}

/// A configuration without errors, and its warnings.
fn usable(
    path: &Path,
    (config, mut found): (Option<Config>, Vec<Diagnostic>),
) -> Result<(Config, Vec<Warning>), Errors> {
    match (Errors::among(&mut found), config) {
        (None, Some(config)) => Ok((config, found)),
        (Some(errors), _) => Err(errors),
        (None, None) => Err(Diagnostic::about_file(path, "this cannot be read").into()),
    }
}

#[cfg(test)]
mod tests;
