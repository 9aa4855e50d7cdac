//! Where the blocks of a measurement come from, before its clock runs.
//!
//! A namenode gives them: each is the only block of a file of its own in a scratch directory, so
//! that it can be written without asking again, belongs to somebody while it is written, and goes
//! with the directory at the end. Without a namenode they are invented: ids far above those that a
//! namenode counts up to, at the first generation stamp that one gives out, so that nothing takes
//! them for a block of its future. The datanodes' namenode knows no file of such a block and has it
//! deleted with one of the next heartbeats.

use std::net::{IpAddr, SocketAddr};

use rand::Rng;
use ringfs_client::{Client, DatanodeReportTypeProto};
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::RpcClient;
use tokio::runtime::Runtime;

use super::options::{PipelineOptions, resolve};
use crate::BenchError;
use crate::deletions::Deletions;
use crate::file_system::FileSystem;
use crate::processes::NamedProcess;
use crate::scratch_directory::ScratchDirectory;

/// Where the scratch directory is made.
const BASE: &str = "/benchmarks/pipeline";

/// The first that a namenode gives out.
const INVENTED_GENERATION_STAMP: u64 = 1001;

/// A block, and the datanodes that its bytes go through or come from.
#[derive(Clone, Debug)]
pub struct PipelineBlock {
    pub block: ExtendedBlockProto,
    pub token: TokenProto,
    pub nodes: Vec<PipelineNode>,
    pub len: u64,
}

#[derive(Clone, Debug)]
pub struct PipelineNode {
    pub datanode: DatanodeInfoProto,
    pub address: SocketAddr,
    pub storage_type: i32,
    /// Empty where nobody named one: the datanode chooses.
    pub storage_id: String,
}

#[derive(Debug)]
pub enum BlockSource {
    Namenode(Box<NamenodeBlocks>),
    Invented(InventedBlocks),
}

#[derive(Debug)]
pub struct NamenodeBlocks {
    runtime: Runtime,
    client: Client,
    /// What ends when the datanodes hold as little again as before.
    deletions: Deletions,
    namenode: RpcClient,
    scratch: ScratchDirectory,
    /// Of its files' leases.
    holder: String,
    excluded: Vec<DatanodeInfoProto>,
    replication: u16,
    block_size: u64,
    files: u64,
}

#[derive(Debug)]
pub struct InventedBlocks {
    pool: String,
    nodes: Vec<PipelineNode>,
    replication: usize,
    first_id: u64,
    blocks: u64,
}

impl BlockSource {
    pub fn open(options: &PipelineOptions) -> Result<Self, BenchError> {
        let wanted: Vec<SocketAddr> =
            options.datanodes.iter().map(|address| resolve(address)).collect::<Result<_, _>>()?;
        match &options.pool {
            Some(pool) => InventedBlocks::new(pool, &wanted, options).map(Self::Invented),
            None => {
                NamenodeBlocks::open(&wanted, options).map(|blocks| Self::Namenode(blocks.into()))
            }
        }
    }

    pub fn allocate(&mut self, len: u64) -> Result<PipelineBlock, BenchError> {
        match self {
            Self::Namenode(source) => source.allocate(len),
            Self::Invented(source) => Ok(source.invent(len)),
        }
    }

    /// This process and the cluster's servers on this machine, where there is somebody to ask.
    pub fn processes(
        &self,
        options: &PipelineOptions,
    ) -> Result<Option<Vec<NamedProcess>>, BenchError> {
        match self {
            Self::Namenode(source) => {
                let file_system = options.file_system.connect()?;
                source.runtime.block_on(file_system.processes()).map(Some)
            }
            Self::Invented(_) => Ok(None),
        }
    }

    /// Gives all blocks back.
    pub fn close(self) -> Result<(), BenchError> {
        match self {
            Self::Namenode(source) => source.runtime.block_on(source.remove()),
            Self::Invented(_) => Ok(()),
        }
    }
}

