//! The files of a trail: what rotation makes of one, by us or by others, and how each is read.
//!
//! A file is opened once and read from its handle, so that a rotation meanwhile changes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes read at a time.
const BUFFER_SIZE: usize = 256 * 1024;
/// Endings of compressed files that are read.
const PACKED: [&str; 2] = ["gz", "zst"];
/// Ends of names that programs put between a file's name and a number or date.
const SEPARATORS: [char; 2] = ['.', '-'];

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

/// A file of a trail, open.
#[derive(Debug)]
pub struct TrailFile {
    path: PathBuf,
    file: File,
    packing: Packing,
}

/// A file of a trail that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct Unreadable {
    /// Its path.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

impl TrailFile {
    /// Opens a file, which may be compressed with gzip or zstd.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        let failed = |source| Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let packing = packing(&file).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            packing,
        })
    }

    /// Opens the files that were named. A file that rotation has compressed meanwhile is read in its new
    /// form, and where one was moved meanwhile, so are all other files of its trail. Files that only lie
    /// beside a trail are left out, and no file is read twice.
    pub fn open_all(paths: &[PathBuf]) -> (Vec<Self>, Vec<Unreadable>) {
        let mut opened = Opened::default();
        for path in paths.iter().filter(|path| !is_beside(path)) {
            let is_double =
                unpacked(path).is_some_and(|plain| paths.contains(&plain) && plain.exists());
            if !is_double {
                opened.add(path);
            }
        }
        let gone = std::mem::take(&mut opened.gone);
        for unreadable in gone {
            let before = opened.files.len();
            for path in siblings(&unreadable.path) {
                opened.add(&path);
            }
            if opened.files.len() == before {
                opened.unreadable.push(unreadable);
            }
        }
        (opened.files, opened.unreadable)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, if it is not compressed.
    pub fn plain(&self) -> Option<&File> {
        (self.packing == Packing::None).then_some(&self.file)
    }

    /// Another handle of it.
    pub fn reopened(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Its length, if it is not compressed.
    pub fn length(&self) -> Option<u64> {
        let length = self.plain()?.metadata().ok()?.len();
        (length > 0).then_some(length)
    }

    /// Its lines, from the first on.
    pub fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        let mut file = self.file.try_clone()?;
        // A pipe has no beginning to go back to.
        let _is_pipe = file.seek(SeekFrom::Start(0)).is_err();
        let packed = |file| BufReader::with_capacity(BUFFER_SIZE, file);
        Ok(match self.packing {
            Packing::None => Box::new(file),
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed(file))),
            Packing::Zstd => Box::new(Frames::new(packed(file))),
        })
    }

    /// The beginning of its lines: the first, as far as it goes.
    pub(super) fn first_line(&self, longest: u64) -> io::Result<Vec<u8>> {
        let mut first = Vec::new();
        BufReader::new(self.reader()?.take(longest)).read_until(b'\n', &mut first)?;
        Ok(first)
    }

    /// Device and inode.
    pub(super) fn place(&self) -> Option<(u64, u64)> {
        let meta = self.file.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }
}

#[derive(Default)]
struct Opened {
    files: Vec<TrailFile>,
    places: BTreeSet<(u64, u64)>,
    /// Files that have another name now, or none.
    gone: Vec<Unreadable>,
    unreadable: Vec<Unreadable>,
}

impl Opened {
    fn add(&mut self, path: &Path) {
        match open_or_packed(path) {
            Ok(file) => {
                if file.place().is_none_or(|place| self.places.insert(place)) {
                    self.files.push(file);
                }
            }
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => self.gone.push(error),
            Err(error) => self.unreadable.push(error),
        }
    }
}

fn open_or_packed(path: &Path) -> Result<TrailFile, Unreadable> {
    TrailFile::open(path).or_else(|error| {
        if error.source.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        let packed = PACKED.iter().map(|ending| {
            let mut name = path.as_os_str().to_owned();
            name.push(".");
            name.push(ending);
            PathBuf::from(name)
        });
        packed
            .map(|path| TrailFile::open(&path))
            .find_map(Result::ok)
            .ok_or(error)
    })
}

