//! Every kind of tampering, on files as the writer makes them.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{AcceptedStart, Begins, Finding, Problem, Proofs, Verified, VerifyError, verify};
use crate::audit::journal::chain::{ChainKey, Link};
use crate::audit::journal::chain_file::ChainFile;
use crate::audit::journal::sign::{PublicKey, Signer};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Writes lines as the writer does.
#[derive(Clone, Default)]
struct Chain {
    link: Link,
    key: ChainKey,
    text: String,
}

impl Chain {
    fn add(&mut self, event: &str, more: &str) {
        let fields = format!(
            "\"time\":\"2026-11-22T03:04:05.678901Z\",\"ref\":\"ABCDEF\",\"event\":\"{event}\"{more}"
        );
        self.link.append(&self.key, &fields, &mut self.text);
    }

    fn records(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.add("request", ",\"status\":200");
        }
        self
    }

    fn checkpoint(mut self, signer: &Signer) -> Self {
        let made = signer
            .checkpoint(self.link.last(), &self.link.hash)
            .unwrap();
        let json = made.write();
        self.add("checkpoint", &format!(",\"checkpoint\":{json}"));
        self
    }

    fn lines(&self) -> Vec<&str> {
        self.text.lines().collect()
    }
}

fn check(files: &[PathBuf], proofs: &Proofs) -> Result<Verified, (u64, Problem)> {
    match verify(files, proofs, &|_bytes| {}) {
        Ok(verified) => Ok(verified),
        Err(VerifyError::Broken(finding)) => {
            let Finding { line, problem, .. } = *finding;
            Err((line, problem))
        }
        Err(error) => panic!("{error}"),
    }
}

fn text(lines: &[&str]) -> Vec<u8> {
    let mut text = lines.join("\n");
    text.push('\n');
    text.into_bytes()
}

fn of(text: &[u8]) -> Result<Verified, (u64, Problem)> {
    let folder = Folder::new();
    check(&[folder.write("audit.jsonl", text)], &Proofs::default())
}

fn signer() -> (Signer, PublicKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
    let signer = Signer::new(&pair.serialize_der()).unwrap();
    (signer, PublicKey::new(&public).unwrap())
}

#[test]
fn a_whole_trail_is_good_and_says_what_is_proven() {
    let chain = Chain::default().records(5);
    let verified = of(chain.text.as_bytes()).unwrap();
    assert_eq!(verified.records, 5);
    assert_eq!(verified.first.unwrap().seq, 1);
    let last = verified.last.unwrap();
    assert_eq!((last.seq, last.hash), (5, chain.link.hash.clone()));
    assert_eq!(last.time.as_deref(), Some("2026-11-22T03:04:05.678901Z"));
    assert_eq!((verified.end_proven, verified.signed), (None, None));
    assert_eq!(verified.begins, Begins::Whole);
    assert_eq!(of(b"").unwrap().records, 0);
}

#[test]
fn a_beginning_that_is_cut_off_is_found_unless_it_is_accepted() {
    let chain = Chain::default().records(9);
    let later = text(&chain.lines()[3..]);
    let expected = |found, said| {
        let problem = Problem::NoBeginning {
            expected: 1,
            found,
            said,
        };
        (1, problem)
    };
    assert_eq!(of(&later).unwrap_err(), expected(4, None));
    let folder = Folder::new();
    let file = folder.write("audit.jsonl", &later);
    let from = |from| {
        let proofs = Proofs {
            from: Some(from),
            ..Proofs::default()
        };
        check(std::slice::from_ref(&file), &proofs)
    };
    for accepted in [AcceptedStart::Oldest, AcceptedStart::Record(4)] {
        let verified = from(accepted).unwrap();
        assert_eq!(verified.begins, Begins::Accepted);
        assert_eq!((verified.first.unwrap().seq, verified.records), (4, 6));
    }
    for wrong in [
        AcceptedStart::Record(1),
        AcceptedStart::Record(3),
        AcceptedStart::Record(5),
    ] {
        assert_eq!(from(wrong).unwrap_err(), expected(4, None));
    }
    // The chain file says where it begins, and nobody has to believe it.
    let mut link = chain.link.clone();
    for first in [1, 4] {
        link.first = first;
        ChainFile::open(&file).unwrap().write(&link).unwrap();
        let said = (first == 1).then(|| format!("{}.chain", file.display()));
        assert_eq!(
            check(std::slice::from_ref(&file), &Proofs::default()).unwrap_err(),
            expected(4, said)
        );
    }
    // A first record after another one than none.
    let mut forged = Chain::default();
    forged.link.hash = "a".repeat(64);
    let found = of(forged.records(2).text.as_bytes()).unwrap_err();
    assert_eq!(found, (1, Problem::Replaced { seq: 1 }));
}