impl NamenodeBlocks {
    fn open(wanted: &[SocketAddr], options: &PipelineOptions) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::Runtime)?;
        let file_system = options.file_system.connect()?;
        let (deletions, excluded, scratch) = runtime.block_on(async {
            let deletions = Deletions::before_run(&file_system.client).await?;
            let excluded = excluded(&file_system, wanted).await?;
            let scratch = ScratchDirectory::create(&file_system.client, BASE).await?;
            Ok::<_, BenchError>((deletions, excluded, scratch))
        })?;
        Ok(Self {
            runtime,
            namenode: file_system.namenode(),
            client: file_system.client,
            deletions,
            scratch,
            holder: client_name(),
            excluded,
            replication: options.replication,
            block_size: options.block_size,
            files: 0,
        })
    }

    fn allocate(&mut self, len: u64) -> Result<PipelineBlock, BenchError> {
        let path = format!("{}/{}", self.scratch.path, self.files);
        self.files += 1;
        let located = self.runtime.block_on(self.new_file(&path))?;
        let node = |(index, datanode): (usize, &DatanodeInfoProto)| {
            Some(PipelineNode {
                datanode: datanode.clone(),
                address: address_of(&datanode.id)?,
                storage_type: *located.storage_types.get(index).unwrap_or(&DISK),
                storage_id: located.storage_ids.get(index).cloned().unwrap_or_default(),
            })
        };
        let nodes: Vec<_> = located.locs.iter().enumerate().filter_map(node).collect();
        if nodes.len() < usize::from(self.replication) {
            let (found, wanted) = (nodes.len(), self.replication);
            return Err(BenchError::TooFewDatanodes { found, wanted: wanted.into() });
        }
        Ok(PipelineBlock { block: located.b, token: located.block_token, nodes, len })
    }

    /// Returns when the datanodes have deleted their replicas: the next run would have the deletions
    /// beside it.
    async fn remove(&self) -> Result<(), BenchError> {
        self.scratch.remove().await?;
        self.deletions.done(&self.client).await
    }

    async fn new_file(&self, path: &str) -> Result<LocatedBlockProto, BenchError> {
        let create = CreateRequestProto {
            src: path.to_owned(),
            masked: FsPermissionProto { perm: 0o644 },
            client_name: self.holder.clone(),
            create_flag: CreateFlagProto::Create as u32,
            create_parent: false,
            replication: self.replication.into(),
            block_size: self.block_size,
            ..CreateRequestProto::default()
        };
        let created: CreateResponseProto = self.namenode.call("create", &create).await?;
        let add_block = AddBlockRequestProto {
            src: path.to_owned(),
            client_name: self.holder.clone(),
            previous: None,
            exclude_nodes: self.excluded.clone(),
            file_id: created.fs.and_then(|status| status.file_id),
            favored_nodes: Vec::new(),
            flags: Vec::new(),
        };
        let added: AddBlockResponseProto = self.namenode.call("addBlock", &add_block).await?;
        Ok(added.block)
    }
}

impl InventedBlocks {
    fn new(
        pool: &str,
        datanodes: &[SocketAddr],
        options: &PipelineOptions,
    ) -> Result<Self, BenchError> {
        let replication = usize::from(options.replication);
        if datanodes.len() < replication {
            return Err(BenchError::TooFewDatanodes {
                found: datanodes.len(),
                wanted: replication,
            });
        }
        let nodes = datanodes.iter().map(|address| PipelineNode {
            datanode: DatanodeInfoProto {
                id: DatanodeIDProto {
                    ip_addr: address.ip().to_string(),
                    host_name: address.ip().to_string(),
                    xfer_port: address.port().into(),
                    ..DatanodeIDProto::default()
                },
                ..DatanodeInfoProto::default()
            },
            address: *address,
            storage_type: DISK,
            storage_id: String::new(),
        });
        let first_id = (1 << 62) | (rand::rng().random_range(0..1 << 40) << 20);
        let (pool, nodes) = (pool.to_owned(), nodes.collect());
        Ok(Self { pool, nodes, replication, first_id, blocks: 0 })
    }

    /// Pipelines begin at each datanode in turn.
    fn invent(&mut self, len: u64) -> PipelineBlock {
        let number = self.blocks;
        self.blocks += 1;
        let nodes = self.nodes.iter().cycle().skip(number as usize % self.nodes.len());
        PipelineBlock {
            block: ExtendedBlockProto {
                pool_id: self.pool.clone(),
                block_id: self.first_id + number,
                generation_stamp: INVENTED_GENERATION_STAMP,
                num_bytes: Some(0),
            },
            token: TokenProto::default(),
            nodes: nodes.take(self.replication).cloned().collect(),
            len,
        }
    }
}

const DISK: i32 = StorageTypeProto::Disk as i32;

pub fn client_name() -> String {
    format!("ringfs_bench_{}", std::process::id())
}

/// The live datanodes that are not wanted, where some are named.
async fn excluded(
    file_system: &FileSystem,
    wanted: &[SocketAddr],
) -> Result<Vec<DatanodeInfoProto>, BenchError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut live = file_system.client.datanode_report(DatanodeReportTypeProto::Live).await?;
    let address = |datanode: &DatanodeInfoProto| address_of(&datanode.id);
    if let Some(unknown) =
        wanted.iter().find(|wanted| !live.iter().any(|live| address(live) == Some(**wanted)))
    {
        let why = format!("{} has no live datanode {unknown}", file_system.address);
        return Err(BenchError::Usage(why));
    }
    live.retain(|datanode| !address(datanode).is_some_and(|address| wanted.contains(&address)));
    Ok(live)
}

fn address_of(id: &DatanodeIDProto) -> Option<SocketAddr> {
    let ip: IpAddr = id.ip_addr.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(id.xfer_port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_blocks_collide_with_nothing_and_take_datanodes_in_turn() {
        let datanodes: Vec<SocketAddr> =
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|text| text.parse().unwrap()).into();
        let options = PipelineOptions { replication: 2, ..Default::default() };
        let mut source = InventedBlocks::new("BP-1", &datanodes, &options).unwrap();
        let (first, second) = (source.invent(5), source.invent(5));
        assert!(first.block.block_id >= 1 << 62 && first.block.block_id < 1 << 63);
        assert_eq!(second.block.block_id, first.block.block_id + 1);
        let ports = |block: &PipelineBlock| -> Vec<u16> {
            block.nodes.iter().map(|node| node.address.port()).collect()
        };
        assert_eq!((ports(&first), ports(&second)), (vec![1, 2], vec![2, 3]));
        assert_eq!(ports(&source.invent(5)), [3, 1]);
        let options = PipelineOptions { replication: 4, ..options };
        let error = InventedBlocks::new("BP-1", &datanodes, &options).unwrap_err().to_string();
        assert!(error.contains("3 of 4"), "{error}");
    }
}
