//! The unix socket of `admin.socket`: made for its owner alone, and removed at the end. A socket that
//! nobody listens on any more, as a crash leaves it, is replaced. Whatever else has the name is not ours
//! to remove.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 64;

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("admin.socket: cannot listen on {}: {why}", path.display())]
pub struct SocketError {
    path: PathBuf,
    why: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("another process serves there")]
    InUse,
    #[error("there is something that is no socket; it was left alone")]
    NoSocket,
    #[error("its folder is missing (RuntimeDirectory= of the unit makes one below /run)")]
    NoFolder,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A bound socket, not yet accepting.
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The file of a socket, removed on drop unless another one has taken its name.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl AdminSocket {
    /// Makes the socket. To be called after the addresses have been bound: another process that has the
    /// same configuration has failed by then, and does not take the name at the same moment.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        bind(path).map_err(|why| SocketError {
            path: path.to_owned(),
            why,
        })
    }
}

fn bind(path: &Path) -> Result<AdminSocket, Cause> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(Cause::NoSocket),
        Ok(_) if is_live(path)? => return Err(Cause::InUse),
        Ok(_) => std::fs::remove_file(path)?,
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Linux gives the file the mode of the socket, so that at no moment others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
    socket.bind(&SockAddr::unix(path)?).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Cause::NoFolder
        } else {
            error.into()
        }
    })?;
    let file = SocketFile {
        path: path.to_owned(),
        device_and_inode: identity(&path.symlink_metadata()?),
    };
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(AdminSocket { listener, file })
}

/// Returns true if a process accepts connections. A full queue is one as well.
fn is_live(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = self.path.symlink_metadata();
        if found.is_ok_and(|found| identity(&found) == self.device_and_inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "`admin.socket` cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AdminSocket;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use tempfile::tempdir;

    fn refusal(path: &std::path::Path) -> String {
        AdminSocket::bind(path).err().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_gone_at_the_end() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bound = AdminSocket::bind(&path).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(refusal(&path).contains("another process serves there"));
        drop(bound);
        assert!(!path.exists());
        let missing = folder.path().join("none/admin.sock");
        assert!(refusal(&missing).contains("RuntimeDirectory="));
    }

    #[tokio::test]
    async fn what_a_crash_left_is_replaced_and_everything_else_is_left_alone() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        // The file outlives its listener.
        drop(UnixListener::bind(&path).unwrap());
        let bound = AdminSocket::bind(&path).unwrap();
        // A file that has taken the name meanwhile is not removed with it.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        drop(bound);
        assert!(refusal(&path).contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"text");
        let (link, real) = (folder.path().join("link"), folder.path().join("real"));
        drop(UnixListener::bind(&real).unwrap());
        symlink(&real, &link).unwrap();
        assert!(refusal(&link).contains("no socket"));
        assert!(real.exists());
    }
}
