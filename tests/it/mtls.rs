//! Client certificates: which are good, whom they name, what they open, and when that ends.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::string::BmpString;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnValue, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::support::http::{Call, Connection};
use crate::support::image::{Image, MANIFEST, begin_upload, digest, finish_upload, noise};
use crate::support::lab::PROGRAM;
use crate::support::pki::{CN, OU, Pair, Pki, ends_in, second};
use crate::support::process::{on_path, skip};
use crate::support::{Answer, Client, Http, Lab, PATIENCE, Upstream, eventually, password};

/// Certificates name users; who has none may still come.
const NAMING: &str = "mode = \"optional\"\nusername = [\"san.uri\", \"san.dns\", \"subject.cn\"]";
/// Certificates name nobody.
const GATE: &str = "mode = \"optional\"";
/// And everybody needs one.
const REQUIRED: &str = "mode = \"required\"";

async fn lab(lines: &str) -> Lab {
    Lab::builder().client_certificates(lines).start().await
}

/// Whether the proxy speaks with this client at all.
async fn speaks(client: &Client) -> bool {
    client.get("/v2/").try_send().await.is_ok()
}

async fn status(client: &Client, path: &str) -> u16 {
    client.get(path).send().await.status
}

/// A login check: 200 for whoever is found out to be somebody, by whatever credential. At `/v2/` a
/// certificate alone is not enough.
const LOGIN: &str = "/token";

async fn ping(client: &Client) -> u16 {
    status(client, LOGIN).await
}

/// A request by which its record can be told from others.
fn marked(call: Call) -> (Call, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("mark-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    (call.header("user-agent", &mark), mark)
}

async fn record_of(lab: &Lab, mark: &str) -> Value {
    let fits = |record: &Value| record["agent"] == mark;
    lab.audit().find(mark, fits).await
}

/// The answer and its record.
async fn recorded(lab: &Lab, call: Call) -> (Answer, Value) {
    let (call, mark) = marked(call);
    (call.send().await, record_of(lab, &mark).await)
}

/// The fingerprint of a certificate, as records have it.
fn fingerprint(pair: &Pair) -> String {
    let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    digest(&der).trim_start_matches("sha256:").to_owned()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

fn sans(names: Vec<SanType>) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names = names
}

fn bmp(text: &str) -> DnValue {
    DnValue::BmpString(BmpString::try_from(text).unwrap())
}

/// An extension that nobody knows and everybody must.
fn unknown_and_critical() -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

// -- which are good --------------------------------------------------------------------------------

#[tokio::test]
async fn a_certificate_that_is_not_good_ends_the_handshake() {
    let lab = lab(NAMING).await;
    // That of the start.
    lab.audit().after(0, 1).await;
    let pki = &lab.pki;
    let bad = [
        ("another CA of the same name", Pki::new().client("alice")),
        (
            "expired",
            pki.client_with("alice", |params| {
                params.not_after = date_time_ymd(2024, 2, 1);
            }),
        ),
        (
            "not yet valid",
            pki.client_with("alice", |params| {
                params.not_before = date_time_ymd(2048, 1, 1);
            }),
        ),
        ("for servers only", pki.server()),
        (
            "issued by a client's certificate",
            pki.intermediate("mallory", |_| {}).client("alice"),
        ),
        (
            "issued by a certificate that says it is no CA",
            pki.intermediate("mallory", |params| params.is_ca = IsCa::ExplicitNoCa)
                .client("alice"),
        ),
        (
            "outside of what its CA may name",
            pki.intermediate("a department", |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("a.example".to_owned())],
                    excluded_subtrees: Vec::new(),
                });
            })
            .client_with("alice", sans(vec![dns("b.example")])),
        ),
        (
            "with a critical extension that nobody knows",
            pki.client_with("alice", |params| {
                params.custom_extensions = vec![unknown_and_critical()];
            }),
        ),
        ("without the CA between", {
            let mut pair = department(pki).client("alice");
            let end = pair.certificate.find("-----END").unwrap();
            pair.certificate.truncate(end);
            pair.certificate += "-----END CERTIFICATE-----\n";
            pair
        }),
    ];
    for version in [&TLS12, &TLS13] {
        for (what, pair) in &bad {
            let client = lab.showing_by(pair, version);
            let before = lab.audit().records().len();
            assert!(!speaks(&client).await, "{what}, {version:?}");
            // Each leaves one record.
            let [record] = &lab.audit().after(before, 1).await[..] else {
                panic!("not one record: {what}")
            };
            assert_eq!(
                (
                    &record["event"],
                    &record["outcome"],
                    &record["auth"],
                    &record["client"]
                ),
                (
                    &"login".into(),
                    &"failed".into(),
                    &"certificate".into(),
                    &"127.0.0.1".into()
                ),
                "{record}"
            );
            let reason = record["reason"].as_str().unwrap();
            assert!(
                reason.starts_with("client certificate refused: "),
                "{record}"
            );
        }
        let good = [pki.client("alice"), department(pki).client("alice")];
        for pair in &good {
            let before = lab.audit().records().len();
            assert_eq!(ping(&lab.showing_by(pair, version)).await, 200);
            lab.audit().after(before, 1).await;
        }
    }
    // And nobody else is in the way.
    assert_eq!(ping(&lab.user("alice")).await, 200);
}

/// An authority between the CA and its clients.
fn department(pki: &Pki) -> crate::support::pki::Intermediate {
    pki.intermediate("a department", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    })
}

