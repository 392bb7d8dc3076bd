//! Files read whole or not at all: of one that is larger than it can be, or that has no end, nothing
//! is taken.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroize;

/// Bytes of a configuration at most.
pub const MAX_CONFIG: u64 = 16 << 20;
/// Bytes of a file with a password, or with the key of the audit chain, at most.
pub const MAX_SECRET: u64 = 64 << 10;
/// Bytes of an htpasswd file at most: some hundred thousand users.
pub const MAX_USERS: u64 = 64 << 20;

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_open(&open(path)?, limit)
}

/// Opens a file, and never waits for it: a FIFO that stands there is refused. (Not so what the caller
/// was given as an open file, as `/dev/stdin` or a shell's `<(...)`.)
pub fn open(path: &Path) -> io::Result<File> {
    let handed =
        path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc");
    if handed {
        return File::open(path);
    }
    let mut how = OpenOptions::new();
    // The bits are the system's own; a sign has no meaning in them.
    how.read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = how.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_socket() {
        return Err(io::Error::other(
            "it is a pipe or socket, not a file; put a regular file in its place",
        ));
    }
    Ok(file)
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
    let mut bytes = read(path, limit)?;
    if is_utf16(&bytes) {
        bytes.zeroize();
        let path = path.display();
        let message = format!(
            "this is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path} > {path}.utf-8"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let message = error.utf8_error();
        error.into_bytes().zeroize();
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// What an editor may put in front of a text that is UTF-8.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Whether a text is UTF-16, as some editors save it: by its mark, or by every other byte being zero.
pub fn is_utf16(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [0, second, 0, fourth, ..] => *second != 0 && *fourth != 0,
        [first, 0, third, 0, ..] => *first != 0 && *third != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_utf16, read, read_text};
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

    #[test]
    fn a_pipe_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = read(&pipe, 5).unwrap_err().to_string();
        assert!(error.contains("pipe"), "{error}");
    }

    #[test]
    fn utf_16_is_called_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("utf-16");
        let text = "[server]\n";
        let marked = format!("\u{feff}{text}");
        let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let all: [Vec<u8>; 4] = [big(text), little(text), big(&marked), little(&marked)];
        for bytes in all {
            std::fs::write(&file, bytes).unwrap();
            let error = read_text(&file, 100).unwrap_err().to_string();
            assert!(
                error.contains("UTF-16") && error.contains("iconv"),
                "{error}"
            );
        }
        for other in [
            &b""[..],
            b"a",
            b"a\0",
            b"a\0b",
            text.as_bytes(),
            b"\0\0\0\0\0",
        ] {
            assert!(!is_utf16(other), "{other:?}");
        }
    }
}
