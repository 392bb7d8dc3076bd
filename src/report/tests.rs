//! The report as people and machines see it, of a small trail.

use std::fs::File;

use jiff::{SignedDuration, Timestamp};
use tempfile::{TempDir, tempdir};

use super::{Configured, Gathered, JSON_KEYS, Period, Summary, Terms, TextLook};
use crate::config::Config;

const HOSTILE: &str = "<img src=x onerror=alert(1)>\\u001b[31m\\u202e";

/// Ten days of three users, an attacker and a flood.
fn trail(folder: &TempDir) -> String {
    let mut text = String::new();
    let mut add = |day: u32, hour: u32, fields: &str| {
        let line = format!(
            "{{\"time\":\"2026-05-{day:02}T{hour:02}:30:00Z\",\"ref\":\"D{day}H{hour}\",{fields}}}\n"
        );
        text.push_str(&line);
    };
    for day in 1..=10 {
        for hour in [8, 9, 14] {
            add(
                day,
                hour,
                r#""event":"token","outcome":"allowed","user":"alice","auth":"htpasswd","client":"10.1.2.3","status":200"#,
            );
            add(
                day,
                hour,
                r#""event":"request","outcome":"allowed","user":"alice","auth":"token","client":"10.1.2.3","method":"GET","object":"manifest","action":"pull","repository":"team-a/app","rule":"p:1","status":200,"bytes_out":5000000"#,
            );
        }
        add(
            day,
            11,
            r#""event":"request","outcome":"allowed","user":"key:ci","auth":"key","client":"2001:db8::5","method":"PUT","object":"manifest","action":"push","repository":"team-a/app","rule":"p:1","status":201,"bytes_in":900"#,
        );
        add(
            day,
            12,
            r#""event":"request","outcome":"allowed","auth":"anonymous","client":"198.51.100.4","method":"GET","object":"manifest","action":"pull","repository":"public/tool","rule":"p:2","status":200,"bytes_out":800"#,
        );
        add(
            day,
            13,
            r#""event":"request","outcome":"denied","user":"bob","auth":"token","client":"10.1.3.3","action":"push","repository":"team-a/app","status":403,"reason":"no rule allows push""#,
        );
        let guess = format!(
            r#""event":"login","outcome":"failed","user":"{HOSTILE}","client":"192.0.2.7","status":401,"reason":"unknown user""#
        );
        (0..7).for_each(|_| add(day, 3, &guess));
    }
    add(
        10,
        4,
        r#""event":"suppressed","outcome":"limited","client":"192.0.2.7","status":429,"count":1234,"reason":"1234 requests over requests_per_second turned away""#,
    );
    add(
        10,
        5,
        r#""event":"lockout","outcome":"limited","user":"alice","client":"192.0.2.7","reason":"locked""#,
    );
    text += "{\"time\":\"2026-05-10T0\n[1,2]\n";
    let path = folder.path().join("audit.jsonl");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn now() -> Timestamp {
    "2026-05-11T00:00:00Z".parse().unwrap()
}

fn report(folder: &TempDir, period: Period, top: usize) -> Summary {
    let file = trail(folder);
    let mut gathered = Gathered::new(period);
    gathered
        .read(&file, File::open(&file).unwrap(), |_| {})
        .unwrap();
    let terms = Terms {
        now: now(),
        unused: SignedDuration::from_hours(90 * 24),
        soon: SignedDuration::from_hours(30 * 24),
    };
    let config = configured(folder);
    let named = Configured {
        auth: &config.auth,
        roles: &config.roles,
        endings: config.endings(),
    };
    let mut summary = Summary::new(gathered, Some(named), terms, top);
    // Where the folder is must not decide how wide columns are.
    let short = |text: &mut String| *text = without_folder(text, folder);
    summary.gathered.files.iter_mut().for_each(short);
    let health = &mut summary.health;
    health.troubles.iter_mut().for_each(short);
    for one in &mut health.weak {
        short(&mut one.place);
        short(&mut one.remedy);
    }
    for one in health.keys.iter_mut().chain(&mut health.certificates) {
        one.file = one.file.strip_prefix(folder.path()).unwrap().to_owned();
    }
    let places = &mut summary.gathered.skipped.places;
    places.iter_mut().for_each(short);
    summary
}

/// A configuration with users, one of them with a weak hash, and keys, one of them ending.
fn configured(folder: &TempDir) -> Config {
    let config = r#"
tls = { certificate = "none.pem", private_key = "none.key" }
upstream.url = "http://127.0.0.1:5000"
auth = { order = ["htpasswd"], htpasswd = { file = "htpasswd" } }
"#;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "htpasswd",
        "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\
         idle:$2y$10$9WH9kMhhiWFXKVxZ0wvriO51bI.LwHbpPN4YMYLPt7VxpHmfEH7Gq\n",
    );
    let key = |name: &str, expires: &str| {
        format!(
            "[[key]]\nname = \"{name}\"\nhash = \"sha256:{}\"\nrole = \"guest\"\n\
             repositories = [\"**\"]\nexpires = \"{expires}\"\n",
            "0f".repeat(32)
        )
    };
    write(
        "keys.toml",
        &(key("ci", "2026-05-20T00:00:00Z") + &key("old", "2026-05-01T00:00:00Z")),
    );
    let path = folder.path().join("portcullis.toml");
    Config::parse(config, &path, &|_| None).unwrap().0
}

fn without_folder(text: &str, folder: &TempDir) -> String {
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn the_text_has_everything_in_eighty_columns_or_more() {
    let folder = tempdir().unwrap();
    let summary = report(&folder, Period::default(), 20);
    for width in [80, 160] {
        let look = TextLook {
            width,
            colours: false,
        };
        let shown = summary.text(look);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
        insta::assert_snapshot!(format!("text_{width}"), shown);
    }
    let look = TextLook {
        width: 80,
        colours: true,
    };
    assert!(summary.text(look).contains("\u{1b}[31m"));
}

#[test]
fn the_json_has_the_keys_that_help_names() {
    let folder = tempdir().unwrap();
    let mut value = report(&folder, Period::default(), 2).json();
    for list in ["/timeline/slices", "/week"] {
        let list = value.pointer_mut(list).unwrap().as_array_mut().unwrap();
        list.truncate(1);
    }
    insta::assert_snapshot!("json", format!("{value:#}"));
    for key in value.as_object().unwrap().keys() {
        assert!(JSON_KEYS.contains(key.as_str()), "{key} is not documented");
    }
}

#[test]
fn the_page_is_whole_and_names_stay_text() {
    let folder = tempdir().unwrap();
    let page = report(&folder, Period::default(), 20).html();
    for text in [
        "Audit report",
        "What needs attention",
        "&lt;img src=x onerror=alert(1)&gt;\u{fffd}[31m\u{fffd}",
        "1,234",
        "key ci",
        "lines torn or damaged",
        "<svg class=\"plot\"",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for text in [
        "<img", "<script", "style=\"", "http://", "https://", "\u{1b}",
    ] {
        assert!(!page.contains(text), "{text}");
    }
}

#[test]
fn an_empty_trail_is_a_report_too() {
    let folder = tempdir().unwrap();
    let period = Period {
        until: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        ..Period::default()
    };
    let summary = report(&folder, period, 20);
    let look = TextLook {
        width: 80,
        colours: false,
    };
    assert!(
        summary
            .text(look)
            .contains("there are no records in this period")
    );
    assert!(summary.html().contains("None."));
    assert_eq!(summary.json()["records"], 0);
}
