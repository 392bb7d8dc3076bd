//! Our htpasswd verifier against two others: the crate `htpasswd-verify`, and Debian's `htpasswd`.
//!
//! Run with `cargo test` in this folder. Needed: Debian's apache2-utils.

#![cfg(test)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis::authn::htpasswd::{Users, hash_password};
use portcullis::identity::Password;

/// Short, long, at the borders of MD5 and SHA blocks, beyond ASCII, with what shells and files
/// take for something else.
fn passwords() -> Vec<String> {
    let mut passwords: Vec<String> = [
        "a",
        "correct horse",
        "pä$$:wörd",
        "'\"\\`$(id)`",
        " spaces ",
        "#",
        "{SHA}",
        "密码密码",
        "🔑",
        "$apr1$",
        "-v",
    ]
    .map(str::to_owned)
    .to_vec();
    passwords.extend([15, 16, 17, 31, 32, 33, 55, 56, 63, 64, 65, 71, 72].map(letters));
    passwords
}

/// A password of so many bytes.
fn letters(length: usize) -> String {
    ('a'..='z').cycle().take(length).collect()
}

/// What is nearly the password.
fn near(password: &str) -> Vec<String> {
    let mut near = vec![
        format!("{password}x"),
        format!("x{password}"),
        password.to_uppercase(),
    ];
    near.push(password.chars().skip(1).collect());
    near.retain(|other| !other.is_empty() && other != password);
    near
}

/// A line for `alice`, by Debian's tool.
fn debian_line(options: &[&str], password: &str) -> String {
    let output = run(
        Command::new("htpasswd")
            .args(["-n", "-i"])
            .args(options)
            .arg("alice"),
        password,
    );
    assert!(output.0, "htpasswd {options:?} refuses");
    output.1.lines().next().expect("a line").to_owned()
}

/// Whether Debian's tool takes the password for that of the line.
fn debian_accepts(file: &Path, line: &str, password: &str) -> bool {
    std::fs::write(file, format!("{line}\n")).expect("the file is written");
    run(
        Command::new("htpasswd")
            .args(["-v", "-i"])
            .arg(file)
            .arg("alice"),
        password,
    )
    .0
}

fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("htpasswd is installed (Debian: apache2-utils)");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(format!("{input}\n").as_bytes())
        .expect("it reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Ours; `None` if the line is refused at load.
fn ours(line: &str) -> Option<Users> {
    Users::parse(line.as_bytes(), Path::new("htpasswd"))
        .ok()
        .map(|(users, _)| users)
}

fn accepts(users: &Users, password: &str) -> bool {
    let password = Password::new(password).expect("a password that may be sent");
    users.verify("alice", &password).is_ok()
}

fn crate_accepts(line: &str, password: &str) -> bool {
    htpasswd_verify::Htpasswd::from(line).check("alice", password)
}

fn file(test: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("portcullis-oracle-{}-{test}", std::process::id()))
}

/// Formats that all three know.
#[test]
fn three_verifiers_agree() {
    let file = file("three");
    for options in [&["-B", "-C", "4"][..], &["-m"], &["-s"]] {
        for right in passwords() {
            let line = debian_line(options, &right);
            let users = ours(&line).unwrap_or_else(|| panic!("refused: {line}"));
            for guess in near(&right).iter().chain([&right]) {
                let answer = accepts(&users, guess);
                // What bcrypt reads no further than, we refuse and the others accept.
                if !(options[0] == "-B" && guess.len() > 72) {
                    assert_eq!(answer, *guess == right, "{line} {guess}");
                    assert_eq!(answer, crate_accepts(&line, guess), "{line} {guess}");
                } else {
                    assert!(!answer, "{line} {guess}");
                }
            }
            assert!(debian_accepts(&file, &line, &right), "{line} {right}");
            assert!(!debian_accepts(&file, &line, &near(&right)[1]), "{line}");
        }
    }
    std::fs::remove_file(file).expect("the file is removed");
}

/// Formats that the crate silently never accepts.
#[test]
fn two_verifiers_agree() {
    let file = file("two");
    for options in [
        &["-2"][..],
        &["-5"],
        &["-2", "-r", "1000"],
        &["-5", "-r", "1000"],
        &["-5", "-r", "12345"],
    ] {
        for right in passwords() {
            let line = debian_line(options, &right);
            let users = ours(&line).unwrap_or_else(|| panic!("refused: {line}"));
            assert!(accepts(&users, &right), "{line} {right}");
            assert!(debian_accepts(&file, &line, &right), "{line} {right}");
            for guess in near(&right) {
                assert!(!accepts(&users, &guess), "{line} {guess}");
            }
            assert!(!debian_accepts(&file, &line, &near(&right)[0]), "{line}");
        }
    }
    std::fs::remove_file(file).expect("the file is removed");
}

/// What we write is read by both.
#[test]
fn our_lines_are_accepted() {
    let file = file("ours");
    for right in ["correct horse", "pä$$:wörd", &letters(71)] {
        let hash = hash_password(&Password::new(right).expect("fits"), 10).expect("hashed");
        let line = format!("alice:{hash}");
        assert!(debian_accepts(&file, &line, right), "{right}");
        assert!(!debian_accepts(&file, &line, "wrong"), "{right}");
        assert!(crate_accepts(&line, right), "{right}");
    }
    std::fs::remove_file(file).expect("the file is removed");
}

/// What others accept and we refuse at load.
#[test]
fn weak_formats_are_refused() {
    let file = file("weak");
    for option in ["-d", "-p"] {
        let line = debian_line(&[option], "secret");
        assert!(ours(&line).is_none(), "{option}");
    }
    let line = debian_line(&["-d"], "secret");
    assert!(debian_accepts(&file, &line, "secret"));
    std::fs::remove_file(file).expect("the file is removed");
}

/// Lines with one byte changed: whoever still understands one says the same of the password.
#[test]
fn damaged_lines_let_nobody_in() {
    let right = "correct horse";
    for options in [&["-B", "-C", "4"][..], &["-m"], &["-s"]] {
        let line = debian_line(options, right);
        let hash = "alice:".len();
        for place in hash..line.len() {
            for byte in [b'.', b'A', b'z', b'$', b' '] {
                let mut damaged = line.clone().into_bytes();
                if damaged[place] == byte {
                    continue;
                }
                damaged[place] = byte;
                let damaged = String::from_utf8(damaged).expect("ASCII");
                let Some(users) = ours(&damaged) else {
                    continue;
                };
                let answer = accepts(&users, right);
                // $2a$ and $2b$ say the same as $2y$, and the crate does not know them.
                if damaged.contains(":$2y$") || !damaged.contains(":$2") {
                    assert_eq!(answer, crate_accepts(&damaged, right), "{damaged}");
                }
                assert!(!answer, "{damaged}");
            }
        }
    }
}
