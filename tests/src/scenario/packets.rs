//! The packets of a scenario, one after the other: what has begun and not passed yet is all that is kept.

use std::net::IpAddr;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Component, Crowd, Label, Packet, Queue, Scenario, ScenarioError,
    schedule::{Growth, Schedule, nanoseconds},
};
use crate::{
    address::Family,
    attack::{self, Aim, Attack, Bots},
    conversation::{Event, Kind},
    frame::Link,
};

const SECOND: u64 = 1_000_000_000;
const MOST_PER_S: f64 = 1e8;

/// The packets of a scenario in order of time.
#[derive(Debug)]
pub struct Packets {
    streams: Vec<Stream>,
    waiting: Queue<Label>,
    start_ns: u64,
    end_ns: u64,
    last_unix_ns: u64,
}

/// Things of one kind that begin again and again.
#[derive(Debug)]
struct Stream {
    schedule: Schedule,
    label: Label,
    what: What,
    rng: ChaCha8Rng,
}

#[derive(Debug)]
enum What {
    Conversations { kind: Kind, servers: Vec<IpAddr> },
    Attack { attack: Box<Attack>, aim: Aim, answered: bool, walk: Option<Walk> },
    Bots { bots: Box<Bots>, aim: Aim, walk: Option<Walk> },
}

/// From one address of the target to the next.
#[derive(Clone, Copy, Debug)]
struct Walk {
    onset_ns: u64,
    dwell_ns: u64,
}

impl Packets {
    pub(super) fn new(scenario: &Scenario) -> Result<Self, ScenarioError> {
        let mut packets = Self {
            streams: Vec::new(),
            waiting: Queue::default(),
            start_ns: u64::from(scenario.start_unix_s) * SECOND,
            end_ns: nanoseconds(scenario.duration_s),
            last_unix_ns: 0,
        };
        let benign = &scenario.benign;
        if benign.servers.is_empty() && !benign.per_s.is_empty() {
            return Err(ScenarioError::NoServers);
        }
        let usual = benign.per_s.iter().map(|(kind, per_s)| {
            let crowd = Crowd {
                kind: *kind,
                server: IpAddr::from([0; 4]),
                per_s: *per_s,
                onset_s: 0.0,
                duration_s: scenario.duration_s,
                rise_s: 0.0,
            };
            (Label::Benign, benign.servers.clone(), crowd)
        });
        let crowds = scenario.crowds.iter().map(|crowd| (Label::Crowd, vec![crowd.server], crowd.clone()));
        for (label, servers, crowd) in usual.chain(crowds) {
            check_rate(crowd.per_s, || format!("{:?}", crowd.kind))?;
            let mut rng = packets.rng(scenario);
            let growth = if crowd.rise_s > 0.0 { Growth::Rise(crowd.rise_s) } else { Growth::None };
            let schedule = Schedule::new(crowd.onset_s, crowd.duration_s, crowd.per_s, growth, None, &mut rng);
            let what = What::Conversations { kind: crowd.kind, servers };
            packets.streams.push(Stream { schedule, label, what, rng });
        }
        for (at, component) in scenario.attacks.iter().enumerate() {
            packets.add_attack(scenario, at, component)?;
        }
        Ok(packets)
    }

