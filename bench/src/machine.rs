//! The machine a figure was measured on, as the JSON and the reports say it: what decides a
//! throughput and differs from host to host. A fact that cannot be had is absent, never guessed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ringfs_tuning::disk::DiskFacts;
use ringfs_tuning::host::HostFacts;
use serde::Serialize;

use crate::BenchError;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub numa_nodes: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// The hypervisor's name where it says one; absent on bare metal.
    pub virtualisation: Option<String>,
    /// Kernel mitigations in force, by vulnerability; those that do not concern this CPU are absent.
    pub mitigations: BTreeMap<String, String>,
    pub transparent_huge_pages: Option<String>,
    pub tcp_congestion_control: Option<String>,
    /// Absent is unlimited.
    pub locked_memory_limit_bytes: Option<u64>,
    /// Why io_uring is refused, if it is.
    pub io_uring_refused: Option<String>,
    /// Of the directories that were measured.
    pub disks: Vec<Disk>,
    pub ringfs: &'static str,
    pub rustc: &'static str,
    pub build_profile: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub directory: PathBuf,
    pub mount_point: PathBuf,
    pub file_system: String,
    pub mount_options: String,
    pub device: Option<String>,
    pub model: Option<String>,
    pub rotational: Option<bool>,
    pub scheduler: Option<String>,
    /// Files of the block device's `queue` directory, and `hardware_queues`.
    pub queue: BTreeMap<String, String>,
    pub capacity_bytes: u64,
    pub available_bytes: u64,
}

impl Machine {
    /// Without disks: [`Machine::add_disk`].
    pub fn describe() -> Self {
        let host = HostFacts::gather();
        Self {
            cpu: host.cpu_model.unwrap_or_else(|| "unknown".to_owned()),
            cores: host.cores,
            numa_nodes: numa_nodes(),
            memory_bytes: host.memory_bytes,
            kernel: host.kernel,
            virtualisation: virtualisation(),
            mitigations: mitigations(),
            transparent_huge_pages: host.transparent_huge_pages,
            tcp_congestion_control: host.congestion_control,
            locked_memory_limit_bytes: host.locked_memory_limit_bytes,
            io_uring_refused: host.io_uring.err(),
            disks: Vec::new(),
            ringfs: env!("CARGO_PKG_VERSION"),
            rustc: env!("RINGFS_RUSTC"),
            build_profile: env!("RINGFS_PROFILE"),
        }
    }

    /// The disk below `directory`, once for each directory.
    pub fn add_disk(&mut self, directory: &Path) -> Result<(), BenchError> {
        let fail = BenchError::file("find the disk of", directory);
        let directory = fs::canonicalize(directory).map_err(fail)?;
        if self.disks.iter().any(|disk| disk.directory == directory) {
            return Ok(());
        }
        let facts =
            DiskFacts::of(&directory).map_err(BenchError::file("find the disk of", &directory))?;
        self.disks.push(Disk {
            directory,
            mount_point: facts.mount_point,
            file_system: facts.file_system,
            mount_options: facts.mount_options,
            device: facts.device,
            model: facts.model,
            rotational: facts.rotational,
            scheduler: facts.scheduler,
            queue: facts.queue,
            capacity_bytes: facts.capacity_bytes,
            available_bytes: facts.available_bytes,
        });
        Ok(())
    }

