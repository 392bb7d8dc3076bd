use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use clap::Parser;

use super::*;
use tempfile::{TempDir, tempdir};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Certs,
}

/// `certs` with these arguments; `DIR` stands for the folder.
fn certs(folder: &TempDir, line: &str) -> Result<ExitCode> {
    let dir = folder.path().to_str().unwrap();
    let words = line.split(' ').map(|word| word.replace("DIR", dir));
    let line = Line::try_parse_from(["certs".to_owned()].into_iter().chain(words))?;
    line.args.perform(Timestamp::now(), &mut Vec::new())
}

fn openssl(folder: &TempDir, line: &str) -> (bool, String) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder.path())
        .output()
        .expect("openssl is installed");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn made() -> TempDir {
    let folder = tempdir().unwrap();
    certs(&folder, "ca DIR").unwrap();
    certs(
        &folder,
        "server DIR --name localhost --name 127.0.0.1 --name ::1 --name *.example.com",
    )
    .unwrap();
    certs(
        &folder,
        "client DIR --name first.last --group team-a --uri spiffe://x/ci --email a@example.com",
    )
    .unwrap();
    folder
}

#[test]
fn openssl_accepts_what_was_made() {
    let folder = made();
    for good in [
        "verify -x509_strict -CAfile ca.pem -purpose sslserver -verify_hostname localhost server.pem",
        "verify -x509_strict -CAfile ca.pem -purpose sslserver -verify_hostname a.example.com server.pem",
        "verify -x509_strict -CAfile ca.pem -purpose sslserver -verify_ip 127.0.0.1 server.pem",
        "verify -x509_strict -CAfile ca.pem -purpose sslserver -verify_ip ::1 server.pem",
        "verify -x509_strict -CAfile ca.pem -purpose sslclient -verify_email a@example.com first.last.pem",
    ] {
        let (accepted, text) = openssl(&folder, good);
        assert!(accepted, "{good}: {text}");
    }
    for bad in [
        "verify -CAfile ca.pem -purpose sslclient server.pem",
        "verify -CAfile ca.pem -purpose sslserver first.last.pem",
        "verify -CAfile ca.pem -purpose sslserver -verify_hostname elsewhere server.pem",
    ] {
        assert!(!openssl(&folder, bad).0, "{bad}");
    }
}

#[test]
fn each_key_is_its_certificates_and_its_owners() {
    let folder = made();
    for stem in ["ca", "server", "first.last"] {
        let (_, of_certificate) = openssl(&folder, &format!("x509 -in {stem}.pem -noout -pubkey"));
        let (_, of_key) = openssl(&folder, &format!("pkey -in {stem}.key -pubout"));
        assert_eq!(of_certificate, of_key, "{stem}");
        let key = fs::metadata(folder.path().join(format!("{stem}.key"))).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600, "{stem}");
    }
}

#[test]
fn lifetimes_are_those_asked_for() {
    let folder = made();
    let seconds = |days: u64| days * 24 * 60 * 60;
    for (stem, days) in [("ca", 3650), ("server", 823), ("first.last", 823)] {
        let ends = |days| {
            let line = format!("x509 -in {stem}.pem -noout -checkend {}", seconds(days));
            !openssl(&folder, &line).0
        };
        assert!(!ends(days), "{stem} ends too early");
        assert!(ends(days + 4), "{stem} ends too late");
    }
}

#[test]
fn show_says_whom_and_how_long() {
    let folder = made();
    let now = Timestamp::now();
    let shown = show::read(&folder.path().join("first.last.pem"), now).unwrap();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(
        text.contains("\"subject\":\"OU=team-a, CN=first.last\""),
        "{text}"
    );
    assert!(
        text.contains("\"names\":[\"URI:spiffe://x/ci\",\"email:a@example.com\"]"),
        "{text}"
    );
    let (_, expected) = openssl(
        &folder,
        "x509 -in first.last.pem -noout -sha256 -fingerprint",
    );
    let expected = expected.trim().split_once('=').unwrap().1;
    assert!(text.contains(expected), "{text} lacks {expected}");
}

#[test]
fn show_fails_for_what_has_ended_or_will() {
    let folder = made();
    let code = |line: &str| format!("{:?}", certs(&folder, line).unwrap());
    let (good, bad) = (
        format!("{:?}", ExitCode::SUCCESS),
        format!("{:?}", ExitCode::FAILURE),
    );
    assert_eq!(code("show DIR/ca.pem DIR/server.pem"), good);
    assert_eq!(code("show --json --within 30 DIR/server.pem"), good);
    assert_eq!(code("show --within 900 DIR/server.pem"), bad);

    let later = Timestamp::now() + SignedDuration::from_hours(24 * 1000);
    let shown = show::read(&folder.path().join("server.pem"), later).unwrap();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(text.contains("\"days_left\":-1"), "{text}");
}

