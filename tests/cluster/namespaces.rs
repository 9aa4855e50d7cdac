//! A network of hosts on this machine that loses packets on command: each host is a network namespace
//! with a veth pair to a router, which is one as well. A packet is lost by a rule of the router that
//! discards what goes from one address to another, so that one direction can fail alone and nobody is
//! told: no reset, no ICMP.
//!
//! The namespaces have no names. Each lives as long as a process that waits for the end of a pipe, so
//! they are gone with the test, with a panic, and with a test program that is killed. Needs root,
//! iproute2 and util-linux; what is missing fails the test.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ringfs::cluster::Host;

use super::wait_for;

/// Hosts beside datanodes end at .9; the router is at .254.
const FIRST_DATANODE: u8 = 10;
const ROUTER: u8 = 254;

/// The router's device to this process.
const FROM_TESTS: &str = "tests";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This process, and what it starts without entering a host.
    Tests,
    Namenode,
    /// A host without a server: for a second client.
    Elsewhere,
    Datanode(usize),
}

pub struct Network {
    /// The third byte of every address, which no other network of this machine has.
    subnet: u8,
    router: Namespace,
    hosts: Vec<(Place, Namespace)>,
    /// What is discarded: from, to.
    lost: Mutex<Vec<(Place, Place)>>,
}

/// A network namespace, and the process that holds it.
struct Namespace(Child);

impl Network {
    /// With a host for each of `datanodes`.
    pub fn with_datanodes(datanodes: usize) -> Self {
        let router = Namespace::new();
        router.run("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let subnet = claim_subnet(&router);
        let mut network = Self { subnet, router, hosts: Vec::new(), lost: Mutex::default() };
        network.connect_tests();
        let datanodes = (0..datanodes).map(Place::Datanode);
        for place in [Place::Namenode, Place::Elsewhere].into_iter().chain(datanodes) {
            network.connect(place);
        }
        network
    }

    pub fn host(&self, place: Place) -> Host {
        Host { address: self.address(place).into(), enter: self.namespace(place).enter() }
    }

    /// `program`, to be run on the host.
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let enter = self.namespace(place).enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program);
        command
    }

    /// From now on nothing that is sent by `from` reaches `to`.
    pub fn lose(&self, from: Place, to: Place) {
        self.change_rule("add", from, to);
        self.lost.lock().unwrap().push((from, to));
    }

    /// The two do not reach each other any more.
    pub fn cut(&self, one: Place, other: Place) {
        self.lose(one, other);
        self.lose(other, one);
    }

    /// Everyone reaches everyone again.
    pub fn heal(&self) {
        for (from, to) in self.lost.lock().unwrap().drain(..) {
            self.change_rule("del", from, to);
        }
    }

    /// Takes the host's only link down, as when its cable is pulled: the host itself is told.
    pub fn unplug(&self, place: Place) {
        self.namespace(place).run("ip link set eth0 down");
    }

    pub fn plug_in(&self, place: Place) {
        self.namespace(place).run("ip link set eth0 up");
        self.route_by_router(place);
    }

    fn change_rule(&self, change: &str, from: Place, to: Place) {
        let (from, to) = (self.address(from), self.address(to));
        self.router.run(&format!("ip rule {change} from {from} to {to} blackhole"));
    }

    pub fn address(&self, place: Place) -> Ipv4Addr {
        let last = match place {
            Place::Tests => 1,
            Place::Namenode => 2,
            Place::Elsewhere => 3,
            Place::Datanode(index) => FIRST_DATANODE + u8::try_from(index).expect("a few"),
        };
        self.at(last)
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, last)
    }

    fn namespace(&self, place: Place) -> &Namespace {
        let found = self.hosts.iter().find(|(host, _)| *host == place);
        &found.unwrap_or_else(|| panic!("{place:?} is no host of this network")).1
    }

    /// The device of this namespace, whose name is the claim to the subnet, leads to the router.
    fn connect_tests(&self) {
        let device = device_of_subnet(self.subnet);
        let (own, router) = (self.address(Place::Tests), self.at(ROUTER));
        run(&format!("ip addr add {own}/32 dev {device}"));
        run(&format!("ip link set {device} up"));
        self.connect_router(own, FROM_TESTS);
        run(&format!("ip route add {}/24 via {router} dev {device} onlink", self.at(0)));
    }

    fn connect(&mut self, place: Place) {
        let (host, address) = (Namespace::new(), self.address(place));
        let far_end = format!("to{}", address.octets()[3]);
        self.router.run(&format!("ip link add {far_end} type veth peer name eth0"));
        self.router.run(&format!("ip link set eth0 netns {}", host.pid()));
        host.run("ip link set lo up");
        host.run(&format!("ip addr add {address}/32 dev eth0"));
        host.run("ip link set eth0 up");
        self.connect_router(address, &far_end);
        self.hosts.push((place, host));
        self.route_by_router(place);
    }

    fn connect_router(&self, address: Ipv4Addr, device: &str) {
        self.router.run(&format!("ip addr add {}/32 dev {device}", self.at(ROUTER)));
        self.router.run(&format!("ip link set {device} up"));
        self.router.run(&format!("ip route add {address}/32 dev {device}"));
    }

    /// The route goes with a link that is taken down.
    fn route_by_router(&self, place: Place) {
        let (network, router) = (self.at(0), self.at(ROUTER));
        let route = format!("ip route replace {network}/24 via {router} dev eth0 onlink");
        self.namespace(place).run(&route);
    }
}

