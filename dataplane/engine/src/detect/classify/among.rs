//! What only many samples together say.

use levee_api::lane::{Lane, TcpFlags};

use super::udp;
use crate::sample::{SAMPLE_PAYLOAD, Sample};

/// What one in so many samples shows is no coincidence.
const MIN_SHARE: usize = 20;
/// Below this number of packets nothing follows from how different they are.
const ENOUGH: usize = 20;

/// What the samples of an alarmed role have in common, as far as a single one has to be seen in its light.
pub(super) struct Among {
    /// Payloads that many have.
    pub repeated: udp::Repeated,
    /// Bare acknowledgements are many on few connections: who makes up connections has no reason to use one twice.
    pub few_connections: bool,
    /// Middleboxes are answering: block pages are among them.
    pub block_pages: bool,
    /// Domains (hashed) of which hardly any name is asked for twice.
    random_names: Vec<u16>,
}

impl Among {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let pages = samples.iter().filter(|sample| is_block_page(sample)).count();
        Self {
            repeated: udp::Repeated::among(samples),
            few_connections: few_connections(samples),
            block_pages: pages > 0 && pages * MIN_SHARE >= samples.len(),
            random_names: random_names(samples),
        }
    }

    /// A query for a name like none before, under one domain.
    pub(super) fn is_random_name(&self, sample: &Sample) -> bool {
        sample.dns_suffix().is_some_and(|suffix| self.random_names.binary_search(&suffix).is_ok())
    }
}

/// An HTTP response that nobody asked for: what middleboxes send in the name of a site that they block.
pub(super) fn is_block_page(sample: &Sample) -> bool {
    sample.payload.starts_with(b"HTTP/1.")
}

/// TCP with nothing but an acknowledgement.
pub(super) fn is_bare_ack(sample: &Sample) -> bool {
    sample.lanes.get(Lane::TcpFlags) == TcpFlags::ACK.bits() && sample.lanes.get(Lane::PayloadLength) == 0
}

fn few_connections(samples: &[Sample]) -> bool {
    let bare = samples.iter().filter(|sample| is_bare_ack(sample));
    let mut connections: Vec<u64> = bare.map(|sample| sample.conversation).collect();
    let packets = connections.len();
    connections.sort_unstable();
    connections.dedup();
    packets >= ENOUGH && connections.len() * 4 <= packets * 3
}

fn random_names(samples: &[Sample]) -> Vec<u16> {
    let mut queries: Vec<(u16, [u8; SAMPLE_PAYLOAD - HEADER])> =
        samples.iter().filter_map(|sample| Some((sample.dns_suffix()?, *sample.payload.last_chunk()?))).collect();
    queries.sort_unstable();
    let is_random = |queries: &&[(u16, [u8; SAMPLE_PAYLOAD - HEADER])]| {
        let names = queries.chunk_by(|one, other| one == other).count();
        queries.len() >= ENOUGH && queries.len() * MIN_SHARE >= samples.len() && names * 2 > queries.len()
    };
    let by_domain = queries.chunk_by(|(one, _), (other, _)| one == other).filter(is_random);
    by_domain.filter_map(|queries| queries.first().map(|(suffix, _)| *suffix)).collect()
}

/// Length of a DNS header, behind which the name begins (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
