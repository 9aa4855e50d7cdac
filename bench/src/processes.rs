//! What a process on this machine costs: processor time over a span, resident memory, threads.
//!
//! Processor time is the process's CPU clock (clock_getcpuclockid(3)): nanoseconds, user and system,
//! of all threads, those that ended within the span included. A sum over `/proc/PID/task` would lose
//! the ended ones, and `/proc/PID/stat` cuts the same figure into ticks of 10 ms, twice. A thread that
//! runs while the clock is read may be missing up to one tick of the scheduler.
//!
//! A server is named by its pid or by the address it listens on, which `/proc/net/tcp` and the open
//! files below `/proc` lead from to the pid; for another user's process that needs root.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::BenchError;
use crate::report::ProcessCpu;

/// A process under the name that reports give it: `client`, `datanode0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedProcess {
    pub name: String,
    pub pid: u32,
}

impl NamedProcess {
    pub fn new(name: impl Into<String>, pid: u32) -> Self {
        Self { name: name.into(), pid }
    }

    pub fn this(name: impl Into<String>) -> Self {
        Self::new(name, std::process::id())
    }

    /// The process that listens on `address`, such as `127.0.0.1:9866`, on this machine.
    pub fn listening(name: impl Into<String>, address: &str) -> Result<Self, BenchError> {
        let fail =
            |why: &str| BenchError::Listener { address: address.to_owned(), why: why.into() };
        let resolved: Vec<SocketAddr> =
            address.to_socket_addrs().map_err(|error| fail(&error.to_string()))?.collect();
        let inodes = listening_inodes(&resolved)?;
        if inodes.is_empty() {
            return Err(fail("nothing on this machine listens there"));
        }
        let holder = holder_of(&inodes);
        let pid = holder.ok_or_else(|| fail("its process is not visible to this user"))?;
        Ok(Self::new(name, pid))
    }
}

/// `NAME=PID` or `NAME=HOST:PORT`, as command lines have it.
impl FromStr for NamedProcess {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, BenchError> {
        let malformed = || BenchError::Usage(format!("{text:?} is not NAME=PID or NAME=HOST:PORT"));
        let (name, whose) = text.split_once('=').ok_or_else(malformed)?;
        if name.is_empty() {
            return Err(malformed());
        }
        match whose.parse() {
            Ok(pid) => cpu_time(pid).map(|_| Self::new(name, pid)),
            Err(_) if whose.contains(':') => Self::listening(name, whose),
            Err(_) => Err(malformed()),
        }
    }
}

/// Processor time of several processes from one moment on.
#[derive(Clone, Debug)]
pub struct CpuSpan {
    since: Vec<(NamedProcess, Duration)>,
}

impl CpuSpan {
    pub fn start(processes: &[NamedProcess]) -> Result<Self, BenchError> {
        let now = |process: &NamedProcess| Ok((process.clone(), cpu_time(process.pid)?));
        Ok(Self { since: processes.iter().map(now).collect::<Result<_, BenchError>>()? })
    }

    pub fn so_far(&self) -> Result<Vec<ProcessCpu>, BenchError> {
        let used = |(process, since): &(NamedProcess, Duration)| {
            let cpu = cpu_time(process.pid)?.saturating_sub(*since);
            Ok(ProcessCpu { process: process.name.clone(), cpu_s: cpu.as_secs_f64() })
        };
        self.since.iter().map(used).collect()
    }
}

/// User and system time of all threads that a process has had, its children apart.
pub fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let fail = |errno: nix::Error| BenchError::Process { pid, why: errno.desc().to_owned() };
    // A negative pid would be taken for another clock.
    let raw = i32::try_from(pid).map_err(|_| fail(nix::Error::ESRCH))?;
    let clock = clock_getcpuclockid(Pid::from_raw(raw)).map_err(fail)?;
    Ok(clock.now().map_err(fail)?.into())
}

pub fn cpu_time_of_this_thread() -> Duration {
    let now = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    now.expect("every thread may read its own clock").into()
}

pub fn cpu_time_of_this_process() -> Duration {
    let now = ClockId::CLOCK_PROCESS_CPUTIME_ID.now();
    now.expect("every process may read its own clock").into()
}

/// What a process holds right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessSize {
    pub resident_bytes: u64,
    pub resident_peak_bytes: u64,
    pub threads: u64,
}

impl ProcessSize {
    pub fn of(pid: u32) -> Result<Self, BenchError> {
        let path = PathBuf::from(format!("/proc/{pid}/status"));
        let status = fs::read_to_string(&path).map_err(BenchError::file("read", &path))?;
        Self::parse(&status).ok_or_else(|| BenchError::Process {
            pid,
            why: "its status has no VmRSS, VmHWM and Threads: it is about to end".to_owned(),
        })
    }

    fn parse(status: &str) -> Option<Self> {
        let figure = |name: &str| -> Option<u64> {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident_bytes: figure("VmRSS")? << 10,
            resident_peak_bytes: figure("VmHWM")? << 10,
            threads: figure("Threads")?,
        })
    }
}