#[test]
fn the_file_that_is_written_is_missed_by_its_chain_file() {
    let chain = Chain::default().records(9);
    let folder = Folder::new();
    let old = folder.write("audit.jsonl.1", &text(&chain.lines()[..6]));
    let current = folder.write("audit.jsonl", &text(&chain.lines()[6..]));
    ChainFile::open(&current)
        .unwrap()
        .write(&chain.link)
        .unwrap();
    let of = |files: &[&PathBuf]| {
        let files: Vec<_> = files.iter().map(|file| (*file).clone()).collect();
        check(&files, &Proofs::default())
    };
    assert_eq!(of(&[&old, &current]).unwrap().end_proven, Some(9));
    // An old file alone is what was asked for.
    assert_eq!(of(&[&old]).unwrap().end_proven, None);
    std::fs::remove_file(&current).unwrap();
    let problem = Problem::CutOff {
        chain_file: current.with_file_name("audit.jsonl.chain"),
        expected: 9,
        found: Some(6),
    };
    assert_eq!(of(&[&old]).unwrap_err(), (6, problem));
}

#[test]
fn a_trail_may_begin_where_it_was_pruned_and_not_later() {
    let mut chain = Chain::default().records(5);
    chain.add("start", ",\"first\":1");
    chain.add("prune", ",\"first\":3");
    chain = chain.records(1);
    let mut again = chain.clone();
    again.add("prune", ",\"first\":5");
    for (chain, by, first) in [(&chain, 7, 3), (&again, 9, 5)] {
        for begin in 1..=6 {
            let result = of(&text(&chain.lines()[begin - 1..]));
            match begin as u64 {
                1 => assert_eq!(result.unwrap().begins, Begins::Whole),
                // Files that a crash has left behind.
                seq if seq <= first => {
                    let verified = result.unwrap();
                    assert_eq!(verified.begins, Begins::Pruned { by });
                    assert_eq!(verified.expected_first, first);
                }
                seq => {
                    let problem = Problem::NoBeginning {
                        expected: first,
                        found: seq,
                        said: Some(format!("record {by}")),
                    };
                    assert_eq!(result.unwrap_err(), (1, problem));
                }
            }
        }
    }
    // A start only mentions what it believed; a record cannot name one after itself.
    let mut chain = Chain::default().records(3);
    chain.add("start", ",\"first\":2");
    chain.add("prune", ",\"first\":9");
    let found = of(&text(&chain.lines()[1..])).unwrap_err();
    assert!(
        matches!(found, (1, Problem::NoBeginning { expected: 1, .. })),
        "{found:?}"
    );
}

#[test]
fn what_is_pruned_after_the_files_were_named_is_not_missing() {
    let folder = Folder::new();
    let mut chain = Chain::default().records(4);
    let named = |first: u64, chain: &Chain| {
        let rest = text(&chain.lines()[2..]);
        let files = [
            folder.0.path().join("audit.jsonl.1"),
            folder.write("audit.jsonl", &rest),
        ];
        let result = verify(&files, &Proofs::default(), &|_bytes| {});
        result
            .map(|verified| verified.begins)
            .map_err(|error| format!("{first}: {error}"))
    };
    let refused = named(1, &chain).unwrap_err();
    assert!(refused.contains("the beginning is missing"), "{refused}");
    chain.add("prune", ",\"first\":3");
    assert_eq!(named(3, &chain), Ok(Begins::Pruned { by: 5 }));
}

