//! `[[announcer]]` and `[[scrubber]]`: who can do something about an attack before it reaches us.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::bgp::Bgp;
use super::general::{name, values};
use super::problem::Fault;
use super::runbook::once;
use super::section::{Located, Section, choose};

/// Something that can announce BGP routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcer {
    /// Unique name.
    pub name: String,
    /// What speaks BGP for us.
    pub kind: AnnouncerKind,
    /// What its peer accepts, sorted.
    pub capabilities: Vec<Capability>,
    /// Addresses of the session's other end: protected without being listed.
    pub neighbors: Vec<IpAddr>,
    /// Next hops that are announced: protected without being listed.
    pub next_hops: Vec<IpAddr>,
    /// Where its name stands, in bytes of the file.
    pub span: Range<usize>,
}

/// What speaks BGP for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnnouncerKind {
    /// Levee's own speaker.
    Embedded,
    /// ExaBGP.
    Exabgp,
    /// GoBGP.
    Gobgp,
    /// BIRD.
    Bird,
    /// FRRouting.
    Frr,
}

/// An upstream provider that can take traffic over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubber {
    /// Unique name.
    pub name: String,
    /// Which provider.
    pub kind: ScrubberKind,
    /// What it offers, sorted.
    pub capabilities: Vec<Capability>,
    /// Where its name stands, in bytes of the file.
    pub span: Range<usize>,
}

/// Providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScrubberKind {
    /// Cloudflare Magic Transit.
    MagicTransit,
    /// OVHcloud's mitigation in the network.
    Ovh,
    /// Any that speaks DOTS (RFC 9132).
    Dots,
}

/// What an announcer or a scrubber can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// FlowSpec rules.
    Flowspec,
    /// FlowSpec rules that limit.
    RateLimit,
    /// FlowSpec rules that redirect.
    Redirect,
    /// FlowSpec rules that mark.
    Mark,
    /// FlowSpec rules that have packets sampled.
    Sample,
    /// Blackholes for destinations.
    Blackhole,
    /// Blackholes for sources.
    SourceBlackhole,
    /// Prefixes announced so that traffic goes another way.
    Divert,
    /// All of it for IPv6 too.
    Ipv6,
    /// It reports how much it takes, so that calm is known while we see nothing.
    Report,
}

impl Capability {
    const WORDS: &[(&str, Self)] = &[
        ("flowspec", Self::Flowspec),
        ("rate-limit", Self::RateLimit),
        ("redirect", Self::Redirect),
        ("mark", Self::Mark),
        ("sample", Self::Sample),
        ("blackhole", Self::Blackhole),
        ("source-blackhole", Self::SourceBlackhole),
        ("divert", Self::Divert),
        ("ipv6", Self::Ipv6),
        ("report", Self::Report),
    ];

    /// The word in the file.
    pub fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, capability)| *capability == self).map_or("", |(word, _)| word)
    }
}

impl AnnouncerKind {
    const WORDS: &[(&str, Self)] = &[
        ("embedded", Self::Embedded),
        ("exabgp", Self::Exabgp),
        ("gobgp", Self::Gobgp),
        ("bird", Self::Bird),
        ("frr", Self::Frr),
    ];

    /// The word in the file.
    pub fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

impl ScrubberKind {
    const WORDS: &[(&str, Self)] = &[("magic-transit", Self::MagicTransit), ("ovh", Self::Ovh), ("dots", Self::Dots)];