/// What openssl gets for a login check with a certificate that it has made: no other tool here makes
/// keys and signatures that weak.
fn openssl_pings(lab: &Lab, name: &str, key: &[&str], hash: &str) -> String {
    let folder = &lab.folder;
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let output = command.args(arguments).current_dir(folder.path());
        let output = output.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    };
    let file = |suffix: &str| format!("{name}.{suffix}");
    let (key_file, request, certificate) = (file("key"), file("csr"), file("pem"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat());
    let subject = ["-subj", "/CN=alice", "-out", &request];
    openssl(&[&["req", "-new", "-key", &key_file], &subject[..]].concat());
    folder.write("ca.key", &lab.pki.key);
    let ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "77"];
    folder.write("extensions", "basicConstraints = CA:FALSE\n");
    let files = ["-in", &request, "-out", &certificate, "-days", "9", hash];
    let extensions = ["-extfile", "extensions"];
    openssl(&[&["x509", "-req"], &ca[..], &files, &extensions].concat());

    folder.write(
        "ping",
        format!(
            "GET /token HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            lab.authority()
        ),
    );
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-ign_eof", "-servername", "localhost"]);
    command.args(["-cipher", "DEFAULT@SECLEVEL=0", "-CAfile", "ca.pem"]);
    command.args(["-connect", &lab.address.to_string()]);
    command.args(["-cert", &certificate, "-key", &key_file]);
    command.current_dir(folder.path());
    let input = std::fs::File::open(folder.join("ping")).unwrap();
    let output = command.stdin(input).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_and_signatures_are_not_taken() {
    if !on_path("openssl") {
        return skip("openssl is not installed");
    }
    let lab = lab(NAMING).await;
    let rsa = |bits| ["-algorithm", "RSA", "-pkeyopt", bits];
    let good = openssl_pings(&lab, "good", &rsa("rsa_keygen_bits:2048"), "-sha256");
    assert!(good.contains("HTTP/1.1 200"), "{good}");
    for (name, bits, hash) in [
        ("short", "rsa_keygen_bits:1024", "-sha256"),
        ("old", "rsa_keygen_bits:2048", "-sha1"),
    ] {
        let said = openssl_pings(&lab, name, &rsa(bits), hash);
        assert!(!said.contains("HTTP/1.1"), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_revocation_list_refuses_whom_it_names_and_without_a_good_one_everybody() {
    let builder = Lab::builder().client_certificates(&format!("{NAMING}\ncrl = [\"clients.crl\"]"));
    let crl = builder.pki.crl(&[7]);
    let lab = builder.file("clients.crl", &crl).start().await;
    let [good, revoked] = [8, 7].map(|serial| lab.showing(&lab.pki.numbered("alice", serial)));
    assert_eq!(ping(&good).await, 200);
    assert!(!speaks(&revoked).await);

    let past = |params: &mut rcgen::CertificateRevocationListParams| {
        params.next_update = date_time_ymd(2024, 2, 1);
    };
    let useless = [
        ("expired", lab.pki.crl_with(&[7], past)),
        ("signed by a CA of the same name", Pki::new().crl(&[7])),
        ("of another CA", department(&lab.pki).crl()),
    ];
    for (what, list) in useless {
        lab.folder.replace("clients.crl", list);
        assert_eq!(lab.reload().await, "allowed");
        assert!(!speaks(&good).await, "{what}");
        assert!(!speaks(&revoked).await, "{what}");
        // Who needs no certificate is not concerned.
        assert_eq!(ping(&lab.user("alice")).await, 200);
    }
    // Several lists in a file, and one that is DER.
    lab.folder
        .replace("clients.crl", department(&lab.pki).crl() + &crl);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(ping(&good).await, 200);
    assert!(!speaks(&revoked).await);
    let der = CertificateRevocationListDer::from_pem_slice(crl.as_bytes());
    lab.folder.replace("clients.crl", der.unwrap());
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(ping(&good).await, 200);
    assert!(!speaks(&revoked).await);
}

#[tokio::test]
async fn unreadable_authorities_and_lists_never_open_the_door() {
    let builder = Lab::builder().client_certificates(&format!("{NAMING}\ncrl = [\"clients.crl\"]"));
    let crl = builder.pki.crl(&[7]);
    let lab = builder.file("clients.crl", &crl).start().await;
    let ca = lab.folder.read("ca.pem");
    let [good, revoked] = [8, 7].map(|serial| lab.showing(&lab.pki.numbered("alice", serial)));
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let broken = [
        ("ca.pem", Some(String::new())),
        ("ca.pem", Some("junk".to_owned())),
        ("ca.pem", Some(half(&ca))),
        ("ca.pem", Some(lab.pki.key.clone())),
        ("ca.pem", Some(ca.clone() + &half(&ca))),
        ("ca.pem", None),
        ("clients.crl", Some(String::new())),
        ("clients.crl", Some("junk".to_owned())),
        ("clients.crl", Some("0unk".to_owned())),
        ("clients.crl", Some(half(&crl))),
        ("clients.crl", Some(ca.clone())),
        ("clients.crl", Some(crl.clone() + &half(&crl))),
        ("clients.crl", Some(crl.clone() + &" ".repeat(64 << 20))),
        ("clients.crl", None),
    ];
    // A start on a port of its own, should it come to one after all.
    let config = lab.config();
    let port = lab.address.port().to_string();
    lab.folder.write(
        "other.toml",
        config
            .replace(&port, "0")
            .replace("audit.jsonl", "other.jsonl"),
    );
    for (file, text) in broken {
        let text_starts = text
            .as_ref()
            .map(|text| text.chars().take(30).collect::<String>());
        let what = format!("{file} with {text_starts:?}");
        match text {
            Some(text) => lab.folder.replace(file, text),
            None => std::fs::remove_file(lab.folder.join(file)).unwrap(),
        }
        assert_ne!(lab.reload().await, "allowed", "{what}");
        assert_eq!(ping(&good).await, 200, "{what}");
        assert!(!speaks(&revoked).await, "{what}");
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--config"])
            .arg(lab.folder.join("other.toml"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{what}: {said}");
        assert!(said.contains(file), "{what}: {said}");
        lab.folder
            .replace(file, if file == "ca.pem" { &ca } else { &crl });
    }
    assert_eq!(lab.reload().await, "allowed");
}

// -- whom they name --------------------------------------------------------------------------------

/// What a certificate says, and whom that names.
fn named(pki: &Pki) -> Vec<(&'static str, Pair, Option<&'static str>)> {
    let with = |cn: &str, names| pki.client_with(cn, sans(names));
    vec![
        ("a CN", pki.client("alice"), Some("alice")),
        (
            "a CN that looks like alice's",
            pki.client("Alice"),
            Some("Alice"),
        ),
        (
            "a URI before a CN",
            with("admin", vec![uri("spiffe://x/ci")]),
            Some("spiffe://x/ci"),
        ),
        (
            "a DNS name before a CN",
            with("admin", vec![dns("ci.example")]),
            Some("ci.example"),
        ),
        (
            "a URI before a DNS name",
            with("admin", vec![dns("ci.example"), uri("spiffe://x/ci")]),
            Some("spiffe://x/ci"),
        ),
        (
            "an alternative name that is not asked for",
            with("alice", vec![mail("bob@example.com")]),
            Some("alice"),
        ),
        (
            "a name like a distinguished name",
            pki.client("alice,OU=admin"),
            Some("alice,OU=admin"),
        ),
        (
            "no end",
            pki.client_with("alice", |params| {
                params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(86_399);
            }),
            Some("alice"),
        ),
        ("two CNs", pki.client_with("alice", second(CN, "bob")), None),
        (
            "the same CN twice",
            pki.client_with("alice", second(CN, "alice")),
            None,
        ),
        (
            "two URIs",
            with("alice", vec![uri("spiffe://x/a"), uri("spiffe://x/b")]),
            None,
        ),
        (
            "two DNS names",
            with("alice", vec![dns("a.example"), dns("b.example")]),
            None,
        ),
        ("a wildcard", with("alice", vec![dns("*.example")]), None),
        (
            "NUL in a DNS name",
            with("alice", vec![dns("alice\0.example")]),
            None,
        ),
        (
            "NUL in a URI",
            with("alice", vec![uri("spiffe://x\0/ci")]),
            None,
        ),
        ("NUL in a CN", pki.client("alice\0.example"), None),
        ("a line break in a CN", pki.client("alice\n"), None),
        ("a space after a CN", pki.client("alice "), None),
        ("an empty CN", pki.client(""), None),
        ("an endless CN", pki.client(&"a".repeat(300)), None),
        (
            "a CN in another encoding",
            pki.client_with("", |params| {
                params
                    .distinguished_name
                    .push(rcgen::DnType::CommonName, bmp("alice"));
            }),
            None,
        ),
    ]
}

#[tokio::test]
async fn a_certificate_names_one_user_or_nobody() {
    let lab = lab(NAMING).await;
    for (what, pair, named) in named(&lab.pki) {
        let client = lab.showing(&pair);
        // Without any credential it would only be counted among those that are asked for one.
        let (answer, record) = recorded(&lab, client.basic("", "").get(LOGIN)).await;
        assert_eq!(
            answer.status,
            if named.is_some() { 200 } else { 401 },
            "{what}"
        );
        assert_eq!(answer.header("www-authenticate").is_some(), named.is_none());
        assert_eq!(record["user"].as_str(), named, "{what}");
        assert_eq!(record["certificate"]["sha256"], fingerprint(&pair).as_str());
        // With a password beside a certificate that names nobody, the password says who.
        let with_password = client.basic("alice", &password("alice"));
        let expected = if named.is_none_or(|named| named == "alice") {
            200
        } else {
            401
        };
        assert_eq!(ping(&with_password).await, expected, "{what}");
    }
}

#[tokio::test]
async fn the_configured_order_decides_and_groups_come_from_one_field() {
    let lab = lab("mode = \"optional\"\nusername = [\"subject.cn\", \"san.uri\"]").await;
    let names_both = lab
        .pki
        .client_with("alice", sans(vec![uri("spiffe://x/ci")]));
    let ci = lab.pki.client_with("", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://x/ci")];
    });
    let user = async |pair: &Pair| {
        let (_, record) = recorded(&lab, lab.showing(pair).get(LOGIN)).await;
        record["user"].as_str().map(str::to_owned)
    };
    assert_eq!(user(&names_both).await.as_deref(), Some("alice"));
    assert_eq!(user(&ci).await.as_deref(), Some("spiffe://x/ci"));

    let carol = |change: &dyn Fn(&mut CertificateParams)| {
        let change = |params: &mut CertificateParams| change(params);
        lab.showing(&lab.pki.client_with("carol", change))
    };
    let ou = |value: &'static str| move |params: &mut CertificateParams| second(OU, value)(params);
    let tags = "/v2/team-a/app/tags/list";
    let member = carol(&ou("team-a"));
    assert_eq!(status(&member, tags).await, 403);
    let config = lab.config();
    let grouped = config.replace("username = [", "groups = \"subject.ou\"\nusername = [");
    lab.folder.replace("portcullis.toml", &grouped);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status(&member, tags).await, 404);
    // Beside her password too, and with a token as well.
    let path = format!(
        "/token?service={}&scope=repository:team-a/app:pull",
        lab.authority()
    );
    let answer = member.get(&path).send().await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(status(&member.bearer(&token), tags).await, 404);

    let both = carol(&|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationalUnitName, "team-b");
        ou("team-a")(params);
    });
    for repository in ["team-a", "team-b"] {
        assert_eq!(
            status(&both, &format!("/v2/{repository}/app/tags/list")).await,
            404
        );
    }
    // One group that is none spoils the certificate: which one a rule may deny is not known.
    let odd = carol(&|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationalUnitName, "con\ntractors");
        ou("team-a")(params);
    });
    assert_eq!(status(&odd, tags).await, 401);
    // The organisation is another field.
    let organisation = carol(&|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "team-a");
    });
    assert_eq!(status(&organisation, tags).await, 403);
}

