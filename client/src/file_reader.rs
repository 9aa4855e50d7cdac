//! Reading a file: replicas are tried until one gives the bytes, with checksums that hold.
//!
//! Sequential reads ask for the rest of a block at once and take it packet by packet: the socket's
//! buffer is the read-ahead, and its bound. Positional reads ask for their exact range. A datanode
//! that failed is not asked again until all others failed too; then the locations are asked for anew,
//! after a pause, a few times. A replica with a wrong checksum is reported to the namenode.

use std::sync::{Mutex, MutexGuard};

use bytes::{Buf, Bytes};
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::collections::HashSet;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::{
    DatanodeIDProto, GetReplicaVisibleLengthRequestProto, GetReplicaVisibleLengthResponseProto,
    LocatedBlockProto, LocatedBlocksProto,
};
use ringfs_protocol::rpc::client::RpcClient;
use ringfs_protocol::rpc::protocol_name;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::client::Shared;
use crate::limits::{
    LAST_BLOCK_ATTEMPTS, LAST_BLOCK_PAUSE, LOCATED_BLOCKS_AHEAD, OPEN_NEXT_BLOCK_BYTES,
};
use crate::located_blocks::{BlockRange, LocatedBlocks};
use crate::replica_reader::ReplicaReader;
use crate::streamer::transfer_address;
use crate::{Client, ClientError};

/// A file open for reading, of the length that it had when it was opened.
#[derive(Debug)]
pub struct FileReader {
    client: Client,
    path: String,
    block_size: u64,
    verify: bool,
    len: u64,
    blocks: Mutex<LocatedBlocks>,
    /// `ip:port` of datanodes that failed this reader.
    dead: Mutex<HashSet<String>>,
    position: u64,
    /// Reads from the position to the end of its block.
    current: Option<Opened>,
    /// The block after it, being opened.
    next: Option<NextBlock>,
    /// Bytes from the position on that were received and not yet read.
    chunk: Bytes,
    failures: Failures,
}

/// Where in a window of time, from 0 to 1, a reader tries again: not all at once.
fn spread() -> f64 {
    #[cfg(feature = "simulation")]
    if let Some(choice) = ringfs_protocol::simulation::random() {
        return choice;
    }
    rand::random()
}

/// A reader of a range, and the index of the replica that it reads.
type Opened = (ReplicaReader, BlockRange, usize);

/// A block that is opened while the one before it is still being read.
#[derive(Debug)]
struct NextBlock {
    /// In the file.
    offset: u64,
    opening: JoinHandle<Result<Opened, ClientError>>,
}

impl Drop for NextBlock {
    fn drop(&mut self) {
        self.opening.abort();
    }
}

/// How often all replicas of a block failed, in one read.
#[derive(Debug, Default)]
struct Failures {
    rounds: u32,
    last: Option<String>,
}