    /// The word in the file.
    pub fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// What is assumed of a peer whose capabilities are not listed: what most transit providers accept.
const USUAL_ANNOUNCER: &[Capability] =
    &[Capability::Flowspec, Capability::RateLimit, Capability::Blackhole, Capability::Ipv6];
const USUAL_SCRUBBER: &[Capability] = &[Capability::Divert, Capability::Ipv6];

/// `bgp`: its peers are neighbours of the announcers that they belong to.
pub(super) fn announcers(file: &Section<'_>, bgp: Option<&Bgp>) -> Vec<Announcer> {
    let mut names = HashMap::new();
    file.tables("announcer").into_iter().filter_map(|table| announcer(table, bgp, &mut names)).collect()
}

fn announcer(
    mut table: Section<'_>,
    bgp: Option<&Bgp>,
    names: &mut HashMap<String, Range<usize>>,
) -> Option<Announcer> {
    let name = named(&mut table, "announcer", "announcers", "\"core-a\"", names);
    let kind = table.required("kind", "\"embedded\"", |table, key| table.choice(key, AnnouncerKind::WORDS));
    let mut announcer = Announcer {
        span: name.as_ref().map_or(0..0, |name| name.span.clone()),
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        kind: kind.unwrap_or(AnnouncerKind::Embedded),
        capabilities: capabilities(&table, USUAL_ANNOUNCER),
        neighbors: addresses(&table, "neighbors"),
        next_hops: addresses(&table, "next_hops"),
    };
    table.refuse_unknown();
    let peers = bgp.into_iter().flat_map(|bgp| &bgp.peers).filter(|peer| peer.announcer == announcer.name);
    let addresses: Vec<IpAddr> =
        peers.flat_map(|peer| [Some(peer.address.ip()), peer.local_address]).flatten().collect();
    if announcer.kind != AnnouncerKind::Embedded {
        if name.is_some() {
            no_driver(&table, &announcer.span, "announcer", announcer.kind.name());
        }
    } else if addresses.is_empty() && name.is_some() {
        let fault = Fault::new(
            format!("the announcer {:?} has no peer", announcer.name),
            format!(
                "describe one in a [[bgp.peer]] table with announcer = {:?}; until then its stages fail",
                announcer.name
            ),
        );
        table.problems().warning(announcer.span.clone(), fault);
    }
    for address in addresses {
        if !announcer.neighbors.contains(&address) {
            announcer.neighbors.push(address);
        }
    }
    name.map(|_| announcer)
}

pub(super) fn scrubbers(file: &Section<'_>) -> Vec<Scrubber> {
    let mut names = HashMap::new();
    file.tables("scrubber").into_iter().filter_map(|table| scrubber(table, &mut names)).collect()
}

fn scrubber(mut table: Section<'_>, names: &mut HashMap<String, Range<usize>>) -> Option<Scrubber> {
    let name = named(&mut table, "scrubber", "scrubbers", "\"magic-transit\"", names);
    let kind = table.required("kind", "\"magic-transit\"", |table, key| table.choice(key, ScrubberKind::WORDS));
    let scrubber = Scrubber {
        span: name.as_ref().map_or(0..0, |name| name.span.clone()),
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        kind: kind.unwrap_or(ScrubberKind::Dots),
        capabilities: capabilities(&table, USUAL_SCRUBBER),
    };
    table.refuse_unknown();
    if name.is_some() {
        no_driver(&table, &scrubber.span, "scrubber", scrubber.kind.name());
    }
    name.map(|_| scrubber)
}

/// Runbooks can be written and rehearsed before the drivers exist; nobody shall believe that they would act.
fn no_driver(table: &Section<'_>, span: &Range<usize>, what: &str, kind: &str) {
    let fault = Fault::new(
        format!("this version of Levee cannot talk to {what}s of the kind {kind:?}"),
        "stages that need it fail at once as `incapable`, and the stages behind them take over",
    );
    table.problems().warning(span.clone(), fault);
}

fn named(
    table: &mut Section<'_>,
    one: &str,
    many: &str,
    example: &str,
    names: &mut HashMap<String, Range<usize>>,
) -> Option<Located<String>> {
    let name = table.required("name", example, |table, key| table.parsed(key, name))?;
    table.rename(format!("{one} {:?}", name.value));
    once(many, &name, names, table.problems());
    Some(name)
}

fn capabilities(table: &Section<'_>, usual: &[Capability]) -> Vec<Capability> {
    let given = table.parsed_list("capabilities", |text| choose("capabilities", text, Capability::WORDS));
    let mut capabilities = given.map_or_else(|| usual.to_vec(), values);
    capabilities.sort_unstable();
    capabilities.dedup();
    capabilities
}

fn addresses(table: &Section<'_>, key: &'static str) -> Vec<IpAddr> {
    let address = |text: &str| {
        // What is protected is compared by version: "::ffff:192.0.2.1" is 192.0.2.1.
        text.parse::<IpAddr>()
            .map(|address| address.to_canonical())
            .map_err(|_| Fault::new(format!("{text:?} is not an address"), "write one such as \"192.0.2.1\""))
    };
    values(table.parsed_list(key, address).unwrap_or_default())
}