// -- modes -----------------------------------------------------------------------------------------

#[tokio::test]
async fn off_asks_for_none_and_optional_lets_both_come() {
    let off = lab("mode = \"off\"\nusername = [\"subject.cn\"]").await;
    let foreign = Pki::new().client("alice");
    for pair in [&off.pki.client("alice"), &foreign] {
        assert_eq!(ping(&off.showing(pair)).await, 401);
        let alice = off.showing(pair).basic("alice", &password("alice"));
        assert_eq!(ping(&alice).await, 200);
    }
    drop(off);
    let optional = lab(GATE).await;
    assert_eq!(ping(&optional.anonymous()).await, 401);
    assert_eq!(ping(&optional.user("alice")).await, 200);
    let shown = optional.showing(&optional.pki.client("machine-7"));
    assert_eq!(ping(&shown).await, 401);
    assert_eq!(ping(&shown.basic("alice", &password("alice"))).await, 200);
    assert_eq!(ping(&shown.basic("alice", "wrong")).await, 401);
}

/// One of each kind of request.
fn requests(client: &Client) -> Vec<Call> {
    let digest = digest(b"");
    let token = "/token?service=x&scope=repository:public/app:pull";
    vec![
        client.get("/v2/"),
        client.get(token),
        client.post("/token").form(&[("grant_type", "password")]),
        client.post("/token").body("junk"),
        client.get("/v2/_catalog"),
        client.get("/v2/public/app/manifests/v1"),
        client.get(&format!("/v2/public/app/blobs/{digest}")),
        client.get("/v2/public/app/tags/list"),
        client.post("/v2/public/app/blobs/uploads/"),
        client.put("/v2/public/app/manifests/v1").body("{}"),
        client.delete(&format!("/v2/public/app/manifests/{digest}")),
        client.get("/"),
        client.get("/v2/../../etc/passwd"),
    ]
}

