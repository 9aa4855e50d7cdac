//! The groups of a user, as the system that the namenode runs on knows them.
//!
//! Asked of `id`, which goes through the system's name service (files, LDAP, ...), as Hadoop's
//! shell-based mapping does; answers are kept for five minutes. Names in
//! `hadoop.user.group.static.mapping.overrides` are not asked.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::limits::{USER_GROUPS_CACHE_MAX, USER_GROUPS_CACHE_TTL_MS, USER_GROUPS_LOOKUPS_MAX};

pub struct UserGroups {
    overrides: HashMap<String, Arc<[String]>>,
    cache: Mutex<HashMap<String, Cached>>,
    lookups: Semaphore,
    clock: Arc<dyn Clock>,
}

struct Cached {
    groups: Arc<[String]>,
    expiry_ms: u64,
}

impl UserGroups {
    pub fn new(overrides: &HashMap<String, Vec<String>>, clock: Arc<dyn Clock>) -> Self {
        let overrides = overrides.iter().map(|(user, groups)| (user.clone(), groups[..].into()));
        Self {
            overrides: overrides.collect(),
            cache: Mutex::new(HashMap::new()),
            lookups: Semaphore::new(USER_GROUPS_LOOKUPS_MAX),
            clock,
        }
    }

    /// The groups of `user`; none for a user that the system does not know.
    pub async fn groups(&self, user: &str) -> Arc<[String]> {
        if let Some(groups) = self.overrides.get(user) {
            return groups.clone();
        }
        if let Some(groups) = self.cached(user) {
            return groups;
        }
        let _permit = self.lookups.acquire().await;
        if let Some(groups) = self.cached(user) {
            return groups;
        }
        let groups: Arc<[String]> = look_up(user).await.into();
        self.remember(user, groups.clone());
        groups
    }

    fn cached(&self, user: &str) -> Option<Arc<[String]>> {
        let now_ms = self.clock.monotonic_ms();
        let cache = self.cache.lock();
        cache.get(user).filter(|cached| now_ms < cached.expiry_ms).map(|c| c.groups.clone())
    }

    fn remember(&self, user: &str, groups: Arc<[String]>) {
        let now_ms = self.clock.monotonic_ms();
        let mut cache = self.cache.lock();
        if cache.len() >= USER_GROUPS_CACHE_MAX {
            cache.retain(|_, cached| now_ms < cached.expiry_ms);
            if cache.len() >= USER_GROUPS_CACHE_MAX {
                cache.clear();
            }
        }
        let expiry_ms = now_ms + USER_GROUPS_CACHE_TTL_MS;
        cache.insert(user.to_owned(), Cached { groups, expiry_ms });
    }
}

async fn look_up(user: &str) -> Vec<String> {
    match Command::new("id").args(["-Gnz", "--", user]).output().await {
        // A user without groups and one that is not known look alike to a permission check.
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect(),
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::warn!("groups of {user:?}: running `id`: {error}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn overrides_come_first_and_strangers_have_no_groups() {
        let overrides = HashMap::from([("alice".to_owned(), vec!["staff".to_owned()])]);
        let clock = Arc::new(ManualClock::new(0));
        let groups = UserGroups::new(&overrides, clock.clone());
        assert_eq!(*groups.groups("alice").await, ["staff".to_owned()]);
        assert!(groups.groups("--help").await.is_empty());
        assert!(groups.groups("no such user\n").await.is_empty());
        let own = groups.groups("root").await;
        assert!(!own.is_empty());
        assert!(groups.cached("--help").is_some());
        clock.advance(USER_GROUPS_CACHE_TTL_MS);
        assert!(groups.cached("--help").is_none());
    }
}
