//! Fuzz targets: tokens, what they say, and scopes.

use std::sync::LazyLock;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::scope::write_scope;
use super::{Asked, Claims, Keys, Kind, parse_scopes};
use crate::fuzz::lines;
use crate::identity::Grant;
use crate::registry::Action;

const SERVICE: &str = "registry.test";
const CLAIMS: &str = r#"{"iss":"portcullis","sub":"alice","aud":"registry.test","exp":2000,
    "nbf":1000,"iat":1000,"jti":"1","kind":"access","access":[
    {"type":"repository","name":"a/b","actions":["pull","push"]}]}"#;

/// A key, and a token that is signed with it.
static MINTED: LazyLock<Option<(Keys, String)>> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
    let keys = Keys::new(pair.to_pkcs8v1().ok()?.as_ref()).ok()?;
    let token = keys.mint(&serde_json::from_str(CLAIMS).ok()?).ok()?;
    Some((keys, token))
});

/// Our own token with changes: whatever is not that very token is refused. The first byte says what
/// is changed: single bytes of it, its header, its claims, or everything.
pub(crate) fn token(bytes: &[u8]) {
    let (Some((keys, minted)), Some((mode, rest))) = (&*MINTED, bytes.split_first()) else {
        assert!(MINTED.is_some());
        return;
    };
    let mut parts: Vec<String> = minted.split('.').map(str::to_owned).collect();
    let forged = match mode {
        b'b' => {
            let mut forged = minted.clone().into_bytes();
            for change in rest.chunks_exact(3) {
                if let [high, low, new] = change {
                    let at = usize::from(u16::from_be_bytes([*high, *low]));
                    let at = at.checked_rem(forged.len()).unwrap_or_default();
                    if let Some(byte) = forged.get_mut(at) {
                        *byte = *new;
                    }
                }
            }
            String::from_utf8_lossy(&forged).into_owned()
        }
        b'h' | b'c' => {
            let part = usize::from(*mode == b'c');
            if let Some(part) = parts.get_mut(part) {
                *part = URL_SAFE_NO_PAD.encode(rest);
            }
            parts.join(".")
        }
        _ => String::from_utf8_lossy(rest).into_owned(),
    };
    let at = Timestamp::from_second(1500).unwrap_or_default();
    let accepted = keys.verify(&forged, Kind::Access, SERVICE, &[at]).is_ok();
    assert_eq!(accepted, forged == *minted, "{forged}");
    assert!(keys.verify(&forged, Kind::Refresh, SERVICE, &[at]).is_err());
    assert!(keys.verify(&forged, Kind::Access, "other", &[at]).is_err());
}

/// JSON of claims: what is minted is what is verified, and grants are of real repositories.
pub(crate) fn claims(bytes: &[u8]) {
    let (Some((keys, _)), Ok(claims)) = (&*MINTED, serde_json::from_slice::<Claims>(bytes)) else {
        assert!(MINTED.is_some());
        return;
    };
    let Ok(token) = keys.mint(&claims) else {
        return;
    };
    let at = Timestamp::from_second(claims.nbf).unwrap_or_default();
    let lasts = (claims.nbf..claims.exp).contains(&at.as_second());
    let verified = keys.verify(&token, claims.kind, &claims.aud, &[at]);
    let is_ours = lasts && claims.iss == "portcullis";
    // No token of ours is from before 1970, and the library takes none that is.
    let expected = is_ours && claims.nbf >= 0 && claims.exp >= 0 && claims.subject().is_some();
    assert!(
        verified.is_ok() == expected || (is_ours && !expected),
        "{claims:?}"
    );
    let Ok(verified) = verified else {
        return;
    };
    assert_eq!(verified.claims, claims);
    assert_eq!(Some(&verified.subject), claims.subject().as_ref());
    assert!(verified.grants.len() <= claims.access.len());
    written(&verified.grants);
}

/// Scopes in lines: no more than a bound, none twice, and what is granted is written so that it is
/// read as the same.
pub(crate) fn scope(bytes: &[u8]) {
    let texts = lines(bytes).filter_map(|line| std::str::from_utf8(line).ok());
    let asked = parse_scopes(texts);
    assert!(asked.len() <= 64);
    for (at, one) in asked.iter().enumerate() {
        assert!(!asked.iter().take(at).any(|before| before == one));
        if let Asked::Repository { actions, .. } = one {
            let once = |action: &Action| actions.iter().filter(|a| *a == action).count() == 1;
            assert!(actions.iter().all(once));
            assert!(!actions.contains(&Action::Overwrite) && !actions.contains(&Action::Catalog));
        }
    }
    let grants: Vec<_> = asked.into_iter().map(granted).collect();
    written(&grants);
}

fn granted(asked: Asked) -> Grant {
    match asked {
        Asked::Catalog => Grant::Catalog,
        Asked::Repository { name, actions } => Grant::Repository { name, actions },
    }
}

/// The scope of grants names exactly the repositories that they are of.
fn written(grants: &[Grant]) {
    let names = |grants: &[Grant]| -> std::collections::BTreeSet<String> {
        let name = |grant: &Grant| match grant {
            Grant::Catalog => String::new(),
            Grant::Repository { name, .. } => name.to_string(),
        };
        grants.iter().map(name).collect()
    };
    let scope = write_scope(grants);
    let again: Vec<_> = parse_scopes([scope.as_str()].into_iter())
        .into_iter()
        .map(granted)
        .collect();
    let (before, after) = (names(grants), names(&again));
    assert!(before == after || after.len() == 64, "{scope}");
}
