//! The list of back ends, with a file.

use std::sync::Arc;
use std::time::Duration;

use super::Authenticator;
use crate::authn::htpasswd::Users;
use crate::authn::{AuthnState, BackEnd, Outcome, Rejection};
use crate::identity::{Authentication, Name, Origin, Password};
use crate::limit::{Claimant, Trust};

/// `secret`, by `htpasswd -nbB -C 4`.
const SECRET: &str = "$2y$04$9WH9kMhhiWFXKVxZ0wvriO51bI.LwHbpPN4YMYLPt7VxpHmfEH7Gq";
/// `other`, likewise.
const OTHER: &str = "$2y$04$BZla5k5L/tJRNpEHDBlXjO1/l0Z6DS7Nb4Y9aGQ6LtfH2klHERqnO";

fn memory() -> Arc<AuthnState> {
    Arc::new(AuthnState::new(Duration::from_hours(1)))
}

fn authenticator(file: &str, memory: &Arc<AuthnState>) -> Arc<Authenticator> {
    let (users, _) = Users::parse(file.as_bytes(), "htpasswd".as_ref()).unwrap();
    let back_ends = vec![BackEnd::Htpasswd(Arc::new(users))];
    Arc::new(Authenticator::new(back_ends, Arc::clone(memory)))
}

fn office() -> Claimant {
    Claimant::stranger([192, 0, 2, 7].into())
}

/// `Ok(cached)` for an accepted credential.
async fn login(to: &Authenticator, user: &str, password: &str) -> Result<bool, Rejection> {
    let password = Password::new(password).unwrap();
    let name = Name::parse(user, Origin::Password).unwrap();
    let verified = to.verify_password(&name, &password, office()).await;
    let (outcome, by) = (verified.outcome, verified.by);
    assert!(by.is_none_or(|by| by == Authentication::Htpasswd));
    assert_eq!(to.asked_about(user), by);
    match outcome {
        Outcome::Accept(identity) => {
            assert_eq!(identity.user(), Some(user));
            assert_eq!(identity.authentication(), Authentication::Htpasswd);
            assert!(identity.groups().is_empty());
            assert!(
                identity.has_password()
                    && identity.scope_covers(crate::registry::Action::Delete, None)
            );
            Ok(identity.cached())
        }
        Outcome::Reject(rejected) => Err(rejected.why),
        Outcome::Fail(failure) => panic!("{failure:?}"),
    }
}

#[tokio::test]
async fn a_password_is_hashed_once_in_a_while() {
    let memory = memory();
    let to = authenticator(&format!("alice:{SECRET}\nbob:{SECRET}"), &memory);
    assert_eq!(login(&to, "alice", "secret").await, Ok(false));
    assert_eq!(login(&to, "alice", "secret").await, Ok(true));
    assert_eq!(memory.pool().jobs_run(), 1);
    assert_eq!(login(&to, "bob", "secret").await, Ok(false));
    assert_eq!(memory.pool().jobs_run(), 2);
}

