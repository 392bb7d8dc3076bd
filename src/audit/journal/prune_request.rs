//! The request to cut a trail, `FILE.prune`. The trail has one writer, so the command that cuts it leaves
//! its wish in this file; the writer records it, and removes the file once the record is on the disk.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::beside;

/// Bytes of the file at most.
const LONGEST: u64 = 4096;

/// A wish to cut a trail.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(in crate::audit) struct PruneRequest {
    /// The first record that is to remain.
    pub(in crate::audit) first: u64,
    /// The reason, for the record.
    pub(in crate::audit) reason: String,
}

/// The file's name for a trail.
pub(in crate::audit) fn path_of(trail: &Path) -> PathBuf {
    beside::path(trail, ".prune")
}

impl PruneRequest {
    /// Leaves it beside the trail, readable by the writer whoever that is.
    pub(in crate::audit) fn leave(&self, trail: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let to = path_of(trail);
        let new = beside::path(&to, ".new");
        // Of a command that was ended. A link that stands there instead is not followed.
        gone(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&text)?;
        std::fs::rename(&new, to)
    }

    /// The one beside the trail, if it is from root or from the user of this process: others must not say
    /// where the trail begins.
    pub(in crate::audit) fn find(trail: &Path) -> io::Result<Option<Self>> {
        let file = match beside::open(OpenOptions::new().read(true), &path_of(trail)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let is_ours = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
        if !is_ours || meta.mode() & 0o022 != 0 {
            return Err(io::Error::other(
                "it is from another user, or others can change it",
            ));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Removes the one beside the trail, if there is one.
    pub(in crate::audit) fn remove(trail: &Path) -> io::Result<()> {
        gone(&path_of(trail))
    }
}

/// Removes a file that may not be there.
fn gone(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{PruneRequest, path_of};
    use std::fs::{Permissions, remove_file, rename, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_request_of_others_is_not_heard() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        let request = PruneRequest {
            first: 3,
            reason: "to keep 30 days".to_owned(),
        };
        assert_eq!(PruneRequest::find(&trail).unwrap(), None);
        request.leave(&trail).unwrap();
        assert_eq!(PruneRequest::find(&trail).unwrap(), Some(request));
        for mode in [0o664, 0o646] {
            set_permissions(path_of(&trail), Permissions::from_mode(mode)).unwrap();
            assert!(PruneRequest::find(&trail).is_err(), "{mode:o}");
        }
        set_permissions(path_of(&trail), Permissions::from_mode(0o644)).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        rename(path_of(&trail), &elsewhere).unwrap();
        symlink(&elsewhere, path_of(&trail)).unwrap();
        assert!(PruneRequest::find(&trail).is_err());
        remove_file(path_of(&trail)).unwrap();
    }
}
