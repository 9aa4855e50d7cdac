//! Facts about the disk below a path: file system, mount options, device, scheduler, space.

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
    /// `none`, `mq-deadline`, …
    pub scheduler: Option<String>,
    pub rotational: Option<bool>,
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
        Ok(Self {
            mount_point: mount.mount_point.into(),
            file_system: mount.file_system,
            mount_options: mount.options,
            device: device
                .as_ref()
                .and_then(|device| Some(device.file_name()?.to_string_lossy().into_owned())),
            scheduler: of_queue("scheduler").and_then(|choices| chosen(&choices)),
            rotational: of_queue("rotational").map(|flag| flag == "1"),
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

#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    mount_point: String,
    file_system: String,
    options: String,
}

/// A line of proc(5)'s mountinfo:
/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue`.
fn mount_of(mountinfo: &str, major: u32, minor: u32) -> Option<Mount> {
    let wanted = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let [_, _, device, _, mount_point, options, ..] = before[..] else { return None };
        (device == wanted).then(|| Mount {
            mount_point: mount_point.to_owned(),
            file_system: after.split(' ').next().unwrap_or_default().to_owned(),
            options: options.to_owned(),
        })
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
        assert_eq!(mount.options, "rw,noatime");
        assert_eq!(mount_of(lines, 98, 4), None);
    }
}
