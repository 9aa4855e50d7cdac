//! What follows when volumes fail: their replicas leave the books, the namenode is told, and the
//! datanode goes on with the others, or ends when more have failed than
//! `dfs.datanode.failed.volumes.tolerated` allows. On the control thread.
//!
//! | failed volumes | the namenode hears | the datanode |
//! |---|---|---|
//! | as many as are tolerated | errorReport DISK_ERROR, then heartbeats without their storages | serves the rest |
//! | more, or all | errorReport FATAL_DISK_ERROR | ends with the reason |
//!
//! A volume whose disk does not answer within `dfs.datanode.disk.check.timeout` fails here. From here, too,
//! replicas come back that a failed write put out of the books (`readmission`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::messages::{DISK_ERROR, FATAL_DISK_ERROR};
use ringfs_protocol::settings;
use ringfs_protocol::site_config::{ConfigError, Configuration};

use crate::counters::Counters;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::namenode_link::LinkRequests;
use crate::volume::Volume;
use crate::volume_health::{VolumeFailure, now};

/// How often volumes that do not answer are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time to tell the namenode before the datanode ends.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How many failed volumes a datanode goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerated {
    /// -1: as long as one is left.
    AllButOne,
    UpTo(usize),
}

impl Tolerated {
    pub fn from_configuration(
        configuration: &Configuration,
        volumes: usize,
    ) -> std::result::Result<Self, ConfigError> {
        let setting = &settings::DFS_DATANODE_FAILED_VOLUMES_TOLERATED;
        let value = configuration.integer(setting)?;
        match usize::try_from(value) {
            Ok(count) if count < volumes => Ok(Self::UpTo(count)),
            Err(_) if value == -1 => Ok(Self::AllButOne),
            _ => {
                let why = format!("must be -1, or below the {volumes} volumes configured");
                Err(configuration.refuse(setting, &value.to_string(), &why))
            }
        }
    }

    fn allows(self, failed: usize, configured: usize) -> bool {
        match self {
            Self::AllButOne => failed < configured,
            Self::UpTo(count) => failed <= count && failed < configured,
        }
    }

    /// The error that ends the datanode, if so many failures do.
    pub fn check(self, failures: &[VolumeFailure], configured: usize) -> Result<()> {
        if self.allows(failures.len(), configured) {
            return Ok(());
        }
        let described = failures.iter().map(|failure| failure.to_string());
        Err(DatanodeError::TooManyFailedVolumes {
            failed: failures.len(),
            configured,
            tolerated: match self {
                Self::AllButOne => -1,
                Self::UpTo(count) => count as i64,
            },
            volumes: described.collect::<Vec<_>>().join("; "),
        })
    }
}

pub struct FailedVolumes {
    pub dataset: Arc<Dataset>,
    pub requests: Arc<LinkRequests>,
    pub counters: Arc<Counters>,
    pub tolerated: Tolerated,
    pub check_timeout: Duration,
}

impl FailedVolumes {
    /// Returns only when too many volumes have failed.
    pub async fn run(self) -> DatanodeError {
        // Apart: a disk may keep waiting who looks for replicas.
        tokio::select! {
            error = self.watch() => error,
            never = self.readmit() => match never {},
        }
    }

    async fn readmit(&self) -> Infallible {
        loop {
            self.dataset.some_are_out_of_books().await;
            tokio::time::sleep(LOOK_INTERVAL).await;
            if self.dataset.readmit(&self.counters).await > 0 {
                self.requests.report_all();
            }
        }
    }

    async fn watch(&self) -> DatanodeError {
        let mut told = 0;
        loop {
            for volume in self.dataset.volumes().iter().filter(|volume| !volume.is_failed()) {
                self.look_at(volume);
            }
            let failures = self.dataset.failures();
            if failures.len() > told {
                told = failures.len();
                self.dataset.lose_failed_volumes();
                if let Err(error) = self.tell(&failures).await {
                    return error;
                }
            }
            let next_look = tokio::time::sleep(LOOK_INTERVAL);
            tokio::select! {
                biased;
                () = self.dataset.volume_failed() => {}
                () = next_look => {}
            }
        }
    }

    fn look_at(&self, volume: &Volume) {
        let stalled = |seconds| DatanodeError::Storage {
            path: volume.location(),
            why: format!("the disk has not answered for {seconds} s"),
        };
        let health = volume.health();
        if let Some(waited) = health.unanswered_since().map(|since| now() - since)
            && waited >= self.check_timeout
        {
            volume.mark_failed(&stalled(waited.as_secs()));
        } else if health.writes_stand_still(now()) {
            volume.suspect(&DatanodeError::Storage {
                path: volume.location(),
                why: "writes are under way, and none has ended of late".into(),
            });
        }
    }

    async fn tell(&self, failures: &[VolumeFailure]) -> Result<()> {
        let described: Vec<String> = failures.iter().map(|failure| failure.to_string()).collect();
        let message = described.join("; ");
        let verdict = self.tolerated.check(failures, self.dataset.configured_volumes());
        let code = if verdict.is_ok() { DISK_ERROR } else { FATAL_DISK_ERROR };
        self.requests.report_error(code, message);
        match &verdict {
            Ok(()) => self.requests.report_all(),
            // Whether it hears or not: a namenode that is away finds out by our silence.
            Err(_) => {
                let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, self.requests.errors_sent()).await;
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tolerated(value: &str, volumes: usize) -> std::result::Result<Tolerated, String> {
        let mut configuration = Configuration::default();
        configuration.set("dfs.datanode.failed.volumes.tolerated", value);
        Tolerated::from_configuration(&configuration, volumes).map_err(|error| error.to_string())
    }

    #[test]
    fn as_many_failures_are_tolerated_as_leave_a_volume() {
        assert_eq!(tolerated("0", 1), Ok(Tolerated::UpTo(0)));
        assert_eq!(tolerated("2", 3), Ok(Tolerated::UpTo(2)));
        assert_eq!(tolerated("-1", 1), Ok(Tolerated::AllButOne));
        for (value, volumes) in [("1", 1), ("3", 3), ("-2", 3)] {
            let error = tolerated(value, volumes).unwrap_err();
            assert!(error.contains("failed.volumes.tolerated") && error.contains(value), "{error}");
        }
        assert!(Tolerated::UpTo(1).allows(1, 3) && !Tolerated::UpTo(1).allows(2, 3));
        assert!(Tolerated::AllButOne.allows(2, 3) && !Tolerated::AllButOne.allows(3, 3));
    }

    #[test]
    fn the_end_names_each_failed_volume_and_the_setting() {
        let why = DatanodeError::Host { why: "it is gone".into() };
        let failure = VolumeFailure::now("/d/1".into(), &why, 0);
        let error = Tolerated::UpTo(0).check(&[failure], 2).unwrap_err().to_string();
        assert!(error.contains("/d/1") && error.contains("it is gone"), "{error}");
        assert!(error.contains("dfs.datanode.failed.volumes.tolerated"), "{error}");
    }
}
