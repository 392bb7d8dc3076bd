//! Who is calling: the peer of the connection, what the request presents, and whom it was found to
//! be. Pure words; finding out is `authn`'s.

mod certificate;
mod confinement;
mod credential;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod group;
mod letters;
mod name;
mod peer;
mod principal;
mod shape;
mod subject;

pub use certificate::{Accepted, CertificateField, ClientCertificate};
pub use confinement::Confinement;
pub use credential::{MAX_PASSWORD, Malformed, Password, Presented, Secret};
pub use group::Group;
pub use letters::fold;
pub use name::{Name, NameError, Origin, ROBOT};
pub use peer::{Peer, PeerCertificate, TlsSession, Witness, address_text};
pub use principal::{Authentication, Grant, Identity, Proof, Recency};
pub use shape::{KEY_PREFIX, SHORTEST_KEY, recorded, resembles_secret};
pub use subject::{Claim, Counted, Robot, Subject, SubjectKind};
