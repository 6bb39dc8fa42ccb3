//! What the machine calls the user at the other end of a socket.
//!
//! Names and groups may come from a directory service that is slow or away, and asking for them blocks. So they are asked for
//! on a thread of their own, once per connection at most, kept for a minute, and waited for no longer than a few seconds:
//! who is not known by then has no name and no group.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::time::Instant;

/// How long an answer is believed: who is put into a group waits no longer than this.
const KEPT: Duration = Duration::from_secs(60);
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Answers that are kept.
const MOST: usize = 1_000;

/// Names of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// His own; none: the machine does not know him, or did not say so in time.
    pub name: Option<String>,
    /// Those of the groups that he is of, that of his process included.
    pub groups: BTreeSet<String>,
}

impl Identity {
    /// Asks the machine. Blocks.
    pub fn look_up(uid: u32, gid: u32) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let mut ids = BTreeSet::from([gid]);
        if let Some(user) = &user {
            ids.insert(user.gid.as_raw());
            let listed = CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
            ids.extend(listed.into_iter().flatten().map(Gid::as_raw));
        }
        let groups = ids.into_iter().filter_map(|id| Group::from_gid(Gid::from_raw(id)).ok().flatten());
        Self { groups: groups.map(|group| group.name).collect(), name: user.map(|user| user.name) }
    }
}

/// Answers that are kept for a while.
#[derive(Debug, Default)]
pub(super) struct Identities(Mutex<BTreeMap<(u32, u32), Known>>);

/// An answer, and when it came.
type Known = (Instant, Arc<Identity>);

impl Identities {
    /// The names of a user whose process has this group.
    pub(super) async fn of(&self, uid: u32, gid: u32) -> Arc<Identity> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(uid, gid)).cloned();
        if let Some((at, identity)) = known
            && at.elapsed() < KEPT
        {
            return identity;
        }
        let asked = tokio::task::spawn_blocking(move || Identity::look_up(uid, gid));
        let Ok(Ok(identity)) = tokio::time::timeout(ANSWER_WITHIN, asked).await else {
            tracing::warn!(uid, "the machine does not say within {ANSWER_WITHIN:?} what this user is called");
            return Arc::default();
        };
        let identity = Arc::new(identity);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert((uid, gid), (Instant::now(), Arc::clone(&identity)));
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_his_own_groups_and_that_of_his_process() {
        let root = Identity::look_up(0, 0);
        assert_eq!(root.name.as_deref(), Some("root"));
        assert!(root.groups.contains("root"), "{root:?}");
        let stranger = Identity::look_up(4_000_000_000, 65_534);
        assert_eq!(stranger.name, None);
        assert_eq!(stranger.groups.len(), 1, "{stranger:?}");
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once() {
        let identities = Identities::default();
        let first = identities.of(0, 0).await;
        assert!(Arc::ptr_eq(&first, &identities.of(0, 0).await));
    }
}
