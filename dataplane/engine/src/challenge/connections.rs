//! Connections that were opened in the place of a server: what tells the numbers of both sides apart, for as long as they last.
//!
//! A fixed table, of which one worker owns one: both directions of a connection meet the same worker. A bucket is one cache line of three
//! connections. One in use is never evicted, for it would break: where there is no room, none is added. Keys come from a
//! hash with a secret, so that nobody outside can fill a bucket of his choice.

use std::time::Duration;

use levee_api::time::Timestamp;

use crate::isa::prefetch_at;

bitflags::bitflags! {
    /// What has happened on a connection.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct State: u8 {
        /// There is one.
        const USED = 1 << 0;
        /// The server has answered.
        const OPEN = 1 << 1;
        /// The client has no more data to send.
        const CLIENT_FIN = 1 << 2;
        /// Nor has the server.
        const SERVER_FIN = 1 << 3;
        /// The last segment of either side was a RST.
        const RESET = 1 << 4;
    }
}

/// How windows have to be scaled, because the client was told a scale before the server said its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// The scale that the client was told; none: neither side scales.
    pub told: Option<u8>,
    /// That of the client as the server knows it, as the code of a cookie; zero: none.
    pub client: u8,
    /// The server's. Meaningless until it has answered.
    pub server: Option<u8>,
}

/// A connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The sequence number of the SYN-ACK that the client got.
    pub cookie: u32,
    /// How far the server's sequence numbers are ahead of those that the client knows.
    pub offset: u32,
    /// How far the server's timestamps are ahead of those that the client knows; until the server has answered: what the client was
    /// told.
    pub stamps: u32,
    /// Scales of windows.
    pub windows: Windows,
    /// What has happened.
    pub state: State,
    /// When it ends, if nothing happens, in units of time: for the table to say.
    pub(super) until: u32,
}

/// Where a connection is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    bucket: usize,
    way: usize,
}

/// Connections that a worker can translate: 21 bytes each, 4 MiB.
const BUCKETS: usize = 1 << 16;
const WAYS: usize = 3;
/// Time unit: 2^30 ns, about a second; 24 bits of them last 208 days.
const UNIT_SHIFT: u32 = 30;
const UNTIL_MASK: u32 = 0x00ff_ffff;
/// Nothing lasts longer, in units: what seems to is over.
const MOST: u32 = 1 << 13;

/// How long connections last after the last segment.
mod lifetime {
    use std::time::Duration;

    /// The server has not answered. As long as most clients wait before they ask again for the third time.
    pub(super) const ASKED: Duration = Duration::from_secs(10);
    /// RFC 5382 section 5: an address translator keeps an idle connection for two hours and four minutes.
    pub(super) const OPEN: Duration = Duration::from_secs(7_440);
    /// And where there is no room, for at least this long.
    pub(super) const LEAST: Duration = Duration::from_secs(300);
    /// After both sides have closed: late segments and retransmissions (two minutes would be twice the longest life of a segment, of which
    /// nobody has seen a whole one; RFC 9293 section 3.6.1).
    pub(super) const CLOSED: Duration = Duration::from_secs(60);
    /// After a RST.
    pub(super) const RESET: Duration = Duration::from_secs(10);
}

