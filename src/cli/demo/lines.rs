//! The lines to paste. Each of them works as it stands.

use std::io::Write;
use std::path::Path;

use anyhow::Result;

use super::folder::{Setup, USER};
use super::probe::Answer;

/// Prints where everything is and how to use it.
pub(super) fn print(
    setup: &Setup,
    answer: Answer,
    registry: Option<&Path>,
    proxy: Option<u32>,
    out: &mut dyn Write,
) -> Result<()> {
    let path = |name: &str| quoted(&setup.path(name));
    let (host, ca, secret) = (
        format!("localhost:{}", setup.port),
        path("ca.pem"),
        path("demo-password"),
    );
    let sudo = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    let behind = match registry {
        Some(program) => program.display().to_string(),
        None => setup.upstream().to_owned(),
    };
    let password = setup.password()?;
    writeln!(
        out,
        "
https://{host} is ready; behind it is {behind}.

  user        {USER}
  password    {}   (kept in {secret})
  config      {}
  audit       {}

With docker, which takes localhost without asking for its certificate:

  docker login --username {USER} --password-stdin {host} < {secret}
  tar -C /etc -ch os-release | docker import - {host}/demo/hello:1
  docker push {host}/demo/hello:1
  docker rmi {host}/demo/hello:1
  docker pull {host}/demo/hello:1
  docker logout {host}

podman and skopeo ask for the certificate, and so does docker under any other name. They find the
CA here:

  {sudo}mkdir -p /etc/docker/certs.d/{host} && {sudo}cp {ca} /etc/docker/certs.d/{host}/ca.crt

With curl and skopeo:

  curl --cacert {ca} -u {USER}:{} https://{host}/v2/
  curl --cacert {ca} https://{host}/v2/demo/hello/tags/list      # 401: nobody in particular
  skopeo login --cert-dir {client} --username {USER} --password-stdin {host} < {secret}
  skopeo list-tags --cert-dir {client} docker://{host}/demo/hello
  skopeo delete --cert-dir {client} docker://{host}/demo/hello:1

Names under public/ can be pulled without logging in; demo/frozen can only be pulled; all others
are refused. After a change of the config:

  {hup}",
        *password,
        path("portcullis.toml"),
        path("audit.jsonl"),
        *password,
        client = path("client"),
        hup = match proxy {
            Some(id) => format!("kill -HUP {id}"),
            None => "send SIGHUP to the proxy".to_owned(),
        },
    )?;
    if let Answer::Refused(status) = answer {
        writeln!(
            out,
            "\nThe config has been changed since the demo was made: it answers {status} to the \
             user {USER} and this password."
        )?;
    }
    writeln!(
        out,
        "\nCtrl-C stops it all; the next start finds everything as it was."
    )?;
    Ok(())
}

// For a shell: as it is if plain, else in single quotes.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        for (path, line) in [
            ("/home/a/demo", "/home/a/demo"),
            ("/home/a b/demo", "'/home/a b/demo'"),
            ("/it's", r"'/it'\''s'"),
            ("/$(reboot)", "'/$(reboot)'"),
        ] {
            assert_eq!(quoted(Path::new(path)), line);
        }
    }
}
