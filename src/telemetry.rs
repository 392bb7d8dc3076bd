//! The log: to stderr, as text or JSON. `RUST_LOG` chooses what is in it. Also the settings of `spans`,
//! which is not in every build.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Filter without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info";
/// Libraries that warn of what they are sent, which any client can choose: an address instead of a host
/// name in a handshake, for one. What is wrong with a connection we say ourselves, at debug.
const PROTOCOLS: [&str; 3] = ["h2", "hyper", "rustls"];
/// Time between two of the same line that clients can cause.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

type Format = Box<dyn Layer<Registry> + Send + Sync>;

/// The format, which a reload swaps; there is one log.
static FORMAT: OnceLock<reload::Handle<Format, Registry>> = OnceLock::new();

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where spans are sent, `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The OpenTelemetry collector that spans are sent to.
    pub collector: Option<Collector>,
}

/// Where a collector listens for OTLP over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// A name or address.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
}

/// Starts logging. Called once, before anything else happens.
pub fn start(format: LogFormat) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV);
    let filter = EnvFilter::try_new(directives(asked.as_deref().unwrap_or_default()));
    let filter = filter.unwrap_or_else(|_unreadable| EnvFilter::new(directives("")));
    let (layer, handle) = reload::Layer::new(layer(format));
    tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .init();
    // Only a second call would find one, and that would have ended above.
    let _first = FORMAT.set(handle).is_ok();
}

/// What is asked for, and less of the [`PROTOCOLS`] that are not named in it.
fn directives(asked: &str) -> String {
    let asked = if asked.trim().is_empty() {
        DEFAULT_FILTER
    } else {
        asked
    };
    let is_named = |library: &str| {
        let mut words = asked.split([',', '=', ':', '[']).map(str::trim);
        words.any(|word| word == library)
    };
    let quiet = PROTOCOLS.into_iter().filter(|library| !is_named(library));
    let quiet = quiet.map(|library| format!("{library}=error"));
    let all: Vec<_> = quiet.chain([asked.to_owned()]).collect();
    all.join(",")
}

/// Times of a line of the log that clients can cause: it is written at most once in ten seconds, so that
/// no client can fill the log.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Mutex<Option<Instant>>,
    omitted: AtomicU64,
}

impl LogLimit {
    /// For a line that has not been written yet.
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(None),
            omitted: AtomicU64::new(0),
        }
    }

    /// The number of lines that were omitted since the last one; `None` if this one is to be omitted.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.saturating_duration_since(last) < LINE_INTERVAL) {
            self.omitted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(now);
        Some(self.omitted.swap(0, Ordering::Relaxed))
    }
}

/// Switches to another format.
pub fn set_format(format: LogFormat) {
    if let Some(handle) = FORMAT.get()
        && let Err(error) = handle.reload(layer(format))
    {
        tracing::warn!(%error, "the log keeps its format");
    }
}

fn layer(format: LogFormat) -> Format {
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer.boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_INTERVAL, LogLimit, directives};
    use std::time::{Duration, Instant};

    #[test]
    fn libraries_warn_of_nothing_that_clients_send_unless_they_are_asked() {
        let quiet = "h2=error,hyper=error,rustls=error,";
        for (asked, filter) in [
            ("", format!("{quiet}info")),
            (" ", format!("{quiet}info")),
            ("debug", format!("{quiet}debug")),
            (
                "info,rustls=debug,h2::proto",
                "hyper=error,info,rustls=debug,h2::proto".to_owned(),
            ),
        ] {
            assert_eq!(directives(asked), filter, "{asked:?}");
        }
    }

    #[test]
    fn a_line_is_written_once_in_a_while_with_the_number_of_the_others() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let at = |after: Duration| limit.due_at(start.checked_add(after).unwrap());
        assert_eq!(at(Duration::ZERO), Some(0));
        assert_eq!(at(Duration::from_secs(1)), None);
        assert_eq!(at(Duration::from_secs(9)), None);
        assert_eq!(at(LINE_INTERVAL), Some(2));
        assert_eq!(at(LINE_INTERVAL), None);
        assert_eq!(at(LINE_INTERVAL * 2), Some(1));
    }
}
