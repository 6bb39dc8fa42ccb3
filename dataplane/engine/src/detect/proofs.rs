//! Conversations that have lately proved themselves: who took part in them is a client, also in the middle of an attack.

use std::collections::HashSet;
use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::link::Notice;

/// They are remembered for this long, and for at most twice as long.
const MEMORY: Duration = Duration::from_secs(2);

/// Keys of conversations, by what they have got past.
#[derive(Debug)]
pub struct Proofs {
    newest: Generation,
    older: Generation,
    since: Timestamp,
}

#[derive(Debug, Default)]
struct Generation {
    /// Clients that completed a handshake, or that inside answered.
    proven: HashSet<u64>,
    /// Clients that went on after that.
    continued: HashSet<u64>,
}

impl Proofs {
    /// Nobody has proved anything.
    pub fn new(now: Timestamp) -> Self {
        Self { newest: Generation::default(), older: Generation::default(), since: now }
    }

    /// Takes in what a worker told.
    pub fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Proven(conversation) => self.newest.proven.insert(conversation),
            Notice::Continued(conversation) => self.newest.continued.insert(conversation),
            Notice::Lodged { .. } => false,
        };
    }

    /// Forgets as time passes.
    pub fn forget(&mut self, now: Timestamp) {
        if now.since(self.since) >= MEMORY {
            self.older = std::mem::take(&mut self.newest);
            self.since = now;
        }
    }

    /// True when a conversation of a role has proved that a client took part in it. `do_go_on`: an answered client that does not
    /// go on is unusual there.
    pub fn holds(&self, role: Role, do_go_on: bool, conversation: u64) -> bool {
        let any = |of: fn(&Generation) -> &HashSet<u64>| {
            [&self.newest, &self.older].into_iter().any(|generation| of(generation).contains(&conversation))
        };
        match role {
            // Whoever floods with requests has completed handshakes.
            Role::Request => false,
            // Servers that answer anybody prove nothing, where clients usually go on.
            Role::UdpOpen if do_go_on => any(|generation| &generation.continued),
            _ => any(|generation| &generation.proven),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_proves_nothing_where_clients_go_on() {
        let mut proofs = Proofs::new(Timestamp::ZERO);
        proofs.note(Notice::Proven(7));
        assert!(proofs.holds(Role::UdpOpen, false, 7));
        assert!(!proofs.holds(Role::UdpOpen, true, 7));
        proofs.note(Notice::Continued(7));
        assert!(proofs.holds(Role::UdpOpen, true, 7));
        assert!(proofs.holds(Role::Syn, true, 7) && !proofs.holds(Role::Request, true, 7));
    }

    #[test]
    fn proofs_are_forgotten() {
        let mut proofs = Proofs::new(Timestamp::ZERO);
        proofs.note(Notice::Proven(7));
        proofs.forget(Timestamp::ZERO + MEMORY);
        assert!(proofs.holds(Role::Syn, true, 7));
        proofs.forget(Timestamp::ZERO + MEMORY * 2);
        assert!(!proofs.holds(Role::Syn, true, 7));
    }
}
