//! A replica's life on disk: each change of state with its file operations, in an order that leaves
//! either the old or the new state behind when the process dies in between.
//!
//! | transition | file operations, the last one is the commit |
//! |---|---|
//! | create | data file and meta file (with its header) in `rbw/` or `tmp/` |
//! | finalize | truncate data to its length; sync if asked; meta, then data into `finalized/` |
//! | append | data, then meta (under the new generation stamp) into `rbw/` |
//! | bump | rename meta to the new generation stamp |
//!
//! Data in `rbw/` with its meta still in `finalized/` is thus complete in either direction, and
//! `start_scan` makes it FINALIZED again.

use std::sync::Arc;

use ringfs_protocol::block::{Block, ExtendedBlock, GenerationStamp};
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::messages::StorageTypeProto;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::replica::{Replica, WriterLease};
use crate::ring;
use crate::volume::SpacePromise;

/// What a new replica needs to be known of.
#[derive(Clone, Debug)]
pub struct CreateReplica {
    /// `num_bytes` is a hint of the size to come, for which room is promised.
    pub block: ExtendedBlock,
    pub checksum: DataChecksum,
    pub storage_type: StorageTypeProto,
    /// The volume that the namenode chose, if it did.
    pub storage_id: Option<String>,
}

/// A replica opened for writing. Whoever holds this, and nobody else, writes its files; it must go
/// (through `finalize`, `abandon` or a drop) soon after [`ReplicaWriter::stopped`] resolves.
#[derive(Debug)]
pub struct ReplicaWriter {
    pub replica: Arc<Replica>,
    /// O_DIRECT when [`crate::volume::Volume::direct_io`] says so.
    pub data: ring::File,
    /// Through the page cache.
    pub meta: ring::File,
    /// The checksum of the meta file, which an append must keep whatever its client asks for.
    pub checksum: DataChecksum,
    /// Bytes that were there when the writer took over.
    pub start_len: u64,
    /// Size of the data file (padding and preallocation included), kept up to date by the writer:
    /// `finalize` truncates where it exceeds the replica's length.
    pub file_len: u64,
    /// To be told how much of the disk the files take ([`SpacePromise::taken`]).
    pub promise: SpacePromise,
    lease: WriterLease,
}

impl ReplicaWriter {
    /// Resolves when a recovery or a deletion wants the writer out of the way.
    pub async fn stopped(&self) {
        self.lease.stopped().await;
    }

    pub fn is_stopped(&self) -> bool {
        self.lease.is_stopped()
    }
}

impl Dataset {
    /// A new RBW replica; RECEIVING is queued to the namenode.
    pub async fn create_rbw(&self, create: CreateReplica) -> Result<ReplicaWriter> {
        let _ = create;
        todo!()
    }

    /// A new TEMPORARY replica. `replace_older` (a transfer on behalf of a client) allows it to take
    /// the place of a replica with an older generation stamp.
    pub async fn create_temporary(
        &self,
        create: CreateReplica,
        replace_older: bool,
    ) -> Result<ReplicaWriter> {
        let _ = (create, replace_older);
        todo!()
    }

    /// Reopens a FINALIZED replica: PIPELINE_SETUP_APPEND.
    pub async fn append(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<ReplicaWriter> {
        let _ = (block, new_stamp, expected_len);
        todo!()
    }

    /// PIPELINE_SETUP_APPEND_RECOVERY.
    pub async fn recover_append(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<ReplicaWriter> {
        let _ = (block, new_stamp, expected_len);
        todo!()
    }

    /// PIPELINE_SETUP_STREAMING_RECOVERY: the replica is cut to its acked bytes.
    pub async fn recover_rbw(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        min_bytes: u64,
        max_bytes: u64,
    ) -> Result<ReplicaWriter> {
        let _ = (block, new_stamp, min_bytes, max_bytes);
        todo!()
    }

    /// PIPELINE_CLOSE_RECOVERY: FINALIZED under the new generation stamp, RECEIVED queued.
    pub async fn recover_close(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<Block> {
        let _ = (block, new_stamp, expected_len);
        todo!()
    }

    /// RBW or TEMPORARY to FINALIZED at the length [`Replica::bytes_on_disk`]; RECEIVED is queued,
    /// with `delete_hint` (the datanode whose replica a balancer wants gone) if given.
    pub async fn finalize(
        &self,
        writer: ReplicaWriter,
        sync: bool,
        delete_hint: Option<String>,
    ) -> Result<Block> {
        let _ = (writer, sync, delete_hint);
        todo!()
    }

    /// The end of TRANSFER_RBW: what was TEMPORARY is a replica of a pipeline that goes on.
    pub async fn convert_temporary_to_rbw(&self, writer: ReplicaWriter) -> Result<Block> {
        let _ = writer;
        todo!()
    }

    /// The writer gave up: an RBW replica stays for recovery as it is, a TEMPORARY one is deleted.
    pub fn abandon(&self, writer: ReplicaWriter) {
        let _ = writer;
        todo!()
    }
}
