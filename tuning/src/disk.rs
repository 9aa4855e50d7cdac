//! Facts about the disk below a path: file system, mount options, device, scheduler, space.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::{chosen, read_trimmed};

#[derive(Clone, Debug)]
pub struct DiskFacts {
    pub mount_point: PathBuf,
    pub file_system: String,
    pub mount_options: String,
    /// Name below `/sys/class/block`; `None` where there is no block device (tmpfs, overlay).
    pub device: Option<String>,
    /// As the device itself says it; virtual ones say none.
    pub model: Option<String>,
    /// `none`, `mq-deadline`, …
    pub scheduler: Option<String>,
    pub rotational: Option<bool>,
    /// What bounds and delays requests, by the names of the block device's `queue` directory, and
    /// how many hardware queues it has.
    pub queue: BTreeMap<String, String>,
    pub capacity_bytes: u64,
    pub available_bytes: u64,
}

impl DiskFacts {
    pub fn of(path: &Path) -> io::Result<Self> {
        let device_number = rustix::fs::stat(path)?.st_dev;
        let space = rustix::fs::statvfs(path)?;
        let (major, minor) = (rustix::fs::major(device_number), rustix::fs::minor(device_number));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mount_of(&mounts, major, minor).unwrap_or_default();
        let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
        // A partition's queue is its parent's.
        let queue = device.as_ref().and_then(|device| {
            [Some(device.as_path()), device.parent()]
                .into_iter()
                .flatten()
                .map(|directory| directory.join("queue"))
                .find(|queue| queue.is_dir())
        });
        let of_queue = |file: &str| {
            queue.as_ref().and_then(|queue| read_trimmed(&queue.join(file).to_string_lossy()))
        };
        let hardware_queues = queue.as_ref().and_then(|queue| {
            Some(fs::read_dir(queue.with_file_name("mq")).ok()?.count().to_string())
        });
        let settings = QUEUE_SETTINGS.iter().filter_map(|name| Some((*name, of_queue(name)?)));
        Ok(Self {
            mount_point: mount.mount_point.into(),
            file_system: mount.file_system,
            mount_options: mount.options,
            device: device
                .as_ref()
                .and_then(|device| Some(device.file_name()?.to_string_lossy().into_owned())),
            scheduler: of_queue("scheduler").and_then(|choices| chosen(&choices)),
            model: queue.as_ref().and_then(|queue| {
                read_trimmed(&queue.with_file_name("device/model").to_string_lossy())
            }),
            rotational: of_queue("rotational").map(|flag| flag == "1"),
            queue: settings
                .chain(hardware_queues.map(|count| ("hardware_queues", count)))
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            capacity_bytes: space.f_blocks * space.f_frsize,
            available_bytes: space.f_bavail * space.f_frsize,
        })
    }
}

impl fmt::Display for DiskFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.file_system, self.device.as_deref().unwrap_or("no device"))?;
        if let Some(scheduler) = &self.scheduler {
            write!(f, ", scheduler {scheduler}")?;
        }
        write!(f, ", {:.0} GiB free", self.available_bytes as f64 / f64::from(1 << 30))
    }
}

const QUEUE_SETTINGS: [&str; 6] =
    ["nr_requests", "max_sectors_kb", "write_cache", "nomerges", "wbt_lat_usec", "io_poll"];

#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    mount_point: String,
    file_system: String,
    options: String,
}

/// A line of proc(5)'s mountinfo:
/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue`: options
/// of the mount, and after the dash those of the file system (`discard` is one).
fn mount_of(mountinfo: &str, major: u32, minor: u32) -> Option<Mount> {
    let wanted = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let [_, _, device, _, mount_point, options, ..] = before[..] else { return None };
        if device != wanted {
            return None;
        }
        let mut of_file_system = after.split(' ');
        let file_system = of_file_system.next().unwrap_or_default().to_owned();
        let mut all: Vec<&str> = options.split(',').collect();
        for option in of_file_system.nth(1).unwrap_or_default().split(',') {
            if !option.is_empty() && !all.contains(&option) {
                all.push(option);
            }
        }
        Some(Mount { mount_point: mount_point.to_owned(), file_system, options: all.join(",") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_disk_of_this_source() {
        let disk = DiskFacts::of(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(disk.capacity_bytes >= disk.available_bytes && disk.capacity_bytes > 0);
        assert!(disk.to_string().contains("GiB free"));
        assert!(DiskFacts::of(Path::new("/no/such/path")).is_err());
    }

    #[test]
    fn finds_a_mount_by_device() {
        let lines = "22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
                     36 35 98:3 / /data rw,noatime - xfs /dev/sda3 rw,inode64\nbroken line\n";
        let mount = mount_of(lines, 98, 3).unwrap();
        assert_eq!(mount.file_system, "xfs");
        assert_eq!(mount.mount_point, "/data");
        assert_eq!(mount.options, "rw,noatime,inode64");
        assert_eq!(mount_of(lines, 98, 4), None);
    }
}
