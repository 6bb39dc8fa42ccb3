//! `[bgp]` and `[[bgp.peer]]`: who the embedded speaker is, and whom it talks to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use super::general::name;
use super::notifier::{Secret, secret};
use super::problem::Fault;
use super::quantity::duration;
use super::runbook::once;
use super::section::{Section, choose};

/// The embedded speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Our AS.
    pub asn: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Where connections of peers are taken; none: we only connect ourselves.
    pub listen: Vec<SocketAddr>,
    /// The peers, their names and addresses unique.
    pub peers: Vec<BgpPeer>,
    /// Where routers tell us what they have; none: they do not.
    pub bmp: Option<Bmp>,
}

/// `[bgp.bmp]`: routers tell what they were told (RFC 7854).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmp {
    /// Where routers connect to, at least one.
    pub listen: Vec<SocketAddr>,
    /// The addresses that they connect from, at least one.
    pub routers: Vec<IpAddr>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpPeer {
    /// Unique name.
    pub name: String,
    /// The announcer whose routes it is told.
    pub announcer: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Its AS.
    pub asn: u32,
    /// Our address of the session; none: the kernel chooses.
    pub local_address: Option<IpAddr>,
    /// It connects, we do not.
    pub passive: bool,
    /// The key of TCP's MD5 signatures.
    pub password: Option<Secret>,
    /// Only a neighbour on the same link can speak to us (RFC 5082).
    pub ttl_security: bool,
    /// Whole seconds; 0: the session is never given up for silence.
    pub hold_time: Duration,
    /// What it is told.
    pub families: Vec<BgpFamily>,
    /// How long it may keep our routes when the session is lost, whole seconds; none: it drops them.
    pub retain: Option<Duration>,
    /// Rules and blackholes stay within its AS.
    pub no_export: bool,
    /// Blackholes carry these.
    pub blackhole_communities: Vec<BgpCommunity>,
    /// Blackholes for sources carry these; none: it is not asked for any.
    pub source_blackhole_communities: Vec<BgpCommunity>,
    /// Diverted prefixes carry these.
    pub divert_communities: Vec<BgpCommunity>,
    /// How often our AS stands in the path of a diverted prefix.
    pub prepend: u8,
    /// Routes that it is told at most.
    pub max_routes: u32,
    /// Where its name stands, in bytes of the file.
    pub span: Range<usize>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BgpFamily {
    /// IPv4 prefixes.
    Ipv4Unicast,
    /// IPv6 prefixes.
    Ipv6Unicast,
    /// FlowSpec rules for IPv4.
    Ipv4Flowspec,
    /// FlowSpec rules for IPv6.
    Ipv6Flowspec,
}

/// A community.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BgpCommunity {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
}

impl BgpFamily {
    const WORDS: &[(&str, Self)] = &[
        ("ipv4-unicast", Self::Ipv4Unicast),
        ("ipv6-unicast", Self::Ipv6Unicast),
        ("ipv4-flowspec", Self::Ipv4Flowspec),
        ("ipv6-flowspec", Self::Ipv6Flowspec),
    ];
    const ALL: [Self; 4] = [Self::Ipv4Unicast, Self::Ipv6Unicast, Self::Ipv4Flowspec, Self::Ipv6Flowspec];
}

impl BgpPeer {
    /// BGP's port.
    pub const PORT: u16 = 179;
}

impl Bmp {
    /// The port that routers are usually told; there is none by a standard.
    pub const PORT: u16 = 11_019;
}