impl FileReader {
    pub(crate) async fn open(client: Client, path: &str) -> Result<Self, ClientError> {
        let block_size = client.server_defaults().await?.block_size;
        let shared = client.shared();
        let ahead = LOCATED_BLOCKS_AHEAD.saturating_mul(block_size);
        let mut attempts = 1;
        let located = loop {
            let located = shared.namenode.block_locations(path, 0, ahead).await?;
            let awaited = awaited_last_block(&located);
            let waits = !ringfs_protocol::mutant!("client: take an unreported block for empty");
            let Some(promised) = awaited.filter(|_| waits) else { break located };
            if attempts == LAST_BLOCK_ATTEMPTS && promised == 0 {
                // Begun, it seems, by a writer that has promised nothing of it.
                break located;
            }
            if attempts == LAST_BLOCK_ATTEMPTS {
                let why = "no datanode has told of the file's last block yet".to_owned();
                return Err(ClientError::FileChanged { path: path.to_owned(), why });
            }
            attempts += 1;
            tokio::time::sleep(LAST_BLOCK_PAUSE).await;
        };
        let blocks = locate(shared, path, located).await?;
        Ok(Self {
            path: path.to_owned(),
            block_size,
            verify: shared.settings.verify_checksums,
            len: blocks.len(),
            blocks: Mutex::new(blocks),
            dead: Mutex::default(),
            position: 0,
            current: None,
            next: None,
            chunk: Bytes::new(),
            failures: Failures::default(),
            client,
        })
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether what is read is compared with its checksums; else the settings say.
    pub fn verify_checksums(&mut self, verify: bool) {
        self.verify = verify;
    }

    /// Where the next [`FileReader::read`] or [`FileReader::next_chunk`] starts; beyond the end of
    /// the file is an error.
    pub fn seek(&mut self, position: u64) -> Result<(), ClientError> {
        if position > self.len {
            let what = format!("{}: seek to {position}", self.path);
            let why = format!("the file ends at {}", self.len);
            return Err(ClientError::Invalid { what, why });
        }
        match position.checked_sub(self.position) {
            Some(ahead) if ahead <= self.chunk.len() as u64 => self.chunk.advance(ahead as usize),
            _ => {
                self.chunk = Bytes::new();
                self.current = None;
                self.next = None;
            }
        }
        self.position = position;
        Ok(())
    }

    /// Fills `buf` from the position on, as far as the next bytes are at hand: at least one byte,
    /// 0 only at the end of the file.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize, ClientError> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.chunk.is_empty() {
            self.chunk = self.receive().await?.unwrap_or_default();
        }
        let len = buf.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buf[..len]);
        self.position += len as u64;
        Ok(len)
    }

    /// The next bytes (up to a packet's worth) without a copy; `None` at the end of the file.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let chunk = match std::mem::take(&mut self.chunk) {
            chunk if !chunk.is_empty() => Some(chunk),
            _ => self.receive().await?,
        };
        self.position += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }

    /// Fills `buf` from `offset` on; less only at the end of the file. Does not move the position.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ClientError> {
        let wanted = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut filled = 0;
        let mut failures = Failures::default();
        while filled < wanted {
            let rest = (wanted - filled) as u64;
            let (mut reader, range, replica) =
                self.open_range(offset + filled as u64, rest, &mut failures).await?;
            loop {
                match reader.next_chunk().await {
                    Ok(Some(chunk)) => {
                        buf[filled..filled + chunk.len()].copy_from_slice(&chunk);
                        filled += chunk.len();
                    }
                    Ok(None) => break reader.keep_idle(&self.client),
                    Err(error) => {
                        self.failed(&range, replica, error, &mut failures).await;
                        break;
                    }
                }
            }
        }
        Ok(filled)
    }

    /// The bytes at the position.
    async fn receive(&mut self) -> Result<Option<Bytes>, ClientError> {
        while self.position < self.len {
            let (mut reader, range, replica) = match self.current.take() {
                Some(current) => current,
                None => self.open_current().await?,
            };
            self.open_next(&reader);
            match reader.next_chunk().await {
                Ok(Some(chunk)) => {
                    self.failures = Failures::default();
                    if reader.is_at_end() {
                        reader.keep_idle(&self.client);
                    } else {
                        self.current = Some((reader, range, replica));
                    }
                    return Ok(Some(chunk));
                }
                Ok(None) => reader.keep_idle(&self.client),
                Err(error) => {
                    let mut failures = std::mem::take(&mut self.failures);
                    self.failed(&range, replica, error, &mut failures).await;
                    self.failures = failures;
                }
            }
        }
        Ok(None)
    }

    /// A reader from the position to the end of its block: the one opened ahead, if that went well.
    async fn open_current(&mut self) -> Result<Opened, ClientError> {
        if let Some(mut next) = self.next.take_if(|next| next.offset == self.position)
            && let Ok(Ok(opened)) = (&mut next.opening).await
        {
            return Ok(opened);
        }
        let mut failures = std::mem::take(&mut self.failures);
        let rest = self.len - self.position;
        let opened = self.open_range(self.position, rest, &mut failures).await;
        self.failures = failures;
        opened
    }

    /// Starts to open the block after the one that `reader` is about to end, where its place is
    /// known and a replica has not failed yet.
    fn open_next(&mut self, reader: &ReplicaReader) {
        let left = reader.remaining();
        let offset = self.position + left;
        if left > OPEN_NEXT_BLOCK_BYTES || offset >= self.len || self.next.is_some() {
            return;
        }
        let Some(range) = self.blocks().range(offset, self.len - offset) else { return };
        let Some(replica) = self.live_replica(&range.block) else { return };
        let (client, verify) = (self.client.clone(), self.verify);
        let opening = tokio::spawn(async move {
            let reader = ReplicaReader::open(&client, &range, replica, verify).await?;
            Ok((reader, range, replica))
        });
        self.next = Some(NextBlock { offset, opening });
    }

    /// A reader of what the block at `offset` has of `len` bytes, with the range and the index of
    /// the replica that it reads.
    async fn open_range(
        &self,
        offset: u64,
        len: u64,
        failures: &mut Failures,
    ) -> Result<Opened, ClientError> {
        loop {
            let Some(range) = self.blocks().range(offset, len) else {
                self.locate(offset).await?;
                if self.blocks().range(offset, len).is_none() {
                    let why = format!("no block holds byte {offset} any more");
                    return Err(ClientError::FileChanged { path: self.path.clone(), why });
                }
                continue;
            };
            let Some(replica) = self.live_replica(&range.block) else {
                self.next_round(&range, offset, failures).await?;
                continue;
            };
            match ReplicaReader::open(&self.client, &range, replica, self.verify).await {
                Ok(reader) => return Ok((reader, range, replica)),
                Err(error) => self.failed(&range, replica, error, failures).await,
            }
        }
    }

    fn live_replica(&self, block: &LocatedBlockProto) -> Option<usize> {
        let dead = lock(&self.dead);
        block.locs.iter().position(|datanode| !dead.contains(&transfer_address(&datanode.id)))
    }

    async fn failed(
        &self,
        range: &BlockRange,
        replica: usize,
        error: ClientError,
        failures: &mut Failures,
    ) {
        warn!("{}: {error}; trying another replica", self.path);
        if matches!(error, ClientError::Checksum { .. }) {
            let namenode = &self.client.shared().namenode;
            if let Err(error) = namenode.report_bad_replica(&range.block, replica).await {
                warn!("{}: could not report the bad replica: {error}", self.path);
            }
        }
        lock(&self.dead).insert(transfer_address(&range.block.locs[replica].id));
        failures.last = Some(error.to_string());
    }

    /// All replicas failed: forgets that, waits and asks for their locations anew.
    async fn next_round(
        &self,
        range: &BlockRange,
        offset: u64,
        failures: &mut Failures,
    ) -> Result<(), ClientError> {
        let settings = &self.client.shared().settings;
        if failures.rounds >= settings.acquire_failures_max {
            let none = || "the namenode knows no datanode that has it".to_owned();
            return Err(ClientError::NoReplica {
                path: self.path.clone(),
                block: ExtendedBlock::from(&range.block.b),
                offset,
                last: failures.last.take().unwrap_or_else(none),
            });
        }
        let window = settings.retry_window * failures.rounds;
        let spread = settings.retry_window.mul_f64(spread());
        tokio::time::sleep(window + spread).await;
        failures.rounds += 1;
        for datanode in &range.block.locs {
            lock(&self.dead).remove(&transfer_address(&datanode.id));
        }
        self.locate(offset).await
    }

    /// Asks where the blocks from `offset` on are.
    async fn locate(&self, offset: u64) -> Result<(), ClientError> {
        let ahead = LOCATED_BLOCKS_AHEAD.saturating_mul(self.block_size);
        let located =
            self.client.shared().namenode.block_locations(&self.path, offset, ahead).await?;
        let mut blocks = self.blocks();
        blocks.merge(located.blocks)?;
        // Of a file under construction the last block may be named here only.
        blocks.merge(located.last_block.into_iter().filter(|last| last.offset <= offset).collect())
    }

    fn blocks(&self) -> MutexGuard<'_, LocatedBlocks> {
        lock(&self.blocks)
    }
}

