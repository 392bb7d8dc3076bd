use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Counts, Settings, Store, StoreError, StoreUrl};
use crate::identity::Secret;
use crate::limit::{Bucket, Quota, Source, Subject};

fn config() -> Settings {
    Settings {
        url: StoreUrl::Tcp {
            tls: false,
            host: "redis".into(),
            port: 6379,
            database: 0,
        },
        login: None,
        ca: None,
        timeout: Duration::from_millis(50),
        prefix: "portcullis".into(),
    }
}

fn store_of(config: &Settings, ca: &[u8], known: Option<&Arc<Store>>) -> Arc<Store> {
    Store::new(config, None, ca, known, &Arc::default())
}

fn bucket(limit: u64, subject: Subject) -> Bucket {
    let quota = Quota {
        count: 1,
        per: Duration::from_secs(1),
    };
    Bucket {
        limit,
        subject,
        quota,
    }
}

#[test]
fn an_unchanged_store_keeps_its_connection() {
    let known = store_of(&config(), b"", None);
    let is_same = |config: &Settings, ca| Arc::ptr_eq(&known, &store_of(config, ca, Some(&known)));
    assert!(is_same(&config(), b""));
    assert!(!is_same(&config(), b"another authority"));
    let login = |user: Option<&str>, password: &str| {
        Some((user.map(Into::into), Secret::new(password.to_owned())))
    };
    let other: [fn(&mut Settings); 4] = [
        |config| config.timeout = Duration::from_millis(51),
        |config| config.prefix = "p".into(),
        |config| config.url = StoreUrl::Unix("/redis".into()),
        |config| config.ca = Some("ca.pem".into()),
    ];
    for change in other {
        let mut changed = config();
        change(&mut changed);
        assert!(!is_same(&changed, b""), "{changed:?}");
    }
    for login in [login(None, "a"), login(Some("a"), "a"), login(Some(""), "")] {
        let changed = Settings { login, ..config() };
        assert!(!is_same(&changed, b""), "{changed:?}");
        assert!(!format!("{changed:?}").contains("\"a\", \"a\""));
    }
}

#[tokio::test]
async fn a_store_that_was_never_reached_is_not_asked() {
    let counts = Arc::new(Counts::default());
    let store = Store::new(&config(), None, b"", None, &counts);
    let somebody = bucket(
        0,
        Subject::User(
            crate::identity::Subject::read("alice")
                .unwrap()
                .counted()
                .unwrap(),
        ),
    );
    assert!(store.reserve(somebody.clone(), None).await.is_none());
    assert!(store.peek(&somebody, None).await.is_none());
    assert_eq!((counts.asked(), counts.failed()), (0, 0));
}

#[test]
fn reasons_repeat_nothing_that_a_server_wrote() {
    for (code, told) in [
        ("WRONGPASS", "the store refuses the password"),
        ("NOAUTH", "the store refuses the password"),
        ("MISCONF", "the store answers MISCONF"),
        ("READONLY", "the store answers READONLY"),
        ("x\u{1b}[31m", "the answer makes no sense"),
        ("ALL THAT I KNOW OF YOU", "the store answers ALL"),
    ] {
        let line = format!("-{code} hunter2 and more\r\n");
        let value = redis::parse_redis_value(line.as_bytes()).unwrap();
        let error = value.extract_error().unwrap_err();
        let error = StoreError::from(&error);
        assert_eq!(error.to_string(), told, "{code:?}");
    }
}

/// Everybody that keys could be made of.
fn subject() -> impl Strategy<Value = Subject> {
    let address = any::<[u8; 16]>().prop_map(|address| Source::of(address.into()));
    let name = prop_oneof!["[a:/0.\n]{1,6}", ".{1,20}"];
    prop_oneof![
        address.prop_map(Subject::Source),
        name.prop_filter_map("no name", |name| {
            let read = crate::identity::Subject::read(&name).ok()?;
            read.counted().map(Subject::User)
        }),
    ]
}

proptest! {
    #[test]
    fn nobody_can_make_the_key_of_another(
        one in (0_u64..3, subject(), prop::option::of("[a-z:]{0,4}")),
        other in (0_u64..3, subject(), prop::option::of("[a-z:]{0,4}")),
    ) {
        let store = store_of(&config(), b"", None);
        let keys = |(limit, subject, image): &(u64, Subject, Option<String>)| {
            store.keys_of(&bucket(*limit, subject.clone()), image.as_deref())
        };
        for key in keys(&one) {
            let name = key.rsplit(':').next().unwrap();
            prop_assert!(name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit()), "{}", key);
        }
        let same_caller = (one.0, &one.1) == (other.0, &other.1);
        prop_assert_eq!(keys(&one)[0] == keys(&other)[0], same_caller);
        if let (Some(image), Some(another)) = (keys(&one).get(1), keys(&other).get(1)) {
            prop_assert_eq!(image == another, same_caller && one.2 == other.2);
        }
    }
}