/// RFC 7999: drop what goes there.
const BLACKHOLE: BgpCommunity = BgpCommunity::Standard(0xffff_029a);
const WELL_KNOWN: &[(&str, BgpCommunity)] = &[
    ("blackhole", BLACKHOLE),
    ("no-export", BgpCommunity::Standard(0xffff_ff01)),
    ("no-advertise", BgpCommunity::Standard(0xffff_ff02)),
    ("no-peer", BgpCommunity::Standard(0xffff_ff04)),
];
/// Routers have 90 s or 180 s by themselves; more than this is worth a warning.
const LONG_HOLD_TIME: Duration = Duration::from_secs(300);
/// Numbers of mitigations begin below 2^31 and grow with time: beyond this many times 2^32 none will be.
const HIGHEST_TAG: u32 = 15;
/// What the capability has room for (RFC 4724).
const LONGEST_RETENTION: Duration = Duration::from_secs(4_095);

pub(super) fn read(file: &Section<'_>) -> Option<Bgp> {
    let section = file.table("bgp", "[bgp]".to_owned())?;
    let asn = section.required("as", "64496", as_number);
    let router_id = section.required("router_id", "\"192.0.2.1\"", |section, key| section.parsed(key, router_id));
    let listen = section.parsed_list("listen", |text| listen(text, BgpPeer::PORT)).unwrap_or_default();
    let mut names = HashMap::new();
    let mut places: HashMap<IpAddr, Range<usize>> = HashMap::new();
    let peers: Vec<BgpPeer> =
        section.tables("peer").into_iter().filter_map(|table| peer(table, asn, &mut names, &mut places)).collect();
    let bmp = bmp(&section, &peers);
    section.refuse_unknown();
    let listen: Vec<SocketAddr> = listen.into_iter().map(|address| address.value).collect();
    for peer in peers.iter().filter(|peer| peer.passive) {
        if !listen.iter().any(|on| on.is_ipv4() == peer.address.is_ipv4()) {
            let fault = Fault::new(
                format!("peer {:?} is passive, and nothing listens for it", peer.name),
                "give an address of ours in `listen` of [bgp], or leave `passive` out",
            );
            section.problems().error(peer.span.clone(), fault);
        }
    }
    for peer in peers.iter().filter(|peer| is_ourselves(peer, &listen, &peers)) {
        section.problems().error(peer.span.clone(), ourselves(peer.address.ip()));
    }
    Some(Bgp { asn: asn?, router_id: router_id?.value, listen, peers, bmp })
}

/// A connection to this peer would come out where we listen, or be one with our own address at both ends.
fn is_ourselves(peer: &BgpPeer, listen: &[SocketAddr], peers: &[BgpPeer]) -> bool {
    let address = peer.address;
    let is_ours = || peers.iter().any(|other| other.local_address == Some(address.ip())) || address.ip().is_loopback();
    let everywhere = |on: &SocketAddr| on.ip().is_unspecified() && on.is_ipv4() == address.is_ipv4() && is_ours();
    let ends_here = |on: &SocketAddr| on.port() == address.port() && (on.ip() == address.ip() || everywhere(on));
    peer.local_address == Some(address.ip()) || listen.iter().any(ends_here)
}

fn ourselves(address: IpAddr) -> Fault {
    Fault::new(
        format!("{address} is an address of ours: the speaker would talk to itself"),
        "give the router's address as `address`, and ours as `local_address`",
    )
}

/// A community of the operator's own that has the shape of the owner tag (our AS, and the two halves of a number that seldom
/// needs more than the lower one): routes of one measure would look like those of another.
fn looks_like_ours(table: &Section<'_>, local_as: Option<u32>, key: &'static str, given: &[BgpCommunity]) {
    for community in given {
        let BgpCommunity::Large([global, high, low]) = *community else { continue };
        if Some(global) != local_as || high > HIGHEST_TAG {
            continue;
        }
        let fault = Fault::new(
            format!("{global}:{high}:{low} in `{key}` has the shape of the tag by which Levee knows its own routes"),
            format!("give one of another AS, or one whose second number is over {HIGHEST_TAG}"),
        );
        if high == 0 {
            table.problems().error(table.place(key), fault);
        } else {
            table.problems().warning(table.place(key), fault);
        }
    }
}

