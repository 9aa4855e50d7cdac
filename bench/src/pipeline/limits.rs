//! Bounds of a measurement, with the arithmetic behind them.

use std::time::Duration;

/// Packets in flight of one writer, as HDFS's clients have it
/// (`dfs.client.write.max-packets-in-flight`).
pub const WINDOW_PACKETS: usize = 80;
pub const WINDOW_PACKETS_MAX: usize = 100_000;

/// A socket and two small buffers each; a datanode takes 4096 by default.
pub const STREAMS_MAX: usize = 10_000;
pub const IDLE_WRITERS_MAX: usize = 50_000;
/// A datanode's queue of connections not yet accepted is at least 50 long.
pub const IDLE_OPENED_AT_A_TIME: usize = 32;
/// Half of what a datanode waits for a packet at the least.
pub const IDLE_HEARTBEAT: Duration = Duration::from_secs(20);

/// Memory that distinct packets may take: enough of them not to stay in the processor's nearest
/// caches, as no application's data would.
pub const PAYLOAD_BYTES: usize = 8 << 20;

/// Ranges of one gathered send: three to a packet.
pub const SEND_SLICES_MAX: usize = 192;

/// Room for each receive of acks and replies, and of data.
pub const ACK_RECEIVE_BYTES: usize = 4 << 10;
pub const DATA_RECEIVE_BYTES: usize = 1 << 20;

/// Without a byte from any datanode for so long, a run has failed. HDFS's clients wait as long.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