impl Shared {
    /// How much of a block under construction readers may see, as its first datanode that answers
    /// says; 0 when none of them has begun it.
    async fn visible_length(
        &self,
        path: &str,
        last: &LocatedBlockProto,
    ) -> Result<u64, ClientError> {
        let mut unknown = None;
        for datanode in &last.locs {
            match self.replica_visible_length(&datanode.id, last).await {
                Ok(len) if len <= i64::MAX as u64 => return Ok(len),
                Ok(_) => unknown = Some("its replica is not readable now".to_owned()),
                Err(error) if error.class() == Some(java::REPLICA_NOT_FOUND) => {}
                Err(error) => unknown = Some(error.to_string()),
            }
        }
        match unknown {
            None => Ok(0),
            Some(last_error) => Err(ClientError::NoReplica {
                path: path.to_owned(),
                block: ExtendedBlock::from(&last.b),
                offset: last.offset,
                last: format!("the length of the last block is not to be had: {last_error}"),
            }),
        }
    }

    async fn replica_visible_length(
        &self,
        id: &DatanodeIDProto,
        block: &LocatedBlockProto,
    ) -> Result<u64, ClientError> {
        let host = if self.connector.use_hostname { &id.host_name } else { &id.ip_addr };
        let address = format!("{host}:{}", id.ipc_port);
        let mut options = self.settings.rpc.clone();
        options.connect_timeout = options.connect_timeout.min(self.settings.socket_timeout);
        options.call_timeout = Some(self.settings.socket_timeout);
        let rpc = RpcClient::new(&address, protocol_name::CLIENT_DATANODE, &self.user, options);
        let request = GetReplicaVisibleLengthRequestProto { block: block.b.clone() };
        let reply: GetReplicaVisibleLengthResponseProto =
            rpc.call("getReplicaVisibleLength", &request).await?;
        Ok(reply.length)
    }
}

