//! A namenode for tests: answers DatanodeProtocol, remembers every call, sends the commands it is
//! given with the next heartbeat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use ringfs_protocol::messages::{
    BlockReceivedAndDeletedResponseProto, BlockReportResponseProto,
    CommitBlockSynchronizationResponseProto, DatanodeCommandProto, ErrorReportResponseProto,
    HaState, HeartbeatRequestProto, HeartbeatResponseProto, NNHAStatusHeartbeatProto,
    NamespaceInfoProto, RegisterDatanodeRequestProto, RegisterDatanodeResponseProto,
    ReportBadBlocksResponseProto, StorageInfoProto, VersionResponseProto,
};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{Call, CallError, RpcServerOptions, RpcService, serve};
use tokio::sync::Notify;

pub struct FakeNamenode {
    pub address: String,
    pub state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    calls: Mutex<Vec<(String, Bytes)>>,
    called: Notify,
    commands: Mutex<Vec<DatanodeCommandProto>>,
    /// 0 never grants a lease, as before 2.8.
    pub lease: Mutex<u64>,
    pub version: Mutex<String>,
    pub cluster_id: Mutex<String>,
}

impl FakeNamenode {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        *state.lease.lock() = 77;
        *state.version.lock() = "3.3.6".into();
        *state.cluster_id.lock() = "CID-test".into();
        let service = Arc::new(Service(state.clone()));
        tokio::spawn(serve(listener, service, RpcServerOptions::default(), std::future::pending()));
        Self { address, state }
    }

    pub fn command(&self, command: DatanodeCommandProto) {
        self.state.commands.lock().push(command);
    }

    /// Takes the first call of `method` out of those remembered, waiting for it if need be.
    pub async fn next<M: Message + Default>(&self, method: &str) -> M {
        let waiting = async {
            loop {
                let called = self.state.called.notified();
                {
                    let mut calls = self.state.calls.lock();
                    if let Some(index) = calls.iter().position(|(name, _)| name == method) {
                        return M::decode(calls.remove(index).1).unwrap();
                    }
                }
                called.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("no {method}; calls: {:?}", self.methods()))
    }

    pub fn methods(&self) -> Vec<String> {
        self.state.calls.lock().iter().map(|(method, _)| method.clone()).collect()
    }
}

struct Service(Arc<State>);

impl RpcService for Service {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::DATANODE]
    }

    async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let state = &self.0;
        let reply = match call.method.as_str() {
            "versionRequest" => VersionResponseProto { info: self.namespace() }.encode_to_vec(),
            "registerDatanode" => {
                let request = RegisterDatanodeRequestProto::decode(&call.request[..]).unwrap();
                let mut registration = request.registration;
                registration.datanode_id.ip_addr = "127.0.0.1".into();
                RegisterDatanodeResponseProto { registration }.encode_to_vec()
            }
            "sendHeartbeat" => {
                let request = HeartbeatRequestProto::decode(&call.request[..]).unwrap();
                let lease = *state.lease.lock();
                HeartbeatResponseProto {
                    cmds: std::mem::take(&mut *state.commands.lock()),
                    ha_status: NNHAStatusHeartbeatProto { state: HaState::Active as i32, txid: 1 },
                    full_block_report_lease_id: request
                        .request_full_block_report_lease()
                        .then_some(lease),
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "blockReport" => BlockReportResponseProto { cmd: None }.encode_to_vec(),
            "blockReceivedAndDeleted" => BlockReceivedAndDeletedResponseProto {}.encode_to_vec(),
            "reportBadBlocks" => ReportBadBlocksResponseProto {}.encode_to_vec(),
            "errorReport" => ErrorReportResponseProto {}.encode_to_vec(),
            "commitBlockSynchronization" => {
                CommitBlockSynchronizationResponseProto {}.encode_to_vec()
            }
            _ => {
                let (protocol, method) = (call.protocol, call.method);
                return Err(CallError::NoSuchMethod { protocol, method });
            }
        };
        state.calls.lock().push((call.method, call.request));
        state.called.notify_one();
        Ok(reply.into())
    }
}

impl Service {
    fn namespace(&self) -> NamespaceInfoProto {
        NamespaceInfoProto {
            build_version: "test".into(),
            unused: 0,
            block_pool_id: crate::volume::tests::POOL.into(),
            storage_info: StorageInfoProto {
                layout_version: -63_i32 as u32,
                namespace_id: 1234,
                cluster_id: self.0.cluster_id.lock().clone(),
                c_time: 0,
            },
            software_version: self.0.version.lock().clone(),
            capabilities: Some(1),
            state: None,
        }
    }
}
