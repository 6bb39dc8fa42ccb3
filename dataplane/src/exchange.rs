//! How a packet gets to the worker that its addresses belong to, where ports have several queues and spread packets over
//! them in their own way: the worker that received it hands it over, in bulk and without ever waiting.
//!
//! Between any two workers there is a ring for each direction of each wire, written by one and read by the other.

use levee_engine::packet::{Packet, steer};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::dpdk::mbuf::{BURST, Burst, Mbuf};

/// Packets that can be on their way to a worker on one path, shared by all that send to it.
pub const ON_THE_WAY: usize = 1024;
/// A ring holds at least two bursts.
const SMALLEST_RING: usize = 2 * BURST;
/// What a burst takes of what others handed over, so that the worker's own queue is emptied too. Drivers with vectors want to
/// be asked for a multiple of 32.
pub const HANDED_OVER: usize = 32;

/// One worker's ends of the rings of one path.
#[derive(Debug)]
pub struct Exchange {
    own: u8,
    /// To each worker; none to itself, and none at all once [`Self::close`] was called.
    to: Vec<Option<Producer<Mbuf>>>,
    from: Vec<Consumer<Mbuf>>,
    /// Packets for each worker, sorted.
    sorted: Vec<Burst>,
    /// Whose ring is looked into first, in turn.
    next: usize,
}

impl Exchange {
    /// The ends of each of `workers` workers. At most 256 can be told apart; nobody has more queues.
    pub fn between(workers: u8) -> Vec<Self> {
        let count = usize::from(workers);
        let mut ends: Vec<Self> = (0..workers)
            .map(|own| Self {
                own,
                to: (0..count).map(|_| None).collect(),
                from: Vec::new(),
                sorted: (0..count).map(|_| Burst::default()).collect(),
                next: 0,
            })
            .collect();
        let capacity = (ON_THE_WAY / count.saturating_sub(1).max(1)).max(SMALLEST_RING);
        for sender in 0..count {
            for receiver in (0..count).filter(|&receiver| receiver != sender) {
                let (producer, consumer) = RingBuffer::new(capacity);
                if let Some(slot) = ends.get_mut(sender).and_then(|end| end.to.get_mut(receiver)) {
                    *slot = Some(producer);
                }
                if let Some(end) = ends.get_mut(receiver) {
                    end.from.push(consumer);
                }
            }
        }
        ends
    }

    /// Appends to `burst` what other workers have handed over, part of a burst at most; returns how many packets.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let first = self.next.min(self.from.len());
        let (later, sooner) = self.from.split_at_mut(first);
        let mut received = 0;
        for ring in sooner.iter_mut().chain(later) {
            received += burst.take_from(ring, HANDED_OVER - received);
        }
        self.next = if self.next + 1 < self.from.len() { self.next + 1 } else { 0 };
        received
    }

    /// Finds out whose packets these are.
    #[inline(never)]
    pub fn owners(&self, packets: &[Packet<'_>]) -> [u8; BURST] {
        let workers = self.sorted.len();
        let mut owners = [0; BURST];
        for (owner, packet) in owners.iter_mut().zip(packets) {
            // Fewer than 256 workers, see `between`.
            *owner = u8::try_from(steer::worker(packet.head, workers)).unwrap_or(0);
        }
        owners
    }

    /// Hands over the packets of `burst` from position `first` on that belong to other workers. What finds a ring full goes
    /// to `rest`.
    #[inline(never)]
    pub fn hand_over(&mut self, burst: &mut Burst, first: usize, owners: &[u8; BURST], rest: &mut Burst) {
        burst.share_out(first, owners, self.own, &mut self.sorted);
        for (worker, packets) in self.sorted.iter_mut().enumerate() {
            if packets.is_empty() {
                continue;
            }
            if let Some(Some(ring)) = self.to.get_mut(worker) {
                packets.put_into(ring);
            }
            packets.split_off(0, rest);
        }
    }

    /// Says that this worker hands over nothing more.
    pub fn close(&mut self) {
        self.to.clear();
    }

    /// Whether all other workers have said so and their packets have been taken.
    pub fn is_finished(&self) -> bool {
        // In this order: what came before the last word is seen after it.
        self.from.iter().all(|ring| ring.is_abandoned() && ring.is_empty())
    }
}