#[tokio::test]
async fn required_tells_everybody_without_one_where_to_put_it() {
    for lines in [REQUIRED, "mode = \"required\"\nusername = [\"subject.cn\"]"] {
        let upstream = Upstream::agreeable().await;
        let lab = Lab::builder()
            .upstream(upstream.url())
            .client_certificates(lines)
            .start()
            .await;
        for client in [
            lab.anonymous(),
            lab.user("ada"),
            lab.user("ada").out_of([127, 0, 0, 3]),
        ] {
            for http in Http::BOTH {
                for call in requests(&client.over(http)) {
                    let answer = call.send().await;
                    answer.assert_problem(401, "UNAUTHORIZED");
                    assert!(
                        answer.message().contains("/etc/docker/certs.d"),
                        "{answer:?}"
                    );
                    let challenges = answer.headers.get_all("www-authenticate");
                    assert_eq!(challenges.iter().count(), 1, "{answer:?}");
                }
                let answer = client
                    .over(http)
                    .head("/v2/public/app/manifests/v1")
                    .send()
                    .await;
                assert_eq!((answer.status, answer.body.len()), (401, 0), "{answer:?}");
            }
        }
        // By plain HTTP nothing either, and JSON.
        let answer = Client::plain(lab.address).get("/v2/").send().await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "UNSUPPORTED")
        );
        assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
        let (_, record) = recorded(&lab, lab.anonymous().get("/v2/public/app/tags/list")).await;
        assert_eq!(record["outcome"], "failed", "{record}");
        assert_eq!(record["repository"], "public/app", "{record}");

        let ada = lab
            .showing(&lab.pki.client("ada"))
            .basic("ada", &password("ada"));
        assert_eq!(status(&ada, "/v2/team-a/app/tags/list").await, 200);
        assert_eq!(upstream.take().len(), 1);
    }
}

#[tokio::test]
async fn who_is_told_off_for_a_certificate_may_come_again_on_a_new_connection() {
    let lab = lab(REQUIRED).await;
    let mut connection = lab.user("ada").connect().await;
    let answer = connection.send(lab.user("ada").get("/v2/")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
}

// -- where they name users -------------------------------------------------------------------------

#[tokio::test]
async fn a_certificate_alone_pushes_and_pulls_as_its_user() {
    let lab = lab(NAMING).await;
    let pair = lab.pki.client("alice");
    let image = Image::new(5);
    let mut count = 0;
    for http in Http::BOTH {
        let alice = lab.showing(&pair).over(http);
        let answer = alice.get("/v2/home/alice/y/tags/list").send().await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (404, None)
        );
        let tag = format!("{http:?}").to_lowercase();
        assert_eq!(image.push(&alice, "team-a/app", &tag).await.status, 201);
        let manifest = alice.get(&format!("/v2/team-a/app/manifests/{tag}"));
        let answer = manifest.header("accept", MANIFEST).send().await;
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
        assert_eq!(status(&alice, "/v2/home/alice/x/tags/list").await, 404);
        // And nothing that alice may not do.
        let denied = alice.post("/v2/team-b/app/blobs/uploads/").send().await;
        denied.assert_problem(403, "DENIED");
        count += 9;
    }
    let is_request = |record: &Value| record["event"] == "request";
    let records = eventually("a record of each request", || {
        let records: Vec<_> = lab
            .audit()
            .records()
            .into_iter()
            .filter(is_request)
            .collect();
        (records.len() == count).then_some(records)
    });
    for record in records.await {
        assert_eq!(record["user"], "alice", "{record}");
        assert_eq!(record["auth"], "certificate", "{record}");
        assert_eq!(record["certificate"]["subject"], "CN=alice", "{record}");
        assert_eq!(record["certificate"]["sha256"], fingerprint(&pair).as_str());
    }
    // A user whom no password file knows.
    let machine = lab.pki.client_with("x", sans(vec![uri("spiffe://x/ci")]));
    let machine = lab.showing(&machine);
    assert_eq!(ping(&machine).await, 200);
    assert_eq!(status(&machine, "/v2/team-a/app/tags/list").await, 403);
}