/// Connections side by side.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; WAYS],
    /// Above the state, until when.
    lives: [u32; WAYS],
    cookies: [u32; WAYS],
    offsets: [u32; WAYS],
    stamps: [u32; WAYS],
    windows: [u8; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

/// The table of one worker.
#[derive(Debug)]
pub struct Connections {
    buckets: Box<[Bucket]>,
    /// Per bucket a bit for each eighth of the tags of which it may have an entry.
    hints: Box<[u8]>,
    /// No connection lasts longer: nothing has to be looked up after that.
    last: u64,
}

impl Default for Connections {
    fn default() -> Self {
        Self::new(BUCKETS)
    }
}

impl Connections {
    /// A table of so many buckets, rounded up to a power of two.
    fn new(buckets: usize) -> Self {
        let buckets = buckets.max(1).next_power_of_two();
        Self {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            hints: vec![0; buckets].into_boxed_slice(),
            last: 0,
        }
    }

    /// False when there is none.
    #[inline]
    pub fn are_any(&self, now: Timestamp) -> bool {
        now.0 >> UNIT_SHIFT < self.last
    }

    /// False when there is certainly no connection of this key.
    #[inline]
    pub fn may_know(&self, key: u64) -> bool {
        self.hints.get(self.at(key)).is_some_and(|hints| hints & hint(tag(key)) != 0)
    }

    /// Asks for the cache line of a key.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        prefetch_at(&self.buckets, self.at(key));
    }

    /// The connection of a key.
    #[inline]
    pub fn find(&self, key: u64, now: Timestamp) -> Option<(Slot, Connection)> {
        let (bucket, tag) = (self.at(key), tag(key));
        let entries = self.buckets.get(bucket)?;
        let way =
            entries.tags.iter().zip(&entries.lives).position(|(own, life)| *own == tag && ahead(*life, now) > 0)?;
        Some((Slot { bucket, way }, entries.get(way)?))
    }

    /// A place for a new connection. None when there is no room: all others live, and none has been idle for long.
    pub fn place(&self, key: u64, now: Timestamp) -> Option<Slot> {
        let bucket = self.at(key);
        let lives = &self.buckets.get(bucket)?.lives;
        let (way, left) = lives
            .iter()
            .map(|life| ahead(*life, now))
            .enumerate()
            .min_by_key(|(way, left)| (is_kept(lives, *way, *left), *left))?;
        (!is_kept(lives, way, left)).then_some(Slot { bucket, way })
    }

    /// Puts a connection into its place, or what has become of it. `now`: when this is.
    #[inline]
    pub fn put(&mut self, slot: Slot, key: u64, connection: Connection, now: Timestamp) {
        let lasts = connection.state.lasts();
        let until = (now + lasts).0 >> UNIT_SHIFT;
        self.last = self.last.max(until + 1);
        let until = u32::try_from((until + 1) & u64::from(UNTIL_MASK)).unwrap_or(0);
        let Some(bucket) = self.buckets.get_mut(slot.bucket) else { return };
        let (was, is) = (bucket.get(slot.way), Connection { until, ..connection });
        if was == Some(is) && bucket.tags.get(slot.way) == Some(&tag(key)) {
            return;
        }
        bucket.set(slot.way, tag(key), is);
        let living = bucket.tags.iter().zip(&bucket.lives).filter(|(_, life)| ahead(**life, now) > 0);
        if let Some(hints) = self.hints.get_mut(slot.bucket) {
            *hints = living.fold(0, |hints, (tag, _)| hints | hint(*tag));
        }
    }

    /// Forgets a connection.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(life) = self.buckets.get_mut(slot.bucket).and_then(|bucket| bucket.lives.get_mut(slot.way)) {
            *life = 0;
        }
    }

    fn at(&self, key: u64) -> usize {
        usize::try_from(key).unwrap_or(0) & (self.buckets.len() - 1)
    }
}

impl State {
    fn lasts(self) -> Duration {
        if self.contains(Self::RESET) {
            lifetime::RESET
        } else if self.contains(Self::CLIENT_FIN | Self::SERVER_FIN) {
            lifetime::CLOSED
        } else if self.contains(Self::OPEN) {
            lifetime::OPEN
        } else {
            lifetime::ASKED
        }
    }
}

impl Connection {
    /// True when its last segment came within the last second or so.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        ahead(self.until << 8 | u32::from(State::USED.bits()), now) >= units(self.state.lasts())
    }

    /// True when it is over, and only late segments may come.
    pub fn is_closed(&self) -> bool {
        self.state.contains(State::RESET) || self.state.contains(State::CLIENT_FIN | State::SERVER_FIN)
    }
}

impl Bucket {
    #[inline]
    fn get(&self, way: usize) -> Option<Connection> {
        let life = *self.lives.get(way)?;
        Some(Connection {
            cookie: *self.cookies.get(way)?,
            offset: *self.offsets.get(way)?,
            stamps: *self.stamps.get(way)?,
            windows: Windows::unpack(*self.windows.get(way)?),
            state: state_of(life),
            until: life >> 8,
        })
    }

