//! What is wrong or weak in an htpasswd file, told to whoever keeps it: where, what, and what to
//! do. A finding never holds a hash, nor any text that could be a password.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::bounds::{MAX_COST, MAX_ROUNDS, MAX_USER, MIN_COST, MIN_ROUNDS, SOUND_COST};
use super::line::{Line, Offset};
use crate::identity::{Name, NameError, Origin};

/// Something about one line. Shown as `FILE:LINE:COLUMN: user NAME: cause; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<C> {
    /// The htpasswd file, as the caller named it.
    pub file: Arc<Path>,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// Whose line it is, where the name itself is in order.
    pub user: Option<Box<str>>,
    /// What was found.
    pub cause: C,
    /// What to do about it.
    pub remedy: String,
}

/// A line that cannot be used.
pub type LineError = Finding<Problem>;

/// A line that keeps nothing else from being used: its hash is weaker than it should be, or nobody can
/// have its name.
pub type LineWarning = Finding<Weakness>;

impl<C: fmt::Display> fmt::Display for Finding<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if let Some(user) = &self.user {
            write!(f, "user `{user}`: ")?;
        }
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}

impl std::error::Error for LineError {}

impl LineError {
    /// A problem of one line.
    pub(super) fn new(file: &Arc<Path>, line: &Line<'_>, problem: Problem) -> Self {
        let user = line.user.filter(|user| check_user(user).is_ok());
        Self {
            file: Arc::clone(file),
            line: line.number,
            column: line.column(problem.offset()),
            user: user.map(Into::into),
            cause: problem,
            remedy: problem.remedy(file, user.unwrap_or("USER")),
        }
    }

    /// The same for whoever goes on without the line.
    pub fn into_warning(self) -> LineWarning {
        Finding {
            file: self.file,
            line: self.line,
            column: self.column,
            user: self.user,
            cause: Weakness::Damaged(self.cause),
            remedy: self.remedy,
        }
    }

    /// What is wrong with a file as a whole.
    pub(super) fn of_file(file: &Arc<Path>, cause: Problem) -> Self {
        Self {
            file: Arc::clone(file),
            line: 1,
            column: 1,
            user: None,
            cause,
            remedy: cause.remedy(file, "USER"),
        }
    }
}

impl LineWarning {
    /// A weakness of one user's line.
    pub(super) fn new(file: &Arc<Path>, line: &Line<'_>, user: &str, weakness: Weakness) -> Self {
        Self {
            file: Arc::clone(file),
            line: line.number,
            column: line.column(Offset::Hash(0)),
            user: Some(user.into()),
            cause: weakness,
            remedy: run_passwd(file, user),
        }
    }

    /// A line that is skipped, for a name that nobody can have.
    pub(super) fn skipped(file: &Arc<Path>, line: &Line<'_>, unfit: NameError) -> Self {
        Self {
            file: Arc::clone(file),
            line: line.number,
            column: line.column(Offset::User),
            user: None,
            cause: Weakness::Skipped(unfit),
            remedy: CORRECT_NAME.to_owned(),
        }
    }
}

/// Why a line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Extended DES crypt, `_...`.
    #[error("BSDi's extended DES crypt is not accepted")]
    Bsdi,
    /// A bcrypt cost that would let one login occupy a core for seconds.
    #[error("bcrypt cost {0} takes too long to verify, {MAX_COST} is the highest accepted")]
    CostTooHigh(u32),
    /// A bcrypt cost that the algorithm does not have.
    #[error("bcrypt has no cost {0}, {MIN_COST} is the lowest")]
    CostTooLow(u32),
    /// Traditional DES crypt.
    #[error("DES crypt is not accepted, it reads only 8 characters of a password")]
    Des,
    /// A second line of a user; which one counts would be a guess.
    #[error("the user has an entry already, in line {0}")]
    Duplicate(usize),
    /// An end of the hash is missing, or a character of it is wrong.
    #[error("the {0} hash is damaged: its length or a character is wrong")]
    Malformed(&'static str),
    /// A byte order mark before or in the name.
    #[error("a byte order mark (BOM) stands in the user name, where two files were joined perhaps")]
    Mark,
    /// `$1$`
    #[error("MD5 crypt ($1$) is not accepted")]
    Md5Crypt,
    /// Neither a user nor a comment.
    #[error("the line has no `:` between a user and a hash")]
    NoColon,
    /// Nothing after the colon.
    #[error("there is no hash after the `:`")]
    NoHash,
    /// Bytes that are no text.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// An empty table is a mistake more often than a wish: it locks everybody out.
    #[error("the file names no user")]
    NoUsers,
    /// SHA-crypt rounds that would let one login occupy a core for seconds.
    #[error("{0} rounds take too long to verify, {MAX_ROUNDS} is the highest accepted")]
    RoundsTooMany(u32),
    /// SHA-crypt rounds that the algorithm does not have.
    #[error("SHA-crypt has no {0} rounds, {MIN_ROUNDS} is the lowest")]
    RoundsTooFew(u32),
    /// A field or white space after the hash.
    #[error("something follows after the hash")]
    Trailing,
    /// Another encoding of the whole file.
    #[error("the file is UTF-16, not UTF-8")]
    Utf16,
    /// None of the hashes known, or no hash at all.
    #[error("this is no known kind of hash, and plain passwords are not accepted")]
    Unknown,
    /// A control character in the name.
    #[error("the user name has a control character")]
    UserControl,
    /// A name that would make its line a comment.
    #[error("the user name begins with `#`, which marks a comment")]
    UserComment,
    /// A name that would end early.
    #[error("the user name has a `:`, which ends it in the file")]
    UserColon,
    /// No name.
    #[error("the user name is empty")]
    UserEmpty,
    /// White space around the name, which nobody would see and no client would send.
    #[error("the user name begins or ends with white space")]
    UserSpace,
    /// A name that nobody can have.
    #[error(transparent)]
    UserUnfit(NameError),
    /// A name longer than any request may present.
    #[error("the user name is longer than {MAX_USER} bytes")]
    UserTooLong,
    /// `$2x$`, made by a faulty implementation of bcrypt.
    #[error("bcrypt of type $2x$ is not accepted, its maker ignored parts of a password")]
    Bcrypt2x,
    /// `$y$`, `$gy$`, `$7$`
    #[error("yescrypt and scrypt are not accepted")]
    Yescrypt,
}

