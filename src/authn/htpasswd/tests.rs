#![expect(
    clippy::string_slice,
    reason = "the passwords sliced are ASCII; a test may panic"
)]

use std::path::Path;

use proptest::prelude::*;

use super::bounds::MAX_USER;
use super::hash::Effort;
use super::hash::tests::hashes_done;
use super::{Fingerprint, LineError, LineWarning, UnfitPassword, Users, Weakness, hash_password};
use crate::authn::Rejection;
use crate::identity::{Name, Origin, Password};

const PASSWORD: &str = "correct horse";
const UMLAUTS: &str = "päpäpäpäpäpäpäpäpäpäpäpäpäpäpäpäpäpäpäpä";
/// `PASSWORD`, by `htpasswd -nbB -C 4`.
const BCRYPT: &str = "$2y$04$IyHJFcQfTOF0DqDGFNxl..wR15Wu5vON1RbO4IkSNaME7NpuccKzO";
/// `PASSWORD`, by `htpasswd -nbm`.
const APR1: &str = "$apr1$4uPVmhOB$VdVPjIPgLVh79xi5FyYm60";
/// `PASSWORD`, by `htpasswd -nbs`.
const SHA: &str = "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=";
/// `PASSWORD`, by `htpasswd -nb2 -r 1000`.
const SHA256: &str = "$5$rounds=1000$aymI9HWl61E2ux5t$OSfa/y3XhE23FMeK6U0IxYYIqNtSJiu1c17pGB49NsB";

/// Made by Debian's htpasswd, by openssl, and by the system's crypt.
const KNOWN: &[(&str, &str)] = &[
    (PASSWORD, BCRYPT),
    (
        PASSWORD,
        "$2y$05$b6FWtUJ1khiaPHiB0qQzkOMdFVpeC615i5JLWoNpQVYcwiPrOOque",
    ),
    (
        PASSWORD,
        "$2y$10$QPMOmeIbvS7JAiiibqlAOux7MPZ1MjRCIjrZS3yN6T4pK8IXRYykq",
    ),
    (
        PASSWORD,
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.WrAwgFxicHZ3kL7zMvXYXHKosDn8ot2",
    ),
    (
        PASSWORD,
        "$2b$04$CCCCCCCCCCCCCCCCCCCCC..o66Ba.o65rt06KXeSpKWfObOB7QJIe",
    ),
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "$2y$04$sBvuezfd58cuAfce3/aOPeU8hmTt1Wg9OtGLbgAA9dpCOPrM.rL.a",
    ),
    (
        UMLAUTS,
        "$2y$04$G0/g.aNWTkvLHQ9yobwCjeyFQuV0iEvYjsOjzNphA.SnV5YOSu5oG",
    ),
    (PASSWORD, APR1),
    (PASSWORD, "$apr1$a$4hvVz1ZYp9jwYWd9JRfWy1"),
    (PASSWORD, "$apr1$ab$2AViYtCrOwG81vjtLDlBI0"),
    (PASSWORD, "$apr1$abcdefg$icyaZXTjnvopAQDui1BtW/"),
    (PASSWORD, "$apr1$abcdefgh$sIQmFnT1CuEXAsyjuXjUX/"),
    (PASSWORD, "$apr1$$Kk3FVxmBymAi8nmLHdg0s/"),
    (UMLAUTS, "$apr1$qS8gUBo6$970vWeY7CBBrIo4EqhSp90"),
    (LONG, "$apr1$UBwMVh1h$ZV2z1jabSEQFcNhftLlqE."),
    (PASSWORD, SHA),
    (PASSWORD, SHA256),
    (
        PASSWORD,
        "$5$VCtkyA0bR6npuQg3$iuBiWGFppbR8MBohYT0aR7iiVcdzsLJT5jdiD0E3RcA",
    ),
    (
        PASSWORD,
        "$5$short$zcR083ghWLoWl18WrlP31BYbZAdiyYFNuPkrdLUNuEB",
    ),
    (PASSWORD, "$5$$SCAp760RlvU0CgD9TQAY9wchWGPvPJ8P8S7gF/3F/S0"),
    (
        PASSWORD,
        "$5$rounds=1000$saltstring$95Bg/RfV2QriLpMdLPHK9el0Ighm6E3CBqMKzZKgCa2",
    ),
    (
        UMLAUTS,
        "$5$t/sz8FqFml3kYnC.$MiGXMizTZYLvEkrJZkhPpac6cK3zJRtiw6t4jkwdo.B",
    ),
    (
        PASSWORD,
        "$6$B1K/RAmOUed95aTu$ebAD7wVKGwjeU.9LQMpS3bS9n2m/OY4x3mPd1x2hYKpZqRhgJLdTUuWBlUUHL3zA1Z9lvw5QplaGVcNfchk8N1",
    ),
    (
        PASSWORD,
        "$6$rounds=10000$LCMoQQ/fmxutc1VZ$UCBk0UOEHyfrWqtxoQGTHKpW3L.tYMGbo5ZZadGDMzyayUkSCmYoCKtZecCXKKbJdUQ/kRtNWB5dAcGmCQp8q1",
    ),
    (
        PASSWORD,
        "$6$abcdefghijklmnop$q2YZbPhm1LySTIzZVDisu/y2CX1McrFsw529ViOLMxoKT.sfgjBo4aFu.hwtGjEDxRb6mn/TZMj7V4/1AUTLi1",
    ),
    (
        PASSWORD,
        "$6$$6LUofpTKYGJWmsxkYcfhDE9wD283B.yVCb5N1sauapb401RaE4WCRGITJhyCTMm1Vn0P9o4AW6q0BRXpOJZc9.",
    ),
    (
        UMLAUTS,
        "$6$zqW9BsTrz89jarzQ$/4T1lbpwwvjM98/zXtdNyb12gxGjus6DAXrL8fEVdPzSeWziTHgCknGXBqabS.AlkMIn9ygVFQKiq99/kEtyl/",
    ),
    (
        LONG,
        "$6$/SYk2LLogfkL07y3$R53LH5Ah1fogXFVnREhdJh/l4ZplNMso2NfwDTvG33SfQKlLuVRLvAgB5WroI3eQhNvr7BFgJvGYLjGGbu/rt/",
    ),
];

