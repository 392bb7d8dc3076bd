//! Files that commands make and change: never half written, never overwritten by accident, and
//! readable for the same users as before. A new file takes owner, group and mode from the one that
//! it replaces, or else from the configuration beside it, so that the server can read what root makes.

mod place;
mod rights;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

pub(crate) use self::place::Existing;
use self::place::Place;
pub(crate) use self::rights::Readers;
use self::rights::{Given, Rights};
use super::terminal::print_error;

/// How long an edit waits for another one of the same file.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Fails if one of `paths` is there and is to stay, before any of them is written.
pub(crate) fn expect_free(paths: &[&Path], existing: Existing) -> Result<()> {
    if existing == Existing::Replace {
        return Ok(());
    }
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(taken(path)),
        None => Ok(()),
    }
}

/// Writes a file and has it on disk when it returns.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    readers: Readers,
    existing: Existing,
) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    expect_free(&[path], existing)?;
    let place = Place::of(path).with_context(cannot)?;
    let old = place.open().with_context(cannot)?;
    let rights = match &old {
        Some(old) => {
            let rights = Rights::of(old).with_context(cannot)?;
            Some(match readers {
                Readers::Everybody | Readers::Server => rights,
                Readers::Owner => rights.for_its_owner(),
            })
        }
        None => beside(&place, readers, None),
    };
    let rights = rights.unwrap_or_else(|| Rights::own(readers));
    let given = place
        .put(content, &rights, old.is_some(), existing)
        .with_context(cannot)?;
    match given {
        Some(given) => {
            warn_of_missing(&place, &rights, &given);
            Ok(())
        }
        None => Err(taken(path)),
    }
}

/// Replaces a file's text, or makes the file, in one step; two edits at a time follow each other. The
/// configuration is looked for unless the caller names it.
pub(crate) fn edit(
    path: &Path,
    configuration: Option<&Path>,
    change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>>,
) -> Result<()> {
    let place = Place::of(path)?;
    let _lock = place.lock(LOCK_PATIENCE)?;
    let cannot = || format!("cannot read {}", place.path().display());
    let old = place.open().with_context(cannot)?;
    let text = old.as_ref().map(place::read).transpose();
    let text = text.with_context(cannot)?;
    let new = change(text.as_deref())?;
    let rights = match &old {
        Some(old) => Some(Rights::of(old).with_context(cannot)?),
        None => beside(&place, Readers::Server, configuration),
    };
    let rights = rights.unwrap_or_else(|| Rights::own(Readers::Owner));
    let given = place.put(&new, &rights, old.is_some(), Existing::Replace);
    let given = given
        .with_context(|| format!("cannot replace {}; it is unchanged", place.path().display()))?;
    if let Some(given) = given {
        warn_of_missing(&place, &rights, &given);
    }
    Ok(())
}

/// Makes a folder and those above it that are missing. Users who may read the configuration beside
/// it may enter.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_no_folder| folder.to_owned());
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|above| !above.exists())
        .collect();
    let rights = missing
        .last()
        .and_then(|first| first.parent())
        .and_then(|there| rights::configuration(there, None))
        .map(|configuration| Rights::beside(&configuration, Readers::Everybody));
    for folder in missing.into_iter().rev() {
        let made = || -> std::io::Result<()> {
            fs::create_dir(folder)?;
            match &rights {
                Some(rights) => rights.for_a_folder().give(&File::open(folder)?).map(drop),
                None => Ok(()),
            }
        };
        made().with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    Ok(())
}

fn taken(path: &Path) -> anyhow::Error {
    anyhow!("{} is already there; --force replaces it", path.display())
}

/// Rights of a new file by the configuration beside it, if there is one.
fn beside(place: &Place, readers: Readers, named: Option<&Path>) -> Option<Rights> {
    if readers == Readers::Owner {
        return None;
    }
    let configuration = rights::configuration(place.folder(), named)?;
    Some(Rights::beside(&configuration, readers))
}

