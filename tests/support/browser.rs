//! Debian's chromium without a screen: what a page comes to, as somebody would read it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::folder::Folder;
use super::process::{on_path, skip};

/// A page as the browser has it.
pub(crate) struct Seen {
    /// The document, as it is after loading.
    pub(crate) dom: String,
    /// What the console says: errors of scripts, refused resources.
    pub(crate) console: Vec<String>,
}

impl Seen {
    /// The text without markup and style, spaces folded.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut rest = self.dom.as_str();
        while let Some((before, after)) = rest.split_once('<') {
            text.push_str(before);
            let skipped = if after.starts_with("style") {
                "</style>"
            } else {
                ">"
            };
            text.push(' ');
            rest = after.split_once(skipped).map_or("", |(_, rest)| rest);
        }
        text.push_str(rest);
        let plain = text
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&nbsp;", " ")
            .replace("&amp;", "&");
        plain.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether the document has an element of this kind.
    pub(crate) fn has(&self, element: &str) -> bool {
        self.dom.contains(&format!("<{element} ")) || self.dom.contains(&format!("<{element}>"))
    }

    /// The texts, each of which somebody reads.
    #[track_caller]
    pub(crate) fn assert_reads(&self, texts: &[&str]) {
        let read = self.text();
        for text in texts {
            assert!(read.contains(text), "{text:?} in {read}");
        }
    }

    /// Nothing ran, nothing was refused, nothing complained.
    #[track_caller]
    pub(crate) fn assert_quiet(&self) {
        assert!(self.console.is_empty(), "{:?}", self.console);
        for element in ["script", "img", "iframe", "object", "link", "base", "form"] {
            assert!(!self.has(element), "<{element}> in {}", self.dom);
        }
    }
}

/// Whether there is a browser; says why not.
pub(crate) fn is_there() -> bool {
    let there = on_path("chromium");
    if !there {
        skip("chromium is missing; tests/install-deps installs it");
    }
    there
}

/// Opens a page and reads it.
pub(crate) async fn open(folder: &Folder, url: &str) -> Seen {
    read(browser(folder), url).await
}

/// Opens a page and reads it once its scripts have heard what they asked for.
pub(crate) async fn run(folder: &Folder, url: &str) -> Seen {
    let mut command = browser(folder);
    command.args(["--ignore-certificate-errors", "--virtual-time-budget=30000"]);
    read(command, url).await
}

async fn read(mut command: Command, url: &str) -> Seen {
    command.args(["--dump-dom", url]);
    let output = ran(command).await;
    let console = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .map(str::to_owned)
        .collect();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        dom.contains("</html>"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Seen { dom, console }
}

/// Draws a page into a PNG.
pub(crate) async fn draw(folder: &Folder, url: &str, to: &Path) {
    let mut command = browser(folder);
    let to = format!("--screenshot={}", to.display());
    command.args([&to, "--hide-scrollbars", "--window-size=1280,2400", url]);
    ran(command).await;
}

async fn ran(mut command: Command) -> std::process::Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let limit = std::time::Duration::from_mins(2);
    super::within(limit, "the browser", run).await.unwrap()
}

fn browser(folder: &Folder) -> Command {
    let mut command = Command::new("chromium");
    command
        // Tests run as root, where the sandbox does not start.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
        ])
        .args([
            "--disable-component-update",
            "--disable-extensions",
            "--no-proxy-server",
        ])
        .args(["--enable-logging=stderr", "--v=0"])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("chromium").display()
        ))
        .env("HOME", folder.path())
        .stdin(Stdio::null());
    command
}

/// An address that nobody should ask.
pub(crate) struct Trap(TcpListener);

impl Trap {
    pub(crate) fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// A user name whose reader would ask it, if it became markup. It has no colon, which would end it.
    pub(crate) fn name(&self) -> String {
        let port = self.0.local_addr().unwrap().port();
        format!("<img src=http&#58;//127.0.0.1&#58;{port}/x onerror=alert(1)>\"'&amp;")
    }

    #[track_caller]
    pub(crate) fn assert_unasked(&self) {
        let asked = self.0.accept().map(|(_, from)| from);
        assert!(
            matches!(&asked, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "{asked:?}"
        );
    }
}