/// Returns true for files that lie beside a trail and are no part of it: its chain file, its lock, a
/// request to cut it, lines that a crash has torn.
pub fn is_beside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default();
    let is_ours = ["chain", "lock", "prune"].iter().any(|one| ending == *one);
    is_ours || name.contains(".torn-")
}

/// All files of the trail that a file belongs to, by their names, which rotation gives: our own
/// (`audit-2026-11-22T030405.jsonl`) and those of logrotate (`audit.jsonl.1`, `audit.jsonl-20261122.gz`).
pub fn siblings(path: &Path) -> Vec<PathBuf> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let Some(base) = base(path) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter();
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    let mut paths: Vec<_> = names
        .map(|name| folder.map_or_else(|| PathBuf::from(&name), |folder| folder.join(&name)))
        .filter(|path| !is_beside(path) && self::base(path).as_deref() == Some(&*base))
        .collect();
    paths.sort();
    paths
}

/// The file that a trail is written to, from one of its files.
pub(super) fn written(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(base(path)?))
}

/// The name that a trail is written under, from that of one of its files.
fn base(path: &Path) -> Option<String> {
    let plain = unpacked(path);
    let name = plain.as_deref().unwrap_or(path).file_name()?.to_str()?;
    // Our own: `{stem}-{time}[-{number}].{ending}`.
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    for stem in [
        Some(stem),
        stem.rsplit_once('-').map(|(front, _number)| front),
    ] {
        if let Some((front, time)) =
            stem.and_then(|stem| stem.split_at_checked(stem.len().checked_sub(18)?))
            && is_like(time, "-0000-00-00T000000")
        {
            let dot = if ending.is_empty() { "" } else { "." };
            return Some(format!("{front}{dot}{ending}"));
        }
    }
    // Others': `{name}.{number}`, `{name}-{date}`.
    let mut base = name;
    while let Some((front, number)) = base.rsplit_once(SEPARATORS)
        && !(front.is_empty() || number.is_empty())
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        base = front;
    }
    Some(base.to_owned())
}

/// Returns true if a text has the same form, with any digits for zeros.
fn is_like(text: &str, form: &str) -> bool {
    let same = |(one, other): (u8, u8)| one == other || (other == b'0' && one.is_ascii_digit());
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(same)
}

/// The path without the ending of a compressed file.
pub(super) fn unpacked(path: &Path) -> Option<PathBuf> {
    let ending = path.extension()?.to_str()?;
    PACKED.contains(&ending).then(|| path.with_extension(""))
}