/// A clock that was set says nothing about the chain.
#[test]
fn times_that_go_back_or_jump_ahead_break_nothing() {
    let mut chain = Chain::default();
    for time in ["2026-11-22", "1970-01-01", "2999-12-31", "2026-11-22"] {
        let fields = format!("\"time\":\"{time}T03:04:05.678901Z\",\"event\":\"request\"");
        chain.link.append(&chain.key, &fields, &mut chain.text);
    }
    assert_eq!(of(chain.text.as_bytes()).unwrap().records, 4);
}

#[test]
fn each_kind_of_tampering_is_named_with_its_line() {
    let chain = Chain::default().records(5);
    let lines = chain.lines();
    let edited = lines[2].replace("200", "201");
    let cases: Vec<(Vec<&str>, (u64, Problem))> = vec![
        (
            vec![lines[0], lines[1], &edited, lines[3]],
            (
                3,
                Problem::Changed {
                    seq: 3,
                    keyed: false,
                },
            ),
        ),
        (
            vec![lines[0], lines[3], lines[4]],
            (
                2,
                Problem::Gap {
                    expected: 2,
                    found: 4,
                },
            ),
        ),
        (
            vec![lines[0], lines[0], lines[1]],
            (
                2,
                Problem::Repeated {
                    expected: 2,
                    found: 1,
                },
            ),
        ),
        (
            vec![lines[0], lines[2], lines[1]],
            (
                2,
                Problem::Gap {
                    expected: 2,
                    found: 3,
                },
            ),
        ),
        (vec![lines[0], "{}", lines[1]], (2, Problem::NotARecord)),
        (vec![lines[0], "", lines[1]], (2, Problem::NotARecord)),
    ];
    for (lines, expected) in cases {
        assert_eq!(of(&text(&lines)).unwrap_err(), expected);
    }
    // Another record in its place, with a hash of its own.
    let mut other = Chain::default().records(1);
    other.add("request", ",\"status\":500");
    let forged = [lines[0], other.lines()[1], lines[2]];
    assert_eq!(
        of(&text(&forged)).unwrap_err(),
        (3, Problem::Replaced { seq: 3 })
    );
    let torn = chain.text.trim_end();
    let bytes = lines[4].len();
    assert_eq!(
        of(torn.as_bytes()).unwrap_err(),
        (5, Problem::Torn { bytes })
    );
}

#[test]
fn the_end_is_proven_by_the_file_beside_the_trail() {
    let folder = Folder::new();
    let chain = Chain::default().records(5);
    let file = folder.write("audit.jsonl", chain.text.as_bytes());
    let files = [file.clone()];
    ChainFile::open(&file).unwrap().write(&chain.link).unwrap();
    let verified = check(&files, &Proofs::default()).unwrap();
    assert_eq!(verified.end_proven, Some(5));
    // A trail that has gone on since.
    folder.write("audit.jsonl", chain.clone().records(2).text.as_bytes());
    let verified = check(&files, &Proofs::default()).unwrap();
    assert_eq!((verified.end_proven, verified.records), (Some(5), 7));
    for kept in [4, 0] {
        let cut = chain.lines()[..kept].join("\n") + if kept == 0 { "" } else { "\n" };
        folder.write("audit.jsonl", cut.as_bytes());
        let (line, problem) = check(&files, &Proofs::default()).unwrap_err();
        assert!(
            matches!(problem, Problem::CutOff { expected: 5, .. }),
            "{problem}"
        );
        assert_eq!(line, kept.max(1) as u64);
    }
    // The last record replaced by another one that fits.
    let mut other = Chain::default().records(4);
    other.add("request", ",\"status\":500");
    folder.write("audit.jsonl", other.text.as_bytes());
    let found = check(&files, &Proofs::default()).unwrap_err();
    assert_eq!(found, (5, Problem::NotTheEnd { seq: 5 }));
    folder.write("audit.jsonl", chain.text.as_bytes());
    folder.write("audit.jsonl.chain", b"{\"seq\":5}");
    let (_, problem) = check(&files, &Proofs::default()).unwrap_err();
    assert!(matches!(problem, Problem::DamagedChainFile(_)));
}

