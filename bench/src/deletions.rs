//! Waiting until a cluster's disks are at rest: an unlink of a full block takes some 20 ms of the disk,
//! which the next run would have beside it.
//!
//! Datanodes are told what to delete by the reply to a heartbeat, and tell what they hold by the next
//! one. So what the namenode says of a run that was shorter than a heartbeat's interval is of before
//! the run: only from the second heartbeat behind a deletion on does it count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ringfs_client::Client;
use ringfs_protocol::messages::{DatanodeInfoProto, DatanodeReportTypeProto};

use crate::BenchError;

/// Behind the deletion: one that brings the command, and one that tells of the outcome.
const HEARTBEATS: u32 = 2;
const WAIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What a cluster's datanodes held before a run.
#[derive(Clone, Copy, Debug)]
pub struct Deletions {
    used_before: u64,
}

/// Heartbeats of each datanode, by its UUID: the time of the last one, and how many came.
#[derive(Debug, Default)]
struct Heartbeats(HashMap<String, (u64, u32)>);

impl Deletions {
    pub async fn before_run(client: &Client) -> Result<Self, BenchError> {
        Ok(Self { used_before: used(&live(client).await?) })
    }

    /// Called when what a run wrote is deleted from the namespace. Gives up after 20 s: a cluster that
    /// others use as well may hold more by then.
    pub async fn done(self, client: &Client) -> Result<(), BenchError> {
        let deadline = Instant::now() + WAIT;
        let mut heartbeats = Heartbeats::default();
        while Instant::now() < deadline {
            let datanodes = live(client).await?;
            if heartbeats.came_from_all(&datanodes) && used(&datanodes) <= self.used_before {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Heartbeats {
    /// Looks at a report; whether each datanode in it has sent enough since the first look.
    fn came_from_all(&mut self, datanodes: &[DatanodeInfoProto]) -> bool {
        datanodes.iter().fold(true, |all, datanode| {
            let time = datanode.last_update.unwrap_or_default();
            let seen = self.0.entry(datanode.id.datanode_uuid.clone()).or_insert((time, 0));
            if seen.0 != time {
                *seen = (time, seen.1 + 1);
            }
            all && seen.1 >= HEARTBEATS
        })
    }
}

async fn live(client: &Client) -> Result<Vec<DatanodeInfoProto>, BenchError> {
    Ok(client.datanode_report(DatanodeReportTypeProto::Live).await?)
}

fn used(datanodes: &[DatanodeInfoProto]) -> u64 {
    datanodes.iter().map(|datanode| datanode.dfs_used.unwrap_or_default()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfs_protocol::messages::DatanodeIDProto;

    #[test]
    fn counts_heartbeats_of_each_datanode() {
        let report = |times: [u64; 2]| {
            times.map(|time| DatanodeInfoProto {
                id: DatanodeIDProto {
                    datanode_uuid: (time % 10).to_string(),
                    ..Default::default()
                },
                last_update: Some(time),
                ..Default::default()
            })
        };
        let mut heartbeats = Heartbeats::default();
        // A datanode's last digit is its name.
        for (times, came) in [
            ([1001, 1002], false),
            ([2001, 1002], false),
            ([2001, 3002], false),
            ([4001, 3002], false),
            ([4001, 5002], true),
        ] {
            assert_eq!(heartbeats.came_from_all(&report(times)), came, "{times:?}");
        }
    }
}
