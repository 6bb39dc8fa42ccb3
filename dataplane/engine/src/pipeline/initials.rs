//! QUIC Initials to targets that are alarmed: whether they are any.

use levee_api::lane::{Bits, Lane};
use levee_api::role::Role;

use super::{Scratch, Stages, set_bits};
use crate::packet::{Packet, quic};

/// Initials that a worker opens in a tick, at about two microseconds each; what is beyond that counts as genuine.
pub(super) const PER_TICK: u32 = 1024;
/// And in a burst, so that the queue behind it does not overflow.
const PER_BURST: u32 = 16;

impl Stages {
    /// Marks those that cannot be opened. `strangers`: a bit for each datagram of no conversation.
    #[inline]
    pub(super) fn mark_forged(&mut self, strangers: u64, packets: &[Packet<'_>]) {
        if strangers != 0 && self.initials_left > 0 && self.link.watch.is_any_alarmed() {
            self.open_initials(strangers, packets);
        }
    }

    #[cold]
    fn open_initials(&mut self, strangers: u64, packets: &[Packet<'_>]) {
        let Self { link, scratch, initials_left, .. } = self;
        let Scratch { parsed, places, judged, .. } = &mut **scratch;
        let mut in_burst = PER_BURST;
        for at in set_bits(strangers) {
            let layers = parsed.layers(at);
            let (Some(Some(place)), Some(judged)) = (places.get(at), judged.get(at)) else { continue };
            let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get_mut(at)) else { continue };
            let is_watched = link.watch.roles(place.zone).contains(Role::UdpOpen) && link.watch.is_alarmed(*place);
            if judged.role != Role::UdpOpen || !quic::may_be_initial(lanes) || !is_watched {
                continue;
            }
            let (Some(left), Some(of_burst)) = (initials_left.checked_sub(1), in_burst.checked_sub(1)) else { return };
            (*initials_left, in_burst) = (left, of_burst);
            let from = usize::from(layers.payload);
            let whole = from..from + usize::from(lanes.get(Lane::PayloadLength));
            if packet.head.get(whole).is_some_and(quic::is_forged) {
                lanes.set(Lane::Bits, lanes.get(Lane::Bits) | Bits::QUIC_FORGED.bits());
            }
        }
    }
}
