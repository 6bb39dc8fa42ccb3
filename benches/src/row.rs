//! The rows of the table: which packets meet which policy, what the rate is compared with, and what was promised.
//!
//! Unless a row says otherwise: 65 536 packets, 100 000 hosts, 80 % of the packets to mitigated targets, half of those matching
//! one of ten filters, each position as often: seven drop, one limits what its target gets, one each source, one each
//! source prefix. A set of a million source prefixes is loaded that drops, of which no packet comes. Captures and samples are
//! taken as in peace.

use levee_api::config::Simd;

use crate::program::testpmd::Forward;
use crate::site::{Family, Mitigations};
use crate::sources::PREFIXES;
use crate::traffic::{Kind, Traffic};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// How it is called on the command line.
    pub name: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// What is measured.
    pub subject: Setup,
    /// What that is divided by.
    pub reference: Reference,
    /// What must be reached.
    pub must: Option<f64>,
    /// What is wanted.
    pub aim: Option<f64>,
}

/// What a rate is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// The rate of `dpdk-testpmd` on the same packets.
    Testpmd(Forward),
    /// The rate of another setup of Levee.
    Levee(Setup),
    /// The rate of the same data path with empty tables, where the subject has full ones; both in this process, since
    /// no port that is at hand brings millions of conversations from inside at no cost.
    EmptyTables,
    /// Nothing: the rate counts, in millions of packets per second.
    Nothing,
}

/// One way to run Levee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The packets, and with them the filters.
    pub traffic: Traffic,
    /// Instructions that may be used.
    pub simd: Simd,
    /// Workers, each with a queue of its own.
    pub workers: u8,
    /// Queues bring packets of all workers, who hand them over to each other. Otherwise each brings what belongs to its
    /// worker, as from a card that spreads packets by their addresses.
    pub mixed: bool,
    /// Source prefixes in the set that drops.
    pub prefixes: u32,
    /// A filter comes and goes, and with it a generation of tables, every 10 ms.
    pub churn: bool,
}

const DISTINCT: Mitigations = Mitigations { targets: 10_000, filters: 10, lists: 10_000, ..Mitigations::NONE };
const SHARED: Mitigations = Mitigations { lists: 500, ..DISTINCT };
/// The same targets among the 16 384 addresses of one prefix, so that it can have ten filters in their place.
const CLOSE: u32 = 1 << 14;
const CLOSE_DISTINCT: Mitigations = Mitigations { among: CLOSE, ..DISTINCT };
const CLOSE_SHARED: Mitigations = Mitigations { among: CLOSE, ..SHARED };
const IO: Reference = Reference::Testpmd(Forward::Io);

const PLAIN: Traffic = Traffic {
    packets: 65_536,
    family: Family::V4,
    mitigations: SHARED,
    to_targets: 80,
    matching: 50,
    kind: Kind::Plain,
};

const FULL: Setup =
    Setup { traffic: PLAIN, simd: Simd::Auto, workers: 1, mixed: false, prefixes: PREFIXES, churn: false };

const fn traffic(traffic: Traffic) -> Setup {
    Setup { traffic, ..FULL }
}

const fn kind(kind: Kind) -> Setup {
    traffic(Traffic { kind, ..PLAIN })
}

const fn mitigations(mitigations: Mitigations) -> Setup {
    traffic(Traffic { mitigations, ..PLAIN })
}

/// Ten filters in all that match the same packets as the lists of all targets.
const fn ten(lists: Mitigations) -> Reference {
    Reference::Levee(mitigations(Mitigations { on_prefix: true, ..lists }))
}

const fn peace(packets: u32, kind: Kind) -> Setup {
    traffic(Traffic { packets, mitigations: Mitigations::NONE, kind, ..PLAIN })
}

/// A flood of SYNs that is asked.
const CHALLENGED: Setup = traffic(Traffic {
    mitigations: Mitigations { targets: 1, filters: 0, challenge: true, ..Mitigations::NONE },
    to_targets: 100,
    kind: Kind::Syn,
    ..PLAIN
});

const fn row(name: &'static str, what: &'static str, subject: Setup, reference: Reference) -> Row {
    Row { name, what, subject, reference, must: None, aim: None }
}