fn bmp(bgp: &Section<'_>, peers: &[BgpPeer]) -> Option<Bmp> {
    let section = bgp.table("bmp", "[bgp.bmp]".to_owned())?;
    let on = section.parsed_list("listen", |text| listen(text, Bmp::PORT)).unwrap_or_default();
    let given = section.parsed_list("routers", address);
    section.refuse_unknown();
    if !section.has("listen") || section.list("listen").is_some_and(<[_]>::is_empty) {
        let fault = Fault::new(
            "[bgp.bmp] does not say where routers connect to",
            "add a line such as: listen = [\"192.0.2.1\"], the address of ours that the routers send BMP to",
        );
        section.problems().error(bgp.place("bmp"), fault);
    }
    let routers: Vec<IpAddr> = match given {
        Some(given) => given.into_iter().map(|router| router.value).collect(),
        None => peers.iter().map(|peer| peer.address.ip()).collect(),
    };
    if routers.is_empty() {
        let fault = Fault::new(
            "[bgp.bmp] listens for nobody",
            "give the addresses that the routers connect from: routers = [\"192.0.2.2\"]",
        );
        section.problems().error(bgp.place("bmp"), fault);
    }
    Some(Bmp { listen: on.into_iter().map(|on| on.value).collect(), routers })
}

fn peer(
    mut table: Section<'_>,
    local_as: Option<u32>,
    names: &mut HashMap<String, Range<usize>>,
    places: &mut HashMap<IpAddr, Range<usize>>,
) -> Option<BgpPeer> {
    let name = table.required("name", "\"core-a\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("bgp.peer {:?}", name.value));
        once("BGP peers", name, names, table.problems());
    }
    let announcer = table.parsed("announcer", super::general::name);
    let ip = table.required("address", "\"192.0.2.2\"", |table, key| table.parsed(key, address));
    if let Some(ip) = &ip
        && let Some(before) = places.insert(ip.value, ip.span.clone())
    {
        let fault = Fault::new(
            format!("{} is the address of two peers", ip.value),
            "connections are told apart by address: a router is one peer, with all its families",
        );
        table.problems().conflict(ip.span.clone(), fault, before, "first given here");
    }
    let port = table.integer("port", 1..=65_535).and_then(|port| u16::try_from(port).ok());
    let asn = table.required("as", "64497", as_number);
    let local_address = table.parsed("local_address", address);
    if let (Some(local), Some(ip)) = (&local_address, &ip)
        && local.value.is_ipv4() != ip.value.is_ipv4()
    {
        let fault =
            Fault::new("the two addresses of a session are of one version of IP", "give an address of the other's");
        table.problems().error(local.span.clone(), fault);
    }
    if table.has("tcp_ao") {
        let fault = Fault::new(
            "this version of Levee does not speak TCP-AO (RFC 5925)",
            "use `password` (TCP MD5) with `ttl_security`, and an access list at the router",
        );
        table.problems().error(table.place("tcp_ao"), fault);
    }
    let password = if table.has("password") { secret(&table, "password") } else { None };
    let hold_time = table.parsed("hold_time", hold_time);
    if let Some(time) = hold_time.as_ref().filter(|time| time.value.is_zero() || time.value > LONG_HOLD_TIME) {
        let told = if time.value.is_zero() {
            "with a hold time of 0 a router never notices that this machine or the path is lost, and keeps our routes"
        } else {
            "when this machine or the path is lost, the router keeps our routes for as long as the hold time"
        };
        table.problems().warning(time.span.clone(), Fault::new(told, "leave it out for \"90s\", or give less"));
    }
    let hold_time = hold_time.map_or(Duration::from_secs(90), |time| time.value);
    let families = families(&table);
    let retain = retain(&table);
    let communities = |key, usual: Vec<BgpCommunity>| {
        let given = table.parsed_list(key, community);
        given.map_or(usual, |given| given.into_iter().map(|community| community.value).collect())
    };
    let blackhole_communities = communities("blackhole_communities", vec![BLACKHOLE]);
    if table.list("blackhole_communities").is_some_and(<[_]>::is_empty) {
        let fault = Fault::new(
            "a blackhole without a community is an ordinary route: it would draw the attack to us",
            "give the community of the provider, or leave the line out: \"blackhole\" (RFC 7999)",
        );
        table.problems().error(table.place("blackhole_communities"), fault);
    }
    let source_blackhole_communities = communities("source_blackhole_communities", Vec::new());
    let divert_communities = communities("divert_communities", Vec::new());
    let means_otherwise = |key: &'static str, given: &[BgpCommunity], words: &[&str], why: &str| {
        let found = WELL_KNOWN.iter().find(|(word, community)| words.contains(word) && given.contains(community));
        if let Some((word, _)) = found {
            table.problems().error(table.place(key), Fault::new(format!("{word:?} in `{key}`: {why}"), "leave it out"));
        }
    };
    let drops = "routers upstream would drop all packets to the prefix";
    means_otherwise("source_blackhole_communities", &source_blackhole_communities, &["blackhole"], drops);
    means_otherwise("divert_communities", &divert_communities, &["blackhole"], drops);
    let stays = "a diversion that stays with the neighbour diverts nothing";
    means_otherwise("divert_communities", &divert_communities, &["no-export", "no-advertise"], stays);
    for (key, given) in [
        ("blackhole_communities", &blackhole_communities),
        ("source_blackhole_communities", &source_blackhole_communities),
        ("divert_communities", &divert_communities),
    ] {
        looks_like_ours(&table, local_as, key, given);
    }
    let passive = table.boolean("passive").unwrap_or(false);
    let ttl_security = table.boolean("ttl_security").unwrap_or(false);
    let no_export = table.boolean("no_export").unwrap_or(true);
    let prepend = table.integer("prepend", 1..=10).and_then(|times| u8::try_from(times).ok()).unwrap_or(1);
    let max_routes = table.integer("max_routes", 1..=10_000).and_then(|most| u32::try_from(most).ok()).unwrap_or(200);
    table.refuse_unknown();
    let name = name?;
    Some(BgpPeer {
        announcer: announcer.map_or_else(|| name.value.clone(), |announcer| announcer.value),
        name: name.value,
        address: SocketAddr::new(ip?.value, port.unwrap_or(BgpPeer::PORT)),
        asn: asn?,
        local_address: local_address.map(|address| address.value),
        passive,
        password,
        ttl_security,
        hold_time,
        families,
        retain,
        no_export,
        blackhole_communities,
        source_blackhole_communities,
        divert_communities,
        prepend,
        max_routes,
        span: name.span,
    })
}