/// Blocks and length of a file as it is now, with what readers may see of a last block that is
/// being written.
async fn locate(
    shared: &Shared,
    path: &str,
    located: LocatedBlocksProto,
) -> Result<LocatedBlocks, ClientError> {
    let mut last = located.last_block.filter(|_| !located.is_last_block_complete);
    if let Some(last) = &mut last {
        last.b.num_bytes = Some(shared.visible_length(path, last).await?);
    }
    let visible = last.as_ref().map_or(0, |last| last.b.num_bytes());
    let mut blocks = LocatedBlocks::new(path, located.file_length.saturating_add(visible));
    let is_last =
        |block: &LocatedBlockProto| last.as_ref().is_some_and(|last| last.offset == block.offset);
    blocks.merge(located.blocks.into_iter().filter(|block| !is_last(block)).collect())?;
    blocks.merge(last.into_iter().collect())?;
    Ok(blocks)
}

/// After a restart the namenode may know of an open block and not yet its datanodes. Then how much of
/// the block is promised, as far as the namenode was told.
fn awaited_last_block(located: &LocatedBlocksProto) -> Option<u64> {
    let open = located.last_block.as_ref().filter(|_| !located.is_last_block_complete);
    open.filter(|last| last.locs.is_empty()).map(|last| last.b.num_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::fake_cluster::{FakeDatanode, FakeNamenode, Fault, bytes, client};

    const LEN: usize = 20_000;

    /// One block of [`LEN`] bytes on two datanodes, the first with `fault`.
    async fn cluster(fault: Option<Fault>) -> (Arc<FakeNamenode>, SocketAddr, [FakeDatanode; 2]) {
        let (namenode, address) = FakeNamenode::start().await;
        let datanodes = [FakeDatanode::start("first").await, FakeDatanode::start("second").await];
        datanodes[0].put(1, &bytes(LEN), fault);
        datanodes[1].put(1, &bytes(LEN), None);
        namenode.set_blocks(&[(1, LEN, &[&datanodes[0], &datanodes[1]])]);
        (namenode, address, datanodes)
    }

    async fn read_all(reader: &mut FileReader) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(chunk) = reader.next_chunk().await? {
            all.extend_from_slice(&chunk);
            assert_eq!(reader.position(), all.len() as u64);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn any_range_over_blocks_by_two_connections() {
        let (namenode, address) = FakeNamenode::start().await;
        let datanode = FakeDatanode::start("only").await;
        let file = bytes(10_000);
        let blocks = [(1, 4096), (2, 4096), (3, 1808)];
        let mut offset = 0;
        for (id, len) in blocks {
            datanode.put(id, &file[offset..offset + len], None);
            offset += len;
        }
        let located = [&datanode];
        namenode.set_blocks(&blocks.map(|(id, len)| (id, len, &located[..])));
        let mut reader = client(address).open("/f").await.unwrap();
        assert_eq!(read_all(&mut reader).await.unwrap(), file);
        for offset in [0, 1, 511, 512, 4095, 4096, 5000, 9999, 10_000] {
            for len in [1, 2, 513, 5000, 20_000] {
                let mut buf = vec![0; len];
                let got = reader.read_at(offset as u64, &mut buf).await.unwrap();
                assert_eq!(buf[..got], file[offset..(offset + len).min(file.len())]);
            }
        }
        // The second one opens the next block while the first one still reads.
        assert_eq!(datanode.connections.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn seeks_within_and_beyond_what_is_received() {
        let (_namenode, address, _datanodes) = cluster(None).await;
        let file = bytes(LEN);
        let mut reader = client(address).open("/f").await.unwrap();
        let mut buf = [0; 100];
        for position in [0, 50, 700, 699, 12_345, 3, LEN - 1] {
            reader.seek(position as u64).unwrap();
            let got = reader.read(&mut buf).await.unwrap();
            assert!(got > 0);
            assert_eq!(buf[..got], file[position..position + got]);
        }
        assert_eq!(reader.read(&mut buf).await.unwrap(), 0);
        assert!(reader.seek(LEN as u64 + 1).is_err());
    }

    #[tokio::test]
    async fn a_wrong_checksum_is_reported_and_another_replica_read() {
        let (namenode, address, _datanodes) = cluster(Some(Fault::BadByte(9000))).await;
        let mut reader = client(address).open("/f").await.unwrap();
        assert_eq!(read_all(&mut reader).await.unwrap(), bytes(LEN));
        let reported = namenode.reported.lock().unwrap();
        assert_eq!(reported.len(), 1);
        assert_eq!(reported[0].locs.len(), 1);
        assert_eq!(reported[0].locs[0].id.datanode_uuid, "first");
    }

    #[tokio::test]
    async fn unverified_reads_take_what_comes() {
        let (namenode, address, _datanodes) = cluster(Some(Fault::BadByte(9000))).await;
        let mut reader = client(address).open("/f").await.unwrap();
        reader.verify_checksums(false);
        let got = read_all(&mut reader).await.unwrap();
        assert_eq!(got[9000], bytes(LEN)[9000] ^ 1);
        assert!(namenode.reported.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_datanode_that_hangs_up_or_refuses_is_left() {
        for fault in [Fault::HangsUpAt(0), Fault::HangsUpAt(9000), Fault::Refuses] {
            let (namenode, address, datanodes) = cluster(Some(fault)).await;
            let mut reader = client(address).open("/f").await.unwrap();
            assert_eq!(read_all(&mut reader).await.unwrap(), bytes(LEN), "{fault:?}");
            let mut buf = vec![0; LEN];
            assert_eq!(reader.read_at(0, &mut buf).await.unwrap(), LEN);
            assert_eq!(buf, bytes(LEN));
            // Remembered as dead, and no cause for a report.
            assert_eq!(datanodes[0].connections.load(Ordering::Relaxed), 1);
            assert!(namenode.reported.lock().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn idle_connections_that_were_closed_are_no_failure() {
        let (_namenode, address, datanodes) = cluster(Some(Fault::HangsUpAfterwards)).await;
        let reader = client(address).open("/f").await.unwrap();
        let mut buf = [0; 10];
        for _ in 0..5 {
            assert_eq!(reader.read_at(100, &mut buf).await.unwrap(), 10);
        }
        assert_eq!(datanodes[1].connections.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn no_replica_is_an_error_after_some_rounds() {
        let (namenode, address, datanodes) = cluster(Some(Fault::Refuses)).await;
        datanodes[1].put(1, &bytes(LEN), Some(Fault::BadByte(0)));
        let mut reader = client(address).open("/f").await.unwrap();
        let error = read_all(&mut reader).await.unwrap_err();
        assert!(matches!(error, ClientError::NoReplica { .. }), "{error}");
        assert!(error.to_string().contains("checksum error"), "{error}");
        // Once to open, then once for each of dfs.client.max.block.acquire.failures.
        assert_eq!(namenode.count("getBlockLocations"), 4);
    }

    #[tokio::test]
    async fn other_blocks_in_place_of_the_known_ones_are_told() {
        let (namenode, address, datanodes) = cluster(Some(Fault::Refuses)).await;
        datanodes[1].put(1, &bytes(LEN), Some(Fault::Refuses));
        let mut reader = client(address).open("/f").await.unwrap();
        namenode.set_blocks(&[(2, LEN, &[&datanodes[0]])]);
        let error = read_all(&mut reader).await.unwrap_err();
        assert!(matches!(error, ClientError::FileChanged { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_block_being_written_has_the_length_its_datanodes_say() {
        let (namenode, address, _datanodes) = cluster(None).await;
        {
            let mut located = namenode.located.lock().unwrap();
            located.file_length = 0;
            located.under_construction = true;
            located.is_last_block_complete = false;
            located.blocks[0].b.num_bytes = Some(0);
            located.last_block = located.blocks.first().cloned();
        }
        let mut reader = client(address).open("/f").await.unwrap();
        assert_eq!(reader.len(), LEN as u64);
        assert_eq!(read_all(&mut reader).await.unwrap(), bytes(LEN));
    }
}