/// 200 bytes.
const LONG: &str = concat!(
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
);

type Parsed = Result<(Users, Vec<LineWarning>), Vec<LineError>>;

fn parse(text: impl AsRef<[u8]>) -> Parsed {
    Users::parse(text.as_ref(), Path::new("htpasswd"))
}

fn users(text: impl AsRef<[u8]>) -> Users {
    parse(text).unwrap().0
}

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

fn errors(text: impl AsRef<[u8]>) -> String {
    shown(&parse(text).expect_err("the file is refused"))
}

fn shown(findings: &[impl ToString]) -> String {
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn each_format_is_verified() {
    for (right, hash) in KNOWN {
        let users = users(format!("alice:{hash}"));
        assert_eq!(users.verify("alice", &password(right)), Ok(()), "{hash}");
        for wrong in [&right[1..], &right.replace(['x', 'c', 'p'], "y"), "x"] {
            let answer = users.verify("alice", &password(wrong));
            assert_eq!(answer, Err(Rejection::WrongPassword), "{hash} {wrong}");
        }
        let answer = users.verify("bob", &password(right));
        assert_eq!(answer, Err(Rejection::UnknownUser), "{hash}");
    }
}

#[test]
fn names_are_compared_byte_for_byte() {
    let users = users(format!("Älice Smith:{SHA}\nbob:{SHA}"));
    let password = password(PASSWORD);
    assert_eq!(users.verify("Älice Smith", &password), Ok(()));
    for other in [
        "A\u{308}lice Smith",
        "älice smith",
        "Bob",
        "bob ",
        "bo",
        "bob:",
        "",
    ] {
        assert_eq!(
            users.verify(other, &password),
            Err(Rejection::UnknownUser),
            "{other}"
        );
        assert_eq!(users.fingerprint(other), None);
    }
}

#[test]
fn comments_empty_lines_and_line_ends_are_no_matter() {
    let unix = format!("# staff\n\nalice:{BCRYPT}\n   \n\t# guests\nbob:{SHA}\n");
    for text in [
        unix.clone(),
        unix.replace('\n', "\r\n"),
        format!("\u{feff}{unix}"),
        format!("\u{feff}alice:{BCRYPT}\nbob:{SHA}"),
        format!("alice:{BCRYPT}\r\nbob:{SHA}\r"),
    ] {
        let users = users(&text);
        assert_eq!(users.len(), 2);
        assert_eq!(
            users.verify("alice", &password(PASSWORD)),
            Ok(()),
            "{text:?}"
        );
        assert_eq!(users.verify("bob", &password(PASSWORD)), Ok(()), "{text:?}");
    }
}

#[test]
fn a_broken_file_is_told_in_full() {
    let text = format!(
        "# who may come in
alice:{BCRYPT}
bob:hunter2
carol:abhfCpXqd4GrI
dave
:{SHA}
 erin:{SHA}
frank:
grace:$2x$04$CCCCCCCCCCCCCCCCCCCCC..o66Ba.o65rt06KXeSpKWfObOB7QJIe
heidi:$2y$31$IyHJFcQfTOF0DqDGFNxl..wR15Wu5vON1RbO4IkSNaME7NpuccKzO
Iván:$5$rounds=200001$saltstring$95Bg/RfV2QriLpMdLPHK9el0Ighm6E3CBqMKzZKgCa2
judy:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79
mallory smith's:$1$abc$mEYYKBYwc4Odg5SoPgnFr/
-niaj:_J9..rasmDiLRGIlI80c
alice:{SHA}
olivia:{APR1} 
bob:{SHA}
"
    );
    insta::assert_snapshot!(errors(text), @r"
    htpasswd:3:5: user `bob`: this is no known kind of hash, and plain passwords are not accepted; run: portcullis passwd htpasswd bob
    htpasswd:4:7: user `carol`: DES crypt is not accepted, it reads only 8 characters of a password; run: portcullis passwd htpasswd carol
    htpasswd:5:1: the line has no `:` between a user and a hash; write USER:HASH, or begin a comment with #
    htpasswd:6:1: the user name is empty; correct the name, or remove the line
    htpasswd:7:1: the user name begins or ends with white space; correct the name, or remove the line
    htpasswd:8:7: user `frank`: there is no hash after the `:`; run: portcullis passwd htpasswd frank
    htpasswd:9:7: user `grace`: bcrypt of type $2x$ is not accepted, its maker ignored parts of a password; run: portcullis passwd htpasswd grace
    htpasswd:10:11: user `heidi`: bcrypt cost 31 takes too long to verify, 14 is the highest accepted; run: portcullis passwd htpasswd heidi
    htpasswd:11:16: user `Iván`: 200001 rounds take too long to verify, 200000 is the highest accepted; run: portcullis passwd htpasswd Iván
    htpasswd:12:6: user `judy`: yescrypt and scrypt are not accepted; run: portcullis passwd htpasswd judy
    htpasswd:13:17: user `mallory smith's`: MD5 crypt ($1$) is not accepted; run: portcullis passwd htpasswd 'mallory smith'\''s'
    htpasswd:14:7: user `-niaj`: BSDi's extended DES crypt is not accepted; run: portcullis passwd -- htpasswd -niaj
    htpasswd:15:1: user `alice`: the user has an entry already, in line 2; remove one of the two lines
    htpasswd:16:45: user `olivia`: something follows after the hash; run: portcullis passwd htpasswd olivia
    htpasswd:17:1: user `bob`: the user has an entry already, in line 3; remove one of the two lines
    ");
}

#[test]
fn a_name_that_nobody_can_have_is_skipped() {
    let unfit = [
        "al\u{a0}ice",
        "key\u{ff1a}ci",
        "a\u{200b}",
        "pcl_AbCdEfGhIjKlMnOpQrStUvWx",
    ];
    for name in unfit {
        let text = format!("{name}:{SHA}\nbob:{BCRYPT}\n{name}:{SHA}\n");
        let (users, mut warnings) = Users::parse(text.as_bytes(), Path::new("htpasswd")).unwrap();
        warnings.retain(|warning| matches!(warning.cause, Weakness::Skipped(_)));
        assert_eq!(users.names().collect::<Vec<_>>(), ["bob"]);
        assert!(users.fingerprint(name).is_none());
        assert_eq!(warnings.len(), 2, "{name:?}");
        for warning in warnings {
            assert!(!warning.to_string().contains(name), "{warning}");
        }
        assert!(errors(format!("{name}:{SHA}\n")).contains("names no user"));
    }
}

#[test]
fn a_file_that_would_lock_everybody_out_is_refused() {
    for text in ["", "\n", "# nobody\n", "\u{feff}", "\r\n"] {
        assert_eq!(
            errors(text),
            "htpasswd:1:1: the file names no user; run: portcullis passwd htpasswd USER"
        );
    }
}

/// What each malformed line is called; none of them may panic, now or when a password is verified.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn malformed_lines_are_refused() {
    let cut = &BCRYPT[..59];
    let spare_bits = BCRYPT.replace("..wR", "./wR");
    for (hash, cause) in [
        ("$apr1$", "the apr1 hash is damaged"),
        ("$apr1$ab", "the apr1 hash is damaged"),
        (
            "$apr1$sält$4hvVz1ZYp9jwYWd9JRfWy1",
            "the apr1 hash is damaged",
        ),
        (
            "$apr1$ninechars$4hvVz1ZYp9jwYWd9JRfWy1",
            "the apr1 hash is damaged",
        ),
        ("$apr1$a$4hvVz1ZYp9jwYWd9JRfWy", "the apr1 hash is damaged"),
        ("$apr1$a$4hvVz1ZYp9jwYWd9JRfWyz", "the apr1 hash is damaged"),
        (
            "$apr1$a$4hvVz1ZYp9jwYWd9JRfWy1$",
            "the apr1 hash is damaged",
        ),
        ("{SHA}", "the {SHA} hash is damaged"),
        (
            "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A",
            "the {SHA} hash is damaged",
        ),
        (
            "{SHA}L55TUjtiq8FBorTWAZ0jy6g129==",
            "the {SHA} hash is damaged",
        ),
        (
            "{sha}L55TUjtiq8FBorTWAZ0jy6g129A=",
            "this is no known kind of hash",
        ),
        (
            "{SSHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
            "this is no known kind of hash",
        ),
        ("$2y$", "the bcrypt hash is damaged"),
        ("$2y$10$", "the bcrypt hash is damaged"),
        (cut, "the bcrypt hash is damaged"),
        (&format!("{BCRYPT}x"), "the bcrypt hash is damaged"),
        (&format!("{cut}ä"), "the bcrypt hash is damaged"),
        (&format!("{cut}\0"), "the bcrypt hash is damaged"),
        (&spare_bits, "the bcrypt hash is damaged"),
        (&BCRYPT.replace("04", "4"), "the bcrypt hash is damaged"),
        (&BCRYPT.replace("04", "+4"), "the bcrypt hash is damaged"),
        (&BCRYPT.replace("04", "xx"), "the bcrypt hash is damaged"),
        (&BCRYPT.replace("04", "ä"), "the bcrypt hash is damaged"),
        (
            &BCRYPT.replace("04", "03"),
            "bcrypt has no cost 3, 4 is the lowest",
        ),
        (
            &BCRYPT.replace("04", "15"),
            "bcrypt cost 15 takes too long to verify",
        ),
        (
            &BCRYPT.replace("04", "99"),
            "bcrypt cost 99 takes too long to verify",
        ),
        (&BCRYPT.replace("2y", "2z"), "this is no known kind of hash"),
        (&BCRYPT.replace("2y", "2"), "this is no known kind of hash"),
        (&BCRYPT.replace("2y", "2x"), "bcrypt of type $2x$"),
        (&format!("{BCRYPT} "), "something follows after the hash"),
        (
            &format!("{BCRYPT}\t# staff"),
            "something follows after the hash",
        ),
        (
            &format!("{BCRYPT}:1000:Alice"),
            "something follows after the hash",
        ),
        (&format!(" {BCRYPT}"), "there is no hash"),
        (
            &SHA256.replace("1000", "999"),
            "SHA-crypt has no 999 rounds, 1000 is the lowest",
        ),
        (
            &SHA256.replace("1000", "200001"),
            "200001 rounds take too long to verify",
        ),
        (
            &SHA256.replace("1000", "99999999999999"),
            "the SHA-256-crypt hash is damaged",
        ),
        (
            &SHA256.replace("1000", ""),
            "the SHA-256-crypt hash is damaged",
        ),
        (
            &SHA256.replace("1000", "+1000"),
            "the SHA-256-crypt hash is damaged",
        ),
        ("$5$rounds=1000", "the SHA-256-crypt hash is damaged"),
        ("$5$salt", "the SHA-256-crypt hash is damaged"),
        (
            "$5$seventeen-letters$MiGX",
            "the SHA-256-crypt hash is damaged",
        ),
        (
            &SHA256.replace("$5$", "$6$"),
            "the SHA-512-crypt hash is damaged",
        ),
        ("$1$abc$mEYYKBYwc4Odg5SoPgnFr/", "MD5 crypt ($1$)"),
        (
            "$3$$8846f7eaee8fb117ad06bdd830b7586c",
            "this is no known kind of hash",
        ),
        (
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUC",
            "yescrypt and scrypt",
        ),
        (
            "$gy$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUC",
            "yescrypt and scrypt",
        ),
        ("$7$CU..../....", "yescrypt and scrypt"),
        ("_J9..rasmDiLRGIlI80c", "BSDi's extended DES"),
        ("abhfCpXqd4GrI", "DES crypt is not accepted"),
        ("*0", "this is no known kind of hash"),
        ("!", "this is no known kind of hash"),
        ("$", "this is no known kind of hash"),
        ("$$", "this is no known kind of hash"),
        ("plain text", "this is no known kind of hash"),
        ("", "there is no hash"),
    ] {
        for end in ["", "\n", "\r\n"] {
            let shown = errors(format!("alice:{hash}{end}"));
            assert!(
                shown.contains(&format!("user `alice`: {cause}")),
                "{hash:?}: {shown}"
            );
            assert!(
                shown.ends_with("; run: portcullis passwd htpasswd alice"),
                "{shown}"
            );
            assert_eq!(shown.lines().count(), 1, "{shown}");
        }
    }
}

#[test]
fn odd_names_are_refused() {
    let long = "x".repeat(MAX_USER + 1);
    for (user, cause) in [
        ("", "the user name is empty"),
        (" alice", "the user name begins or ends with white space"),
        ("alice ", "the user name begins or ends with white space"),
        ("al\x1bice", "the user name has a control character"),
        ("al\u{85}ice", "the user name has a control character"),
        ("\0", "the user name has a control character"),
        (&long, "the user name is longer than 256 bytes"),
    ] {
        let shown = errors(format!("{user}:{SHA}"));
        let wanted = format!("htpasswd:1:1: {cause}; correct the name, or remove the line");
        assert_eq!(shown, wanted);
    }
    assert_eq!(users(format!("{}:{SHA}", &long[1..])).len(), 1);
    let latin1 = [b"al\xefce:".as_slice(), SHA.as_bytes()].concat();
    assert_eq!(
        errors(latin1),
        "htpasswd:1:1: the line is not UTF-8; save the file as UTF-8"
    );
    // A comment sign is no name, in the file or on the way in.
    assert_eq!(errors(format!("#alice:{SHA}")).lines().count(), 1);
    assert_eq!(
        super::check_user("#alice"),
        Err(super::Problem::UserComment)
    );
    assert_eq!(super::check_user("al:ice"), Err(super::Problem::UserColon));
    // In the first line it would be the file's.
    let marked = super::check_user("\u{feff}alice");
    assert_eq!(marked, Err(super::Problem::Mark));
    assert_eq!(super::check_user("alice"), Ok(()));
}

#[test]
fn weak_hashes_are_used_with_a_warning() {
    let text = format!(
        "ann:{APR1}\nben:{SHA}\n\ncleo:{BCRYPT}\ndan:{SHA256}\nèva:{}",
        KNOWN[2].1
    );
    let (users, warnings) = parse(text).unwrap();
    assert_eq!(users.len(), 5);
    let shown = shown(&warnings);
    insta::assert_snapshot!(shown, @r"
    htpasswd:1:5: user `ann`: apr1 (MD5) is quickly guessed once the file leaks; run: portcullis passwd htpasswd ann
    htpasswd:2:5: user `ben`: SHA-1 without a salt is guessed at once when the file leaks; run: portcullis passwd htpasswd ben
    htpasswd:4:6: user `cleo`: bcrypt cost 4 is quickly guessed once the file leaks, 10 is sound; run: portcullis passwd htpasswd cleo
    ");
}

#[test]
fn passwords_that_bcrypt_would_cut_are_refused_unhashed() {
    let (fits, long) = (password(&LONG[..72]), password(&LONG[..73]));
    let others = users(format!("c:{APR1}"));
    let users = users(format!("a:{BCRYPT}\nb:{BCRYPT}"));
    hashes_done();
    for user in ["a", "nobody"] {
        assert_eq!(users.verify(user, &long), Err(Rejection::PasswordTooLong));
        assert_eq!(hashes_done().len(), 0);
        users.verify(user, &fits).unwrap_err();
        assert_eq!(hashes_done().len(), 1);
    }
    assert_eq!(others.verify("c", &long), Err(Rejection::WrongPassword));
}

#[test]
fn a_stand_in_lets_nobody_in() {
    let users = users(format!("alice:{SHA}"));
    for guess in ["", "alice", PASSWORD] {
        let Ok(guess) = Password::new(guess) else {
            continue;
        };
        assert_eq!(users.verify("nobody", &guess), Err(Rejection::UnknownUser));
    }
}

#[test]
fn a_fingerprint_is_of_one_user_with_one_hash() {
    let print = |text: &str, user: &str| users(text).fingerprint(user).unwrap();
    let before = print(&format!("alice:{SHA}\r\nbob:{SHA}"), "alice");
    assert_eq!(before, print(&format!("# moved\nalice:{SHA}"), "alice"));
    assert_ne!(before, print(&format!("bob:{SHA}"), "bob"));
    assert_ne!(before, print(&format!("alice:{BCRYPT}"), "alice"));
    assert_ne!(
        Fingerprint::of_line("ab", "c"),
        Fingerprint::of_line("a", "bc")
    );
    assert_ne!(before.keyed(&[1; 32]), before.keyed(&[2; 32]));
    assert_eq!(before.keyed(&[1; 32]), before.keyed(&[1; 32]));
}

#[test]
fn nothing_shows_a_hash() {
    let users = users(format!("alice:{SHA}"));
    let print = users.fingerprint("alice").unwrap();
    insta::assert_snapshot!(format!("{users:?} {print:?}"), @"Users { count: 1, .. } Fingerprint(****)");
}

#[test]
fn new_hashes_are_bcrypt() {
    let hash = hash_password(&password(PASSWORD), 10).unwrap();
    assert!(hash.starts_with("$2y$10$"));
    let (users, warnings) = parse(format!("alice:{hash}")).unwrap();
    assert_eq!(users.verify("alice", &password(PASSWORD)), Ok(()));
    assert_eq!(warnings, []);
    assert_ne!(hash, hash_password(&password(PASSWORD), 10).unwrap());
    for cost in [0, 9, 15, 31, 32] {
        let unfit = hash_password(&password(PASSWORD), cost);
        assert!(matches!(unfit, Err(UnfitPassword::Cost)));
    }
    let unfit = hash_password(&password(&LONG[..73]), 10);
    assert!(matches!(unfit, Err(UnfitPassword::TooLong)));
    assert!(hash_password(&password(&LONG[..72]), 10).is_ok());
}

/// A known line with some bytes put in place of others.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(KNOWN);
    let place = any::<prop::sample::Index>();
    (
        known,
        place,
        prop::collection::vec(any::<u8>(), 0..4),
        0..4_usize,
    )
        .prop_map(|((_, hash), place, new, old)| {
            let mut line = format!("alice:{hash}\n").into_bytes();
            let start = place.index(line.len());
            let end = start.saturating_add(old).min(line.len());
            line.splice(start..end, new);
            line
        })
}

proptest! {
    #[test]
    fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(text));
    }

    #[test]
    fn no_damage_panics_or_is_overlooked(text in prop::collection::vec(damaged(), 1..3)) {
        match parse(text.concat()) {
            Ok((users, _)) => prop_assert!(users.len() > 0),
            Err(errors) => prop_assert!(!errors.is_empty()),
        }
    }

    #[test]
    fn no_finding_shows_what_follows_the_colon(
        kind in prop::sample::select(&["", "{SHA}", "$2y$10$", "$apr1$", "$5$rounds=1$", "$1$"][..]),
        rest in "[a-z$: ]{0,20}",
    ) {
        let shown = errors(format!("alice:{kind}SeKrEt{rest}\nSeKrEt{}", rest.replace(':', "")));
        prop_assert!(!shown.contains("SeKrEt"), "{}", shown);
    }

    #[test]
    fn any_password_fits_its_own_hash_alone(right in "\\PC{1,40}", wrong in "\\PC{1,40}") {
        use base64::Engine;
        use sha1::Digest;
        let digest = sha1::Sha1::digest(right.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(digest);
        let users = users(format!("alice:{{SHA}}{hash}"));
        prop_assert_eq!(users.verify("alice", &password(&right)), Ok(()));
        prop_assert_eq!(users.verify("alice", &password(&wrong)).is_ok(), right == wrong);
    }
}

