//! Facts about this machine, read from `/proc` and by asking the kernel: for the head of every
//! report of measurements, and for [`crate::checks`]. A fact that cannot be had is `None`, never a
//! guess.

use std::fmt;
use std::fs;

use rustix::process::{Resource, getrlimit};

#[derive(Clone, Debug)]
pub struct HostFacts {
    pub cpu_model: Option<String>,
    pub cores: usize,
    pub kernel: String,
    pub memory_bytes: u64,
    /// Default of new TCP sockets, such as `cubic` or `bbr`.
    pub congestion_control: Option<String>,
    pub congestion_controls_available: Vec<String>,
    /// `None` is unlimited.
    pub locked_memory_limit_bytes: Option<u64>,
    /// `Err` says why the kernel refuses a ring.
    pub io_uring: Result<(), String>,
    /// `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// For how long an idle processor of a virtual machine polls before it halts; `None` where the
    /// kernel does not poll, as on bare metal.
    pub idle_poll_max_ns: Option<u64>,
}

impl HostFacts {
    pub fn gather() -> Self {
        let sysctl = |name: &str| read_trimmed(&format!("/proc/sys/{name}"));
        Self {
            cpu_model: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            memory_bytes: {
                let info = rustix::system::sysinfo();
                u64::from(info.mem_unit) * info.totalram as u64
            },
            congestion_control: sysctl("net/ipv4/tcp_congestion_control"),
            congestion_controls_available: sysctl("net/ipv4/tcp_available_congestion_control")
                .map(|names| names.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            locked_memory_limit_bytes: getrlimit(Resource::Memlock).current,
            io_uring: io_uring::IoUring::new(2).map(drop).map_err(|error| error.to_string()),
            transparent_huge_pages: read_trimmed("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|choices| chosen(&choices)),
            idle_poll_max_ns: read_trimmed("/sys/devices/system/cpu/cpuidle/current_governor")
                .filter(|governor| governor == "haltpoll")
                .and_then(|_| read_trimmed("/sys/module/haltpoll/parameters/guest_halt_poll_ns"))
                .and_then(|limit| limit.parse().ok()),
        }
    }
}

impl fmt::Display for HostFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {}, {:.1} GiB, Linux {}, TCP {}",
            self.cores,
            self.cpu_model.as_deref().unwrap_or("unknown CPU"),
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.congestion_control.as_deref().unwrap_or("unknown"),
        )
    }
}

/// Processor time that the hypervisor gave to others, to tell a noisy measurement from a quiet one.
#[derive(Clone, Copy, Debug)]
pub struct StealTime {
    stolen_ticks: u64,
    all_ticks: u64,
}

impl StealTime {
    pub fn now() -> Option<Self> {
        parse_steal(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Share of all processor time since `earlier` that was stolen, 0 to 1.
    pub fn share_since(&self, earlier: &Self) -> f64 {
        let all = self.all_ticks.saturating_sub(earlier.all_ticks);
        let stolen = self.stolen_ticks.saturating_sub(earlier.stolen_ticks);
        if all == 0 { 0.0 } else { stolen as f64 / all as f64 }
    }
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guest time is within user.
fn parse_steal(stat: &str) -> Option<StealTime> {
    let ticks: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_ascii_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    Some(StealTime { stolen_ticks: *ticks.get(7)?, all_ticks: ticks.iter().sum() })
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// `always [madvise] never` is `madvise`.
pub(crate) fn chosen(choices: &str) -> Option<String> {
    let (_, rest) = choices.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

pub(crate) fn read_trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_this_host() {
        let host = HostFacts::gather();
        assert!(host.cores >= 1 && host.memory_bytes > 1 << 20);
        assert!(host.kernel.starts_with(|c: char| c.is_ascii_digit()), "{}", host.kernel);
        assert!(host.to_string().contains(&host.kernel));
    }

    #[test]
    fn reads_proc_formats() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Fast CPU: 9\n").as_deref(),
            Some("Fast CPU: 9")
        );
        assert_eq!(cpu_model("processor: 0\n"), None);
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn steal_is_a_share_of_the_time_between() {
        let earlier = parse_steal("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1\n").unwrap();
        let later = parse_steal("cpu  20 0 20 150 0 0 0 10 5 0\n").unwrap();
        assert!((later.share_since(&earlier) - 0.1).abs() < 1e-9);
        assert_eq!(earlier.share_since(&earlier), 0.0);
        assert!(parse_steal("cpu  1 2 3\n").is_none());
        assert!(parse_steal("intr 1\n").is_none());
    }
}