#[tokio::test]
async fn what_stands_beside_a_certificate_must_name_the_same_user() {
    let lab = lab(NAMING).await;
    let alice = lab.showing(&lab.pki.client("alice"));
    let tags = "/v2/team-a/app/tags/list";
    let call = alice.basic("alice", &password("alice")).get(tags);
    let (answer, record) = recorded(&lab, call).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        (&record["auth"], &record["user"]),
        (&"htpasswd".into(), &"alice".into())
    );
    assert_eq!(record["certificate"]["subject"], "CN=alice");

    // Whether a password of somebody else is right is not told.
    let [right, wrong, unknown] = [
        alice.basic("ada", &password("ada")),
        alice.basic("ada", "wrong"),
        alice.basic("nobody", "wrong"),
    ];
    let without_reference = |answer: &Answer| {
        answer.assert_problem(401, "UNAUTHORIZED");
        answer.text().replace(&answer.reference(), "")
    };
    let token_path = format!(
        "/token?service={}&scope=repository:team-a/app:pull",
        lab.authority()
    );
    for path in ["/v2/", "/v2/public/app/tags/list", &token_path] {
        let answers = [
            right.get(path).send().await,
            wrong.get(path).send().await,
            unknown.get(path).send().await,
        ];
        let [right, wrong, unknown] = answers.each_ref().map(without_reference);
        assert_eq!((&right, &right), (&wrong, &unknown), "{path}");
        assert!(right.contains("different users"), "{right}");
    }
    let wrong = alice.basic("alice", "wrong").get("/v2/").send().await;
    assert!(
        wrong.message().contains("incorrect user name or password"),
        "{wrong:?}"
    );
    let form = [
        ("grant_type", "password"),
        ("username", "ada"),
        ("password", &password("ada")),
    ];
    let answer = alice.post("/token").form(&form).send().await;
    answer.assert_problem(401, "UNAUTHORIZED");

    let scope = "repository:team-a/app:pull";
    let adas = lab.token("ada", scope).await;
    let own = lab.token("alice", scope).await;
    let nobodys = lab.anonymous().get(&token_path).send().await;
    let nobodys = nobodys.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(status(&lab.anonymous().bearer(&adas), tags).await, 404);
    alice
        .bearer(&adas)
        .get(tags)
        .send()
        .await
        .assert_problem(401, "UNAUTHORIZED");
    alice
        .bearer(&nobodys)
        .get("/v2/")
        .send()
        .await
        .assert_problem(401, "UNAUTHORIZED");
    assert_eq!(status(&alice.bearer(&own), tags).await, 404);
    // `Basic` with nothing in it is nothing.
    assert_eq!(status(&alice.basic("", ""), tags).await, 404);
}

#[tokio::test]
async fn an_upload_stays_its_users_whatever_the_certificate() {
    let lab = lab(NAMING).await;
    let alice = lab.showing(&lab.pki.client("alice"));
    let blob = noise(9, 500);
    let digest = digest(&blob);
    let session = begin_upload(&alice, "team-a/app").await;
    for other in [
        lab.showing(&lab.pki.client("ada")),
        lab.user("ada"),
        lab.showing(&lab.pki.client_with("ada", second(CN, "alice")))
            .basic("ada", &password("ada")),
    ] {
        let answer = finish_upload(&other, &session, blob.clone(), &digest).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "BLOB_UPLOAD_UNKNOWN")
        );
    }
    // Another certificate of hers, or her password, is still she.
    let renewed = lab.showing(&lab.pki.client("alice"));
    let answer = finish_upload(&renewed, &session, blob.clone(), &digest).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let session = begin_upload(&alice, "team-a/app").await;
    let answer = finish_upload(&lab.user("alice"), &session, blob, &digest).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

// -- rules that ask for them -----------------------------------------------------------------------

/// Repositories of everybody who has what is asked for.
fn asking() -> String {
    let rule = |repository: &str, require: &str| {
        format!(
            "[[access]]\nrepositories = [\"{repository}\"]\nwho = [\"authenticated\"]\n\
             role = \"guest\"\nrequire = [{require}]\n"
        )
    };
    rule("cert", "\"certificate\"")
        + &rule("both", "\"certificate\", \"password\"")
        + &rule("pass", "\"password\"")
}

/// Which of the repositories of [`asking`] this client may read.
async fn opens(client: &Client) -> Vec<&'static str> {
    let mut open = Vec::new();
    for repository in ["cert", "both", "pass"] {
        let answer = client
            .get(&format!("/v2/{repository}/tags/list"))
            .send()
            .await;
        match answer.status {
            404 => open.push(repository),
            401 | 403 => {}
            other => panic!("{repository}: {other} {answer:?}"),
        }
    }
    open
}

