//! A namenode and datanodes for the tests of readers: blocks in memory, faults on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use prost::Message;
use ringfs_protocol::RemoteError;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::{Operation, decode_operation};
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{Call, CallError, RpcServerOptions, RpcService, serve};
use ringfs_protocol::site_config::Configuration;
use ringfs_protocol::wire::{decode_delimited, encode_delimited};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Client;

const CHUNK: usize = 512;
const PACKET_DATA: usize = 8 * CHUNK;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A bit of this byte of the block is wrong.
    BadByte(u64),
    /// Hangs up before sending this byte.
    HangsUpAt(u64),
    Refuses,
    /// Hangs up after each operation instead of waiting for the next.
    HangsUpAfterwards,
}

type Replica = (Vec<u8>, Option<Fault>);

#[derive(Clone)]
pub struct FakeDatanode {
    pub id: DatanodeIDProto,
    pub connections: Arc<AtomicUsize>,
    blocks: Arc<Mutex<HashMap<u64, Replica>>>,
}

/// Answers what readers ask; everything else is an unknown method.
#[derive(Default)]
pub struct FakeNamenode {
    pub located: Mutex<LocatedBlocksProto>,
    /// Methods called, with call id and retry count.
    pub calls: Mutex<Vec<(String, i32, i32)>>,
    pub reported: Mutex<Vec<LocatedBlockProto>>,
    /// Thrown by the next calls, the last first.
    pub errors: Mutex<Vec<RemoteError>>,
}

pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

impl FakeNamenode {
    pub async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::start_on(listener), address)
    }

    pub fn start_on(listener: TcpListener) -> Arc<Self> {
        let namenode = Arc::new(Self::default());
        let options = RpcServerOptions::default();
        tokio::spawn(serve(listener, namenode.clone(), options, std::future::pending()));
        namenode
    }

    /// Makes the file consist of `blocks`: id, length, datanodes.
    pub fn set_blocks(&self, blocks: &[(u64, usize, &[&FakeDatanode])]) {
        let mut located = self.located.lock().unwrap();
        *located = LocatedBlocksProto { is_last_block_complete: true, ..Default::default() };
        for (id, len, datanodes) in blocks {
            let block = LocatedBlockProto {
                b: ExtendedBlockProto {
                    pool_id: "pool".to_owned(),
                    block_id: *id,
                    generation_stamp: 1001,
                    num_bytes: Some(*len as u64),
                },
                offset: located.file_length,
                locs: datanodes.iter().map(|datanode| datanode.info()).collect(),
                ..Default::default()
            };
            located.file_length += *len as u64;
            located.last_block = Some(block.clone());
            located.blocks.push(block);
        }
    }

    pub fn count(&self, method: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(name, ..)| name == method).count()
    }
}

impl RpcService for FakeNamenode {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::CLIENT]
    }

    async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let record = (call.method.clone(), call.call_id, call.retry_count);
        self.calls.lock().unwrap().push(record);
        if let Some(error) = self.errors.lock().unwrap().pop() {
            return Err(error.into());
        }
        let reply = match call.method.as_str() {
            "getServerDefaults" => GetServerDefaultsResponseProto {
                server_defaults: FsServerDefaultsProto {
                    block_size: 1 << 20,
                    bytes_per_checksum: CHUNK as u32,
                    write_packet_size: 65536,
                    replication: 3,
                    ..Default::default()
                },
            }
            .encode_to_vec(),
            "getBlockLocations" => {
                let located = self.located.lock().unwrap().clone();
                GetBlockLocationsResponseProto { locations: Some(located) }.encode_to_vec()
            }
            "reportBadBlocks" => {
                let request = ReportBadBlocksRequestProto::decode(call.request).unwrap();
                self.reported.lock().unwrap().extend(request.blocks);
                Vec::new()
            }
            _ => {
                return Err(CallError::NoSuchMethod {
                    protocol: call.protocol,
                    method: call.method,
                });
            }
        };
        Ok(reply.into())
    }
}

pub fn client(namenode: SocketAddr) -> Client {
    let mut config = Configuration::default();
    config.set("dfs.client.retry.window.base", "1");
    config.set("ipc.client.connect.retry.interval", "1");
    Client::connect(&config, Some(&format!("hdfs://{namenode}"))).unwrap()
}

