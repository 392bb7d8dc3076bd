//! What can be done to a repository.

/// What a policy grants or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// See the whole catalog.
    Catalog,
    /// Delete manifests, tags and blobs.
    Delete,
    /// Move a tag that exists.
    Overwrite,
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Upload blobs and create tags.
    Push,
}

impl Action {
    /// Every action, in the order in which people name them.
    pub const ALL: [Self; 5] = [
        Self::Pull,
        Self::Push,
        Self::Overwrite,
        Self::Delete,
        Self::Catalog,
    ];

    /// The action's name in configuration, audit records and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Delete => "delete",
            Self::Overwrite => "overwrite",
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }

    /// Reads an action's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}