/// A token for all of them, asked for by this client.
async fn token_for_all(lab: &Lab, client: &Client) -> String {
    let scopes = ["cert", "both", "pass"].map(|name| format!("&scope=repository:{name}:pull"));
    let path = format!("/token?service={}{}", lab.authority(), scopes.concat());
    let answer = client.get(&path).send().await;
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rules_can_ask_for_certificate_and_password() {
    let builder = Lab::builder().policy(&asking()).client_certificates(NAMING);
    let naming = builder.start().await;
    let shown = naming.showing(&naming.pki.client("alice"));
    let with_password = shown.basic("alice", &password("alice"));
    assert_eq!(opens(&shown).await, ["cert"]);
    assert_eq!(opens(&with_password).await, ["cert", "both", "pass"]);
    assert_eq!(opens(&naming.user("alice")).await, ["pass"]);
    assert_eq!(opens(&naming.anonymous()).await, [""; 0]);
    // A certificate that names nobody is not alice's, and no second factor of hers.
    let unnamed = naming.pki.client_with("alice", second(CN, "bob"));
    let unnamed = naming.showing(&unnamed);
    assert_eq!(opens(&unnamed).await, [""; 0]);
    assert_eq!(
        opens(&unnamed.basic("alice", &password("alice"))).await,
        ["pass"]
    );
    // A token stands for what it was asked for with, and the certificate for itself.
    let of_password = token_for_all(&naming, &with_password).await;
    assert_eq!(
        opens(&shown.bearer(&of_password)).await,
        ["cert", "both", "pass"]
    );
    assert_eq!(
        opens(&naming.anonymous().bearer(&of_password)).await,
        ["pass"]
    );
    let of_certificate = token_for_all(&naming, &shown).await;
    assert_eq!(opens(&shown.bearer(&of_certificate)).await, ["cert"]);
    drop(naming);

    let builder = Lab::builder().policy(&asking()).client_certificates(GATE);
    let gate = builder.start().await;
    let shown = gate.showing(&gate.pki.client("machine-7"));
    let with_password = shown.basic("alice", &password("alice"));
    assert_eq!(opens(&shown).await, [""; 0]);
    assert_eq!(opens(&with_password).await, ["cert", "both", "pass"]);
    assert_eq!(opens(&gate.user("alice")).await, ["pass"]);
    let token = token_for_all(&gate, &with_password).await;
    assert_eq!(opens(&shown.bearer(&token)).await, ["cert", "both", "pass"]);
    assert_eq!(opens(&gate.anonymous().bearer(&token)).await, ["pass"]);
}

/// With a password wrong and a certificate good, `docker login` must not succeed.
#[tokio::test]
async fn a_certificate_alone_is_no_login() {
    let lab = lab(NAMING).await;
    let alice = lab.showing(&lab.pki.client("alice"));
    for http in Http::BOTH {
        let alice = alice.over(http);
        let asked = alice.get("/v2/").send().await;
        asked.assert_problem(401, "UNAUTHORIZED");
        let challenge = asked.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        for wrong in [
            alice.basic("alice", "wrong"),
            alice.basic("bob", &password("bob")),
        ] {
            assert_eq!(status(&wrong, "/v2/").await, 401);
            assert_eq!(status(&wrong, "/token").await, 401);
        }
        let right = alice.basic("alice", &password("alice"));
        assert_eq!(status(&right, "/v2/").await, 200);
        // Everywhere else the certificate is a credential, and a token for it logs in.
        assert_eq!(status(&alice, TAGS).await, 404);
        let path = "/token?scope=repository:team-a/app:pull,push";
        let minted = alice.get(path).send().await.json();
        let alice = alice.bearer(minted["token"].as_str().unwrap());
        assert_eq!(status(&alice, "/v2/").await, 200);
        begin_upload(&alice, "team-a/app").await;
    }
    drop(lab);
    // Nobody asks for a token where Basic is the challenge.
    let builder = Lab::builder().client_certificates(NAMING);
    let basic = builder.challenge("basic").start().await;
    let alice = basic.showing(&basic.pki.client("alice"));
    assert_eq!(status(&alice, "/v2/").await, 200);
}

/// Where only a password is missing it is asked for; where something else is, that is a denial.
#[tokio::test]
async fn a_rule_that_wants_a_password_as_well_asks_for_it() {
    let builder = Lab::builder().policy(&asking());
    let lab = builder.client_certificates(NAMING).start().await;
    let shown = lab.showing(&lab.pki.client("alice"));
    let challenge = async |client: &Client, path: &str| {
        let answer = client.get(path).send().await;
        answer.assert_problem(401, "UNAUTHORIZED");
        let told = "alice may not pull from both without a password; log in: docker login ";
        assert!(answer.message().starts_with(told), "{answer:?}");
        let challenge = answer.header("www-authenticate").unwrap().to_owned();
        assert!(challenge.contains("scope=\"repository:both:pull\""));
        challenge
    };
    let both = "/v2/both/tags/list";
    let first = challenge(&shown, both).await;
    assert!(!first.contains("error="), "{first}");
    // A token for the certificate alone was presented, and is not enough.
    let of_certificate = token_for_all(&lab, &shown).await;
    let second = challenge(&shown.bearer(&of_certificate), both).await;
    assert!(second.ends_with("error=\"insufficient_scope\""), "{second}");
    let is_denial = |record: &Value| record["outcome"] == "denied";
    let record = lab.audit().find("the denial", is_denial).await;
    assert_eq!(
        (&record["user"], &record["status"]),
        (&"alice".into(), &401.into())
    );
    // Who was asked for the first time is neither denied nor failed. A reload has it written.
    assert_eq!(lab.reload().await, "allowed");
    let is_challenge = |record: &Value| record["outcome"] == "challenged";
    let record = lab.audit().find("the challenge", is_challenge).await;
    assert_eq!(
        (&record["user"], &record["count"]),
        (&"alice".into(), &1.into())
    );
    // With both the token proves both, beside its certificate.
    let with_password = shown.basic("alice", &password("alice"));
    let of_both = token_for_all(&lab, &with_password).await;
    assert_eq!(status(&shown.bearer(&of_both), both).await, 404);
    assert_eq!(status(&lab.anonymous().bearer(&of_both), both).await, 403);
    // A password does not help to what no rule allows, nor the password alone.
    assert_eq!(status(&shown, "/v2/nothing/tags/list").await, 403);
    assert_eq!(status(&lab.user("alice"), both).await, 403);
}

// -- tokens ----------------------------------------------------------------------------------------

/// What the token service answers, with a refresh token if it gives one.
async fn ask_token(lab: &Lab, client: &Client) -> Value {
    let path = format!(
        "/token?service={}&offline_token=true&scope=repository:team-a/app:pull",
        lab.authority()
    );
    let answer = client.get(&path).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

const TAGS: &str = "/v2/team-a/app/tags/list";

#[tokio::test]
async fn a_token_of_a_certificate_is_good_with_it_alone() {
    let lab = lab(NAMING).await;
    let alice = lab.showing(&lab.pki.client("alice"));
    let minted = ask_token(&lab, &alice).await;
    let is_token = |record: &Value| record["event"] == "token";
    let record = lab.audit().find("a record of the token", is_token).await;
    assert_eq!(record["auth"], "certificate", "{record}");
    assert_eq!(record["user"], "alice", "{record}");
    // There is no password that a refresh token would spare her.
    assert!(minted["refresh_token"].is_null(), "{minted}");
    let token = minted["token"].as_str().unwrap();
    for http in Http::BOTH {
        assert_eq!(status(&alice.over(http).bearer(token), TAGS).await, 404);
    }
    for (what, other) in [
        ("no certificate", lab.anonymous()),
        (
            "another certificate of hers",
            lab.showing(&lab.pki.client("alice")),
        ),
        ("somebody else's", lab.showing(&lab.pki.client("ada"))),
    ] {
        let answer = other.bearer(token).get(TAGS).send().await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{what}: {challenge}"
        );
    }
    // Not any more once certificates name nobody.
    let config = lab.config();
    let gate = config.replace("username = [\"san.uri\", \"san.dns\", \"subject.cn\"]", "");
    assert_ne!(config, gate);
    lab.folder.replace("portcullis.toml", gate);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(status(&alice.bearer(token), TAGS).await, 401);
}

#[tokio::test]
async fn tokens_are_bound_to_the_certificate_beside_the_password_when_asked_to() {
    for lines in [NAMING, GATE] {
        let builder = Lab::builder().client_certificates(lines);
        let lab = builder.token("bind_certificate = true").start().await;
        let shown = lab.showing(&lab.pki.client("alice"));
        let alice = shown.basic("alice", &password("alice"));
        let minted = ask_token(&lab, &alice).await;
        let [access, refresh] = ["token", "refresh_token"].map(|name| {
            minted[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {minted}"))
        });
        let renewed = lab.showing(&lab.pki.client("alice"));
        assert_eq!(status(&shown.bearer(access), TAGS).await, 404);
        assert_eq!(status(&lab.anonymous().bearer(access), TAGS).await, 401);
        assert_eq!(status(&renewed.bearer(access), TAGS).await, 401);
        let refreshes = async |client: &Client| {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh),
                ("scope", "repository:team-a/app:pull"),
            ];
            client.post("/token").form(&form).send().await
        };
        assert_eq!(refreshes(&lab.anonymous()).await.status, 401);
        assert_eq!(refreshes(&renewed).await.status, 401);
        let again = refreshes(&shown).await;
        assert_eq!(again.status, 200, "{again:?}");
        let again = again.json()["access_token"].as_str().unwrap().to_owned();
        assert_eq!(status(&shown.bearer(&again), TAGS).await, 404);
        assert_eq!(status(&lab.anonymous().bearer(&again), TAGS).await, 401);
        // Without a certificate there is nothing to bind to.
        let free = lab.token("alice", "repository:team-a/app:pull").await;
        assert_eq!(status(&lab.anonymous().bearer(&free), TAGS).await, 404);
    }
    let lab = lab(NAMING).await;
    let shown = lab.showing(&lab.pki.client("alice"));
    let minted = ask_token(&lab, &shown.basic("alice", &password("alice"))).await;
    let token = minted["token"].as_str().unwrap();
    assert_eq!(status(&lab.anonymous().bearer(token), TAGS).await, 404);
}