fn families(table: &Section<'_>) -> Vec<BgpFamily> {
    let Some(given) = table.parsed_list("families", |text| choose("families", text, BgpFamily::WORDS)) else {
        return BgpFamily::ALL.to_vec();
    };
    let mut families: Vec<BgpFamily> = given.into_iter().map(|family| family.value).collect();
    families.sort_unstable();
    families.dedup();
    if table.list("families").is_some_and(<[_]>::is_empty) {
        let fault = Fault::new("a session without families carries nothing", "leave the line out for all four");
        table.problems().error(table.place("families"), fault);
    }
    families
}

/// `on_loss` and `retain_for`.
fn retain(table: &Section<'_>) -> Option<Duration> {
    let retains = table.choice("on_loss", &[("withdraw", false), ("retain", true)]).unwrap_or(false);
    let time = table.parsed("retain_for", |text| match duration(text)? {
        given if given.subsec_nanos() == 0 && (Duration::from_secs(1)..=LONGEST_RETENTION).contains(&given) => {
            Ok(given)
        }
        _ => Err(Fault::new(
            format!("routes cannot be retained for {text}"),
            "give whole seconds from \"1s\" to \"4095s\": what a peer keeps outlives us",
        )),
    });
    match (retains, time) {
        // One that is wrong has been told.
        (true, None) if table.has("retain_for") => None,
        (true, None) => {
            let fault = Fault::new(
                "on_loss = \"retain\" does not say for how long",
                "add a line such as: retain_for = \"2m\"; what a peer keeps outlives us",
            );
            table.problems().error(table.place("on_loss"), fault);
            None
        }
        (false, Some(time)) => {
            let fault = Fault::new(
                "`retain_for` means nothing while routes are withdrawn on loss",
                "add on_loss = \"retain\", or leave it out",
            );
            table.problems().error(time.span, fault);
            None
        }
        (true, Some(time)) => Some(time.value),
        (false, None) => None,
    }
}