    fn add_attack(&mut self, scenario: &Scenario, at: usize, component: &Component) -> Result<(), ScenarioError> {
        let &Component { kind, target, port, sources, rate_per_s, onset_s, duration_s, answered, .. } = component;
        check_rate(rate_per_s, || kind.to_string())?;
        if !kind.suits(Family::of(target.addr())) {
            return Err(ScenarioError::Family { kind, target });
        }
        let mut rng = self.rng(scenario);
        let growth = component.ramp.map_or(Growth::None, Growth::Ramp);
        let schedule = Schedule::new(onset_s, duration_s, rate_per_s, growth, component.pulse, &mut rng);
        let aim = Aim { kind, target, port, sources, seed: rng.random(), link: Link::default() };
        let onset_ns = nanoseconds(onset_s);
        let walk = component.dwell_s.map(|dwell_s| Walk { onset_ns, dwell_ns: nanoseconds(dwell_s).max(1) });
        let what = if kind.needs_connections() {
            let mut bots = Bots::new(aim);
            let prelude = bots.prelude(onset_ns);
            self.waiting.push(prelude, Label::Prelude);
            What::Bots { bots: Box::new(bots), aim, walk }
        } else {
            What::Attack { attack: Box::new(Attack::new(aim)), aim, answered, walk }
        };
        self.streams.push(Stream { schedule, label: Label::Attack(at), what, rng });
        Ok(())
    }

    /// Side by side, streams of one scenario must differ though they share its seed.
    fn rng(&self, scenario: &Scenario) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed);
        rng.set_stream(self.streams.len() as u64);
        rng
    }
}

impl Iterator for Packets {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        loop {
            let due = self.streams.iter_mut().filter(|stream| !stream.schedule.is_over());
            let due = due.min_by_key(|stream| stream.schedule.next_ns);
            let first = self.waiting.first_ns();
            if let Some(stream) = due.filter(|stream| first.is_none_or(|first| stream.schedule.next_ns <= first)) {
                let (label, events) = (stream.label, stream.begin());
                self.waiting.push(events, label);
                continue;
            }
            let (Event { at_ns, inbound, frame }, label) = self.waiting.pop()?;
            if at_ns >= self.end_ns {
                return None;
            }
            self.last_unix_ns = (self.start_ns + at_ns).max(self.last_unix_ns + 1);
            return Some(Packet { unix_ns: self.last_unix_ns, inbound, label, frame });
        }
    }
}

impl Stream {
    /// What begins now.
    fn begin(&mut self) -> Vec<Event> {
        let at_ns = self.schedule.next_ns;
        self.schedule.advance(&mut self.rng);
        match &mut self.what {
            What::Conversations { kind, servers } => {
                let Some(server) = servers.get(self.rng.random_range(0..servers.len())) else { return Vec::new() };
                kind.conversation(at_ns, *server, Link::default(), &mut self.rng)
            }
            What::Attack { attack, aim, answered, walk } => {
                if let Some(walk) = walk {
                    attack.turn_to(walk.host(aim, at_ns));
                }
                let mut frame = Vec::new();
                attack.next_frame(&mut frame);
                let answer =
                    if *answered { attack::answer(aim.kind, &frame, aim.link.reversed(), &mut self.rng) } else { None };
                let later_ns = at_ns + self.rng.random_range(50_000..500_000);
                let answer = answer.map(|frame| Event { at_ns: later_ns, inbound: false, frame });
                // The rest of a datagram is right behind its first fragment.
                let whole = [frame].into_iter().chain(std::iter::from_fn(|| attack.next_fragment()));
                let whole = (0..).zip(whole).map(|(i, frame)| Event { at_ns: at_ns + 2_000 * i, inbound: true, frame });
                whole.chain(answer).collect()
            }
            What::Bots { bots, aim, walk } => {
                if let Some(walk) = walk {
                    bots.turn_to(walk.host(aim, at_ns));
                }
                bots.strike(at_ns)
            }
        }
    }
}

impl Walk {
    fn host(&self, aim: &Aim, at_ns: u64) -> ipnet::IpNet {
        let step = at_ns.saturating_sub(self.onset_ns) / self.dwell_ns;
        let host = u16::try_from(step & u64::from(u16::MAX)).unwrap_or(0);
        attack::host_of(aim.target, host).into()
    }
}

fn check_rate(rate: f64, what: impl Fn() -> String) -> Result<(), ScenarioError> {
    if rate > 0.0 && rate <= MOST_PER_S { Ok(()) } else { Err(ScenarioError::Rate { what: what(), rate }) }
}
