//! Every bound a decoder or a connection enforces, in one place, with its reason.

use std::time::Duration;

/// Largest RPC frame, either way (`ipc.maximum.data.length` of Hadoop 3.3+): 128 MiB.
pub const RPC_FRAME_MAX_BYTES: usize = 128 << 20;

/// Largest RPC frame accepted from a connection that has not sent its context yet. A context or a
/// SASL message is below 1 KiB, so a stranger cannot make the server reserve 128 MiB.
pub const RPC_FRAME_BEFORE_CONTEXT_MAX_BYTES: usize = 64 << 10;

/// RPC frames beyond this count against [`RPC_LARGE_FRAMES_MAX_KIB`]. Smaller ones are bounded by the
/// number of connections alone: 8192 of them fill 2 GiB.
pub const RPC_LARGE_FRAME_BYTES: usize = 256 << 10;

/// KiB of large frames, being received or answered, in one server at a time: 1 GiB. Further ones wait.
pub const RPC_LARGE_FRAMES_MAX_KIB: usize = 1 << 20;

/// A receive buffer grows by at most this beyond the bytes that have arrived, whatever length was
/// announced.
pub const RPC_READ_AHEAD_MAX_BYTES: usize = 256 << 10;

/// Largest data packet: checksums, data and both length fields (`dfs.data.transfer.max.packet.size`).
pub const PACKET_MAX_BYTES: usize = 16 << 20;

/// A packet header encodes to 25 or 27 bytes; the slack is for fields a later version may add.
pub const PACKET_HEADER_MAX_BYTES: usize = 1 << 10;

/// A block whose packets take no more than this may follow its WRITE_BLOCK unasked: files of up to 63 KiB,
/// which a datanode holds until it has the last byte.
pub const WHOLE_BLOCK_MAX_BYTES: usize = 64 << 10;

/// In so many packets: its data and its end. So nothing of it is acknowledged before all of its data.
pub const WHOLE_BLOCK_PACKETS_MAX: usize = 2;

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

/// A peer that its network has lost is let go after this (`peer_timeout`): as long as a call may take
/// (`ipc.client.rpc-timeout.ms`). Half of it is silence, in the other half it is asked so many times, 15 s
/// apart. 8192 idle connections then cost 140 packets a second; the kernel's own 2 h would keep the
/// descriptors of all clients that went away in that time.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(120);
pub const PEER_PROBES: u32 = 4;

/// The kernel counts keepalive in whole seconds, up to 32,767 of silence.
pub const PEER_TIMEOUT_MIN: Duration = Duration::from_secs(2);
pub const PEER_TIMEOUT_MAX: Duration = Duration::from_secs(12 * 3600);

const _: () = assert!(PEER_TIMEOUT_MAX.as_secs() / 2 <= 32_767);
const _: () = assert!(ACK_MAX_BYTES >= PIPELINE_MAX_DATANODES * 12);
const _: () = assert!(RPC_FRAME_MAX_BYTES >> 10 <= RPC_LARGE_FRAMES_MAX_KIB);
const _: () = assert!(PACKET_MAX_BYTES < RPC_FRAME_MAX_BYTES);
