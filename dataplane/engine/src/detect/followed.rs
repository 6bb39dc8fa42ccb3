//! Whether what began a moment ago went on, at a target that is looked at closely: ticks of the last 0.7 seconds.
//!
//! A client that goes on does so within about 0.4 seconds of the answer, or it is not counted as going on at all. So what
//! began 0.4 to 0.7 seconds ago is compared with what went on in the last 0.3 seconds: of a crowd, however suddenly it
//! came, as many go on as usual.

use std::collections::VecDeque;
use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::window::as_f32;
use crate::target::counters::Totals;

/// What is older is forgotten.
pub const MEMORY: Duration = Duration::from_millis(700);
/// What began less long ago may still go on.
const PATIENCE: Duration = Duration::from_millis(400);

/// Ticks of one target.
#[derive(Clone, Debug, Default)]
pub struct Followed(VecDeque<Tick>);

#[derive(Clone, Copy, Debug)]
struct Tick {
    at: Timestamp,
    counts: Counts,
}

/// What began and what went on, in as much time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// First answers to datagrams.
    pub answers: f32,
    /// Clients that sent another.
    pub continued: f32,
    /// First data on proven connections.
    pub requests: f32,
    /// Clients that sent more after the reply.
    pub seconds: f32,
    /// Completed handshakes.
    pub handshakes: f32,
    /// Connections on which data was sent.
    pub used: f32,
    /// SYNs, and those of them that filters let pass.
    pub syns: (f32, f32),
    /// The same of SYN-ACKs that nobody inside is known to have asked for.
    pub syn_acks: (f32, f32),
    /// Other segments, in state or not (and datagrams in state), in 0.3 seconds as well.
    pub segments: f32,
}

impl Followed {
    /// Adds a tick.
    pub fn add(&mut self, delta: &Totals, now: Timestamp) {
        while self.0.front().is_some_and(|tick| now.since(tick.at) > MEMORY) {
            self.0.pop_front();
        }
        let role = |role: Role| as_f32(delta.roles.get(role.index()).copied().unwrap_or(0));
        let both = |of: Role| {
            let dropped = as_f32(delta.dropped.get(of.index()).copied().unwrap_or(0));
            (role(of), (role(of) - dropped).max(0.0))
        };
        let counted = delta.roles.iter().fold(0_u32, |sum, packets| sum.wrapping_add(*packets));
        let counts = Counts {
            answers: as_f32(delta.answers),
            continued: as_f32(delta.continued),
            requests: role(Role::Request),
            seconds: as_f32(delta.seconds),
            syns: both(Role::Syn),
            syn_acks: both(Role::UnsolicitedSynAck),
            segments: as_f32(delta.packets.wrapping_sub(counted)) + role(Role::OutOfState) + role(Role::Request),
            handshakes: as_f32(delta.handshakes),
            used: role(Role::Request),
        };
        if counts != Counts::default() {
            self.0.push_back(Tick { at: now, counts });
        }
    }

    /// What began 0.4 to 0.7 seconds ago, and what went on in the last 0.3 seconds.
    pub fn counts(&self, now: Timestamp) -> Counts {
        self.0.iter().fold(Counts::default(), |sum, Tick { at, counts }| match now.since(*at) {
            age if age > MEMORY => sum,
            age if age > PATIENCE => Counts {
                answers: sum.answers + counts.answers,
                requests: sum.requests + counts.requests,
                handshakes: sum.handshakes + counts.handshakes,
                syns: plus(sum.syns, counts.syns),
                syn_acks: plus(sum.syn_acks, counts.syn_acks),
                ..sum
            },
            age if age < MEMORY - PATIENCE => Counts {
                continued: sum.continued + counts.continued,
                seconds: sum.seconds + counts.seconds,
                used: sum.used + counts.used,
                segments: sum.segments + counts.segments,
                ..sum
            },
            _ => sum,
        })
    }
}

fn plus(one: (f32, f32), two: (f32, f32)) -> (f32, f32) {
    (one.0 + two.0, one.1 + two.1)
}

/// How long what is compared took.
pub const SPAN: Duration = Duration::from_millis(300);
const _: () = assert!(SPAN.as_millis() == MEMORY.as_millis() - PATIENCE.as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_on_is_compared_with_what_had_time_to() {
        let (mut followed, mut now) = (Followed::default(), Timestamp(1_000_000_000));
        // A crowd of ten a tick that goes on after 0.2 seconds.
        for tick in 0..100 {
            now = now + Duration::from_millis(10);
            followed.add(&Totals { answers: 10, continued: if tick < 20 { 0 } else { 10 }, ..Totals::default() }, now);
            let Counts { answers, continued, .. } = followed.counts(now);
            assert!(continued >= 0.9 * answers, "{continued} of {answers} after {tick} ticks");
        }
        assert!(followed.counts(now).answers >= 290.0);
        assert!(followed.0.len() <= 71);
    }
}
