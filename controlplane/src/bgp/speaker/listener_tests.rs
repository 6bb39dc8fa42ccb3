//! Who comes in, over loopback.

use nix::libc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

use super::*;
use crate::secret::Secret;

/// Addresses on which nobody else of this machine listens; each test has one of its own for each of its numbers.
fn address(number: u8) -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    [127, 64 | high & 0x3f, low, number].into()
}

struct House {
    listening: Listening,
    at: SocketAddr,
    incoming: mpsc::Receiver<TcpStream>,
    peer: mpsc::Sender<TcpStream>,
}

impl House {
    /// Listens at an address for these.
    async fn new(at: IpAddr, callers: &[(IpAddr, Protection)]) -> Self {
        let (peer, incoming) = mpsc::channel(9);
        let at = SocketAddr::new(at, 1790);
        let listening = Listening::new(at, expected(&peer, callers));
        while lock(&listening.door).socket.is_none() {
            tokio::task::yield_now().await;
        }
        Self { listening, at, incoming, peer }
    }

    /// The next who comes in.
    async fn next(&mut self) -> SocketAddr {
        let next = tokio::time::timeout(Duration::from_secs(20), self.incoming.recv()).await;
        next.expect("somebody comes in").unwrap().peer_addr().unwrap()
    }
}

fn expected(peer: &mpsc::Sender<TcpStream>, callers: &[(IpAddr, Protection)]) -> Expected {
    let caller = |protection: &Protection| Caller { peer: peer.clone(), protection: protection.clone() };
    callers.iter().map(|(address, protection)| (*address, caller(protection))).collect()
}

fn neighbour() -> Protection {
    Protection { ttl_security: true, ..Protection::default() }
}

/// A socket of this address whose packets have this hop limit.
fn caller(from: IpAddr, hop_limit: i32) -> TcpSocket {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    let (level, option) =
        if from.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
    socket::set(&socket, (level, option), &hop_limit).unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket
}

/// Whether a connection from an address that has this key comes in, without a signature.
async fn comes_in(on: IpAddr, key: Option<Secret>) -> bool {
    let mut house = House::new(on, &[(on, Protection { password: key, ..Protection::default() })]).await;
    let mut stream = caller(on, 64).connect(house.at).await.unwrap();
    let mut byte = [0];
    tokio::select! {
        Some(_) = house.incoming.recv() => true,
        read = stream.read(&mut byte) => {
            assert_eq!(read.unwrap_or_default(), 0);
            false
        }
    }
}

#[tokio::test]
async fn who_should_have_signed_and_cannot_be_asked_to_does_not_come_in() {
    assert!(comes_in(address(1), None).await);
    // The kernel does not take a key that is as long as this.
    assert!(!comes_in(address(2), Some(Secret::new(vec![7; 100]))).await);
}

/// Begins to connect from afar; what is true of it after somebody else has come in.
fn from_afar(from: IpAddr, to: SocketAddr) -> tokio::task::JoinHandle<io::Result<TcpStream>> {
    let socket = caller(from, 254);
    tokio::spawn(async move { socket.connect(to).await })
}

#[tokio::test]
async fn a_neighbour_comes_in_from_nearby_only_while_others_of_the_same_listener_come_from_anywhere() {
    let [on, near, far] = [3, 4, 5].map(address);
    let mut house = House::new(on, &[(near, neighbour()), (far, Protection::default())]).await;
    let afar = from_afar(near, house.at);
    // Packets of the loopback are there when they are sent: whoever was let in would be before who comes after it.
    tokio::task::yield_now().await;
    let _other = caller(far, 3).connect(house.at).await.unwrap();
    assert_eq!(house.next().await.ip(), far);
    let close_by = caller(near, 255).connect(house.at).await.unwrap();
    assert_eq!(house.next().await, close_by.local_addr().unwrap());
    assert!(!afar.is_finished(), "its packets are not answered");
    // What is not asked for any more is not looked for.
    house.listening.expect(expected(&house.peer, &[(near, Protection::default())]));
    assert_eq!(house.next().await, afar.await.unwrap().unwrap().local_addr().unwrap());
}

#[tokio::test]
async fn what_comes_before_a_connection_is_taken_is_judged_too() {
    let [on, near] = [6, 7].map(address);
    let house = House::new(on, &[(near, neighbour())]).await;
    let stream = caller(near, 255).connect(house.at).await.unwrap();
    let mut taken = house.incoming;
    let accepted = taken.recv().await.unwrap();
    socket::set(&stream, (libc::IPPROTO_IP, libc::IP_TTL), &254).unwrap();
    stream.try_write(b"from afar").unwrap();
    let mut bytes = [0; 16];
    assert_eq!(accepted.try_read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // It is sent again, and the same bytes from nearby are taken.
    socket::set(&stream, (libc::IPPROTO_IP, libc::IP_TTL), &255).unwrap();
    accepted.readable().await.unwrap();
    assert_eq!(accepted.try_read(&mut bytes).unwrap(), 9);
}

#[tokio::test]
async fn hop_limits_of_ipv6_are_looked_at_too() {
    let host: IpAddr = [0, 0, 0, 0, 0, 0, 0, 1].into();
    if std::net::TcpListener::bind((host, 0)).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let (peer, _incoming) = mpsc::channel(9);
    let listener = socket::listen((host, 0).into(), |_| {}).unwrap();
    let at = listener.local_addr().unwrap();
    let others = [[0x2001_u16, 0xdb8, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2]].map(IpAddr::from);
    let callers: Vec<(IpAddr, Protection)> =
        [others[0], host, others[1]].map(|address| (address, neighbour())).to_vec();
    assert_eq!(guard(&listener, at, &expected(&peer, &callers)), BTreeSet::new());
    let afar = from_afar(host, at);
    tokio::task::yield_now().await;
    let close_by = caller(host, 255).connect(at).await.unwrap();
    assert_eq!(listener.accept().await.unwrap().1, close_by.local_addr().unwrap());
    assert!(!afar.is_finished());
    // Of others nothing is asked here.
    let callers: Vec<(IpAddr, Protection)> = others.map(|address| (address, neighbour())).to_vec();
    guard(&listener, at, &expected(&peer, &callers));
    let anybody = caller(host, 3).connect(at).await.unwrap();
    while listener.accept().await.unwrap().1 != anybody.local_addr().unwrap() {}
}
