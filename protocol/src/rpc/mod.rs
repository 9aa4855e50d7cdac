//! Hadoop IPC version 9: [`codec`] turns bytes into frames and back, [`session`] says which frame may
//! follow which, [`client`] and [`server`] carry them over TCP. Authentication is SIMPLE, with and
//! without the SASL negotiation that a client holding tokens starts.

pub mod client;
pub mod codec;
mod connection;
mod meta_info;
pub mod server;
pub mod session;

/// Names of the protocols as `declaringClassProtocolName` spells them; all are version 1.
pub mod protocol_name {
    pub const CLIENT: &str = "org.apache.hadoop.hdfs.protocol.ClientProtocol";
    pub const DATANODE: &str = "org.apache.hadoop.hdfs.server.protocol.DatanodeProtocol";
    pub const INTER_DATANODE: &str = "org.apache.hadoop.hdfs.server.protocol.InterDatanodeProtocol";
    pub const CLIENT_DATANODE: &str = "org.apache.hadoop.hdfs.protocol.ClientDatanodeProtocol";
    pub const PROTOCOL_META_INFO: &str = "org.apache.hadoop.ipc.ProtocolMetaInfoPB";
    pub const GET_USER_MAPPINGS: &str = "org.apache.hadoop.tools.GetUserMappingsProtocol";
}
