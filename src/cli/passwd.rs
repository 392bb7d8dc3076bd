//! `portcullis passwd`: the users of an htpasswd file, without a password in any argument.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use portcullis::authn::Rejection;
use portcullis::authn::htpasswd::{
    BCRYPT_PASSWORD, LineError, MAX_COST, Problem, SOUND_COST, Users, Weakness, check_user,
    hash_password, removed, replaced,
};
use portcullis::identity::{Malformed, Password};
use portcullis::whole_file::{self, MAX_USERS};
use zeroize::Zeroizing;

use super::files::edit;

/// The longest line read from standard input, in bytes; far more than a password may have.
const LONGEST_LINE: u64 = 1024;

/// Add a user to an htpasswd file, or change a user's password
#[derive(Debug, Args)]
pub(crate) struct Passwd {
    /// The htpasswd file; made if it does not exist
    file: PathBuf,

    /// The user's name
    user: String,

    /// Read the password from standard input (its first line) instead of asking for it
    #[arg(long, conflicts_with = "delete")]
    stdin: bool,

    /// Only verify the password: exit code 0 or 1
    #[arg(long, conflicts_with_all = ["delete", "cost"])]
    verify: bool,

    /// Remove the user
    #[arg(long, conflicts_with = "cost")]
    delete: bool,

    /// bcrypt's cost; each step doubles the time that a login, or a guess, takes
    #[arg(long, value_name = "10..14", default_value_t = SOUND_COST,
          value_parser = clap::value_parser!(u32).range(i64::from(SOUND_COST)..=i64::from(MAX_COST)))]
    cost: u32,
}