#[test]
fn show_reads_what_a_configuration_names() {
    let folder = made();
    let config = folder.path().join("portcullis.toml");
    let text = "[server]\nlisten = [\"127.0.0.1:0\"]\n\
                [tls]\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n\
                [upstream]\nurl = \"https://127.0.0.1:5000\"\nca = \"ca.pem\"\n\
                [audit]\nfile = \"audit.jsonl\"\n";
    fs::write(&config, text).unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut out = Vec::new();
    let args = ["certs", "show", "--config", config.to_str().unwrap()];
    let code = Line::parse_from(args)
        .args
        .perform(Timestamp::now(), &mut out)
        .unwrap();
    let out = String::from_utf8(out).unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    assert!(
        out.contains(&format!("{dir}/server.pem\n  subject    CN=localhost")),
        "{out}"
    );
    assert!(out.contains(&format!("{dir}/ca.pem\n")), "{out}");

    fs::write(&config, "[tsl]\n").unwrap();
    let code = certs(&folder, "show --config DIR/portcullis.toml").unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(78)));
}

#[test]
fn errors_name_the_remedy() {
    let folder = made();
    let empty = tempdir().unwrap();
    for (line, says) in [
        ("ca DIR", "is already there; --force replaces it"),
        (
            "server DIR --name localhost",
            "is already there; --force replaces it",
        ),
        (
            "client DIR --name first.last",
            "is already there; --force replaces it",
        ),
        ("server DIR --name https://x", "without scheme or port"),
        ("server DIR --name x:5000", "without scheme or port"),
        ("server DIR --name *.127.0.0.1", "without scheme or port"),
        (
            "server DIR --name x --days 9000 --force",
            "ask for fewer days",
        ),
        (
            "server DIR --name x --days 4000000000 --force",
            "would last too long",
        ),
        ("client DIR --name ../alice", "cannot name a file"),
        ("client DIR --name ca", "choose another --name"),
        ("client DIR --name a --uri ci", "is no URI"),
        ("client DIR --name a --email ci", "is no mail address"),
        ("show DIR/ca.key", "holds no certificate in PEM"),
        ("show DIR/none.pem", "cannot read"),
    ] {
        let error = format!("{:#}", certs(&folder, line).unwrap_err());
        assert!(error.contains(says), "{line}: {error}");
    }
    let error = certs(&empty, "server DIR --name x")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("make them first: portcullis certs ca"),
        "{error}"
    );
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn a_key_of_another_ca_is_refused() {
    let folder = made();
    let other = tempdir().unwrap();
    certs(&other, "ca DIR").unwrap();
    fs::copy(other.path().join("ca.key"), folder.path().join("ca.key")).unwrap();
    let error = certs(&folder, "client DIR --name bob").unwrap_err();
    assert!(
        format!("{error:#}").contains("belongs to another certificate"),
        "{error:#}"
    );
}

#[test]
fn force_renews() {
    let folder = made();
    let before = fs::read(folder.path().join("server.pem")).unwrap();
    certs(&folder, "server DIR --name localhost --force").unwrap();
    assert_ne!(fs::read(folder.path().join("server.pem")).unwrap(), before);
    assert!(openssl(&folder, "verify -CAfile ca.pem server.pem").0);
}

#[test]
fn a_list_revokes_what_it_is_told_and_keeps_it() {
    let folder = made();
    let valid = |stem: &str| {
        let check = "verify -x509_strict -crl_check -CAfile ca.pem -CRLfile clients.crl";
        openssl(&folder, &format!("{check} {stem}.pem"))
    };
    let revoked = |line: &str| certs(&folder, line).map_err(|error| format!("{error:#}"));
    certs(&folder, "client DIR --name bob").unwrap();
    certs(&folder, "crl DIR --days 10").unwrap();
    let (good, text) = openssl(
        &folder,
        "crl -in clients.crl -CAfile ca.pem -verify -noout -text",
    );
    assert!(
        good && text.contains("verify OK") && text.contains("No Revoked"),
        "{text}"
    );
    assert!(valid("bob").0 && valid("first.last").0);
    revoked("revoke DIR bob").unwrap();
    assert!(valid("first.last").0);
    let (good, text) = valid("bob");
    assert!(!good && text.contains("certificate revoked"), "{text}");
    // By its path; twice; and renewed.
    revoked("revoke DIR DIR/first.last.pem").unwrap();
    revoked("revoke DIR bob").unwrap();
    certs(&folder, "crl DIR").unwrap();
    let (_, text) = openssl(&folder, "crl -in clients.crl -noout -text");
    assert_eq!(text.matches("Serial Number: ").count(), 2, "{text}");
    assert!(!valid("bob").0 && !valid("first.last").0);
    for (line, why) in [
        ("revoke DIR nobody", "can be read"),
        ("revoke DIR ca", "that of a CA"),
    ] {
        let error = revoked(line).unwrap_err();
        assert!(error.contains(why), "{line}: {error}");
    }
    let other = made();
    let of_other = format!("revoke DIR {}/first.last.pem", other.path().display());
    let error = revoked(&of_other).unwrap_err();
    assert!(error.contains("another CA"), "{error}");
}

#[test]
fn a_token_key_signs_tokens() {
    let folder = tempdir().unwrap();
    certs(&folder, "token-key DIR/token.key").unwrap();
    let (good, text) = openssl(&folder, "pkey -in token.key -noout -text");
    assert!(good && text.contains("prime256v1"), "{text}");
    let path = folder.path().join("token.key");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let key = portcullis::tls::private_key(&path).unwrap();
    assert!(portcullis::token::Keys::new(key.secret_der()).is_ok());
    assert!(certs(&folder, "token-key DIR/token.key").is_err());
    certs(&folder, "token-key DIR/token.key --force").unwrap();
}
