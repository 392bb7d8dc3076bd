//! The request to cut a trail, `FILE.prune`. The trail has one writer, so the command that cuts it leaves
//! its wish in this file; the writer records it, and removes the file once the record is on the disk.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

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
    let mut name = trail.as_os_str().to_owned();
    name.push(".prune");
    name.into()
}

impl PruneRequest {
    /// Leaves it beside the trail, readable by the writer whoever that is.
    pub(in crate::audit) fn leave(&self, trail: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let to = path_of(trail);
        let mut new = to.as_os_str().to_owned();
        new.push(".new");
        // Of a command that was ended. A link that stands there instead is not followed.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&text)?;
        std::fs::rename(&new, to)
    }

    /// The one beside the trail. Neither a link nor a FIFO is followed or waited for.
    pub(in crate::audit) fn find(trail: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        let file: File = match options.read(true).custom_flags(flags).open(path_of(trail)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Removes the one beside the trail, if there is one.
    pub(in crate::audit) fn remove(trail: &Path) -> io::Result<()> {
        match std::fs::remove_file(path_of(trail)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