fn packing(file: &File) -> io::Result<Packing> {
    if !file.metadata()?.is_file() {
        return Ok(Packing::None);
    }
    let mut head = [0; 6];
    let length = file.read_at(&mut head, 0)?;
    let other = |name, program| {
        let message = format!(
            "it is compressed with {name}, of which only gzip and zstd are read; decompress it first \
             ({program} -d)"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    };
    match head.get(..length).unwrap_or_default() {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Packing::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => other("xz", "xz"),
        [b'B', b'Z', b'h', ..] => other("bzip2", "bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => other("lz4", "lz4"),
        _ => Ok(Packing::None),
    }
}

/// A stream of zstd frames (RFC 8878).
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Begins the next frame; returns false at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(false)
    }

    fn end(&mut self) -> io::Result<()> {
        self.in_frame = false;
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(damaged("the checksum does not fit"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder
                    .decode_blocks(&mut self.source, one)
                    .map_err(damaged)?;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(into);
            }
            self.end()?;
        }
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use tempfile::tempdir;

    use super::{TrailFile, base, siblings};

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::default());
        to.write_all(text).unwrap();
        to.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn read(path: &Path) -> Result<String, String> {
        let file = TrailFile::open(path).map_err(|error| error.to_string())?;
        let mut text = String::new();
        let read = file.reader().unwrap().read_to_string(&mut text);
        read.map_err(|error| error.to_string()).map(|_| text)
    }

    #[test]
    fn names_that_rotation_gives_belong_to_one_trail() {
        for (name, expected) in [
            ("audit.jsonl", "audit.jsonl"),
            ("audit.jsonl.1", "audit.jsonl"),
            ("audit.jsonl.12.gz", "audit.jsonl"),
            ("audit.jsonl.2.zst", "audit.jsonl"),
            ("audit.jsonl-20261128", "audit.jsonl"),
            ("audit.jsonl-20261128-1764295200.gz", "audit.jsonl"),
            ("audit.jsonl.2026-11-28", "audit.jsonl"),
            ("audit-2026-11-22T030405.jsonl", "audit.jsonl"),
            ("audit-2026-11-22T030405-2.jsonl.gz", "audit.jsonl"),
            ("audit-2026-11-22T030405", "audit"),
            ("audit", "audit"),
            ("audit-1.jsonl", "audit-1.jsonl"),
            ("1", "1"),
        ] {
            assert_eq!(base(Path::new(name)).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn compressed_files_are_read_as_they_were_and_damaged_ones_are_not() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl.1");
        let text = "{\"seq\":1}\n".repeat(50_000);
        let (front, back) = text.split_at(200_001);
        // Also what was compressed in parts.
        for packed in [
            text.clone().into_bytes(),
            gzip(text.as_bytes()),
            [gzip(front.as_bytes()), gzip(back.as_bytes())].concat(),
            zstd(text.as_bytes()),
            [
                zstd(front.as_bytes()),
                b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
                zstd(back.as_bytes()),
            ]
            .concat(),
        ] {
            std::fs::write(&path, &packed).unwrap();
            assert!(read(&path).unwrap() == text);
            if packed.starts_with(b"{") {
                continue;
            }
            std::fs::write(&path, &packed[..packed.len() / 2]).unwrap();
            assert!(read(&path).is_err(), "cut off");
        }
        std::fs::write(&path, b"\xfd7zXZ\0abc").unwrap();
        let refused = read(&path).unwrap_err();
        assert!(refused.contains("compressed with xz"), "{refused}");
    }

    #[test]
    fn what_the_program_zstd_writes_is_read_with_its_checksum() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl.1");
        let text = "{\"seq\":1}\n".repeat(50_000);
        std::fs::write(&path, &text).unwrap();
        let run = Command::new("zstd")
            .arg("-q")
            .arg(&path)
            .stdin(Stdio::null())
            .status();
        if !run.is_ok_and(|status| status.success()) {
            return;
        }
        let packed = folder.path().join("audit.jsonl.1.zst");
        assert!(read(&packed).unwrap() == text);
        let mut bytes = std::fs::read(&packed).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&packed, bytes).unwrap();
        assert!(read(&packed).unwrap_err().contains("checksum"));
    }

    #[test]
    fn a_file_that_rotation_moved_is_read_under_its_new_name_and_none_twice() {
        let folder = tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let names = |paths: &[PathBuf]| {
            let (files, unreadable) = TrailFile::open_all(paths);
            assert!(unreadable.is_empty(), "{unreadable:?}");
            let name = |file: &TrailFile| file.path().file_name().unwrap().to_owned();
            files
                .iter()
                .map(|file| name(file).into_string().unwrap())
                .collect::<Vec<_>>()
        };
        for (name, text) in [
            ("audit.jsonl", b"3\n".to_vec()),
            ("audit.jsonl.chain", b"3\n".to_vec()),
            ("audit.jsonl.1", b"2\n".to_vec()),
            ("audit.jsonl.1.gz", gzip(b"2\n")),
            ("audit.jsonl.2.gz", gzip(b"1\n")),
            ("other.jsonl.1", b"1\n".to_vec()),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        assert_eq!(siblings(&at("audit.jsonl")).len(), 4);
        let all = [
            "audit.jsonl",
            "audit.jsonl.chain",
            "audit.jsonl.1",
            "audit.jsonl.1.gz",
        ];
        assert_eq!(names(&all.map(at)), ["audit.jsonl", "audit.jsonl.1"]);
        assert_eq!(
            names(&["audit.jsonl", "audit.jsonl.2"].map(at)),
            ["audit.jsonl", "audit.jsonl.2.gz"]
        );
        std::fs::remove_file(at("audit.jsonl.1")).unwrap();
        assert_eq!(
            names(&["audit.jsonl", "audit.jsonl.3"].map(at)),
            ["audit.jsonl", "audit.jsonl.1.gz", "audit.jsonl.2.gz"]
        );
        let (_, unreadable) = TrailFile::open_all(&[at("third.jsonl")]);
        assert_eq!(unreadable.len(), 1);
    }
}
