//! Every bound of the client, with its reason.

use std::time::Duration;

use ringfs_protocol::limits::{WHOLE_BLOCK_MAX_BYTES, WHOLE_BLOCK_PACKETS_MAX};

/// Packets that [`crate::FileWriter::write`] hands to the streamer at a time: a write of 1 MiB.
pub const PACKETS_HANDED_OVER_MAX: usize = 16;

/// Such hand-overs that wait for the streamer, beyond its window of unacknowledged packets: enough
/// that neither waits for the other. With the default window of 160 a writer holds at most
/// 160 + 2 x 2 x 16 packets of 64 KiB, 14 MiB.
pub const COMMANDS_QUEUED_MAX: usize = 2;

/// What gets its checksums and is sent at a time: packets until they hold so many bytes, which stay in
/// the processor's cache between the two.
pub const SEND_BATCH_BYTES: usize = 512 << 10;
pub const SEND_BATCH_PACKETS_MAX: usize = 32;
/// A whole block and its operation leave in one batch.
const _: () = assert!(WHOLE_BLOCK_PACKETS_MAX < SEND_BATCH_PACKETS_MAX);
const _: () = assert!(WHOLE_BLOCK_MAX_BYTES < SEND_BATCH_BYTES);

/// Acks that are received at a time: those of the default window, of three datanodes.
pub const ACK_BUFFER_BYTES: usize = 4 << 10;

/// What a writer is advised to write at a time: whole packets of about this many bytes.
pub const WRITE_LEN_HINT_BYTES: usize = 1 << 20;

/// Receive buffer of a block reader: whole packets up to this, which are still in the processor's
/// cache when they are verified. A larger packet makes the buffer as large as itself, 16 MiB at most.
pub const READ_BUFFER_BYTES: usize = 512 << 10;

/// Receive buffer while replies are awaited; that of a read of 4 KiB comes with all of its data.
pub const REPLY_BUFFER_BYTES: usize = 8 << 10;

/// What a stream reads at a time from a replica of this host, and how many such reads are under way: as
/// much as keeps a disk busy, and so little that the memory stays in the processor's cache. With 2 MiB
/// and 8 MiB under way a virtual disk that never idled gave 2.4 GB/s, with half of that 3.2; of a disk
/// that gave 2.4 GB/s in the same minutes, two reads at a time had 2.6 and four 2.5.
pub const LOCAL_PIECE_BYTES: usize = 1 << 20;
pub const LOCAL_READS_IN_FLIGHT_MAX: usize = 2;
/// Pieces of a stream that were begun and not handed out yet.
pub const LOCAL_PIECES_AHEAD_MAX: usize = 3;
/// Memory for pieces that is kept for the next ones: 16 MiB of huge pages, whatever the streams.
pub const LOCAL_BUFFERS_KEPT_MAX: usize = 8;
/// A range up to this is read at once, through the page cache.
pub const LOCAL_SMALL_READ_BYTES: u64 = 64 << 10;
/// How often it is looked for replicas that were deleted or not read for long.
pub const LOCAL_REPLICAS_SWEEP: Duration = Duration::from_secs(1);
/// How long a replica that could not be had, or failed, is read over TCP; and how many of them are
/// remembered.
pub const LOCAL_REFUSAL_LIFE: Duration = Duration::from_secs(10);
pub const LOCAL_REFUSALS_MAX: usize = 1024;

/// When so little of a block is left to read, the next one is opened: its datanode reads ahead
/// meanwhile, and the reader waits for none of it.
pub const OPEN_NEXT_BLOCK_BYTES: u64 = 8 << 20;

/// Idle datanode connections kept for the next read or block, and for how long: a datanode closes them
/// after 4 s. As many as write small files at a time: each has one at a time.
pub const IDLE_CONNECTIONS_MAX: usize = 64;
pub const IDLE_CONNECTION_LIFE: Duration = Duration::from_secs(3);

/// Blocks of which a reader learns the locations at a time.
pub const LOCATED_BLOCKS_AHEAD: u64 = 10;

/// A lease can be taken by others 60 s after its last renewal.
pub const LEASE_RENEWAL_INTERVAL: Duration = Duration::from_secs(30);

/// Between attempts to reach a datanode that restarts.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Pipeline recoveries without any new ack in between before a writer gives up.
pub const RECOVERIES_PER_PACKET_MAX: u32 = 5;

/// Datanodes tried as a replacement in one pipeline recovery.
pub const REPLACEMENTS_TRIED_MAX: u32 = 3;

/// Pauses after a RetriableException: 10 of 0.5 s, 1 s ... 15 s, about 90 s in all.
pub const RETRIABLE_ATTEMPTS_MAX: u32 = 10;
pub const RETRIABLE_FIRST_PAUSE: Duration = Duration::from_millis(500);
pub const RETRIABLE_PAUSE_MAX: Duration = Duration::from_secs(15);

/// A file that is being written outlives ten minutes of safe mode: after a restart of the namenode it
/// lasts until most blocks are reported, and 30 s more.
pub const SAFE_MODE_WAITS_MAX: u32 = 600;
pub const SAFE_MODE_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between attempts to get a block or to close a file.
/// For how long the first block that a namenode gave along with a file is written where it said: after
/// that a datanode may be gone for which the namenode would not choose it any more (Hadoop's
/// dfs.namenode.stale.datanode.interval).
pub const FIRST_BLOCK_GOOD_FOR: Duration = Duration::from_secs(30);
pub const FOLLOWING_BLOCK_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A file that is being written and was just recovered may have no datanode for its last block yet.
pub const LAST_BLOCK_ATTEMPTS: u32 = 3;
pub const LAST_BLOCK_PAUSE: Duration = Duration::from_secs(4);