#[test]
fn rotated_files_are_one_trail_in_any_order() {
    let folder = Folder::new();
    let chain = Chain::default().records(9);
    let lines = chain.lines();
    let mut files: Vec<_> = [(0, 3), (3, 6), (6, 9)]
        .map(|(from, to)| folder.write(&format!("{from}.jsonl"), &text(&lines[from..to])))
        .into();
    files.push(folder.write("empty.jsonl", b""));
    let proofs = Proofs::default();
    files.rotate_left(2);
    assert_eq!(check(&files, &proofs).unwrap().records, 9);
    let without: Vec<_> = files
        .iter()
        .filter(|file| !file.ends_with("3.jsonl"))
        .cloned()
        .collect();
    let found = check(&without, &proofs).unwrap_err();
    assert_eq!(
        found,
        (
            1,
            Problem::Gap {
                expected: 4,
                found: 7
            }
        )
    );
    files.push(folder.write("copy.jsonl", &text(&lines[3..6])));
    assert!(matches!(
        check(&files, &proofs),
        Err((1, Problem::Repeated { .. }))
    ));
}

#[test]
fn what_is_rotated_after_the_files_were_named_is_not_missing() {
    let folder = Folder::new();
    let chain = Chain::default().records(9);
    let lines = chain.lines();
    let old = folder.write("audit.jsonl.2", &text(&lines[..3]));
    folder.write("audit.jsonl.1", &text(&lines[3..]));
    let current = folder.write("audit.jsonl", b"");
    ChainFile::open(&current)
        .unwrap()
        .write(&chain.link)
        .unwrap();
    let verified = check(&[current, old], &Proofs::default()).unwrap();
    assert_eq!((verified.records, verified.files.len()), (9, 3));
}

#[test]
fn a_keyed_chain_needs_its_keys_and_never_loses_them() {
    let folder = Folder::new();
    let [one, two] = [[1; 32], [2; 32]].map(|bytes| ChainKey::from_bytes(&bytes).unwrap());
    let mut chain = Chain::default().records(2);
    chain.key = one.clone();
    chain = chain.records(2);
    chain.key = two.clone();
    chain = chain.records(2);
    let file = folder.write("audit.jsonl", chain.text.as_bytes());
    let with = |keys: &[&ChainKey]| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        check(
            std::slice::from_ref(&file),
            &Proofs {
                keys,
                ..Proofs::default()
            },
        )
    };
    let keys = with(&[&two, &one]).unwrap().keys;
    assert_eq!(keys, [None, one.name(), two.name()]);
    assert_eq!(
        with(&[&one]).unwrap_err(),
        (
            5,
            Problem::Changed {
                seq: 5,
                keyed: true
            }
        )
    );
    assert_eq!(
        with(&[]).unwrap_err(),
        (
            3,
            Problem::Changed {
                seq: 3,
                keyed: false
            }
        )
    );
    // Written anew by somebody without the key.
    chain.key = ChainKey::NONE;
    folder.write("audit.jsonl", chain.records(1).text.as_bytes());
    assert_eq!(
        with(&[&one, &two]).unwrap_err(),
        (7, Problem::KeyGone { seq: 7 })
    );
    folder.write("audit.jsonl", Chain::default().records(3).text.as_bytes());
    assert_eq!(with(&[&one]).unwrap_err(), (3, Problem::NeverKeyed));
}

