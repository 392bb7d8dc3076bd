//! What the tests of each client with a certificate share.

use std::path::PathBuf;

use super::cert_dir;
use crate::support::Lab;
use crate::support::process::has_ipv6;

const NAMES_USERS: &str = "username = [\"subject.cn\"]";
const SERIAL: u64 = 7;

/// A proxy that everybody needs a certificate for, which names its user.
pub(crate) async fn lab() -> Lab {
    let lines = format!("mode = \"required\"\ncrl = [\"clients.crl\"]\n{NAMES_USERS}");
    let builder = Lab::builder().client_certificates(&lines);
    let crl = builder.pki.crl(&[]);
    let builder = builder.file("clients.crl", crl);
    if has_ipv6() {
        builder.dual_stack()
    } else {
        builder
    }
    .start()
    .await
}

/// Puts a certificate of alice's where docker, podman and skopeo look for it; certificate and key.
pub(crate) fn give(lab: &Lab) -> [PathBuf; 2] {
    let pair = lab.pki.numbered("alice", SERIAL);
    let folder = cert_dir(lab);
    let files = ["client.cert", "client.key"].map(|name| folder.join(name));
    for (file, text) in files.iter().zip([pair.certificate, pair.key]) {
        std::fs::write(file, text).unwrap();
    }
    files
}

/// Lets certificates name nobody, and binds tokens to them: a client that leaves its certificate
/// out at the token service comes no further.
pub(crate) async fn only_a_gate(lab: &Lab) {
    let config = lab.config();
    let gate = config
        .replace(NAMES_USERS, "")
        .replace("[token]", "[token]\nbind_certificate = true");
    assert!(!gate.contains(NAMES_USERS) && gate.contains("bind_certificate"));
    lab.folder.replace("portcullis.toml", gate);
    assert_eq!(lab.reload().await, "allowed");
}

/// Revokes the certificate of [`give`].
pub(crate) async fn revoke(lab: &Lab) {
    lab.folder.replace("clients.crl", lab.pki.crl(&[SERIAL]));
    assert_eq!(lab.reload().await, "allowed");
}

/// Whether a client without a certificate shows its user what we tell it.
#[track_caller]
pub(crate) fn assert_told_where(said: &str) {
    assert!(
        said.contains("client certificate") && said.contains("certs.d") && said.contains("[ref "),
        "{said}"
    );
}
