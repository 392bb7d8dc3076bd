//! The registry behind the demo: one that is installed, started with the demo's own settings.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

use super::folder::Setup;

const NAMES: [&str; 2] = ["docker-registry", "registry"];

/// The registry's program.
pub(super) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(&path).with_context(|| {
        "no registry on PATH (docker-registry or registry): apt-get install docker-registry, or \
         name a running one with --upstream URL"
    })
}

/// Starts it on the demo's socket.
pub(super) fn start(program: &Path, setup: &Setup) -> Result<Child> {
    let log = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(setup.path("registry.log"))
        .context("cannot write the registry's log")?;
    let mut command = Command::new(program);
    // These would override the file.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"REGISTRY_") {
            command.env_remove(name);
        }
    }
    command
        .arg("serve")
        .arg(setup.path("registry.yml"))
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

fn find_in(path: &OsStr) -> Option<PathBuf> {
    NAMES
        .iter()
        .flat_map(|name| std::env::split_paths(path).map(move |folder| folder.join(name)))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn finds_debians_name_first_and_programs_only() {
        let folder = tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let path = std::env::join_paths([&one, &two]).unwrap();
        for folder in [&one, &two] {
            fs::create_dir(folder).unwrap();
        }
        assert_eq!(find_in(&path), None);

        fs::write(one.join("registry"), "").unwrap();
        assert_eq!(find_in(&path), None, "no program");
        let program = |file: PathBuf| {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let plain = program(one.join("registry"));
        assert_eq!(find_in(&path), Some(plain));
        let debians = program(two.join("docker-registry"));
        assert_eq!(find_in(&path), Some(debians));
    }
}
