//! What of all that was handed to TCP the other side's TCP has acknowledged, and what has been heard with it.
//!
//! TCP takes over much that nobody reads: what was handed to it is no more than on its way. What is acknowledged lies with
//! the peer's machine, which is as much as can be known of a peer that never answers to a route.

use std::collections::VecDeque;

use crate::ledger::MitigationId;

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A route of one measure is gone, one of another is there.
    Instead {
        /// What it was of before.
        before: Option<MitigationId>,
        /// What it is of now.
        now: Option<MitigationId>,
    },
    /// Everything up to this version of what shall be announced.
    Version(u64),
    /// That this was everything.
    Complete,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// Bytes that were handed to TCP.
    handed: u64,
    /// How many of them are acknowledged.
    acknowledged: u64,
    /// What was said, and the number of the byte that it ends with; oldest first.
    said: VecDeque<(u64, Said)>,
}

impl Acknowledged {
    /// TCP has taken some.
    pub(super) fn hand(&mut self, bytes: usize) {
        self.handed += bytes as u64;
    }

    /// Something is said with the last of the bytes that wait to be handed over, `waiting` of them.
    pub(super) fn say(&mut self, waiting: usize, said: Said) {
        self.said.push_back((self.handed + waiting as u64, said));
    }

    /// TCP has so many bytes that are not acknowledged. True when that is some less than before.
    pub(super) fn outstanding(&mut self, bytes: usize) -> bool {
        let acknowledged = self.handed.saturating_sub(bytes as u64);
        let is_more = acknowledged > self.acknowledged;
        self.acknowledged = acknowledged.max(self.acknowledged);
        is_more
    }

    /// The next that was heard.
    pub(super) fn heard(&mut self) -> Option<Said> {
        let (end, _) = self.said.front()?;
        if *end > self.acknowledged {
            return None;
        }
        self.said.pop_front().map(|(_, said)| said)
    }

    /// Everything that was handed over is acknowledged.
    pub(super) const fn is_all(&self) -> bool {
        self.acknowledged == self.handed
    }

    /// Bytes that are not.
    pub(super) const fn unacknowledged(&self) -> u64 {
        self.handed - self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_with_its_last_byte_and_in_order() {
        let mut one = Acknowledged::default();
        one.say(0, Said::Version(1));
        assert_eq!(one.heard(), Some(Said::Version(1)), "there was nothing to say");
        let instead = Said::Instead { before: None, now: Some(MitigationId(7)) };
        one.say(30, instead);
        one.say(50, Said::Version(2));
        one.say(50, Said::Complete);
        assert_eq!(one.heard(), None, "TCP has nothing of it");
        one.hand(50);
        assert!(!one.outstanding(50) && one.heard().is_none() && !one.is_all());
        assert!(one.outstanding(21) && one.heard().is_none(), "a byte is missing");
        assert!(one.outstanding(20));
        assert_eq!((one.heard(), one.heard()), (Some(instead), None));
        assert!(!one.outstanding(20), "that was so before");
        assert_eq!(one.unacknowledged(), 20);
        assert!(one.outstanding(0) && one.is_all());
        assert_eq!([one.heard(), one.heard(), one.heard()], [Some(Said::Version(2)), Some(Said::Complete), None]);
    }
}