    #[inline]
    fn set(&mut self, way: usize, tag: u32, connection: Connection) {
        let Connection { cookie, offset, stamps, windows, state, until } = connection;
        let life = until << 8 | u32::from(state.bits());
        let columns = [&mut self.tags, &mut self.lives, &mut self.cookies, &mut self.offsets, &mut self.stamps];
        for (column, value) in columns.into_iter().zip([tag, life, cookie, offset, stamps]) {
            column.get_mut(way).into_iter().for_each(|place| *place = value);
        }
        self.windows.get_mut(way).into_iter().for_each(|place| *place = windows.pack(state));
    }
}

/// Marks the form of [`Windows`] of a server that does not scale.
const UNSCALED: u8 = 1 << 7;
/// Stands for no scale.
const NO_SCALE: u8 = 15;
/// Added to what may be negative.
const BIAS: u8 = 14;

impl Windows {
    /// Until the server has answered, and where it does not scale: what the client was told, and the client's. Else the difference of the
    /// server's scale and that.
    fn pack(self, state: State) -> u8 {
        match (self.server, self.told) {
            (Some(server), Some(told)) if state.contains(State::OPEN) => (server + BIAS).saturating_sub(told),
            (_, told) => UNSCALED | self.client << 4 | told.unwrap_or(NO_SCALE),
        }
    }

    fn unpack(packed: u8) -> Self {
        if packed & UNSCALED != 0 {
            let told = packed & NO_SCALE;
            return Self { told: (told != NO_SCALE).then_some(told), client: packed >> 4 & 7, server: None };
        }
        // Only the difference matters from here on.
        let (server, told) = (packed.saturating_sub(BIAS), BIAS.saturating_sub(packed));
        Self { told: Some(told), client: 0, server: Some(server) }
    }

    /// By how many bits the windows that the server sends have to be moved to the left.
    pub fn to_client(self) -> i8 {
        let [server, told] = [self.server, self.told].map(|scale| i8::try_from(scale.unwrap_or(0)).unwrap_or(0));
        server - told
    }

    /// True when the server takes windows as they are, although the client scales them.
    pub fn is_scaled_for_nobody(self) -> bool {
        self.told.is_some() && self.server.is_none()
    }
}

/// True when a connection lives that has not been idle for so long that it may make room for another one.
fn is_kept(lives: &[u32; WAYS], way: usize, left: u32) -> bool {
    let lasts = lives.get(way).map_or(Duration::ZERO, |life| state_of(*life).lasts());
    left > 0 && (lasts <= lifetime::LEAST || left + units(lifetime::LEAST) >= units(lasts))
}

fn state_of(life: u32) -> State {
    let [state, ..] = life.to_le_bytes();
    State::from_bits_retain(state)
}

/// How many units of time a connection has left; zero when there is none.
#[inline]
fn ahead(life: u32, now: Timestamp) -> u32 {
    let now = u32::try_from(now.0 >> UNIT_SHIFT & u64::from(UNTIL_MASK)).unwrap_or(0);
    let left = (life >> 8).wrapping_sub(now) & UNTIL_MASK;
    if left <= MOST && life & u32::from(State::USED.bits()) != 0 { left } else { 0 }
}

fn units(duration: Duration) -> u32 {
    u32::try_from((Timestamp::ZERO + duration).0 >> UNIT_SHIFT).unwrap_or(MOST)
}

/// The bit of a tag among the hints of its bucket.
#[inline(always)]
fn hint(tag: u32) -> u8 {
    1 << (tag & 7)
}