#[tokio::test]
async fn who_logged_in_is_known_where_they_did() {
    let memory = memory();
    let to = authenticator(&format!("alice:{SECRET}"), &memory);
    let (here, elsewhere) = (office(), Claimant::stranger([192, 0, 2, 8].into()));
    assert!(login(&to, "alice", "wrong").await.is_err());
    let alice = Name::parse("alice", Origin::Password).unwrap();
    assert_eq!(memory.trust(&alice, here.source), Trust::Stranger);
    assert!(login(&to, "alice", "secret").await.is_ok());
    assert_eq!(memory.trust(&alice, here.source), Trust::Proven);
    assert_eq!(memory.trust(&alice, elsewhere.source), Trust::Stranger);
    // A remembered password is a login, too.
    let password = Password::new("secret").unwrap();
    let verified = to.verify_password(&alice, &password, elsewhere).await;
    assert!(matches!(verified.outcome, Outcome::Accept(who) if who.cached()));
    assert_eq!(memory.trust(&alice, elsewhere.source), Trust::Proven);
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_cost_the_same() {
    for (user, password, rejection) in [
        ("alice", "wrong", Rejection::WrongPassword),
        ("nobody", "secret", Rejection::UnknownUser),
    ] {
        let memory = memory();
        let to = authenticator(&format!("alice:{SECRET}"), &memory);
        for hashes in [1, 1] {
            assert_eq!(login(&to, user, password).await, Err(rejection));
            assert_eq!(memory.pool().jobs_run(), hashes, "{user}");
        }
        assert_eq!(login(&to, user, "another").await, Err(rejection));
        assert_eq!(memory.pool().jobs_run(), 2, "{user}");
    }
}

#[tokio::test]
async fn a_reload_keeps_what_is_still_true() {
    let memory = memory();
    let before = authenticator(&format!("alice:{SECRET}\nbob:{SECRET}"), &memory);
    for user in ["alice", "bob"] {
        assert_eq!(login(&before, user, "secret").await, Ok(false));
    }
    let after = authenticator(
        &format!("# changed\nalice:{SECRET}\ncarol:{OTHER}"),
        &memory,
    );
    assert_eq!(login(&after, "alice", "secret").await, Ok(true));
    assert_eq!(
        login(&after, "bob", "secret").await,
        Err(Rejection::UnknownUser)
    );
    let status = async |to: &Authenticator, user: &'static str| {
        to.credential_status(&Name::parse(user, Origin::Written).unwrap())
            .await
            .unwrap()
            .map(|status| status.entry)
    };
    assert_eq!(
        status(&after, "alice").await,
        status(&before, "alice").await
    );
    assert!(status(&before, "bob").await.is_some());
    assert!(status(&after, "bob").await.is_none());

    let changed = authenticator(&format!("alice:{OTHER}\nbob:{OTHER}"), &memory);
    assert_eq!(
        login(&changed, "alice", "secret").await,
        Err(Rejection::WrongPassword)
    );
    assert_eq!(login(&changed, "alice", "other").await, Ok(false));
    assert_ne!(status(&changed, "bob").await, status(&before, "bob").await);
    // A request under the old rules still gets their answer.
    assert_eq!(login(&before, "bob", "secret").await, Ok(true));
}

#[tokio::test]
async fn a_new_user_is_known_at_once() {
    let memory = memory();
    let before = authenticator(&format!("alice:{SECRET}"), &memory);
    assert_eq!(
        login(&before, "bob", "other").await,
        Err(Rejection::UnknownUser)
    );
    let after = authenticator(&format!("alice:{SECRET}\nbob:{OTHER}"), &memory);
    assert_eq!(login(&after, "bob", "other").await, Ok(false));
}

#[tokio::test]
async fn a_changed_ttl_forgets() {
    let memory = memory();
    let to = authenticator(&format!("alice:{SECRET}"), &memory);
    assert_eq!(login(&to, "alice", "secret").await, Ok(false));
    memory.set_cache_ttl(Duration::from_hours(1));
    assert_eq!(login(&to, "alice", "secret").await, Ok(true));
    memory.set_cache_ttl(Duration::ZERO);
    assert_eq!(login(&to, "alice", "secret").await, Ok(false));
    assert_eq!(login(&to, "alice", "secret").await, Ok(false));
}

#[tokio::test]
async fn a_hundred_first_logins_hash_once() {
    let memory = memory();
    let to = authenticator(&format!("alice:{SECRET}"), &memory);
    let logins: Vec<_> = (0..100)
        .map(|_| {
            let to = Arc::clone(&to);
            tokio::spawn(async move { login(&to, "alice", "secret").await })
        })
        .collect();
    for login in logins {
        assert!(login.await.unwrap().is_ok());
    }
    assert_eq!(memory.pool().jobs_run(), 1);
}

#[tokio::test]
async fn without_a_back_end_no_password_is_right() {
    let nobody = Authenticator::new(Vec::new(), memory());
    assert_eq!(
        login(&nobody, "alice", "secret").await,
        Err(Rejection::NoBackEnd)
    );
    let alice = Name::parse("alice", Origin::Written).unwrap();
    assert!(nobody.credential_status(&alice).await.unwrap().is_none());
}
