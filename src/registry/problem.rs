//! The error body of the registry API: `{"errors":[{"code","message","detail"}]}`
//! (OCI distribution 1.1, "Error codes").

use http::StatusCode;
use serde::Serialize;

/// The specification's error codes that this proxy answers with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Known, but not allowed.
    Denied,
    /// The upload is not one of the caller's.
    BlobUploadUnknown,
    /// A digest outside the grammar.
    DigestInvalid,
    /// A path outside the API, or a name outside the grammar.
    NameInvalid,
    /// A page size that is no number.
    PaginationNumberInvalid,
    /// A body over the limit.
    SizeInvalid,
    /// Too many pulls, logins or requests.
    TooManyRequests,
    /// No credential, or a bad one.
    Unauthorized,
    /// The registry or a directory behind us does not answer.
    Unavailable,
    /// A request this proxy refuses to interpret.
    Unknown,
    /// A method the API does not have here.
    Unsupported,
}

impl Code {
    /// The code as it stands in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::NameInvalid => "NAME_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// One error answer: its status, code and the sentence the user reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// The specification's code.
    pub code: Code,
    /// What went wrong and what to do about it; never anything the caller may not know.
    pub message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'a str,
    message: &'a str,
    detail: Option<()>,
}

impl Problem {
    /// The JSON body, with the reference that is also in the audit record.
    pub fn body(&self, reference: &str) -> String {
        let message = format!("{} [ref {reference}]", self.message);
        let body = Body {
            errors: [Entry {
                code: self.code.as_str(),
                message: &message,
                detail: None,
            }],
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Problem};
    use http::StatusCode;

    #[test]
    fn the_body_has_the_shape_of_the_specification() {
        let problem = Problem {
            status: StatusCode::FORBIDDEN,
            code: Code::Denied,
            message: "no \"push\"".to_owned(),
        };
        assert_eq!(
            problem.body("AB12CD"),
            r#"{"errors":[{"code":"DENIED","message":"no \"push\" [ref AB12CD]","detail":null}]}"#
        );
    }
}
