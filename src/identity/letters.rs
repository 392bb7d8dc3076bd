//! Letters that look alike, and letters that nobody sees.

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Whether nobody sees a character, or sees a mere space.
pub(super) fn is_invisible(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let is_blank = matches!(
        category,
        GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::SpaceSeparator
    );
    // The blank Braille pattern is a symbol to Unicode.
    (is_blank && c != ' ')
        || c == '\u{2800}'
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// In compatible characters (UAX 15, NFKC).
pub(super) fn compatible(text: &str) -> String {
    let normalizer = ComposingNormalizerBorrowed::new_nfkc();
    normalizer.normalize(text).into_owned()
}

/// Without regard to case and to compatible characters (Unicode, D146).
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let (case, parts) = (CaseMapper::new(), DecomposingNormalizerBorrowed::new_nfkd());
    let once = |text: &str| case.fold_string(&parts.normalize(text)).into_owned();
    compatible(&once(&once(text)))
}
