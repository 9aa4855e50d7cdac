//! Safe mode: no change to the namespace or to replicas until enough blocks have been reported.
//!
//! | state | event | next |
//! |---|---|---|
//! | awaiting reports | threshold of safe blocks and least live datanodes reached | extension |
//! | extension | one of the two lost again | awaiting reports |
//! | extension | its time is over | off |
//! | any | entered by hand | manual |
//! | any | left by hand | off |
//!
//! A block is safe with the least replication of live replicas. Safe blocks are counted only until
//! the start-up's safe mode is over. A namespace whose blocks are all there (an empty one) does not
//! enter it at all.

use parking_lot::Mutex;
use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;

use crate::error::{NamenodeError, Result};

#[derive(Clone, Copy, Debug)]
pub struct SafeModeConfig {
    pub threshold: f64,
    pub min_datanodes: usize,
    pub extension_ms: u64,
}

impl SafeModeConfig {
    pub fn read(configuration: &Configuration) -> Result<Self> {
        let min = &settings::DFS_NAMENODE_SAFEMODE_MIN_DATANODES;
        let min_datanodes = configuration.integer(min)?;
        let extension = configuration.duration(&settings::DFS_NAMENODE_SAFEMODE_EXTENSION)?;
        Ok(Self {
            threshold: configuration.float(&settings::DFS_NAMENODE_SAFEMODE_THRESHOLD_PCT)?,
            min_datanodes: usize::try_from(min_datanodes).unwrap_or(0),
            extension_ms: extension.as_millis() as u64,
        })
    }
}

pub struct SafeMode {
    config: SafeModeConfig,
    inner: Mutex<Inner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    AwaitingReports,
    Extension { since_ms: u64 },
    Manual,
    Off,
}

#[derive(Debug)]
struct Inner {
    status: Status,
    /// Whether start-up's safe mode is not over yet.
    starting: bool,
    total_blocks: u64,
    safe_blocks: u64,
    live_datanodes: usize,
    now_ms: u64,
}

/// What the caller of [`SafeMode::progress`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Unchanged,
    /// Start-up is over: under-replicated and missing blocks can be told from unreported ones now.
    Started,
}

impl SafeMode {
    /// Begins with awaiting `total_blocks`.
    pub fn new(config: SafeModeConfig, total_blocks: u64) -> Self {
        let inner = Inner {
            status: Status::AwaitingReports,
            starting: true,
            total_blocks,
            safe_blocks: 0,
            live_datanodes: 0,
            now_ms: 0,
        };
        let safe_mode = Self { config, inner: Mutex::new(inner) };
        let mut inner = safe_mode.inner.lock();
        if safe_mode.threshold_met(&inner) {
            inner.status = Status::Off;
        }
        drop(inner);
        safe_mode
    }

    pub fn is_on(&self) -> bool {
        self.inner.lock().status != Status::Off
    }

    /// `Err` while safe mode is on; `operation` as in "Cannot create file/x".
    pub fn check(&self, operation: &str) -> Result<()> {
        let inner = self.inner.lock();
        if inner.status == Status::Off {
            return Ok(());
        }
        let tip = self.tip(&inner);
        Err(NamenodeError::SafeMode(format!("{operation}. Name node is in safe mode.\n{tip}")))
    }

