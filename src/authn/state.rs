//! What outlives a reload: the hashing threads, what was verified lately and from where, and the
//! directory while nothing about it changes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;

use super::cache::Cache;
use super::hashing::HashingPool;
use super::ldap::{self, Directory};
use super::recent::RecentLogins;
use crate::identity::Name;
use crate::limit::{Source, Trust};

/// The part of authentication that survives a reload.
pub struct AuthnState {
    pub(super) pool: HashingPool,
    pub(super) cache: Cache,
    pub(super) recent: RecentLogins,
    directory: Mutex<Option<Arc<Directory>>>,
}

impl AuthnState {
    /// Starts the threads; verified credentials will be remembered for `cache_ttl`, but never
    /// longer than a day. Zero remembers none.
    pub fn new(cache_ttl: Duration) -> Self {
        Self {
            pool: HashingPool::start(),
            cache: Cache::new(cache_ttl),
            recent: RecentLogins::new(),
            directory: Mutex::default(),
        }
    }

    /// Takes over a configuration's `cache_ttl`; call it when the configuration is swapped in. If
    /// it differs from the one in force, everybody is verified anew at their next request.
    pub fn set_cache_ttl(&self, cache_ttl: Duration) {
        self.cache.set_ttl(cache_ttl);
    }

    /// The directory of a configuration: the one in use, with its connections, unless something about
    /// it is new. `ca` is what its certificates are verified with, for changes to be seen.
    pub fn directory(
        &self,
        config: &ldap::Settings,
        tls: Option<&Arc<ClientConfig>>,
        ca: &[u8],
    ) -> Arc<Directory> {
        let wanted = Directory::fingerprint_of(config, ca);
        let mut known = self.directory.lock();
        match &*known {
            Some(known) if known.fingerprint() == wanted => Arc::clone(known),
            Some(_) | None => {
                let fresh = Arc::new(Directory::new(config, tls, ca));
                Arc::clone(known.insert(fresh))
            }
        }
    }

    /// Trust in a login that comes from there: whether a user of this name logged in from there with a
    /// password in the last days. Cheap, and no proof of who is asking now: it decides who goes first,
    /// and nothing else.
    pub fn trust(&self, user: &Name, from: Source) -> Trust {
        self.recent.trust(user.folded(), from)
    }

    /// The hashing threads.
    pub fn pool(&self) -> &HashingPool {
        &self.pool
    }
}