    /// Name and value of each fact, for people.
    pub fn facts(&self) -> Vec<(String, String)> {
        let unknown = || "unknown".to_owned();
        let mut facts = vec![
            ("CPU".to_owned(), format!("{} x {}", self.cores, self.cpu)),
            ("NUMA nodes".to_owned(), self.numa_nodes.to_string()),
            ("memory".to_owned(), gib(self.memory_bytes)),
            ("kernel".to_owned(), format!("Linux {}", self.kernel)),
            (
                "virtualisation".to_owned(),
                self.virtualisation.clone().unwrap_or_else(|| "none seen".to_owned()),
            ),
        ];
        for disk in &self.disks {
            facts.push((format!("disk of {}", disk.directory.display()), disk.to_string()));
        }
        let mitigations: Vec<String> =
            self.mitigations.iter().map(|(name, state)| format!("{name}: {state}")).collect();
        let locked = self.locked_memory_limit_bytes.map_or_else(|| "unlimited".to_owned(), gib);
        let io_uring = self.io_uring_refused.as_deref();
        facts.extend([
            ("mitigations".to_owned(), mitigations.join("; ")),
            ("locked memory".to_owned(), locked),
            ("huge pages".to_owned(), self.transparent_huge_pages.clone().unwrap_or_else(unknown)),
            ("TCP".to_owned(), self.tcp_congestion_control.clone().unwrap_or_else(unknown)),
            (
                "io_uring".to_owned(),
                io_uring.map_or_else(|| "allowed".to_owned(), |why| format!("refused: {why}")),
            ),
            (
                "ringfs".to_owned(),
                format!("{} ({}, {})", self.ringfs, self.build_profile, self.rustc),
            ),
        ]);
        facts
    }
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.file_system, self.mount_options)?;
        let Some(device) = &self.device else { return write!(f, ", no block device") };
        write!(f, " on {device}")?;
        let medium = match self.rotational {
            Some(true) => Some("rotational"),
            Some(false) => Some("not rotational"),
            None => None,
        };
        let scheduler = self.scheduler.as_ref().map(|name| format!("scheduler {name}"));
        let queue = self.queue.iter().map(|(name, value)| format!("{name} {value}"));
        let facts = [self.model.clone(), medium.map(str::to_owned), scheduler];
        for fact in facts.into_iter().flatten().chain(queue) {
            write!(f, ", {fact}")?;
        }
        write!(f, ", {} of {} free", gib(self.available_bytes), gib(self.capacity_bytes))
    }
}

fn gib(bytes: u64) -> String {
    if bytes < 1 << 30 {
        return format!("{} MiB", bytes >> 20);
    }
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn numa_nodes() -> usize {
    let entries = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let is_node = |name: &str| {
        let number = name.strip_prefix("node");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count().max(1)
}

fn mitigations() -> BTreeMap<String, String> {
    let directory = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let entries = directory.into_iter().flatten().flatten();
    let states = entries.filter_map(|entry| {
        let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
        (state != "Not affected").then(|| (entry.file_name().to_string_lossy().into_owned(), state))
    });
    states.collect()
}

/// A guest's CPU has the flag `hypervisor`; who hosts it, the firmware says where there is one.
fn virtualisation() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    flags.split_ascii_whitespace().find(|flag| *flag == "hypervisor")?;
    let of_firmware = |name: &str| {
        let text = fs::read_to_string(format!("/sys/class/dmi/id/{name}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let names: Vec<String> =
        ["sys_vendor", "product_name"].into_iter().filter_map(of_firmware).collect();
    if names.is_empty() {
        return Some("a virtual machine of an unnamed host".to_owned());
    }
    Some(names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_machine_and_its_disk_once() {
        let mut machine = Machine::describe();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        machine.add_disk(directory).unwrap();
        machine.add_disk(&directory.join("src/..")).unwrap();
        assert_eq!(machine.disks.len(), 1);
        assert!(machine.disks[0].capacity_bytes > 0 && !machine.disks[0].file_system.is_empty());
        assert!(machine.numa_nodes >= 1 && machine.cores >= 1);
        assert!(machine.rustc.starts_with("rustc ") && machine.build_profile.contains("opt-level"));
        let error = machine.add_disk(Path::new("/no/such/directory")).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory"), "{error}");
    }

    #[test]
    fn says_a_disk_in_one_line() {
        let disk = Disk {
            directory: "/data/1".into(),
            mount_point: "/data".into(),
            file_system: "xfs".to_owned(),
            mount_options: "rw,noatime".to_owned(),
            device: Some("nvme0n1".to_owned()),
            model: Some("Fast 9".to_owned()),
            rotational: Some(false),
            scheduler: Some("none".to_owned()),
            queue: BTreeMap::from([("nr_requests".to_owned(), "1023".to_owned())]),
            capacity_bytes: 4 << 30,
            available_bytes: 1 << 30,
        };
        assert_eq!(
            disk.to_string(),
            "xfs (rw,noatime) on nvme0n1, Fast 9, not rotational, scheduler none, \
             nr_requests 1023, 1.0 GiB of 4.0 GiB free"
        );
    }
}