// -- when that ends --------------------------------------------------------------------------------

/// An open connection on which its certificate has been accepted.
async fn open(client: &Client) -> Connection {
    let mut connection = client.connect().await;
    assert_eq!(connection.send(client.get(LOGIN)).await.status, 200);
    connection
}

/// The next request on it is told that the certificate is none any more.
async fn assert_refused(lab: &Lab, connection: &mut Connection, client: &Client, pair: &Pair) {
    let (call, mark) = marked(client.get(TAGS));
    let answer = connection.send(call).await;
    answer.assert_problem(401, "UNAUTHORIZED");
    assert!(
        answer.message().contains("client certificate"),
        "{answer:?}"
    );
    let record = record_of(lab, &mark).await;
    assert_eq!(record["outcome"], "failed", "{record}");
    assert_eq!(record["certificate"]["sha256"], fingerprint(pair).as_str());
    assert!(record["user"].is_null(), "{record}");
}

#[tokio::test]
async fn a_reload_ends_certificates_on_open_connections_and_resumed_sessions() {
    let builder = Lab::builder().client_certificates(&format!("{NAMING}\ncrl = [\"clients.crl\"]"));
    let crl = builder.pki.crl(&[]);
    let lab = builder.file("clients.crl", &crl).start().await;
    let pair = lab.pki.numbered("alice", 7);
    let other = lab.pki.numbered("alice", 8);
    let ca = lab.folder.read("ca.pem");
    let other_ca = Pki::new().ca;
    for (file, bad, good) in [
        ("clients.crl", lab.pki.crl(&[7]), &crl),
        ("ca.pem", other_ca, &ca),
    ] {
        let clients = [
            (&TLS13, Http::One),
            (&TLS13, Http::Two),
            (&TLS12, Http::One),
        ]
        .map(|(version, http)| lab.showing_by(&pair, version).over(http));
        let mut connections = Vec::new();
        for client in &clients {
            connections.push(open(client).await);
        }
        let unconcerned = lab.showing(&other);
        let mut unconcerned_connection = open(&unconcerned).await;
        lab.folder.replace(file, bad);
        assert_eq!(lab.reload().await, "allowed");
        for (connection, client) in connections.iter_mut().zip(&clients) {
            assert_refused(&lab, connection, client, &pair).await;
            // Each client keeps the sessions that it had.
            assert!(!speaks(client).await, "{file}");
        }
        let answer = unconcerned_connection.send(unconcerned.get(LOGIN)).await;
        assert_eq!(answer.status, if file == "ca.pem" { 401 } else { 200 });
        lab.folder.replace(file, good);
        assert_eq!(lab.reload().await, "allowed");
        assert_eq!(ping(&clients[0]).await, 200);
    }
}