/// Sockets that accept connections to one of `addresses`; those bound to any address last.
fn listening_inodes(addresses: &[SocketAddr]) -> Result<Vec<u64>, BenchError> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(listening_socket)),
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(BenchError::file("read", Path::new(table))(error)),
        }
    }
    let accepts = |bound: &SocketAddr, any: bool| {
        addresses.iter().any(|wanted| {
            let same = wanted.ip().to_canonical() == bound.ip();
            wanted.port() == bound.port() && if any { bound.ip().is_unspecified() } else { same }
        })
    };
    let of_kind = |any| {
        let matching = sockets.iter().filter(move |(bound, _)| accepts(bound, any));
        matching.map(|(_, inode)| *inode)
    };
    Ok(of_kind(false).chain(of_kind(true)).collect())
}

/// Address and inode of a line of `/proc/net/tcp` or `tcp6`, when it is a listening socket's: state
/// `0A`, the address in words of 32 bits of this host's byte order.
fn listening_socket(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let (address, port) = local.split_once(':')?;
    let words = (0..address.len()).step_by(8).map(|at| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip, port), inode.parse().ok()?))
}

/// The first process, by pid, that has the first socket open that any has open at all.
fn holder_of(inodes: &[u64]) -> Option<u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let holds = |pid: u32, inode: u64| {
        let socket = format!("socket:[{inode}]");
        let open_files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = open_files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| target.as_os_str() == socket.as_str())
    };
    inodes.iter().find_map(|inode| pids.iter().copied().find(|pid| holds(*pid, *inode)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_span_counts_work_of_threads_that_ended() {
        let pid = std::process::id();
        let span = CpuSpan::start(&[NamedProcess::this("client")]).unwrap();
        let work = Duration::from_millis(30);
        let spin = move || {
            let started = cpu_time_of_this_thread();
            let mut sum = 0_u64;
            while cpu_time_of_this_thread() < started + work {
                sum = std::hint::black_box(sum + 1);
            }
        };
        std::thread::spawn(spin).join().unwrap();
        let used = span.so_far().unwrap();
        assert_eq!(used[0].process, "client");
        assert!(used[0].cpu_s >= work.as_secs_f64(), "{used:?}");
        assert!(cpu_time(pid).unwrap() >= work);
    }

    #[test]
    fn finds_who_listens_by_address() {
        let this = Some(std::process::id());
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let port = listener.local_addr().unwrap().port();
            let asked = if bound.starts_with('[') { "[::1]" } else { "127.0.0.1" };
            let found = NamedProcess::listening("dn", &format!("{asked}:{port}")).unwrap();
            assert_eq!(Some(found.pid), this, "{bound}");
            drop(listener);
            let error = NamedProcess::listening("dn", &format!("{asked}:{port}")).unwrap_err();
            assert!(error.to_string().contains("nothing on this machine listens"), "{error}");
        }
    }

    #[test]
    fn reads_sockets_of_both_tables() {
        let v4 = "   0: 0100007F:268A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     \
                  0        0 1075 1 0000000075d743ca 100 0 0 10 0";
        assert_eq!(listening_socket(v4), Some(("127.0.0.1:9866".parse().unwrap(), 1075)));
        assert_eq!(listening_socket(&v4.replace(" 0A ", " 01 ")), None);
        let mapped = v4.replace("0100007F:", "0000000000000000FFFF00000100007F:");
        assert_eq!(listening_socket(&mapped), Some(("127.0.0.1:9866".parse().unwrap(), 1075)));
        let any = v4.replace("0100007F:", "00000000000000000000000000000000:");
        assert_eq!(listening_socket(&any), Some(("[::]:9866".parse().unwrap(), 1075)));
        assert_eq!(listening_socket("sl local_address"), None);
        assert_eq!(listening_socket(&v4.replace("0100007F", "é100007")), None);
    }

    #[test]
    fn takes_names_from_a_command_line() {
        let pid = std::process::id();
        let named: NamedProcess = format!("datanode0={pid}").parse().unwrap();
        assert_eq!(named, NamedProcess::new("datanode0", pid));
        for wrong in ["datanode0", "=1", "datanode0=x", "a=4294967295", "a=-1"] {
            assert!(wrong.parse::<NamedProcess>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_this_process_and_names_one_that_is_gone() {
        let size = ProcessSize::of(std::process::id()).unwrap();
        assert!(size.resident_bytes > 0 && size.resident_peak_bytes >= size.resident_bytes);
        assert!(size.threads >= 1);
        let status = "Name:\tx\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\nThreads:\t3\n";
        let parsed = ProcessSize { resident_bytes: 10240, resident_peak_bytes: 20480, threads: 3 };
        assert_eq!(ProcessSize::parse(status), Some(parsed));
        assert_eq!(ProcessSize::parse("Name:\tx\n"), None);
        let gone = cpu_time(u32::MAX).unwrap_err().to_string();
        assert!(gone.contains("4294967295"), "{gone}");
    }
}
