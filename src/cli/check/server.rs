//! What is told of a server that does not answer as it should.

use portcullis::config::{Config, Diagnostic};
use portcullis::tls;

/// A server that does not answer; with what to do where its certificate is why.
pub(crate) fn error_of_server(config: &Config, key: &str, message: String) -> Diagnostic {
    let is_certificate = message.contains("the certificate");
    let found = config.error_at(key, message);
    if is_certificate {
        found.with_help(tls::REMEDY)
    } else {
        found
    }
}
