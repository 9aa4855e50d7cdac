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

/// What the block device below a path says; a partition's queue is its parent's.
fn is_rotational(path: &Path) -> Option<bool> {
    let number = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let flag = [Some(device.as_path()), device.parent()]
        .into_iter()
        .flatten()
        .find_map(|directory| fs::read_to_string(directory.join("queue/rotational")).ok())?;
    Some(flag.trim() == "1")
}
