//! Every bound a decoder enforces, in one place, with its reason.

/// Largest RPC frame, either way (`ipc.maximum.data.length` of Hadoop 3.3+): 128 MiB.
pub const RPC_FRAME_MAX_BYTES: usize = 128 << 20;

/// Largest RPC frame accepted from a connection that has not sent its context yet. A context or a
/// SASL message is below 1 KiB, so a stranger cannot make the server reserve 128 MiB.
pub const RPC_FRAME_BEFORE_CONTEXT_MAX_BYTES: usize = 64 << 10;

/// Largest data packet: checksums, data and both length fields (`dfs.data.transfer.max.packet.size`).
pub const PACKET_MAX_BYTES: usize = 16 << 20;

/// A packet header encodes to 25 or 27 bytes; the slack is for fields a later version may add.
pub const PACKET_HEADER_MAX_BYTES: usize = 1 << 10;

/// Largest operation header (WRITE_BLOCK names its targets, about 300 bytes each, and a token).
pub const OPERATION_MAX_BYTES: usize = 1 << 20;

/// Datanodes in one write pipeline: an ack carries a reply for each. HDFS's replication tops at 512.
pub const PIPELINE_MAX_DATANODES: usize = 512;

/// Largest pipeline ack: [`PIPELINE_MAX_DATANODES`] replies and flags of at most 5 bytes each.
pub const ACK_MAX_BYTES: usize = 16 << 10;

/// Largest `bytesPerChecksum` accepted from a peer or a meta file (Hadoop's default is 512).
pub const BYTES_PER_CHECKSUM_MAX: u32 = 1 << 20;

/// Path limits of HDFS: characters and components.
pub const PATH_MAX_CHARS: usize = 8000;
pub const PATH_MAX_DEPTH: usize = 1000;

/// Largest `*-site.xml`; a property takes about 200 bytes.
pub const CONFIG_FILE_MAX_BYTES: u64 = 16 << 20;

/// `${var}` replaced in one value (Hadoop's own bound).
pub const CONFIG_SUBSTITUTIONS_MAX: usize = 20;

const _: () = assert!(ACK_MAX_BYTES >= PIPELINE_MAX_DATANODES * 12);
const _: () = assert!(PACKET_MAX_BYTES < RPC_FRAME_MAX_BYTES);