#[tokio::test]
async fn no_session_is_resumed() {
    let lab = lab("mode = \"off\"\nusername = [\"subject.cn\"]").await;
    let pair = lab.pki.client("alice");
    let clients = [&TLS12, &TLS13].map(|version| lab.showing_by(&pair, version));
    let kind = async |client: &Client| {
        let mut stream = client.raw().await.unwrap();
        // A ticket of TLS 1.3 would come with the first answer.
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {}\r\n\r\n", client.authority);
        let mut some = [0; 2000];
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut some)
            .await
            .unwrap();
        stream.get_ref().1.handshake_kind().unwrap()
    };
    for client in &clients {
        assert_eq!(kind(client).await, HandshakeKind::Full);
        assert_ne!(kind(client).await, HandshakeKind::Resumed);
        assert_eq!(ping(client).await, 401);
    }
    // Least of all is a session from before the certificate counted a way around it.
    let config = lab.config();
    lab.folder
        .replace("portcullis.toml", config.replace("\"off\"", "\"required\""));
    assert_eq!(lab.reload().await, "allowed");
    for client in &clients {
        for _ in 0..3 {
            assert_ne!(kind(client).await, HandshakeKind::Resumed);
            assert_eq!(ping(client).await, 200);
        }
    }
}

#[tokio::test]
async fn a_reload_changes_what_open_connections_certificates_are_worth() {
    let lab = lab(GATE).await;
    let pair = lab.pki.client("alice");
    for http in Http::BOTH {
        let (shown, bare) = (lab.showing(&pair).over(http), lab.user("alice").over(http));
        let with_password = shown.basic("alice", &password("alice"));
        let as_bob = shown.basic("bob", &password("bob"));
        let mut with = open(&with_password).await;
        let mut without = open(&bare).await;
        let config = lab.config();
        let set = async |lines: &str| {
            lab.folder
                .replace("portcullis.toml", config.replace(GATE, lines));
            assert_eq!(lab.reload().await, "allowed");
        };
        assert_eq!(with.send(shown.get(LOGIN)).await.status, 401);
        assert_eq!(with.send(as_bob.get(LOGIN)).await.status, 200);
        set(NAMING).await;
        assert_eq!(with.send(shown.get(LOGIN)).await.status, 200);
        assert_eq!(with.send(as_bob.get(LOGIN)).await.status, 401);
        set("mode = \"off\"").await;
        assert_eq!(with.send(shown.get(LOGIN)).await.status, 401);
        assert_eq!(with.send(as_bob.get(LOGIN)).await.status, 200);
        set(REQUIRED).await;
        assert_eq!(with.send(as_bob.get(LOGIN)).await.status, 200);
        assert_eq!(without.send(bare.get(LOGIN)).await.status, 401);
        set(GATE).await;
    }
}

#[tokio::test]
async fn a_certificate_that_ends_ends_its_open_connections_rights() {
    let lab = lab(NAMING).await;
    let pair = lab.pki.client_with("alice", ends_in(3));
    let clients = Http::BOTH.map(|http| lab.showing(&pair).over(http));
    let mut connections = [open(&clients[0]).await, open(&clients[1]).await];
    let token = ask_token(&lab, &clients[0]).await["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let begun = Instant::now();
    let [first, second] = &mut connections;
    while first.send(clients[0].get(LOGIN)).await.status == 200 {
        assert!(begun.elapsed() < PATIENCE, "it did not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What it was good for has ended with it.
    assert_refused(&lab, second, &clients[1], &pair).await;
    assert_eq!(status(&lab.anonymous().bearer(&token), TAGS).await, 401);
    // The second in which it ends is its own for handshakes, and no longer for requests.
    while let Ok(answer) = clients[0].get(LOGIN).try_send().await {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(
            begun.elapsed() < PATIENCE,
            "it is still good for handshakes"
        );
    }
}