#[test]
fn a_damaged_line_keeps_its_name_known_and_lets_nobody_in() {
    let text = format!("alice:{SHA}\nBob:$2y$05$short\n");
    let (users, _, errors) = Users::salvage(text.as_bytes(), Path::new("htpasswd")).unwrap();
    assert_eq!((errors.len(), users.len()), (1, 1));
    let guess = Password::new(PASSWORD).unwrap();
    assert_eq!(users.verify("Bob", &guess), Err(Rejection::WrongPassword));
    assert!(users.fingerprint("Bob").is_some());
    let named = |name: &str, origin| Name::parse(name, origin).unwrap();
    assert!(users.knows(&named("bob", Origin::Directory)));
    assert!(!users.knows(&named("bob", Origin::Password)));
}

#[test]
fn unknown_users_cost_what_known_ones_cost_and_always_the_same() {
    let users = users(format!("alice:{SHA}\nbob:{APR1}"));
    let guess = Password::new("guess").unwrap();
    let cost = |user: &str| {
        hashes_done();
        assert_eq!(users.verify(user, &guess), Err(Rejection::UnknownUser));
        hashes_done()
    };
    let names: Vec<_> = (0..64).map(|number| format!("nobody-{number}")).collect();
    let costs: Vec<_> = names.iter().map(|name| cost(name)).collect();
    let again: Vec<_> = names.iter().map(|name| cost(name)).collect();
    assert_eq!(costs, again);
    let kinds = [vec![Effort::Sha1], vec![Effort::Apr1]];
    for kind in &kinds {
        assert!(costs.contains(kind), "{kind:?}");
    }
    assert!(costs.iter().all(|cost| kinds.contains(cost)));
}