fn tag(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp(5_000_000_000_000);
    const ASKED: Connection = Connection {
        cookie: 1,
        offset: 2,
        stamps: 3,
        windows: Windows { told: Some(7), client: 6, server: None },
        state: State::USED,
        until: 0,
    };
    const OPEN: Connection = Connection { state: State::USED.union(State::OPEN), ..ASKED };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn add(table: &mut Connections, key: u64, connection: Connection, now: Timestamp) -> bool {
        let slot = table.place(key, now);
        if let Some(slot) = slot {
            table.put(slot, key, connection, now);
        }
        slot.is_some()
    }

    #[test]
    fn connections_last_as_long_as_their_state_says() {
        let last = |state, from: u64| {
            let mut table = Connections::new(8);
            let start = START + seconds(from);
            assert!(add(&mut table, 7, Connection { state: State::USED | state, ..ASKED }, start));
            let living = |after: &u64| table.find(7, start + seconds(*after)).is_some();
            let last = (0..9_000).filter(living).max().unwrap();
            assert!((0..last).all(|after| living(&after)), "no gap");
            assert!(table.are_any(start + seconds(last)) && !table.are_any(start + seconds(last + 20)));
            last
        };
        // Also where the clock's 24 bits begin anew.
        for from in [0, (1 << 24) - 10_000, (1 << 24) - 5] {
            assert!((10..13).contains(&last(State::empty(), from)));
            assert!((7_440..7_450).contains(&last(State::OPEN, from)));
            assert!((7_440..7_450).contains(&last(State::OPEN | State::CLIENT_FIN, from)), "half-closed");
            assert!((60..63).contains(&last(State::OPEN | State::CLIENT_FIN | State::SERVER_FIN, from)));
            assert!((10..13).contains(&last(State::OPEN | State::RESET, from)));
        }
    }

    #[test]
    fn there_is_no_room_but_that_of_the_dead_and_the_idle() {
        let mut table = Connections::new(1);
        for key in 0..3 {
            assert!(add(&mut table, key << 32, OPEN, START + seconds(key)));
        }
        assert!(!add(&mut table, 9 << 32, OPEN, START + seconds(200)));
        assert!((0..3).all(|key| table.find(key << 32, START + seconds(200)).is_some()));
        let (slot, known) = table.find(0, START).unwrap();
        table.put(slot, 0, known, START + seconds(200));
        assert!(add(&mut table, 9 << 32, OPEN, START + seconds(310)), "the second one has been idle for five minutes");
        let found = [0, 1, 2, 9].map(|key| table.find(key << 32, START + seconds(310)).is_some());
        assert_eq!(found, [true, false, true, true]);
        let (slot, _) = table.find(2 << 32, START + seconds(310)).unwrap();
        table.remove(slot);
        assert!(add(&mut table, 10 << 32, ASKED, START + seconds(310)));
        assert!(!add(&mut table, 11 << 32, ASKED, START + seconds(315)), "nor one that was just asked");
    }

    #[test]
    fn hints_say_what_may_be_known() {
        let mut table = Connections::new(4);
        assert!(add(&mut table, 5 << 32 | 1, OPEN, START));
        assert!(table.may_know(5 << 32 | 1) && !table.may_know(6 << 32 | 1) && !table.may_know(5 << 32 | 2));
    }

    #[test]
    fn it_is_fresh_for_a_second() {
        let mut table = Connections::new(1);
        assert!(add(&mut table, 7, ASKED, START));
        let (_, known) = table.find(7, START).unwrap();
        assert!(known.is_fresh(START));
        assert!(!known.is_fresh(START + seconds(3)));
    }

    proptest! {
        #[test]
        fn what_is_put_is_found(
            cookie: u32, offset: u32, stamps: u32, told in prop::option::of(0..=14_u8), client in 0..8_u8,
            server in prop::option::of(0..=14_u8), open: bool,
        ) {
            let mut table = Connections::new(1);
            let (server, client) = if told.is_some() { (server, client) } else { (None, client) };
            let windows = Windows { told, client, server: server.filter(|_| open) };
            let state = State::USED | if open { State::OPEN } else { State::empty() };
            let put = Connection { cookie, offset, stamps, windows, state, until: 0 };
            prop_assert!(add(&mut table, 7, put, START));
            let (_, found) = table.find(7, START).unwrap();
            prop_assert_eq!((found.cookie, found.offset, found.stamps, found.state), (cookie, offset, stamps, state));
            prop_assert_eq!(found.windows.to_client(), windows.to_client());
            prop_assert_eq!(found.windows.is_scaled_for_nobody(), windows.is_scaled_for_nobody());
            if windows.server.is_none() {
                prop_assert_eq!(found.windows, windows);
            }
        }
    }
}
