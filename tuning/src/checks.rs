//! Judges a host and a disk for a datanode: each check says what it found and, when something is to
//! be gained, the one line that an operator would run. The reasons are measured ratios.

use std::fmt;

use crate::disk::DiskFacts;
use crate::host::HostFacts;

/// Below this a datanode's buffers cannot be registered with its rings, unless it is privileged.
const LOCKED_MEMORY_WANTED_BYTES: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Works, and could work better.
    Advice,
    /// A datanode cannot start.
    Bad,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// Empty when the verdict is good.
    pub remedy: &'static str,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "good",
            Verdict::Advice => "advice",
            Verdict::Bad => "bad",
        };
        write!(f, "{mark:6} {}: {}", self.name, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

pub fn of_host(host: &HostFacts) -> Vec<Check> {
    vec![
        io_uring(host),
        locked_memory(host),
        congestion_control(host),
        huge_pages(host),
        idle_processors(host),
    ]
}

pub fn of_disk(disk: &DiskFacts) -> Vec<Check> {
    vec![file_system(disk), scheduler(disk), access_times(disk)]
}

fn io_uring(host: &HostFacts) -> Check {
    match &host.io_uring {
        Ok(()) => good("io_uring", "allowed".to_owned()),
        Err(error) => Check {
            name: "io_uring",
            verdict: Verdict::Bad,
            found: error.clone(),
            remedy: "sysctl -w kernel.io_uring_disabled=0, and allow io_uring in the container's seccomp profile",
        },
    }
}

fn locked_memory(host: &HostFacts) -> Check {
    match host.locked_memory_limit_bytes {
        Some(limit) if limit < LOCKED_MEMORY_WANTED_BYTES => Check {
            name: "locked memory",
            verdict: Verdict::Advice,
            found: format!("limited to {} KiB", limit >> 10),
            remedy: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit (not needed as root)",
        },
        Some(limit) => good("locked memory", format!("limited to {} MiB", limit >> 20)),
        None => good("locked memory", "unlimited".to_owned()),
    }
}

fn congestion_control(host: &HostFacts) -> Check {
    let name = "TCP congestion control";
    let Some(default) = &host.congestion_control else {
        return good(name, "unknown".to_owned());
    };
    if default == "cubic" || default == "reno" {
        return good(name, default.clone());
    }
    let offered = host.congestion_controls_available.iter().any(|control| control == "cubic");
    Check {
        name,
        verdict: Verdict::Advice,
        found: format!("{default} by default, which halves local streams of clients"),
        remedy: if offered {
            "sysctl -w net.ipv4.tcp_congestion_control=cubic (datanodes choose it themselves)"
        } else {
            "modprobe tcp_cubic && sysctl -w net.ipv4.tcp_congestion_control=cubic"
        },
    }
}

fn huge_pages(host: &HostFacts) -> Check {
    let name = "transparent huge pages";
    match host.transparent_huge_pages.as_deref() {
        Some("never") | None => Check {
            name,
            verdict: Verdict::Advice,
            found: "off: direct writes lose a fifth".to_owned(),
            remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        },
        Some(mode) => good(name, mode.to_owned()),
    }
}

/// Waking a processor that has halted goes by way of the hypervisor. With polling a message and its answer
/// between two processors took 10 us instead of 76, and one writer of small files made an eighth more.
fn idle_processors(host: &HostFacts) -> Check {
    let name = "idle processors";
    match host.idle_poll_max_ns {
        Some(0) => Check {
            name,
            verdict: Verdict::Advice,
            found: "halt at once, and the hypervisor takes its time to wake them".to_owned(),
            remedy: "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns",
        },
        Some(limit_ns) => good(name, format!("poll for up to {} us", limit_ns / 1_000)),
        None => good(name, "not polled by this kernel".to_owned()),
    }
}

fn file_system(disk: &DiskFacts) -> Check {
    let found = format!("{} at {}", disk.file_system, disk.mount_point.display());
    match disk.file_system.as_str() {
        "ext4" | "xfs" | "btrfs" => good("file system", found),
        _ => Check {
            name: "file system",
            verdict: Verdict::Advice,
            found,
            remedy: "keep blocks on xfs or ext4: others may serve direct I/O buffered or not at all",
        },
    }
}

fn scheduler(disk: &DiskFacts) -> Check {
    match (disk.scheduler.as_deref(), disk.rotational) {
        (Some(scheduler), Some(false)) if scheduler != "none" => Check {
            name: "I/O scheduler",
            verdict: Verdict::Advice,
            found: format!("{scheduler} on a disk that does not rotate"),
            remedy: "echo none > /sys/block/DEVICE/queue/scheduler",
        },
        (scheduler, _) => good("I/O scheduler", scheduler.unwrap_or("none").to_owned()),
    }
}

fn access_times(disk: &DiskFacts) -> Check {
    let option = disk
        .mount_options
        .split(',')
        .find(|option| option.ends_with("atime"))
        .unwrap_or("strictatime");
    match option {
        "strictatime" => Check {
            name: "access times",
            verdict: Verdict::Advice,
            found: "written at every read".to_owned(),
            remedy: "mount -o remount,noatime MOUNT_POINT",
        },
        option => good("access times", option.to_owned()),
    }
}

fn good(name: &'static str, found: String) -> Check {
    Check { name, verdict: Verdict::Good, found, remedy: "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            cpu_model: None,
            cores: 2,
            kernel: "6.18".to_owned(),
            memory_bytes: 1 << 30,
            congestion_control: Some("cubic".to_owned()),
            congestion_controls_available: vec!["cubic".to_owned()],
            locked_memory_limit_bytes: None,
            io_uring: Ok(()),
            transparent_huge_pages: Some("madvise".to_owned()),
            idle_poll_max_ns: None,
        }
    }

    fn disk() -> DiskFacts {
        DiskFacts {
            mount_point: "/data".into(),
            file_system: "xfs".to_owned(),
            mount_options: "rw,noatime".to_owned(),
            device: Some("vda".to_owned()),
            model: None,
            queue: std::collections::BTreeMap::new(),
            scheduler: Some("none".to_owned()),
            rotational: Some(false),
            capacity_bytes: 2,
            available_bytes: 1,
        }
    }

    fn verdicts(checks: &[Check]) -> Vec<Verdict> {
        checks.iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn a_good_host_needs_no_remedy() {
        for check in of_host(&host()).into_iter().chain(of_disk(&disk())) {
            assert_eq!((check.verdict, check.remedy), (Verdict::Good, ""), "{check}");
        }
    }

    #[test]
    fn every_finding_names_its_remedy() {
        let poor_host = HostFacts {
            congestion_control: Some("bbr".to_owned()),
            locked_memory_limit_bytes: Some(8 << 20),
            io_uring: Err("Operation not permitted".to_owned()),
            transparent_huge_pages: Some("never".to_owned()),
            idle_poll_max_ns: Some(0),
            ..host()
        };
        let checks = of_host(&poor_host);
        let advice = Verdict::Advice;
        assert_eq!(verdicts(&checks), [Verdict::Bad, advice, advice, advice, advice]);
        let poor_disk = DiskFacts {
            file_system: "nfs".to_owned(),
            scheduler: Some("mq-deadline".to_owned()),
            mount_options: "rw".to_owned(),
            ..disk()
        };
        let disk_checks = of_disk(&poor_disk);
        assert_eq!(verdicts(&disk_checks), [advice; 3]);
        for check in checks.iter().chain(&disk_checks) {
            assert!(!check.remedy.is_empty() && check.to_string().contains(check.remedy));
        }
    }
}