    /// Turns it on by hand: it stays until [`Self::leave`].
    pub fn enter(&self) {
        let mut inner = self.inner.lock();
        if inner.status != Status::Manual {
            inner.status = Status::Manual;
            tracing::info!("safe mode is on, by hand");
        }
    }

    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        if inner.status != Status::Off {
            inner.status = Status::Off;
            tracing::info!("safe mode is off, by hand");
        }
    }

    /// What users are told: why it is on and when it will be off.
    pub fn status_text(&self) -> String {
        let inner = self.inner.lock();
        match inner.status {
            Status::Off => String::new(),
            _ => self.tip(&inner),
        }
    }

    /// A complete block became safe, or is no longer.
    pub(crate) fn count(&self, became_safe: bool) {
        let mut inner = self.inner.lock();
        if inner.starting {
            let safe = inner.safe_blocks;
            inner.safe_blocks = if became_safe { safe + 1 } else { safe.saturating_sub(1) };
        }
    }

    /// Tells the time, and what there is to count beside safe blocks.
    pub(crate) fn progress(
        &self,
        now_ms: u64,
        total_blocks: u64,
        live_datanodes: usize,
    ) -> Progress {
        let mut inner = self.inner.lock();
        (inner.now_ms, inner.live_datanodes) = (now_ms, live_datanodes);
        if inner.starting {
            inner.total_blocks = total_blocks;
        }
        let met = self.threshold_met(&inner);
        inner.status = match inner.status {
            Status::AwaitingReports if met => Status::Extension { since_ms: now_ms },
            Status::Extension { .. } if !met => Status::AwaitingReports,
            status => status,
        };
        if let Status::Extension { since_ms } = inner.status
            && now_ms.saturating_sub(since_ms) >= self.config.extension_ms
        {
            inner.status = Status::Off;
            tracing::info!(
                safe_blocks = inner.safe_blocks,
                total_blocks,
                live_datanodes,
                "safe mode is off"
            );
        }
        if inner.status == Status::Off && inner.starting {
            inner.starting = false;
            return Progress::Started;
        }
        Progress::Unchanged
    }

    fn threshold_met(&self, inner: &Inner) -> bool {
        inner.safe_blocks >= self.needed(inner) && inner.live_datanodes >= self.config.min_datanodes
    }

    fn needed(&self, inner: &Inner) -> u64 {
        (inner.total_blocks as f64 * self.config.threshold) as u64
    }

    fn tip(&self, inner: &Inner) -> String {
        if inner.status == Status::Manual {
            return "It was turned on manually. Use \"hdfs dfsadmin -safemode leave\" to turn safe \
                    mode off."
                .to_owned();
        }
        let blocks = self.blocks_tip(inner);
        let nodes = self.datanodes_tip(inner);
        let end = match inner.status {
            Status::Extension { since_ms } => {
                let over = since_ms + self.config.extension_ms;
                let seconds = over.saturating_sub(inner.now_ms).div_ceil(1000);
                format!(
                    "In safe mode extension. Safe mode will be turned off automatically in \
                     {seconds} seconds."
                )
            }
            _ => "Safe mode will be turned off automatically once the thresholds have been \
                  reached."
                .to_owned(),
        };
        format!("{blocks} {nodes} {end}")
    }

    fn blocks_tip(&self, inner: &Inner) -> String {
        let (safe, total) = (inner.safe_blocks, inner.total_blocks);
        let threshold = self.config.threshold;
        match self.needed(inner).saturating_sub(safe) {
            0 => format!(
                "The reported blocks {safe} has reached the threshold {threshold:.4} of total \
                 blocks {total}."
            ),
            missing => format!(
                "The reported blocks {safe} needs additional {missing} blocks to reach the \
                 threshold {threshold:.4} of total blocks {total}."
            ),
        }
    }

    fn datanodes_tip(&self, inner: &Inner) -> String {
        let (live, min) = (inner.live_datanodes, self.config.min_datanodes);
        match min.saturating_sub(live) {
            0 => {
                format!("The number of live datanodes {live} has reached the minimum number {min}.")
            }
            missing => format!(
                "The number of live datanodes {live} needs an additional {missing} live datanodes \
                 to reach the minimum number {min}."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: SafeModeConfig =
        SafeModeConfig { threshold: 0.999, min_datanodes: 1, extension_ms: 1000 };

    #[test]
    fn an_empty_namespace_that_waits_for_no_datanode_starts_out_of_it() {
        let none = SafeModeConfig { min_datanodes: 0, ..CONFIG };
        assert!(!SafeMode::new(none, 0).is_on());
        assert!(SafeMode::new(CONFIG, 0).is_on());
        assert!(SafeMode::new(none, 2).is_on());
        // 0.999 of one block is no block: as in HDFS.
        assert!(!SafeMode::new(none, 1).is_on());
    }

    #[test]
    fn leaves_after_the_extension_and_falls_back_when_a_datanode_is_lost() {
        let safe_mode = SafeMode::new(CONFIG, 1000);
        for _ in 0..998 {
            safe_mode.count(true);
        }
        assert_eq!(safe_mode.progress(10, 1000, 1), Progress::Unchanged);
        assert!(safe_mode.status_text().starts_with(
            "The reported blocks 998 needs additional 1 blocks to reach the threshold 0.9990 of \
             total blocks 1000. The number of live datanodes 1 has reached the minimum number 1."
        ));
        safe_mode.count(true);
        assert_eq!(safe_mode.progress(20, 1000, 1), Progress::Unchanged);
        assert!(safe_mode.status_text().ends_with("turned off automatically in 1 seconds."));

        safe_mode.count(false);
        safe_mode.progress(500, 1000, 1);
        safe_mode.count(true);
        safe_mode.progress(600, 1000, 1);
        assert_eq!(safe_mode.progress(1599, 1000, 1), Progress::Unchanged);
        assert!(safe_mode.is_on());
        assert_eq!(safe_mode.progress(1600, 1000, 1), Progress::Started);
        assert!(!safe_mode.is_on());
        assert_eq!(safe_mode.progress(1700, 1000, 1), Progress::Unchanged);
    }

    #[test]
    fn by_hand_it_stays_until_left_by_hand() {
        let safe_mode = SafeMode::new(CONFIG, 0);
        safe_mode.progress(0, 0, 1);
        assert_eq!(safe_mode.progress(1000, 0, 1), Progress::Started);
        safe_mode.enter();
        safe_mode.progress(9000, 0, 1);
        let error = safe_mode.check("Cannot create file/x").unwrap_err().to_string();
        assert!(error.starts_with(
            "Cannot create file/x. Name node is in safe mode.\nIt was turned on manually."
        ));
        safe_mode.leave();
        assert!(safe_mode.check("Cannot create file/x").is_ok());
    }

    #[test]
    fn left_by_hand_while_starting_the_next_round_starts() {
        let safe_mode = SafeMode::new(CONFIG, 10);
        safe_mode.leave();
        assert_eq!(safe_mode.progress(0, 10, 0), Progress::Started);
    }
}
