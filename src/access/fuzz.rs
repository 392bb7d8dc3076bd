//! Fuzz targets: the host that a request is for.

use http::header::HOST;
use http::{HeaderValue, Request, Version};

use crate::fuzz::lines;
use crate::request::Authority;

/// Lines of `Host`, and for HTTP/2 what `:authority` says: one name in one spelling, or none.
pub(crate) fn authority(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let named = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let mut request = Request::new(());
    for line in lines.take(3) {
        if let Ok(host) = HeaderValue::from_bytes(line) {
            request.headers_mut().append(HOST, host);
        }
    }
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        *request.version_mut() = Version::HTTP_2;
        if let Ok(uri) = format!("https://{named}/v2/").parse() {
            *request.uri_mut() = uri;
        }
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    let (head, ()) = request.into_parts();
    let Some(authority) = Authority::of(&head) else {
        return;
    };
    assert!(hosts <= 1);
    let name = authority.as_str();
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    assert!(
        !name.is_empty() && name.len() <= 260 && name.bytes().all(legal),
        "{name:?}"
    );
    assert!(authority.is(name) && authority.is(&name.to_ascii_uppercase()));
    // It ends up in a quoted string, in a URL and in a header of its own.
    assert!(HeaderValue::from_str(name).is_ok());
    let mut again = Request::new(());
    if let Ok(host) = HeaderValue::from_str(name) {
        again.headers_mut().insert(HOST, host);
    }
    let (again, ()) = again.into_parts();
    assert_eq!(Authority::of(&again).as_ref(), Some(&authority));
    assert!(
        format!("https://{name}/").parse::<http::Uri>().is_ok(),
        "{name:?}"
    );
}
