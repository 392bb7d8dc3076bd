//! Names and end of certificates.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueHint;
use jiff::Timestamp;
use portcullis::config::Config;
use portcullis::hash::{hex, sha256};
use portcullis::report::terminal::escape_controls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Serialize, Serializer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cli::config_file::load;

const DAY: i64 = 24 * 60 * 60;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// PEM files; every certificate in them is shown.
    #[arg(required_unless_present = "config", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// A configuration; the certificates that it names are shown.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Counts certificates that end within this many days as ended.
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    within: u32,
    /// One JSON array on standard output.
    #[arg(long)]
    json: bool,
}

/// One certificate.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    file: PathBuf,
    subject: String,
    names: Vec<String>,
    issuer: String,
    #[serde(serialize_with = "rfc3339")]
    not_before: Timestamp,
    #[serde(serialize_with = "rfc3339")]
    not_after: Timestamp,
    days_left: i64,
    sha256: String,
}

fn rfc3339<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(time)
}

impl Args {
    pub(super) fn run(self, now: Timestamp, out: &mut dyn Write) -> Result<ExitCode> {
        let mut files = self.files;
        if let Some(path) = &self.config {
            match load(path) {
                Ok((config, _warnings)) => files.extend(named_by(config)),
                Err(code) => return Ok(code),
            }
        }
        let mut shown = Vec::new();
        for file in &files {
            shown.extend(read(file, now)?);
        }
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &shown)?;
            writeln!(out)?;
        } else {
            shown.iter().try_for_each(|one| print(one, out))?;
        }
        let limit = i64::from(self.within);
        let ended = |one: &Shown| one.not_after <= now || one.days_left < limit;
        Ok(ExitCode::from(u8::from(shown.iter().any(ended))))
    }
}

fn named_by(config: Config) -> impl Iterator<Item = PathBuf> {
    std::iter::once(config.tls.certificate).chain(config.upstream.ca)
}

/// Every certificate of a PEM file.
pub(super) fn read(file: &Path, now: Timestamp) -> Result<Vec<Shown>> {
    let pem = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| anyhow!("{}: broken PEM: {cause}", file.display()))?;
    ensure!(
        !certificates.is_empty(),
        "{} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        file.display()
    );
    certificates
        .iter()
        .map(|der| describe(file, der, now))
        .collect()
}

fn describe(file: &Path, der: &CertificateDer<'_>, now: Timestamp) -> Result<Shown> {
    let (_, parsed) = X509Certificate::from_der(der)
        .map_err(|cause| anyhow!("{}: no X.509 certificate: {cause}", file.display()))?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp());
    let not_after = at(parsed.validity().not_after)?;
    let left = not_after.as_second().saturating_sub(now.as_second());
    let names = match parsed.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().map(name).collect(),
        Ok(None) => Vec::new(),
        Err(_) => vec!["unreadable".to_owned()],
    };
    Ok(Shown {
        file: file.to_owned(),
        subject: escape_controls(&parsed.subject().to_string()),
        names,
        issuer: escape_controls(&parsed.issuer().to_string()),
        not_before: at(parsed.validity().not_before)?,
        not_after,
        days_left: left.div_euclid(DAY),
        sha256: fingerprint(der),
    })
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => escape_controls(&format!("DNS:{name}")),
        GeneralName::URI(uri) => escape_controls(&format!("URI:{uri}")),
        GeneralName::RFC822Name(address) => escape_controls(&format!("email:{address}")),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            match v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)) {
                Ok(address) => format!("IP:{address}"),
                Err(_) => "IP:malformed".to_owned(),
            }
        }
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => escape_controls(&name.to_string()),
    }
}

/// The SHA-256 of the whole certificate, as `openssl x509 -fingerprint` prints it.
pub(super) fn fingerprint(der: &[u8]) -> String {
    let bytes = sha256(der).map(|byte| hex(&[byte]).to_uppercase());
    bytes.join(":")
}

fn print(shown: &Shown, out: &mut dyn Write) -> Result<()> {
    let left = match shown.days_left {
        ..0 => "ENDED".to_owned(),
        0 => "ends within a day".to_owned(),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    };
    writeln!(out, "{}", shown.file.display())?;
    writeln!(out, "  subject    {}", shown.subject)?;
    if !shown.names.is_empty() {
        writeln!(out, "  names      {}", shown.names.join(", "))?;
    }
    writeln!(out, "  issuer     {}", shown.issuer)?;
    writeln!(out, "  not after  {} ({left})", shown.not_after)?;
    writeln!(out, "  sha256     {}", shown.sha256)?;
    Ok(())
}