impl FakeDatanode {
    pub async fn start(name: &str) -> Self {
        let data = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ipc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = DatanodeIDProto {
            ip_addr: "127.0.0.1".to_owned(),
            host_name: "localhost".to_owned(),
            datanode_uuid: name.to_owned(),
            xfer_port: data.local_addr().unwrap().port().into(),
            ipc_port: ipc.local_addr().unwrap().port().into(),
            ..Default::default()
        };
        let datanode = Self { id, connections: Arc::default(), blocks: Arc::default() };
        let service = Arc::new(datanode.clone());
        tokio::spawn(serve(ipc, service, RpcServerOptions::default(), std::future::pending()));
        let served = datanode.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = data.accept().await {
                served.connections.fetch_add(1, Ordering::Relaxed);
                let served = served.clone();
                tokio::spawn(async move { served.serve(tcp).await });
            }
        });
        datanode
    }

    pub fn put(&self, id: u64, data: &[u8], fault: Option<Fault>) {
        self.blocks.lock().unwrap().insert(id, (data.to_vec(), fault));
    }

    pub fn info(&self) -> DatanodeInfoProto {
        DatanodeInfoProto { id: self.id.clone(), ..Default::default() }
    }

    /// READ_BLOCK after READ_BLOCK; `None` when it hangs up.
    async fn serve(&self, mut tcp: TcpStream) -> Option<()> {
        let mut received = BytesMut::new();
        loop {
            let operation = loop {
                if let Some((operation, len)) = decode_operation(&received).unwrap() {
                    let _ = received.split_to(len);
                    break operation;
                }
                (tcp.read_buf(&mut received).await.ok()? > 0).then_some(())?;
            };
            let Operation::ReadBlock(read) = operation else {
                return None;
            };
            let id = read.header.base_header.block.block_id;
            let (data, fault) = self.blocks.lock().unwrap().get(&id)?.clone();
            self.send_range(&mut tcp, &read, data, fault).await?;
            let status: ClientReadStatusProto = loop {
                if let Some((status, len)) = decode_delimited("status", &received, 100).unwrap() {
                    let _ = received.split_to(len);
                    break status;
                }
                (tcp.read_buf(&mut received).await.ok()? > 0).then_some(())?;
            };
            assert_eq!(status.status, Status::ChecksumOk as i32);
            if matches!(fault, Some(Fault::HangsUpAfterwards)) {
                return None;
            }
        }
    }

    async fn send_range(
        &self,
        tcp: &mut TcpStream,
        read: &OpReadBlockProto,
        mut data: Vec<u8>,
        fault: Option<Fault>,
    ) -> Option<()> {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, CHUNK as u32).unwrap();
        let mut crcs = vec![0; checksum.checksums_len(data.len() as u64) as usize];
        checksum.fill(&data, &mut crcs);
        if let Some(Fault::BadByte(at)) = fault {
            data[at as usize] ^= 1;
        }
        let start = read.offset as usize / CHUNK * CHUNK;
        let end = (read.offset + read.len) as usize;
        let mut response = BlockOpResponseProto::default();
        if matches!(fault, Some(Fault::Refuses)) || end > data.len() {
            response.status = Status::Error as i32;
            response.message = Some("no such bytes".to_owned());
        }
        response.read_op_checksum_info = Some(ReadOpChecksumInfoProto {
            checksum: checksum.to_proto(),
            chunk_offset: start as u64,
        });
        let mut out = BytesMut::new();
        encode_delimited(&response, &mut out);
        tcp.write_all(&out).await.ok()?;
        (response.status == Status::Success as i32).then_some(())?;
        let end = end.next_multiple_of(CHUNK).min(data.len());
        let mut seqno = 0;
        for at in (start..end).step_by(PACKET_DATA) {
            if matches!(fault, Some(Fault::HangsUpAt(byte)) if byte < (at + PACKET_DATA) as u64) {
                return None;
            }
            let part = &data[at..end.min(at + PACKET_DATA)];
            let first = at / CHUNK * 4;
            let crcs = &crcs[first..first + part.len().div_ceil(CHUNK) * 4];
            send_packet(tcp, seqno, at, false, crcs, part).await?;
            seqno += 1;
        }
        send_packet(tcp, seqno, end, true, &[], &[]).await
    }
}

async fn send_packet(
    tcp: &mut TcpStream,
    seqno: i64,
    offset: usize,
    last: bool,
    crcs: &[u8],
    data: &[u8],
) -> Option<()> {
    let header = PacketHeader {
        offset_in_block: offset as u64,
        seqno,
        last_packet_in_block: last,
        data_len: data.len() as u32,
        sync_block: false,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let len = encode_packet_prefix(&header, crcs.len(), &mut prefix);
    tcp.write_all(&[&prefix[..len], crcs, data].concat()).await.ok()
}

/// ClientDatanodeProtocol: all bytes of a block are visible.
impl RpcService for FakeDatanode {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::CLIENT_DATANODE]
    }

    async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let request = GetReplicaVisibleLengthRequestProto::decode(call.request).unwrap();
        let blocks = self.blocks.lock().unwrap();
        let missing = || RemoteError::new(java::REPLICA_NOT_FOUND, "Replica not found");
        let (data, _) = blocks.get(&request.block.block_id).ok_or_else(missing)?;
        let reply = GetReplicaVisibleLengthResponseProto { length: data.len() as u64 };
        Ok(reply.encode_to_vec().into())
    }
}
