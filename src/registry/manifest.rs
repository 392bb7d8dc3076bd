//! What a manifest refers to (OCI image specification 1.1, "Image Manifest" and "Image Index"; Docker
//! image manifest schema 1 and 2). Only descriptors are looked at: whether the rest is good is the
//! registry's to say.

use std::collections::HashSet;

use serde::Deserialize;

use super::Digest;

/// Digests that are kept of one manifest. The largest image indexes and layer lists seen have a few
/// dozen.
const KEPT: usize = 128;

/// The digests that a manifest names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The first of them, each once, in the manifest's order.
    pub digests: Vec<Digest>,
    /// How many there are, each counted once.
    pub count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    #[serde(borrow)]
    config: Option<Descriptor<'a>>,
    #[serde(borrow)]
    subject: Option<Descriptor<'a>>,
    #[serde(borrow, default)]
    layers: Vec<Descriptor<'a>>,
    #[serde(borrow, default)]
    manifests: Vec<Descriptor<'a>>,
    #[serde(borrow, default)]
    blobs: Vec<Descriptor<'a>>,
    #[serde(borrow, default)]
    fs_layers: Vec<OldLayer<'a>>,
}

#[derive(Deserialize)]
struct Descriptor<'a> {
    #[serde(borrow)]
    digest: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldLayer<'a> {
    #[serde(borrow)]
    blob_sum: std::borrow::Cow<'a, str>,
}

impl References {
    /// Reads a manifest. One that cannot be read names nothing: the registry refuses it.
    pub fn of(manifest: &[u8]) -> Self {
        let Ok(manifest) = serde_json::from_slice::<Manifest<'_>>(manifest) else {
            return Self::default();
        };
        let Manifest {
            config,
            subject,
            layers,
            manifests,
            blobs,
            fs_layers,
        } = manifest;
        let single = config.into_iter().chain(subject);
        let listed = layers.into_iter().chain(manifests).chain(blobs);
        let named = single.chain(listed).map(|found| found.digest);
        let old = fs_layers.into_iter().map(|layer| layer.blob_sum);
        let mut seen = HashSet::new();
        let mut references = Self::default();
        for digest in named.chain(old).filter_map(|text| Digest::parse(&text)) {
            if !seen.insert(digest.clone()) {
                continue;
            }
            references.count = references.count.saturating_add(1);
            if references.digests.len() < KEPT {
                references.digests.push(digest);
            }
        }
        references
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, References};
    use proptest::prelude::*;

    fn digest(number: u32) -> String {
        format!("sha256:{number:064x}")
    }

    fn of(text: &str) -> Vec<String> {
        let References { digests, count } = References::of(text.as_bytes());
        assert_eq!(u64::try_from(digests.len()).unwrap(), count);
        digests.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_manifest_names_its_parts() {
        let (a, b, c) = (digest(1), digest(2), digest(3));
        for (manifest, named) in [
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{{"digest":"{a}","size":1}},
                       "layers":[{{"digest":"{b}"}},{{"digest":"{b}"}}],"subject":{{"digest":"{c}"}}}}"#
                ),
                vec![&a, &c, &b],
            ),
            (
                format!(
                    r#"{{"manifests":[{{"digest":"{b}","platform":{{}}}},{{"digest":"{a}"}}]}}"#
                ),
                vec![&b, &a],
            ),
            (format!(r#"{{"blobs":[{{"digest":"{c}"}}]}}"#), vec![&c]),
            (format!(r#"{{"fsLayers":[{{"blobSum":"{a}"}}]}}"#), vec![&a]),
            (r#"{"layers":[{"digest":"md5:1"}]}"#.to_owned(), vec![]),
            ("{}".to_owned(), vec![]),
            ("[1]".to_owned(), vec![]),
            ("{\"layers\":".to_owned(), vec![]),
        ] {
            let found = of(&manifest);
            assert_eq!(found.iter().collect::<Vec<_>>(), named, "{manifest}");
        }
    }

    proptest! {
        #[test]
        fn many_are_counted_and_the_first_are_kept(numbers in prop::collection::vec(0_u32..400, 0..500)) {
            let layers: Vec<_> = numbers.iter().map(|n| format!("{{\"digest\":\"{}\"}}", digest(*n))).collect();
            let manifest = format!("{{\"layers\":[{}]}}", layers.join(","));
            let mut distinct = Vec::new();
            for number in numbers {
                if !distinct.contains(&number) {
                    distinct.push(number);
                }
            }
            let found = References::of(manifest.as_bytes());
            prop_assert_eq!(found.count, u64::try_from(distinct.len()).unwrap());
            let kept: Vec<_> = found.digests.iter().map(ToString::to_string).collect();
            let expected: Vec<_> = distinct.into_iter().take(KEPT).map(digest).collect();
            prop_assert_eq!(kept, expected);
        }
    }
}