impl Namespace {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("unshare: {error}; util-linux is needed"));
        let mut namespace = Self(child);
        wait_for(
            "a network namespace, for which root is needed",
            std::time::Duration::from_secs(5),
            || {
                let ended = namespace.0.try_wait().unwrap();
                assert!(ended.is_none(), "no network namespace: unshare --net needs root");
                let path = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
                let of_child = path(&namespace.pid().to_string());
                (of_child.is_some() && of_child != path("self")).then_some(())
            },
        );
        namespace
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn enter(&self) -> Vec<String> {
        ["nsenter", "--net", "--target", &self.pid().to_string(), "--"].map(str::to_owned).to_vec()
    }

    #[track_caller]
    fn run(&self, command: &str) {
        try_run(&self.enter(), command).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Other test programs make networks too: whose device can be made owns the subnet. Its other end is
/// the router's from the start, and goes with it.
fn claim_subnet(router: &Namespace) -> u8 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(31);
    let mut refused = String::new();
    for _ in 0..250 {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 250;
        let subnet = u8::try_from(number).expect("below 250");
        let device = device_of_subnet(subnet);
        match try_run(
            &[],
            &format!(
                "ip link add {device} type veth peer name {FROM_TESTS} netns {}",
                router.pid()
            ),
        ) {
            Ok(()) => return subnet,
            Err(error) => refused = error,
        }
    }
    panic!("no veth pair can be made (root is needed): {refused}");
}

fn device_of_subnet(subnet: u8) -> String {
    format!("ringfs{subnet}")
}

#[track_caller]
fn run(command: &str) {
    try_run(&[], command).unwrap_or_else(|error| panic!("{error}"));
}

/// Has a shell run `command`, in the host that `enter` leads to.
fn try_run(enter: &[String], command: &str) -> Result<(), String> {
    let shell = ["sh".to_owned(), "-c".to_owned(), command.to_owned()];
    let words: Vec<&String> = enter.iter().chain(&shell).collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}; util-linux is needed", words[0]))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command} (root is needed): {}: {errors}", output.status)),
    }
}

#[test]
fn packets_are_lost_in_the_direction_that_was_asked_for() {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::time::Duration;

    let network = Network::with_datanodes(0);
    let own = network.address(Place::Tests);
    let socket = UdpSocket::bind((IpAddr::from(own), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let echo = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 700)); s.settimeout(20); print(flush=True)
while True: s.sendto(b'x', s.recvfrom(9)[1]); print(flush=True)";
    let there = network.address(Place::Elsewhere);
    let mut echoing = network
        .command(Place::Elsewhere, Path::new("python3"))
        .args(["-c", echo, &there.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = std::io::BufReader::new(echoing.stdout.take().unwrap());
    let mut line = String::new();
    let mut hear = || std::io::BufRead::read_line(&mut heard, &mut line).unwrap();
    let answered = |socket: &UdpSocket| {
        socket.send_to(b"x", (there, 700)).unwrap();
        socket.recv(&mut [0]).map_err(|error| error.kind())
    };
    hear();
    assert_eq!(answered(&socket), Ok(1));
    hear();
    network.lose(Place::Elsewhere, Place::Tests);
    assert_eq!(answered(&socket), Err(ErrorKind::WouldBlock));
    hear(); // what went there has come, only the answer has not
    network.heal();
    assert_eq!(answered(&socket), Ok(1));
    network.unplug(Place::Elsewhere);
    assert_eq!(answered(&socket), Err(ErrorKind::WouldBlock));
    network.plug_in(Place::Elsewhere);
    wait_for("an answer after the link is up", Duration::from_secs(5), || {
        answered(&socket).is_ok().then_some(())
    });
    echoing.kill().unwrap();
    echoing.wait().unwrap();
}