fn as_number(section: &Section<'_>, key: &'static str) -> Option<u32> {
    let number = section.integer(key, 1..=u64::from(u32::MAX - 1)).and_then(|number| u32::try_from(number).ok())?;
    // RFC 7607, RFC 6793 and RFC 7300: none of them is anybody's.
    if matches!(number, 23_456 | 65_535) {
        let fault = Fault::new(format!("AS {number} is nobody's: it is reserved"), "give the number of the AS");
        section.problems().error(section.place(key), fault);
        return None;
    }
    Some(number)
}

fn router_id(text: &str) -> Result<Ipv4Addr, Fault> {
    match text.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Ok(id),
        _ => Err(Fault::new(
            format!("{text:?} is no router id"),
            "write one as an IPv4 address, such as \"192.0.2.1\": unique among the routers it talks to",
        )),
    }
}

fn address(text: &str) -> Result<IpAddr, Fault> {
    let wrong = || Fault::new(format!("{text:?} is not an address of a peer"), "write one such as \"192.0.2.2\"");
    match text.parse::<IpAddr>().map_err(|_| wrong())? {
        IpAddr::V6(address) if address.is_unicast_link_local() => Err(Fault::new(
            format!("{text:?} is the same on every link"),
            "give an address that is valid on the whole machine",
        )),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => Err(mapped(text)),
        IpAddr::V4(address) if address.is_broadcast() => Err(wrong()),
        address if address.is_unspecified() || address.is_multicast() => Err(wrong()),
        address => Ok(address),
    }
}

/// An IPv4 address in the clothes of IPv6: keys, hop limits and guardrails of one version would not hold for the other.
fn mapped(text: &str) -> Fault {
    Fault::new(format!("{text:?} is an IPv4 address written as IPv6"), "write it as IPv4, such as \"192.0.2.2\"")
}

fn listen(text: &str, port: u16) -> Result<SocketAddr, Fault> {
    let with_port = text.parse::<SocketAddr>().ok();
    let found = with_port.or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port)));
    if let Some(IpAddr::V6(address)) = found.map(|found| found.ip())
        && address.to_ipv4_mapped().is_some()
    {
        return Err(mapped(text));
    }
    found.filter(|address| address.port() != 0).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is no address to listen on"),
            "write one such as \"192.0.2.1\" or \"[2001:db8::1]:1179\"",
        )
    })
}

fn hold_time(text: &str) -> Result<Duration, Fault> {
    let time = duration(text)?;
    let whole = time.subsec_nanos() == 0 && time.as_secs() <= 65_535;
    if whole && (time.is_zero() || time.as_secs() >= 3) {
        return Ok(time);
    }
    Err(Fault::new(
        format!("a hold time cannot be {text}"),
        "give whole seconds from \"3s\" to \"65535s\", usually \"90s\"",
    ))
}

