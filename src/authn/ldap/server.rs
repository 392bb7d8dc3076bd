//! One directory server: the connection that searches, and those that verify passwords.
//!
//! All searches share one connection, on which the service account has bound. A bind changes whose
//! a connection is, so each needs one to itself; a few are kept for the next.

use parking_lot::Mutex;

use super::LdapServer;
use super::breaker::Breaker;
use super::connection::{Connection, Found, Security, Trouble};
use crate::identity::{Password, Secret};

/// How many connections wait for the next bind.
const MOST_IDLE: usize = 8;

/// The account that searches.
type ServiceAccount = (Box<str>, Secret<String>);

pub(super) struct Server {
    pub(super) address: LdapServer,
    pub(super) breaker: Breaker,
    security: Security,
    account: Option<ServiceAccount>,
    searching: tokio::sync::Mutex<Option<Connection>>,
    idle: Mutex<Vec<Connection>>,
}

impl Server {
    pub(super) fn new(
        address: LdapServer,
        security: Security,
        account: Option<ServiceAccount>,
    ) -> Self {
        Self {
            address,
            breaker: Breaker::default(),
            security,
            account,
            searching: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// Connects, and binds as the service account, unless that was done before.
    pub(super) async fn ready(&self) -> Result<(), Trouble> {
        self.searcher(None).await.map(drop)
    }

    /// Whose searches they are.
    pub(super) fn account(&self) -> &str {
        self.account.as_ref().map_or("anonymous", |(dn, _)| dn)
    }

    /// Searches as the service account.
    pub(super) async fn search(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Found, Trouble> {
        let mut kept = self.searcher(None).await?;
        let found = kept.search(base, filter, attributes, most).await;
        match found {
            // It may have closed since it was used last. A search may be repeated.
            Err(Trouble::Lost(_)) => {
                let mut fresh = self.searcher(Some(&kept)).await?;
                fresh.search(base, filter, attributes, most).await
            }
            Ok(_) | Err(_) => found,
        }
    }

    /// Tries a user's password; the result code.
    pub(super) async fn bind(&self, dn: &str, password: &Password) -> Result<u32, Trouble> {
        while let Some(mut kept) = self.take() {
            match kept.bind(dn, password.expose()).await {
                // As above.
                Err(Trouble::Lost(_)) => {}
                answer => return self.give_back(kept, answer),
            }
        }
        let mut fresh = Connection::open(&self.address, &self.security).await?;
        let answer = fresh.bind(dn, password.expose()).await;
        self.give_back(fresh, answer)
    }

    /// Throws every connection away, after one of them did not answer.
    pub(super) fn discard(&self) {
        self.idle.lock().clear();
        // Whoever holds it is connecting anew.
        if let Ok(mut searching) = self.searching.try_lock() {
            *searching = None;
        }
    }

    /// The connection for searches, made if there is none, or none but `lost`.
    async fn searcher(&self, lost: Option<&Connection>) -> Result<Connection, Trouble> {
        let mut searching = self.searching.lock().await;
        if let Some(kept) = searching.as_mut()
            && !kept.is_closed()
            && !lost.is_some_and(|lost| lost.is(kept))
        {
            return Ok(kept.clone());
        }
        *searching = None;
        let mut fresh = Connection::open(&self.address, &self.security).await?;
        if let Some((dn, password)) = &self.account {
            match fresh.bind(dn, password.expose()).await? {
                0 => {}
                code => return Err(Trouble::ServiceAccount(code)),
            }
        }
        Ok(searching.insert(fresh).clone())
    }

    fn give_back(
        &self,
        connection: Connection,
        answer: Result<u32, Trouble>,
    ) -> Result<u32, Trouble> {
        let mut idle = self.idle.lock();
        if answer.is_ok() && idle.len() < MOST_IDLE {
            idle.push(connection);
        }
        answer
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().pop()
    }
}
