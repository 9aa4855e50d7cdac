//! A namesystem on a throw-away store, with datanodes that only exist as reports.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringfs_protocol::block::{Block, BlockId, ExtendedBlock};
use ringfs_protocol::messages::{
    AddBlockRequestProto, BlockStatus, CreateRequestProto, DatanodeStorageProto,
    ExtendedBlockProto, FsPermissionProto, HdfsFileStatusProto, LocatedBlockProto,
    ReceivedDeletedBlockInfoProto, RecoveringBlockProto, StorageBlockReportProto,
    StorageReceivedDeletedBlocksProto, StorageReportProto, StorageTypeProto,
};
use ringfs_protocol::site_config::Configuration;
use tempfile::TempDir;

use crate::block_manager::{BlockManager, StoredBlocks};
use crate::block_manager_config::BlockManagerConfig;
use crate::clock::ManualClock;
use crate::config::NamespaceConfig;
use crate::datanodes::Registration;
use crate::error::Result;
use crate::format::{self, FormatOptions};
use crate::heartbeats::{Heartbeat, HeartbeatReply};
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::WriterClaim;

pub const START_MS: u64 = 1_700_000_000_000;
pub const BLOCK_SIZE: u64 = 1024;

pub struct Fixture {
    pub namesystem: Arc<Namesystem>,
    pub clock: Arc<ManualClock>,
    pub config: NamespaceConfig,
    pub directory: Arc<TempDir>,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut NamespaceConfig)) -> Self {
        let mut config = NamespaceConfig::for_tests();
        adjust(&mut config);
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(ManualClock::new(START_MS));
        format::format(directory.path(), &config, &FormatOptions::default(), &*clock).unwrap();
        Self::open(directory, clock, config)
    }

    fn open(directory: Arc<TempDir>, clock: Arc<ManualClock>, config: NamespaceConfig) -> Self {
        let store = Arc::new(format::open(directory.path()).unwrap());
        let blocks = BlockManager::new(
            BlockManagerConfig::read(
                &Configuration::default(),
                store.identity().block_pool_id.clone(),
            )
            .unwrap(),
            store.clone(),
            clock.clone(),
            7,
        );
        blocks.safe_mode().leave();
        let namesystem = Namesystem::new(store, config.clone(), blocks, clock.clone()).unwrap();
        Self { namesystem, clock, config, directory }
    }

    /// Stops the namesystem and opens its store again.
    pub fn restart(self) -> Self {
        let Self { namesystem, clock, config, directory } = self;
        assert_eq!(Arc::strong_count(&namesystem), 1, "something still uses the namesystem");
        drop(namesystem);
        Self::open(directory, clock, config)
    }

    /// A namesystem on another directory, a copy of this one's.
    pub fn beside(&self, directory: TempDir) -> Self {
        Self::open(Arc::new(directory), self.clock.clone(), self.config.clone())
    }

    pub async fn call(&self, user: &str) -> ClientCall {
        ClientCall {
            principal: Arc::new(self.namesystem.principal(user).await),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            retry_key: None,
        }
    }

    pub async fn superuser(&self) -> ClientCall {
        self.call("super").await
    }

    /// The call with this number of one client.
    pub async fn numbered(&self, user: &str, number: u8) -> ClientCall {
        ClientCall { retry_key: Some([number; 20]), ..self.call(user).await }
    }

    /// Registers datanodes of one storage each, `DS-<uuid>`, that report that they hold nothing.
    pub fn datanodes(&self, uuids: &[&str]) {
        for (index, uuid) in (0..).zip(uuids) {
            let registration = Registration {
                uuid: (*uuid).to_owned(),
                ip: IpAddr::V4(Ipv4Addr::new(10, 0, uuid.as_bytes()[uuid.len() - 1], index)),
                host_name: (*uuid).to_owned(),
                transfer_port: 9866,
                info_port: 9864,
                ipc_port: 9867,
                info_secure_port: None,
                software_version: "3.3.6".to_owned(),
                rack: crate::topology::DEFAULT_RACK.into(),
            };
            let blocks = &self.namesystem.blocks;
            blocks.register(registration).unwrap();
            self.heartbeat(uuid);
            let report = StorageBlockReportProto {
                storage: storage(uuid),
                number_of_blocks: Some(0),
                ..StorageBlockReportProto::default()
            };
            blocks.full_report(uuid, 0, true, &[report]).unwrap();
        }
    }

    pub fn heartbeat(&self, uuid: &str) -> HeartbeatReply {
        let report = StorageReportProto {
            storage_uuid: format!("DS-{uuid}"),
            capacity: Some(1 << 40),
            remaining: Some(1 << 40),
            storage: Some(storage(uuid)),
            ..StorageReportProto::default()
        };
        let beat = Heartbeat { storages: vec![report], ..Heartbeat::default() };
        self.namesystem.blocks.heartbeat(uuid, &beat)
    }

    /// The block recoveries that these datanodes are asked to lead.
    pub fn recoveries(&self, uuids: &[&str]) -> Vec<RecoveringBlockProto> {
        uuids.iter().flat_map(|uuid| self.heartbeat(uuid).recoveries).collect()
    }

    /// `uuid` reports a finalized replica.
    pub fn report(&self, uuid: &str, block: Block) {
        let received = ReceivedDeletedBlockInfoProto {
            block: block.into(),
            delete_hint: None,
            status: BlockStatus::Received as i32,
        };
        let report = StorageReceivedDeletedBlocksProto {
            storage_uuid: format!("DS-{uuid}"),
            blocks: vec![received],
            storage: Some(storage(uuid)),
        };
        self.namesystem.blocks.incremental_report(uuid, &[report]).unwrap();
    }

    pub async fn mkdirs(&self, call: &ClientCall, path: &str) {
        assert!(self.namesystem.mkdirs(call, path.to_owned(), 0o755, true).await.unwrap());
    }

    pub async fn create(&self, call: &ClientCall, path: &str) -> Result<HdfsFileStatusProto> {
        let reply = self.namesystem.create(call, create_request(path, 1)).await?;
        Ok(reply.fs.unwrap())
    }

    pub async fn add_block(
        &self,
        call: &ClientCall,
        path: &str,
        previous: Option<ExtendedBlockProto>,
    ) -> Result<LocatedBlockProto> {
        let request = AddBlockRequestProto {
            src: path.to_owned(),
            client_name: HOLDER.to_owned(),
            previous,
            ..AddBlockRequestProto::default()
        };
        self.namesystem.add_block(call, request).await
    }

    /// Writes a closed file with blocks of these lengths; its blocks.
    pub async fn write(&self, call: &ClientCall, path: &str, lengths: &[u64]) -> Vec<Block> {
        self.create(call, path).await.unwrap();
        let mut previous = None;
        let mut blocks = Vec::new();
        for length in lengths {
            let located = self.add_block(call, path, previous.take()).await.unwrap();
            let written = written(&located, *length);
            for node in &located.locs {
                self.report(&node.id.datanode_uuid, block_of(&written));
            }
            blocks.push(block_of(&written));
            previous = Some(written);
        }
        assert!(self.namesystem.complete(claim(path), previous).await.unwrap());
        blocks
    }

    pub fn length(&self, call: &ClientCall, path: &str) -> u64 {
        self.namesystem.get_file_info(call, path, false).unwrap().unwrap().length
    }

    pub fn exists(&self, call: &ClientCall, path: &str) -> bool {
        self.namesystem.get_file_info(call, path, false).unwrap().is_some()
    }

    pub fn names(&self, call: &ClientCall, path: &str) -> Vec<String> {
        let listing = self.namesystem.get_listing(call, path, b"", false).unwrap().unwrap();
        let names = listing.partial_listing.into_iter();
        names.map(|status| String::from_utf8(status.path).unwrap()).collect()
    }

    /// Whether neither the store nor the block manager knows the block any more.
    pub fn removed(&self, id: BlockId) -> bool {
        self.namesystem.store.stored_block(id).is_none()
            && self.namesystem.blocks.expected(id).is_empty()
    }
}

fn storage(uuid: &str) -> DatanodeStorageProto {
    DatanodeStorageProto {
        storage_uuid: format!("DS-{uuid}"),
        state: None,
        storage_type: Some(StorageTypeProto::Disk as i32),
    }
}

pub const HOLDER: &str = "DFSClient_1";

pub fn create_request(path: &str, flags: u32) -> CreateRequestProto {
    CreateRequestProto {
        src: path.to_owned(),
        masked: FsPermissionProto { perm: 0o644 },
        client_name: HOLDER.to_owned(),
        create_flag: flags,
        create_parent: true,
        replication: 3,
        block_size: BLOCK_SIZE,
        ..CreateRequestProto::default()
    }
}

pub fn claim(path: &str) -> WriterClaim {
    WriterClaim { path: path.to_owned(), file_id: 0, holder: HOLDER.to_owned() }
}

/// A located block as its writer names it after `length` bytes.
pub fn written(located: &LocatedBlockProto, length: u64) -> ExtendedBlockProto {
    ExtendedBlockProto { num_bytes: Some(length), ..located.b.clone() }
}

pub fn block_of(proto: &ExtendedBlockProto) -> Block {
    ExtendedBlock::from(proto).block
}