fn community(text: &str) -> Result<BgpCommunity, Fault> {
    if let Some((_, community)) = WELL_KNOWN.iter().find(|(word, _)| *word == text) {
        return Ok(*community);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let found = match parts.as_slice() {
        [high, low] => high
            .parse::<u16>()
            .ok()
            .zip(low.parse::<u16>().ok())
            .map(|(high, low)| BgpCommunity::Standard(u32::from(high) << 16 | u32::from(low))),
        [global, first, second] => match (global.parse(), first.parse(), second.parse()) {
            (Ok(global), Ok(first), Ok(second)) => Some(BgpCommunity::Large([global, first, second])),
            _ => None,
        },
        _ => None,
    };
    found.ok_or_else(|| {
        Fault::new(
            format!("{text:?} is no community"),
            "write \"64496:666\", a large one as \"64496:666:0\", or blackhole, no-export, no-advertise, no-peer",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    const HEAD: &str = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n\
                        [[announcer]]\nname = \"core-a\"\nkind = \"embedded\"\n";
    const BGP: &str = "[bgp]\nas = 64496\nrouter_id = \"192.0.2.1\"\n";

    fn parsed(text: &str) -> Result<Config, ConfigError> {
        Ok(Config::parse("levee.toml", &format!("{HEAD}{text}"))?)
    }

    fn with_peer(lines: &str) -> String {
        format!("{BGP}[[bgp.peer]]\nname = \"core-a\"\naddress = \"192.0.2.2\"\nas = 64497\n{lines}\n")
    }

    #[test]
    fn a_peer_needs_little_and_its_address_is_protected() {
        let config = parsed(&with_peer("")).unwrap();
        let bgp = config.bgp.unwrap();
        assert_eq!((bgp.asn, bgp.router_id, bgp.listen.len()), (64_496, Ipv4Addr::new(192, 0, 2, 1), 0));
        let peer = &bgp.peers[0];
        assert_eq!(peer.address, "192.0.2.2:179".parse().unwrap());
        assert_eq!((peer.announcer.as_str(), peer.hold_time.as_secs(), peer.retain), ("core-a", 90, None));
        assert_eq!((peer.families.len(), peer.no_export, &peer.blackhole_communities[..]), (4, true, &[BLACKHOLE][..]));
        assert_eq!(config.announcers[0].neighbors, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn a_blackhole_of_ipv6_without_a_next_hop_is_warned_of() {
        let warnings = |text: &str| {
            let text = text.replace("[\"203.0.113.0/24\"]", "[\"2001:db8::/48\"]");
            Config::parse("levee.toml", &text).unwrap().warnings.len()
        };
        let before = warnings(&format!("{HEAD}{}", with_peer("families = [\"ipv4-unicast\", \"ipv6-flowspec\"]")));
        assert_eq!(warnings(&format!("{HEAD}{}", with_peer(""))), before + 1);
        let with_next_hop = format!("{HEAD}next_hops = [\"2001:db8:f::1\"]\n{}", with_peer(""));
        assert_eq!(warnings(&with_next_hop), before);
        let over_v6 = with_peer("").replace("192.0.2.2", "2001:db8:f::2");
        assert_eq!(warnings(&format!("{HEAD}{over_v6}")), before);
    }

    #[test]
    fn bmp_comes_from_the_peers_unless_it_is_said_from_whom() {
        let bmp = |lines: &str| {
            parsed(&format!("{}[bgp.bmp]\n{lines}\n", with_peer(""))).map(|config| config.bgp.unwrap().bmp)
        };
        let two = |listen: &str, router: &str| {
            Some(Bmp { listen: vec![listen.parse().unwrap()], routers: vec![router.parse().unwrap()] })
        };
        assert_eq!(bmp("listen = [\"192.0.2.1\"]").unwrap(), two("192.0.2.1:11019", "192.0.2.2"));
        let other = "listen = [\"[2001:db8::1]:5000\"]\nrouters = [\"2001:db8::2\"]";
        assert_eq!(bmp(other).unwrap(), two("[2001:db8::1]:5000", "2001:db8::2"));
        for wrong in ["", "listen = []", "listen = [\"192.0.2.1\"]\nrouters = []", "listen = [\"192.0.2.1\"]\nport = 1"]
        {
            assert!(bmp(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_protected_is_of_the_version_that_it_has_on_the_wire() {
        let head = HEAD.to_owned() + "neighbors = [\"::ffff:192.0.2.9\"]\nnext_hops = [\"::ffff:192.0.2.8\"]\n";
        let announcer = Config::parse("levee.toml", &format!("{head}{}", with_peer(""))).unwrap().announcers.remove(0);
        assert_eq!(announcer.next_hops, ["192.0.2.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(announcer.neighbors[0], "192.0.2.9".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn everything_can_be_said() {
        let text = with_peer(
            "local_address = \"192.0.2.1\"\nport = 1790\npassive = true\npassword = { file = \"/etc/levee/bgp.key\" }\n\
             ttl_security = true\nhold_time = \"30s\"\nfamilies = [\"ipv4-flowspec\", \"ipv4-unicast\"]\n\
             on_loss = \"retain\"\nretain_for = \"2m\"\nno_export = false\n\
             blackhole_communities = [\"64497:666\", \"64497:666:1\"]\nsource_blackhole_communities = [\"64497:667\"]\n\
             divert_communities = [\"no-peer\"]\nprepend = 3\nmax_routes = 50",
        )
        .replace("router_id", "listen = [\"192.0.2.1\", \"[2001:db8::1]:1179\"]\nrouter_id");
        let bgp = parsed(&text).unwrap().bgp.unwrap();
        assert_eq!(bgp.listen, ["192.0.2.1:179".parse().unwrap(), "[2001:db8::1]:1179".parse::<SocketAddr>().unwrap()]);
        let peer = &bgp.peers[0];
        assert_eq!(peer.families, [BgpFamily::Ipv4Unicast, BgpFamily::Ipv4Flowspec]);
        assert_eq!(peer.retain, Some(Duration::from_secs(120)));
        let communities = [BgpCommunity::Standard(64_497 << 16 | 666), BgpCommunity::Large([64_497, 666, 1])];
        assert_eq!(peer.blackhole_communities, communities);
        assert!(matches!(peer.password, Some(Secret::File(_))));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_its_remedy() {
        for (text, told, help) in [
            (with_peer("adress = \"192.0.2.3\""), "unknown key `adress`", "`address`"),
            (with_peer("hold_time = \"2s\""), "a hold time cannot be 2s", "\"3s\""),
            (with_peer("on_loss = \"retain\""), "does not say for how long", "retain_for"),
            (with_peer("retain_for = \"2m\""), "means nothing", "on_loss"),
            (with_peer("on_loss = \"retain\"\nretain_for = \"2h\""), "cannot be retained for 2h", "4095s"),
            (with_peer("families = [\"ipv4-flow\"]"), "unknown value `ipv4-flow`", "ipv4-flowspec"),
            (with_peer("families = []"), "carries nothing", "all four"),
            (with_peer("divert_communities = [\"blackhole\"]"), "drop all packets", "leave it out"),
            (with_peer("divert_communities = [\"no-export\"]"), "diverts nothing", "leave it out"),
            (with_peer("source_blackhole_communities = [\"65535:666\"]"), "drop all packets", "leave it out"),
            (with_peer("blackhole_communities = []"), "ordinary route", "RFC 7999"),
            (with_peer("blackhole_communities = [\"70000:1\"]"), "is no community", "64496:666"),
            (with_peer("password = \"sesame\""), "must not stand in this file", "file"),
            (with_peer("tcp_ao = \"key\""), "TCP-AO", "password"),
            (with_peer("passive = true"), "nothing listens", "listen"),
            (with_peer("local_address = \"2001:db8::1\""), "one version", "other"),
            (with_peer("local_address = \"192.0.2.2\""), "talk to itself", "the router's address"),
            (
                with_peer("").replace("router_id", "listen = [\"192.0.2.2\"]\nrouter_id"),
                "talk to itself",
                "the router's address",
            ),
            (
                with_peer(
                    "[[bgp.peer]]\nname = \"two\"\nannouncer = \"core-a\"\naddress = \"192.0.2.3\"\nas = 64498\n\
                     local_address = \"192.0.2.2\"",
                )
                .replace("router_id", "listen = [\"0.0.0.0\"]\nrouter_id"),
                "192.0.2.2 is an address of ours",
                "the router's address",
            ),
            (with_peer("blackhole_communities = [\"64496:0:666\"]"), "shape of the tag", "over 15"),
            (with_peer("divert_communities = [\"64496:0:1\"]"), "shape of the tag", "another AS"),
            (with_peer("max_routes = 0"), "out of range", "1 to"),
            (with_peer("announcer = \"core-b\""), "core-b", "core-a"),
            (with_peer("").replace("\"192.0.2.2\"", "\"fe80::1\""), "same on every link", "whole machine"),
            (with_peer("").replace("\"192.0.2.2\"", "\"::ffff:192.0.2.2\""), "written as IPv6", "write it as IPv4"),
            (
                with_peer("").replace("router_id", "listen = [\"[::ffff:192.0.2.1]:179\"]\nrouter_id"),
                "written as IPv6",
                "write it as IPv4",
            ),
            (with_peer("").replace("\"192.0.2.2\"", "\"224.0.0.1\""), "not an address of a peer", "192.0.2.2"),
            (with_peer("").replace("64497", "23456"), "reserved", "number"),
            (with_peer("").replace("router_id = \"192.0.2.1\"", "router_id = \"0.0.0.0\""), "no router id", "unique"),
            (format!("{BGP}[[bgp.peer]]\nname = \"core-a\"\nas = 64497\n"), "has no `address`", "192.0.2.2"),
            ("[bgp]\nas = 64496\n".to_owned(), "has no `router_id`", "192.0.2.1"),
            (
                with_peer("[[bgp.peer]]\nname = \"two\"\nannouncer = \"core-a\"\naddress = \"192.0.2.2\"\nas = 64498"),
                "address of two peers",
                "told apart",
            ),
        ] {
            let Err(ConfigError::Invalid(invalid)) = parsed(&text) else { panic!("{text} is valid") };
            // Without a peer that can be used the announcer is warned of, too.
            let problem = invalid.problems().iter().find(|problem| problem.is_error).unwrap();
            assert!(problem.message.contains(told) && problem.help.contains(help), "{text}: {problem:?}");
            assert!(problem.line > 4, "{problem:?}");
        }
    }

    #[test]
    fn a_community_that_could_become_a_tag_is_warned_of_and_others_are_the_operators() {
        let warnings = |community: &str| {
            parsed(&with_peer(&format!("blackhole_communities = [{community:?}]"))).unwrap().warnings.len()
        };
        assert_eq!(warnings("64496:7:666"), 1);
        for community in ["64496:16:666", "64496:666:0", "64497:0:666", "64496:666"] {
            assert_eq!(warnings(community), 0, "{community}");
        }
    }

    #[test]
    fn a_router_on_our_own_address_and_another_port_is_another_program() {
        let text = with_peer("port = 1790").replace("router_id", "listen = [\"192.0.2.2\"]\nrouter_id");
        assert!(parsed(&text).is_ok());
    }

    #[test]
    fn a_hold_time_that_keeps_routes_for_long_is_warned_of() {
        for (time, told) in [("0s", "never notices"), ("10m", "as long as the hold time")] {
            let config = parsed(&with_peer(&format!("hold_time = \"{time}\""))).unwrap();
            assert!(config.warnings[0].message.contains(told), "{:?}", config.warnings);
        }
        assert_eq!(parsed(&with_peer("hold_time = \"5m\"")).unwrap().warnings, []);
    }

    #[test]
    fn an_embedded_announcer_without_a_peer_can_be_rehearsed_and_is_warned_of() {
        let config = parsed("").unwrap();
        assert!(config.warnings[0].message.contains("no peer"), "{:?}", config.warnings);
    }
}