/// Warns of rights that a file should have and could not be given.
fn warn_of_missing(place: &Place, wanted: &Rights, given: &Given) {
    if let Some(warning) = given.missing(wanted, place.path()) {
        print_error(&warning);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use tempfile::tempdir;

    use super::*;

    #[test]
    fn keeps_what_is_there_unless_told() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.key");
        write(&path, b"one", Readers::Owner, Existing::Keep).unwrap();
        let error = write(&path, b"two", Readers::Owner, Existing::Keep).unwrap_err();
        assert!(
            error.to_string().ends_with("--force replaces it"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(expect_free(&[&path], Existing::Keep).is_err());

        write(&path, b"two", Readers::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no leavings"
        );
    }

    #[test]
    fn a_new_file_is_for_whom_the_configuration_is() {
        let folder = tempdir().unwrap();
        let config = folder.path().join("portcullis.toml");
        fs::write(&config, "").unwrap();
        let within = folder.path().join("certs/more");
        let group = fs::metadata(&config).unwrap().gid();
        for (written, secret, public, entered) in [
            (0o640, 0o640, 0o640, 0o750),
            (0o600, 0o600, 0o600, 0o700),
            (0o660, 0o660, 0o660, 0o770),
            // The group of this process was not chosen.
            (0o644, 0o600, 0o644, 0o755),
        ] {
            fs::set_permissions(&config, fs::Permissions::from_mode(written)).unwrap();
            make_folder(&within).unwrap();
            let made = |name: &str, readers: Readers| {
                let path = within.join(name);
                write(&path, b"text", readers, Existing::Keep).unwrap();
                let made = fs::metadata(path).unwrap();
                assert_eq!(made.gid(), group);
                made.mode() & 0o777
            };
            assert_eq!(made("server.key", Readers::Server), secret);
            assert_eq!(made("server.pem", Readers::Everybody), public);
            assert_eq!(made("ca.key", Readers::Owner), 0o600);
            edit(&within.join("keys.toml"), None, |_| Ok(Vec::new())).unwrap();
            let edited = fs::metadata(within.join("keys.toml")).unwrap();
            assert_eq!(edited.mode() & 0o777, secret);
            for folder in [&within, within.parent().unwrap()] {
                assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, entered);
            }
            fs::remove_dir_all(within.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("server.key");
        for mode in [0o640, 0o600, 0o644, 0o440] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            write(&path, b"new", Readers::Server, Existing::Replace).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
            edit(&path, None, |_| Ok(b"newer".to_vec())).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
            assert_eq!(fs::read(&path).unwrap(), b"newer");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_link_stays_a_link_also_where_it_leads_nowhere_yet() {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        let link = folder.path().join("keys.toml");
        symlink("real/keys.toml", &link).unwrap();
        for text in ["one", "two"] {
            edit(&link, None, |_| Ok(text.into())).unwrap();
            let real = folder.path().join("real/keys.toml");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(real).unwrap(), text);
        }
        assert!(write(&link, b"x", Readers::Server, Existing::Keep).is_err());
        write(&link, b"three", Readers::Server, Existing::Replace).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "three");
        symlink("circle", folder.path().join("circle")).unwrap();
        assert!(edit(&folder.path().join("circle"), None, |_| Ok(Vec::new())).is_err());
    }

    #[test]
    fn a_lock_is_nothing_that_a_reader_can_hold() {
        use rustix::fs::{FlockOperation, flock};

        let folder = tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        fs::write(&path, "one").unwrap();
        let by_a_reader = [folder.path(), &path].map(|open| File::open(open).unwrap());
        for file in &by_a_reader {
            flock(file, FlockOperation::LockExclusive).unwrap();
        }
        let own = folder.path().join(".keys.toml.lock");
        edit(&path, None, |_| {
            assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o600);
            Ok(b"two".to_vec())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!own.exists(), "it goes away");

        let place = Place::of(&path).unwrap();
        let held = place.lock(LOCK_PATIENCE).unwrap();
        let error = place.lock(Duration::ZERO).err().unwrap().to_string();
        for part in ["keys.toml is being changed", ".keys.toml.lock", "fuser"] {
            assert!(error.contains(part), "{error}");
        }
        drop(held);
        // What a command that was killed left is nobody's.
        fs::write(&own, "").unwrap();
        assert!(place.lock(Duration::ZERO).is_ok());
    }

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let folder = tempdir().unwrap();
        let left = format!(".keys.toml.{}-0.new", std::process::id());
        fs::write(folder.path().join(&left), "half").unwrap();
        let path = folder.path().join("keys.toml");
        edit(&path, None, |_| Ok(b"whole".to_vec())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn only_the_owner_reads_secrets() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.key");
        write(&path, b"old", Readers::Everybody, Existing::Keep).unwrap();
        write(&path, b"new", Readers::Owner, Existing::Replace).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