#[test]
fn checkpoints_are_signed_by_whom_they_should() {
    let folder = Folder::new();
    let ((signer, public), (other, stranger)) = (signer(), signer());
    let chain = Chain::default().records(3).checkpoint(&signer).records(2);
    let file = folder.write("audit.jsonl", chain.text.as_bytes());
    let mut proofs = Proofs {
        public: vec![public],
        ..Proofs::default()
    };
    let verified = check(std::slice::from_ref(&file), &proofs).unwrap();
    assert_eq!((verified.signed, verified.checkpoints), (Some(4), 1));
    // A trail that was written anew, chain and all.
    let forged = Chain::default().records(4).checkpoint(&other);
    folder.write("audit.jsonl", forged.text.as_bytes());
    let found = check(std::slice::from_ref(&file), &proofs).unwrap_err();
    assert!(
        matches!(found, (5, Problem::Signature { seq: 5, .. })),
        "{found:?}"
    );
    folder.write("audit.jsonl", Chain::default().records(4).text.as_bytes());
    assert_eq!(
        check(std::slice::from_ref(&file), &proofs).unwrap_err(),
        (4, Problem::NeverSigned)
    );
    // Signed up to somewhere, then written anew.
    folder.write("audit.jsonl", chain.records(1500).text.as_bytes());
    let found = check(std::slice::from_ref(&file), &proofs).unwrap_err();
    assert_eq!(found, (1005, Problem::Unsigned { after: 4 }));
    proofs.public = vec![stranger];
    assert!(check(&[file], &proofs).is_err());
}

/// A trail of two files that ends with a checkpoint, and what stands beside it.
struct Whole {
    folder: Folder,
    files: Vec<PathBuf>,
    proofs: Proofs,
}

impl Whole {
    fn new() -> Self {
        let folder = Folder::new();
        let (signer, public) = signer();
        let old = Chain::default().records(6).checkpoint(&signer);
        let mut new = old.clone();
        new.text.clear();
        let new = new.records(5).checkpoint(&signer);
        let files = vec![
            folder.write("audit-1.jsonl", old.text.as_bytes()),
            folder.write("audit.jsonl", new.text.as_bytes()),
        ];
        ChainFile::open(&files[1])
            .unwrap()
            .write(&new.link)
            .unwrap();
        let proofs = Proofs {
            public: vec![public],
            ..Proofs::default()
        };
        Self {
            folder,
            files,
            proofs,
        }
    }

    fn is_found(&self, which: usize, text: &[u8]) -> bool {
        let file: &Path = &self.files[which];
        let before = std::fs::read(file).unwrap();
        if before == text {
            return true;
        }
        std::fs::write(file, text).unwrap();
        let found = check(&self.files, &self.proofs).is_err();
        std::fs::write(file, before).unwrap();
        found
    }
}

#[test]
fn a_change_of_any_byte_is_found() {
    let whole = Whole::new();
    assert!(check(&whole.files, &whole.proofs).is_ok());
    for which in 0..2 {
        let text = std::fs::read(&whole.files[which]).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(whole.is_found(which, &changed), "file {which}, byte {at}");
        }
    }
    drop(whole.folder);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_done_to_a_trail_is_found(
        which in 0_usize..2,
        from in 1_usize..2600,
        length in 0_usize..900,
        put in proptest::collection::vec(any::<u8>(), 0..20),
        swap in proptest::option::of((0_usize..6, 0_usize..6)),
        lines_gone in proptest::option::of(0_usize..6),
    ) {
        let whole = Whole::new();
        let text = std::fs::read(&whole.files[which]).unwrap();
        // Any stretch of bytes replaced by any others; an end cut off is one of these.
        let from = from.min(text.len());
        let to = from.saturating_add(length).min(text.len());
        let mut spliced = text.clone();
        spliced.splice(from..to, put);
        prop_assert!(whole.is_found(which, &spliced));
        prop_assert!(whole.is_found(which, &text[..from]));
        let mut lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
        if let Some((one, other)) = swap {
            lines.swap(one, other);
            prop_assert!(whole.is_found(which, &lines.concat()));
        }
        if let Some(gone) = lines_gone {
            lines.remove(gone);
            prop_assert!(whole.is_found(which, &lines.concat()));
        }
    }
}
