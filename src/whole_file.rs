//! Files read whole or not at all: of one that is larger than it can be, or that has no end, nothing
//! is taken.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroize;

/// Bytes of a configuration at most.
pub const MAX_CONFIG: u64 = 16 << 20;
/// Bytes of a file with a password, or with the key of the audit chain, at most.
pub const MAX_SECRET: u64 = 64 << 10;
/// Bytes of an htpasswd file at most: some hundred thousand users.
pub const MAX_USERS: u64 = 64 << 20;

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&File::open(path)?, limit)
}

/// The same of a file that is open.
pub fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let one_more = limit.saturating_add(1);
    let length = file.take(one_more).read_to_end(&mut bytes)?;
    if u64::try_from(length).is_ok_and(|length| length <= limit) {
        Ok(bytes)
    } else {
        bytes.zeroize();
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Reads a text of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let message = error.utf8_error();
        error.into_bytes().zeroize();
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    use super::{read, read_text};
    use std::io::ErrorKind;
    use std::path::Path;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("whole");
        std::fs::write(&file, b"1234\xff").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"1234\xff");
        let kind = |path: &Path, limit| read_text(path, limit).unwrap_err().kind();
        assert_eq!(kind(&file, 4), ErrorKind::FileTooLarge);
        assert_eq!(kind(&file, 5), ErrorKind::InvalidData);
        assert_eq!(kind(Path::new("/dev/zero"), 5), ErrorKind::FileTooLarge);
        assert_eq!(kind(Path::new("/"), 5), ErrorKind::IsADirectory);
    }
}
