//! A small disk that a test fills up.

use std::process::Command;

use super::folder::Folder;
use super::process::skip;

/// Mounted in a folder of its own, and unmounted at the end.
pub(crate) struct SmallDisk {
    pub(crate) folder: Folder,
    mebibytes: usize,
}

impl SmallDisk {
    /// `None` where the system does not let us mount one; the reason is told.
    pub(crate) fn mount(mebibytes: usize) -> Option<Self> {
        let folder = Folder::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { folder, mebibytes });
        }
        skip("a small disk cannot be mounted; that takes root");
        None
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let more_than_all = vec![0; (self.mebibytes + 1) << 20];
        let full = std::fs::write(self.folder.join("filler"), more_than_all).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.folder.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(
            Command::new("umount")
                .arg("-l")
                .arg(self.folder.path())
                .status(),
        );
    }
}
