//! The log: to stderr, as text or JSON. `RUST_LOG` chooses what is in it. Also the settings of `spans`,
//! which is not in every build.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Filter without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info";

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
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(DEFAULT_FILTER));
    let (layer, handle) = reload::Layer::new(layer(format));
    tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .init();
    // Only a second call would find one, and that would have ended above.
    let _first = FORMAT.set(handle).is_ok();
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