impl Problem {
    fn offset(self) -> Offset {
        match self {
            Self::Bsdi
            | Self::Des
            | Self::Malformed(_)
            | Self::Md5Crypt
            | Self::NoHash
            | Self::Unknown
            | Self::Bcrypt2x
            | Self::Yescrypt => Offset::Hash(0),
            Self::CostTooHigh(_) | Self::CostTooLow(_) => Offset::Hash("$2y$".len()),
            Self::RoundsTooMany(_) | Self::RoundsTooFew(_) => Offset::Hash("$5$rounds=".len()),
            Self::Trailing => Offset::AfterHash,
            Self::Duplicate(_)
            | Self::Mark
            | Self::NoColon
            | Self::NotUtf8
            | Self::NoUsers
            | Self::UserControl
            | Self::UserComment
            | Self::UserColon
            | Self::UserEmpty
            | Self::UserSpace
            | Self::UserTooLong
            | Self::UserUnfit(_)
            | Self::Utf16 => Offset::User,
        }
    }

    fn remedy(self, file: &Path, user: &str) -> String {
        match self {
            Self::Bsdi
            | Self::CostTooHigh(_)
            | Self::CostTooLow(_)
            | Self::Des
            | Self::Malformed(_)
            | Self::Md5Crypt
            | Self::NoHash
            | Self::NoUsers
            | Self::RoundsTooMany(_)
            | Self::RoundsTooFew(_)
            | Self::Trailing
            | Self::Unknown
            | Self::Bcrypt2x
            | Self::Yescrypt => run_passwd(file, user),
            Self::Duplicate(_) => "remove one of the two lines".to_owned(),
            Self::NoColon => "write USER:HASH, or begin a comment with #".to_owned(),
            Self::Mark => {
                let file = quoted(&file.to_string_lossy());
                format!(r"take it out: sed -i 's/\xEF\xBB\xBF//g' {file}")
            }
            Self::NotUtf8 => "save the file as UTF-8".to_owned(),
            Self::Utf16 => {
                let file = quoted(&file.to_string_lossy());
                format!("save it as UTF-8: iconv -f UTF-16 -t UTF-8 {file}")
            }
            Self::UserControl
            | Self::UserComment
            | Self::UserColon
            | Self::UserEmpty
            | Self::UserSpace
            | Self::UserTooLong
            | Self::UserUnfit(_) => CORRECT_NAME.to_owned(),
        }
    }
}

/// What is to be done about a name that is no good.
const CORRECT_NAME: &str = "correct the name, or remove the line";

/// Why a user's hash should be renewed, or the name changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// `$apr1$`
    #[error("apr1 (MD5) is quickly guessed once the file leaks")]
    Apr1,
    /// A line that cannot be used.
    #[error("{0}; the line is skipped, and nobody can log in by it")]
    Damaged(Problem),
    /// bcrypt below cost 10.
    #[error("bcrypt cost {0} is quickly guessed once the file leaks, {SOUND_COST} is sound")]
    LowCost(u32),
    /// A name that files of earlier versions may hold.
    #[error("{0}; the line is skipped, and nobody can log in by that name")]
    Skipped(NameError),
    /// `{SHA}`
    #[error("SHA-1 without a salt is guessed at once when the file leaks")]
    Unsalted,
}

/// Whether a name can stand in a file: not empty, at most 256 bytes, no control character and no byte
/// order mark, no `:`, no `#` in front, no white space around it, and else a name that somebody can have.
pub fn check_user(user: &str) -> Result<(), Problem> {
    match user {
        "" => Err(Problem::UserEmpty),
        long if long.len() > MAX_USER => Err(Problem::UserTooLong),
        marked if marked.contains('\u{feff}') => Err(Problem::Mark),
        odd if odd.contains(char::is_control) => Err(Problem::UserControl),
        odd if odd.contains(':') => Err(Problem::UserColon),
        odd if odd.trim() != odd => Err(Problem::UserSpace),
        odd if odd.starts_with('#') => Err(Problem::UserComment),
        fine => match Name::parse(fine, Origin::Password) {
            Ok(_name) => Ok(()),
            Err(error) => Err(Problem::UserUnfit(error)),
        },
    }
}

fn run_passwd(file: &Path, user: &str) -> String {
    // A name that begins with a dash is no option.
    let dashes = if user.starts_with('-') { "-- " } else { "" };
    let file = quoted(&file.to_string_lossy());
    format!("run: portcullis passwd {dashes}{file} {}", quoted(user))
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-._/@+,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
