//! Files of ours beside a trail. Others may be able to write in the folder: no link that they put there is
//! followed, and no FIFO waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The name of such a file: that of the trail, and an ending.
pub(in crate::audit) fn path(trail: &Path, ending: &str) -> PathBuf {
    let mut name = trail.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Opens such a file.
pub(in crate::audit) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // The bits are the system's own; a sign has no meaning in them.
    let file = options
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}
