//! How long names and passwords may be, and what a hash may cost.

/// The longest user name, in bytes; requests cannot present a longer one.
pub(super) const MAX_USER: usize = 256;
/// bcrypt's lowest cost.
pub(super) const MIN_COST: u32 = 4;
/// The highest cost accepted: most of a second on a fast core.
pub const MAX_COST: u32 = 14;
/// The lowest cost that is not warned about, and the one new hashes get.
pub const SOUND_COST: u32 = 10;
/// bcrypt ignores what stands behind this many bytes, so longer passwords are refused.
pub const BCRYPT_PASSWORD: usize = 72;
/// SHA-crypt's lowest number of rounds.
pub(super) const MIN_ROUNDS: u32 = 1_000;
/// The highest number of SHA-crypt rounds accepted.
pub(super) const MAX_ROUNDS: u32 = 200_000;
