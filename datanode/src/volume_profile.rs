//! How a volume is written to, by its medium.
//!
//! A solid-state disk takes many writes at a time from all streams at once. A disk that rotates would
//! spend its time on seeks between them: there a few streams have their turn, each for a run of
//! [`crate::limits::TURN_BYTES`] before the next one in line, while the others gather what they receive in slabs.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ringfs_protocol::messages::StorageTypeProto;
use tokio::sync::Semaphore;

use crate::limits::{
    ROTATIONAL_STREAMS_MAX, ROTATIONAL_WRITES_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    SolidState,
    Rotational,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeProfile {
    pub medium: Medium,
    /// Of one block.
    pub writes_in_flight_max: usize,
    /// Streams whose writes are under way at a time; `None` is all.
    pub streams_max: Option<usize>,
}

impl Medium {
    /// A directory that the configuration calls an SSD is one, whatever the device says: controllers
    /// hide what is behind them. What cannot be told is taken for solid state.
    pub fn of(root: &Path, storage_type: StorageTypeProto) -> Self {
        match is_rotational(root) {
            Some(true) if storage_type != StorageTypeProto::Ssd => Self::Rotational,
            _ => Self::SolidState,
        }
    }
}

impl VolumeProfile {
    pub fn of(medium: Medium) -> Self {
        match medium {
            Medium::SolidState => {
                Self { medium, writes_in_flight_max: WRITES_IN_FLIGHT_MAX, streams_max: None }
            }
            Medium::Rotational => Self {
                medium,
                writes_in_flight_max: ROTATIONAL_WRITES_IN_FLIGHT_MAX,
                streams_max: Some(ROTATIONAL_STREAMS_MAX),
            },
        }
    }

    pub fn turns(&self) -> Option<Arc<Semaphore>> {
        self.streams_max.map(|streams| Arc::new(Semaphore::new(streams)))
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SolidState => "solid-state",
            Self::Rotational => "rotational",
        })
    }
}

/// What the block device below a path says, a mapped one by those it is made of.
fn is_rotational(path: &Path) -> Option<bool> {
    let number = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    device_is_rotational(&fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?)
}

/// `device` is its directory below `/sys/devices`; a partition's queue is its parent's.
fn device_is_rotational(device: &Path) -> Option<bool> {
    if is_of_hypervisor(device) {
        return None;
    }
    let parts: Vec<_> =
        fs::read_dir(device.join("slaves")).into_iter().flatten().flatten().collect();
    if !parts.is_empty() {
        let mut parts = parts.iter().filter_map(|part| fs::canonicalize(part.path()).ok());
        return Some(parts.any(|part| device_is_rotational(&part) == Some(true)));
    }
    let flag = [Some(device), device.parent()]
        .into_iter()
        .flatten()
        .find_map(|directory| fs::read_to_string(directory.join("queue/rotational")).ok())?;
    Some(flag.trim() == "1")
}

/// Disks that a hypervisor makes (virtio, Xen, VMware, Hyper-V, QEMU's SCSI) say that they rotate
/// whatever they lie on.
fn is_of_hypervisor(device: &Path) -> bool {
    let bus = device.to_string_lossy();
    let of_bus = ["/virtio", "/vbd-", "/vmbus", "/VMBUS"].iter().any(|name| bus.contains(name));
    let vendor = [Some(device), device.parent()]
        .into_iter()
        .flatten()
        .find_map(|directory| fs::read_to_string(directory.join("device/vendor")).ok());
    let vendor = vendor.as_deref().map_or("", str::trim);
    of_bus || ["QEMU", "VMware", "Msft"].contains(&vendor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory like a device's below `/sys/devices`.
    fn device(root: &Path, name: &str, rotational: &str) -> std::path::PathBuf {
        let device = root.join(name);
        fs::create_dir_all(device.join("queue")).unwrap();
        fs::write(device.join("queue/rotational"), format!("{rotational}\n")).unwrap();
        device
    }

    #[test]
    fn a_disk_is_believed_a_hypervisors_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let disk = device(temp.path(), "ata1/block/sda", "1");
        fs::create_dir(disk.join("sda1")).unwrap();
        assert_eq!(device_is_rotational(&disk), Some(true));
        assert_eq!(device_is_rotational(&disk.join("sda1")), Some(true), "a partition");
        let flash = device(temp.path(), "nvme0/nvme0n1", "0");
        assert_eq!(device_is_rotational(&flash), Some(false));
        let virtio = device(temp.path(), "virtio1/block/vda", "1");
        assert_eq!(device_is_rotational(&virtio), None);
        let scsi = device(temp.path(), "host0/block/sdb", "1");
        fs::create_dir(scsi.join("device")).unwrap();
        fs::write(scsi.join("device/vendor"), "QEMU    \n").unwrap();
        assert_eq!(device_is_rotational(&scsi), None);

        let mapped = device(temp.path(), "virtual/block/dm-0", "1");
        fs::create_dir(mapped.join("slaves")).unwrap();
        std::os::unix::fs::symlink(&virtio, mapped.join("slaves/vda")).unwrap();
        assert_eq!(device_is_rotational(&mapped), Some(false), "of what a hypervisor made");
        std::os::unix::fs::symlink(&disk, mapped.join("slaves/sda")).unwrap();
        assert_eq!(device_is_rotational(&mapped), Some(true));
    }
}
