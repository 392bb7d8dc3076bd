//! What exists, for records that tell of many refusals: names of what exists are always told there, see
//! `audit::suppress`. Repositories are those that were used through this process and, once there is a
//! flood of names, those of the registry's catalog.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::catalog;
use super::instance::Proxy;
use crate::audit::Known;
use crate::identity::Subject;

/// While a flood goes on, the registry is asked for all that it has no more often than this: it walks
/// its whole store for that.
const CATALOG_INTERVAL: Duration = Duration::from_mins(10);

/// The proxy's knowledge, as long as there is a proxy.
pub(super) struct Knowledge {
    proxy: Weak<Proxy>,
    /// When the registry was last asked for all that it has.
    asked: Mutex<Option<Instant>>,
}

impl Knowledge {
    pub(super) fn of(proxy: &Arc<Proxy>) -> Self {
        Self {
            proxy: Arc::downgrade(proxy),
            asked: Mutex::default(),
        }
    }

    /// Whether it is time to ask the registry.
    fn is_due(&self) -> bool {
        let mut asked = self.asked.lock();
        let now = Instant::now();
        let is_due = asked.is_none_or(|asked| now.duration_since(asked) >= CATALOG_INTERVAL);
        if is_due {
            *asked = Some(now);
        }
        is_due
    }
}

impl Known for Knowledge {
    fn is_user(&self, name: &str) -> bool {
        self.proxy.upgrade().is_some_and(|proxy| {
            let rules = proxy.rules();
            match Subject::read(name) {
                Ok(Subject::Robot(robot)) => rules.robots.current().get(robot.name()).is_some(),
                Ok(Subject::Person(name)) => rules.authenticator.remembers(&name),
                Ok(Subject::Nobody | Subject::Workload(_)) | Err(_) => false,
            }
        })
    }

    fn is_repository(&self, name: &str) -> bool {
        self.proxy.upgrade().is_some_and(|proxy| {
            proxy.repositories.has(name) || proxy.rules().policy.spells_out(name)
        })
    }

    fn unknown_repositories(&self) {
        let (Some(proxy), Ok(runtime)) = (self.proxy.upgrade(), Handle::try_current()) else {
            return;
        };
        if self.is_due() {
            runtime.spawn(catalog::learn(proxy));
        }
    }
}