impl Row {
    const fn promise(self, must: f64, aim: f64) -> Self {
        Self { must: Some(must), aim: Some(aim), ..self }
    }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    row("full", "10 000 targets x 10 filters, 500 lists / io", FULL, IO).promise(0.25, 0.35),
    row("full-distinct", "the same, 10 000 lists / io", mitigations(DISTINCT), IO).promise(0.21, 0.30),
    row(
        "full-no-match",
        "10 000 lists, nothing matches / io",
        traffic(Traffic { matching: 0, mitigations: DISTINCT, ..PLAIN }),
        IO,
    )
    .promise(0.20, 0.28),
    row("full-warm", "500 lists, 4 096 packets / io", traffic(Traffic { packets: 4_096, ..PLAIN }), IO)
        .promise(0.28, 0.38),
    row(
        "flat-shared",
        "100 000 filters, 500 lists / 10 filters on the targets' prefix, same packets",
        mitigations(CLOSE_SHARED),
        ten(CLOSE_SHARED),
    )
    .promise(0.90, 0.95),
    row(
        "flat-distinct",
        "100 000 filters, 10 000 lists / 10 filters on the targets' prefix, same packets",
        mitigations(CLOSE_DISTINCT),
        ten(CLOSE_DISTINCT),
    )
    .promise(0.78, 0.85),
    row("no-attack", "no filter / io", peace(65_536, Kind::Plain), IO).promise(0.38, 0.48),
    row("source-set", "dropped by source set / io", peace(65_536, Kind::FromSet), IO).promise(0.35, 0.45),
    row("malformed", "dropped as malformed / io", peace(65_536, Kind::Malformed), IO),
    row("fragments", "fragment flood / plain", kind(Kind::Fragments), Reference::Levee(FULL)).promise(0.7, 0.9),
    row("vlan", "all VLAN-tagged / plain", kind(Kind::Vlan), Reference::Levee(FULL)).promise(0.8, 0.95),
    row(
        "coldest",
        "240 000 packets, random sources and hosts, Mpps",
        traffic(Traffic { packets: 240_000, to_targets: 10, ..PLAIN }),
        Reference::Nothing,
    )
    .promise(14.88, 22.0),
    row(
        "challenged",
        "SYNs of 65 536 forged sources to one host, answered in place, Mpps",
        CHALLENGED,
        Reference::Nothing,
    )
    .promise(14.88, 22.0),
    row(
        "full-tables",
        "2^18 random flows, all tables full / empty, in process",
        traffic(Traffic { packets: 1 << 18, ..PLAIN }),
        Reference::EmptyTables,
    )
    .promise(0.8, 0.9),
    row("colliding", "colliding keys / random", kind(Kind::Colliding), Reference::Levee(FULL)).promise(0.8, 0.95),
    row("hot-key", "one hot key / random", kind(Kind::OneKey), Reference::Levee(FULL)).promise(0.8, 0.95),
    row(
        "generations",
        "a generation published every 10 ms / none",
        Setup { churn: true, ..FULL },
        Reference::Levee(FULL),
    )
    .promise(0.98, 0.99),
    row("ipv6", "IPv6 / IPv4, full", traffic(Traffic { family: Family::V6, ..PLAIN }), Reference::Levee(FULL))
        .promise(0.75, 0.9),
    row("avx2", "AVX2 only, full / io", Setup { simd: Simd::Avx2, ..FULL }, IO).promise(0.17, 0.25),
    row("scalar", "scalar, full / io", Setup { simd: Simd::Scalar, ..FULL }, IO).promise(0.14, 0.19),
    row("two-workers", "two workers / one", Setup { workers: 2, ..FULL }, Reference::Levee(FULL)).promise(1.7, 1.9),
    row(
        "handed-over",
        "two workers, half of the packets in the other's queue / one",
        Setup { workers: 2, mixed: true, ..FULL },
        Reference::Levee(FULL),
    ),
    row("mac", "500 lists / testpmd mac", FULL, Reference::Testpmd(Forward::Mac)),
    row("5tswap", "500 lists / testpmd 5tswap", FULL, Reference::Testpmd(Forward::FiveTupleSwap)),
];

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
