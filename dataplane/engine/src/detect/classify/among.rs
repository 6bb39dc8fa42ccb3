//! What only many samples together say.

use super::udp;
use crate::sample::{SAMPLE_PAYLOAD, Sample};

/// What one in so many samples shows is no coincidence.
const MIN_SHARE: usize = 20;
/// Below this number of queries for names of one domain nothing follows from how different they are.
const ENOUGH_QUERIES: usize = 20;

/// What the samples of an alarmed role have in common, as far as a single one has to be seen in its light.
pub(super) struct Among {
    /// Payloads that many have.
    pub repeated: udp::Repeated,
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

fn random_names(samples: &[Sample]) -> Vec<u16> {
    let mut queries: Vec<(u16, [u8; SAMPLE_PAYLOAD - HEADER])> =
        samples.iter().filter_map(|sample| Some((sample.dns_suffix()?, *sample.payload.last_chunk()?))).collect();
    queries.sort_unstable();
    let is_random = |queries: &&[(u16, [u8; SAMPLE_PAYLOAD - HEADER])]| {
        let names = queries.chunk_by(|one, other| one == other).count();
        queries.len() >= ENOUGH_QUERIES && queries.len() * MIN_SHARE >= samples.len() && names * 2 > queries.len()
    };
    let by_domain = queries.chunk_by(|(one, _), (other, _)| one == other).filter(is_random);
    by_domain.filter_map(|queries| queries.first().map(|(suffix, _)| *suffix)).collect()
}

/// Length of a DNS header, behind which the name begins (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