impl Passwd {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (file, user) = (self.file.as_path(), self.user.as_str());
        match check_user(user) {
            // Earlier versions let such names in.
            Err(Problem::UserUnfit(_)) if self.delete => {}
            checked => checked?,
        }
        if file == Path::new("-") {
            bail!("the file is replaced in one step, so it needs a name; write ./- for a file `-`");
        }
        if self.verify {
            return self.verified();
        }
        let shown = file.display();
        let message = if self.delete {
            delete(file, user)?;
            format!("removed user `{user}` from {shown}")
        } else {
            let password = self.new_password()?;
            match set(file, user, &password, self.cost)? {
                Change::Added => format!("added user `{user}` to {shown}"),
                Change::Changed => format!("changed the password of user `{user}` in {shown}"),
            }
        };
        writeln!(
            io::stdout(),
            "{message}; a running server takes it over on SIGHUP"
        )?;
        warn_of_flaws(file)?;
        Ok(ExitCode::SUCCESS)
    }

    fn verified(&self) -> anyhow::Result<ExitCode> {
        let user = &self.user;
        let password = if self.stdin {
            from_stdin()?
        } else {
            ask(&format!("Password of {user}: "))?
        };
        let verified = verify(&self.file, user, &password)?;
        warn_of_flaws(&self.file)?;
        match verified {
            Ok(()) => {
                writeln!(io::stdout(), "the password of user `{user}` is right")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(rejection) => {
                writeln!(io::stderr(), "user `{user}`: {}", rejection.as_str())?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn new_password(&self) -> anyhow::Result<Password> {
        if self.stdin {
            return from_stdin();
        }
        let password = ask(&format!("New password of {}: ", self.user))?;
        let again = ask("The same again: ")?;
        if password.expose() != again.expose() {
            bail!("the two passwords differ; nothing was changed");
        }
        Ok(password)
    }
}

/// Outcome for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Changed,
}

fn set(file: &Path, user: &str, password: &Password, cost: u32) -> anyhow::Result<Change> {
    let hash = hash_password(password, cost)?;
    let mut change = Change::Added;
    edit(file, None, |text| {
        let text = text.unwrap_or_default();
        expect_utf8(text, file)?;
        let (new, found) = replaced(text, user, &hash);
        if found > 0 {
            change = Change::Changed;
        }
        Ok(new)
    })?;
    Ok(change)
}

fn delete(file: &Path, user: &str) -> anyhow::Result<()> {
    edit(file, None, |text| {
        let text = text.ok_or_else(|| anyhow!("there is no file {}", file.display()))?;
        expect_utf8(text, file)?;
        let (new, found) = removed(text, user);
        if found == 0 {
            bail!("there is no user `{user}` in {}", file.display());
        }
        Ok(new)
    })
}

fn verify(file: &Path, user: &str, password: &Password) -> anyhow::Result<Result<(), Rejection>> {
    let text = read(file)?;
    if removed(&text, user).1 == 0 {
        return Ok(Err(Rejection::UnknownUser));
    }
    // As a server reads it: damaged lines are skipped.
    match Users::salvage(&text, file) {
        Ok((users, _warnings, _errors)) => Ok(users.verify(user, password)),
        Err(errors) => Err(anyhow!("{}", join(&errors))),
    }
}

/// A line of ours in the midst of UTF-16 would be no line.
fn expect_utf8(text: &[u8], file: &Path) -> anyhow::Result<()> {
    if whole_file::is_utf16(text) {
        let file = file.display();
        bail!("{file} is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 {file} > {file}.utf-8");
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let text = whole_file::read(file, MAX_USERS);
    text.with_context(|| format!("cannot read {}", file.display()))
}

/// Warns of what keeps a server from reading the file or one of its lines.
fn warn_of_flaws(file: &Path) -> anyhow::Result<()> {
    let said = flaws(file)?;
    if !said.is_empty() {
        writeln!(io::stderr(), "warning: {said}")?;
    }
    Ok(())
}

fn flaws(file: &Path) -> anyhow::Result<String> {
    Ok(match Users::salvage(&read(file)?, file) {
        Err(errors) => format!("no server will accept the file:\n{}", join(&errors)),
        Ok((_, mut found, errors)) => {
            found.retain(|found| matches!(found.cause, Weakness::Skipped(_)));
            found.extend(errors.into_iter().map(LineError::into_warning));
            found.sort_by_key(|found| found.line);
            join(&found)
        }
    })
}

fn join(findings: &[impl ToString]) -> String {
    findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn ask(prompt: &str) -> anyhow::Result<Password> {
    let text = rpassword::prompt_password(prompt)
        .context("cannot ask for a password without a terminal; give it with --stdin")?;
    password(&Zeroizing::new(text))
}

fn from_stdin() -> anyhow::Result<Password> {
    let mut line = Zeroizing::new(Vec::with_capacity(2048));
    let mut stdin = io::stdin().lock().take(LONGEST_LINE);
    stdin
        .read_until(b'\n', &mut line)
        .context("cannot read standard input")?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    password(std::str::from_utf8(line).context("the password is not UTF-8")?)
}

fn password(text: &str) -> anyhow::Result<Password> {
    Password::new(text).map_err(|malformed| match malformed {
        Malformed::PasswordTooLong => {
            anyhow!("the password is longer than the {BCRYPT_PASSWORD} bytes that bcrypt reads")
        }
        Malformed::ControlByte => {
            anyhow!("the password has a control character, which no client can send")
        }
        Malformed::Basic
        | Malformed::EmptyPassword
        | Malformed::EmptyUser
        | Malformed::Repeated
        | Malformed::Scheme
        | Malformed::TooLong
        | Malformed::Token
        | Malformed::User(_) => malformed.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use clap::Parser;
    use portcullis::authn::Rejection;
    use portcullis::identity::Password;
    use tempfile::{TempDir, tempdir};

    use super::{Change, Passwd, delete, flaws, password, set, verify};

    fn htpasswd(folder: &TempDir) -> PathBuf {
        folder.path().join("htpasswd")
    }

    fn secret(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().mode() & 0o7777
    }

    #[test]
    fn users_are_added_changed_verified_and_removed() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        assert_eq!(
            set(&file, "alice", &secret("one"), 10).unwrap(),
            Change::Added
        );
        assert_eq!(mode(&file), 0o600);
        assert_eq!(
            set(&file, "bob", &secret("two"), 10).unwrap(),
            Change::Added
        );
        assert_eq!(
            set(&file, "alice", &secret("three"), 10).unwrap(),
            Change::Changed
        );
        assert_eq!(verify(&file, "alice", &secret("three")).unwrap(), Ok(()));
        let wrong = verify(&file, "alice", &secret("one")).unwrap();
        assert_eq!(wrong, Err(Rejection::WrongPassword));
        delete(&file, "alice").unwrap();
        let unknown = verify(&file, "alice", &secret("three")).unwrap();
        assert_eq!(unknown, Err(Rejection::UnknownUser));
        assert_eq!(verify(&file, "bob", &secret("two")).unwrap(), Ok(()));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file is left"
        );
    }

    #[test]
    fn a_name_that_nobody_can_have_can_be_removed() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        fs::write(&file, "al\u{a0}ice:{SHA}x\nbob:{SHA}y\n").unwrap();
        let run = |more: &str| {
            let words = ["passwd", more, "--", file.to_str().unwrap(), "al\u{a0}ice"];
            Line::try_parse_from(words).unwrap().passwd.run()
        };
        assert!(run("--stdin").is_err());
        assert!(run("--delete").is_ok());
        assert_eq!(fs::read_to_string(&file).unwrap(), "bob:{SHA}y\n");
    }

    #[test]
    fn the_rest_of_a_file_stays_as_it_is() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        let before = "# staff\r\nzoe:{SHA}x\r\n\nalice:old\nbroken\n";
        fs::write(&file, before).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        symlink("htpasswd", &link).unwrap();
        assert_eq!(
            set(&link, "alice", &secret("new"), 10).unwrap(),
            Change::Changed
        );
        let after = fs::read_to_string(&file).unwrap();
        let (head, rest) = after.split_once("alice:$2y$10$").unwrap();
        assert_eq!(head, "# staff\r\nzoe:{SHA}x\r\n\n");
        assert_eq!(rest.split_once('\n').unwrap().1, "broken\n");
        assert_eq!(mode(&file), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // Other people's broken lines are not in the way of a question about one user.
        assert_eq!(verify(&file, "alice", &secret("new")).unwrap(), Ok(()));
    }

    #[test]
    fn a_damaged_line_is_told_with_its_number_and_stays() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        let damaged = "# staff\nbob:hunter2\nno colon\n";
        fs::write(&file, damaged).unwrap();
        set(&file, "alice", &secret("one"), 10).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with(damaged));
        assert_eq!(verify(&file, "alice", &secret("one")).unwrap(), Ok(()));
        // Known to the file, and nobody logs in by it, as at a server.
        let bob = verify(&file, "bob", &secret("hunter2")).unwrap();
        assert_eq!(bob, Err(Rejection::WrongPassword));
        let said = flaws(&file).unwrap();
        for part in [
            "htpasswd:2:5: user `bob`",
            "htpasswd:3:1",
            "the line is skipped",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("no server"), "{said}");
        let utf16: Vec<_> = "\u{feff}bob:x"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        fs::write(&file, &utf16).unwrap();
        let error = set(&file, "alice", &secret("one"), 10)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("UTF-16") && error.contains("iconv"),
            "{error}"
        );
        assert!(flaws(&file).unwrap().contains("UTF-16"));
        assert_eq!(fs::read(&file).unwrap(), utf16);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        let told = |error: anyhow::Error| {
            format!("{error:#}").replace(&folder.path().display().to_string(), "FOLDER")
        };
        fs::write(&file, "alice:hunter2\nalice:hunter2\n").unwrap();
        let absent = folder.path().join("absent/htpasswd");
        let secret = secret("pw");
        let said = [
            told(delete(&file, "bob").unwrap_err()),
            told(delete(&folder.path().join("none"), "bob").unwrap_err()),
            told(verify(&folder.path().join("none"), "bob", &secret).unwrap_err()),
            told(verify(&file, "alice", &secret).unwrap_err()),
            told(set(&absent, "bob", &secret, 10).unwrap_err()),
            told(set(folder.path(), "bob", &secret, 10).unwrap_err()),
            told(set(&file, "bob", &Password::new(&"x".repeat(73)).unwrap(), 10).unwrap_err()),
            told(password(&"x".repeat(257)).unwrap_err()),
            told(password("").unwrap_err()),
            told(password("a\tb").unwrap_err()),
        ];
        insta::assert_snapshot!(said.join("\n"), @r"
    there is no user `bob` in FOLDER/htpasswd
    there is no file FOLDER/none
    cannot read FOLDER/none: No such file or directory (os error 2)
    FOLDER/htpasswd:1:7: user `alice`: this is no known kind of hash, and plain passwords are not accepted; run: portcullis passwd FOLDER/htpasswd alice
    FOLDER/htpasswd:2:1: user `alice`: the user has an entry already, in line 1; remove one of the two lines
    cannot open the folder FOLDER/absent: No such file or directory (os error 2)
    cannot read FOLDER: it is not a regular file
    the password is longer than the 72 bytes that bcrypt reads
    the password is longer than the 72 bytes that bcrypt reads
    the password is empty
    the password has a control character, which no client can send
    ");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "alice:hunter2\nalice:hunter2\n"
        );
    }

    #[test]
    fn debians_htpasswd_accepts_the_file() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        for (user, text, cost) in [("alice", "correct horse", 10), ("ä b", "pä:ss$word", 11)] {
            set(&file, user, &secret(text), cost).unwrap();
            let htpasswd = |password: &str| {
                let mut command = Command::new("htpasswd");
                let output = command
                    .arg("-vb")
                    .arg(&file)
                    .args([user, password])
                    .output();
                output
                    .expect("htpasswd is installed (Debian: apache2-utils)")
                    .status
                    .success()
            };
            assert!(htpasswd(text), "{user}");
            assert!(!htpasswd("wrong"), "{user}");
        }
    }

    #[test]
    fn edits_at_a_time_follow_each_other() {
        let folder = tempdir().unwrap();
        let file = htpasswd(&folder);
        let hash = "$2y$10$QPMOmeIbvS7JAiiibqlAOux7MPZ1MjRCIjrZS3yN6T4pK8IXRYykq";
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for number in 0..8 {
                        let user = format!("u{thread}-{number}");
                        let add = |text: Option<&[u8]>| {
                            Ok(super::replaced(text.unwrap_or_default(), &user, hash).0)
                        };
                        super::edit(file, None, add).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 32);
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        passwd: Passwd,
    }

    #[test]
    fn the_command_line_is_strict() {
        let parse =
            |arguments: &str| Line::try_parse_from(arguments.split(' ')).map(|line| line.passwd);
        let plain = parse("passwd htpasswd alice").unwrap();
        assert_eq!((plain.cost, plain.stdin), (10, false));
        assert_eq!(parse("passwd --cost 14 htpasswd alice").unwrap().cost, 14);
        assert_eq!(parse("passwd -- htpasswd -alice").unwrap().user, "-alice");
        for wrong in [
            "passwd htpasswd",
            "passwd htpasswd alice secret",
            "passwd --cost 9 htpasswd alice",
            "passwd --cost 15 htpasswd alice",
            "passwd --verify --delete htpasswd alice",
            "passwd --delete --stdin htpasswd alice",
            "passwd --verify --cost 11 htpasswd alice",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for refused in ["passwd --delete - alice", "passwd --delete htpasswd al:ice"] {
            assert!(parse(refused).unwrap().run().is_err(), "{refused}");
        }
    }
}
