//! Every bound of the data path, with the arithmetic behind it.

use std::time::Duration;

use ringfs_protocol::limits::PACKET_MAX_BYTES;

use crate::ring::SLAB_BYTES;

/// Packets predicted for one receive. Throughput is flat from 2 to 16 of 64 KiB.
pub const RECEIVE_PACKETS_MAX: usize = 8;
/// Bytes predicted for one receive: half a slab, so that disk writes start while more arrives.
pub const RECEIVE_BYTES_MAX: usize = 512 << 10;

/// Memory for packet prefixes and checksums, taken at a time: 535 bytes a packet make 122 packets.
pub const SIDE_BYTES: usize = 64 << 10;
/// Such memories that an active stream keeps for its next packets: the heads of its slabs' packets
/// (18 MiB of 64 KiB are 3), and one being filled. A silent stream keeps none.
pub const SIDES_KEPT_MAX: usize = 4;
/// Largest prefix and checksums of one packet: a 16 MiB packet has 128 KiB at 512 bytes a chunk.
pub const PACKET_HEAD_MAX_BYTES: usize = 1 << 20;

/// Slabs that one writing stream may hold: the largest packet at an odd offset spans 17, and one
/// more is being filled. 18 MiB exceed a client's window, Hadoop's of 80 packets (5 MiB) and ours of 160
/// (10 MiB), so the bound never slows a client that is alone.
pub const WRITE_STREAM_SLABS_MAX: usize = 18;
const _: () = assert!(WRITE_STREAM_SLABS_MAX * SLAB_BYTES >= PACKET_MAX_BYTES + 2 * SLAB_BYTES);

/// Of a thread's slabs, this part is kept for streams nearer to the end of their pipeline, once for
/// each datanode that still follows, up to [`RESERVE_LEVELS_MAX`]. Without it datanodes could wait for
/// each other in a ring, all slabs of each full of packets for the next.
pub const RESERVE_DIVISOR: usize = 8;
pub const RESERVE_LEVELS_MAX: usize = 2;

/// Readers leave this part of the slabs to writers.
pub const READ_RESERVE_DIVISOR: usize = 2;

/// Slabs that one reading stream may hold, and how many of them may be with the disk at a time: two keep
/// a disk busy, and as many are sent meanwhile. The rest is for clients that pause. On a disk of 2.9 GB/s
/// whose driver writes to memory through the processor's cache, streams had 2.8 GB/s so; with three at
/// a time 2.5, with six 2.3, as the slabs went round through more of the cache.
pub const READ_STREAM_SLABS_MAX: usize = 6;
pub const READS_IN_FLIGHT_MAX: usize = 2;
const _: () = assert!(2 * READS_IN_FLIGHT_MAX <= READ_STREAM_SLABS_MAX);

/// Data of one packet to a reader, rounded down to whole chunks. Apache's datanode sends 64 KiB, and
/// clients take up to 16 MiB. Out of the page cache our client reads 3.5, 4.6, 4.5, 5.1, 6.0 GB/s at
/// 64, 128, 256, 512, 1024 KiB (medians of 15), and the Java client 4.5 at 512 but 3.7 at 1024 KiB
/// (of 10).
pub const READ_PACKET_BYTES: u64 = 512 << 10;

/// A block that ends within this, or is flushed there first, is written through the page cache: one
/// short hand-off with its checksums, where direct writes cost two turns of the disk and a third to cut
/// the last sector. The first packet of a longer block (63 KiB) is beyond.
pub const CACHED_WRITE_MAX_BYTES: u64 = 32 << 10;

/// Data files of deleted blocks that a volume keeps for new ones are no shorter than this (a shorter
/// one's unlink takes 3 ms), take at most this part of the room there is, and are kept no longer than
/// this without being used. How many is `ringfs.datanode.spare.files`: 16 of 128 MiB are 2 GiB, which a
/// disk of 2 GB/s writes in a second. How often it is looked for those to unlink.
pub const SPARE_FILE_BYTES_MIN: u64 = 16 << 20;
pub const SPARE_ROOM_DIVISOR: u64 = 16;
pub const SPARE_FILE_LIFE: Duration = Duration::from_secs(600);
pub const SPARE_FILES_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The most that can be asked for: their list is looked through for each new block.
pub const SPARE_FILES_MAX: usize = 1024;

/// Threads of a volume for short work on files: names, and blocks of up to [`CACHED_WRITE_MAX_BYTES`].
/// A piece takes some 50 us; with two, one that waits for the disk does not stop all others.
pub const VOLUME_WORKERS: usize = 2;

/// A read up to this goes out in one message, from memory of its own instead of a slab.
pub const SMALL_READ_BYTES: u64 = 64 << 10;

/// Checksums read at a time: those of 32 MiB at 512 bytes a chunk.
pub const CHECKSUMS_PIECE_BYTES: u64 = 256 << 10;

/// Replicas that a data thread keeps open for the next read, three descriptors each; for how long
/// after the last, and how often it looks.
pub const OPEN_REPLICAS_MAX: usize = 64;
pub const OPEN_REPLICA_LIFE: Duration = Duration::from_secs(5);
pub const OPEN_REPLICA_SWEEP: Duration = Duration::from_secs(1);

/// Blocks of which is remembered that they were read: 4 TiB of full ones, in 5 MiB of memory.
pub const READ_HISTORY_BLOCKS_MAX: usize = 32 << 10;

/// Writes in flight per block: at 3 GB/s 8 MiB last 3 ms, in which the next ones are ready. A disk shares
/// itself among all that it has, so a whole window of them ends at once, is acknowledged at once, and
/// the disk waits for the client to send the next: 2.8 GB/s to one replica where 8 give 3.0.
pub const WRITES_IN_FLIGHT_MAX: usize = 8;
const _: () = assert!(WRITES_IN_FLIGHT_MAX <= WRITE_STREAM_SLABS_MAX);

/// On a disk that rotates: streams whose writes are under way at a time, writes of each, and bytes
/// before the next stream has its turn. At 10 ms a seek and 200 MB/s a run of 16 MiB (80 ms) leaves
/// the disk 8/9 of its rate; a stream's slabs hold such a run.
pub const ROTATIONAL_STREAMS_MAX: usize = 1;
pub const ROTATIONAL_WRITES_IN_FLIGHT_MAX: usize = 4;
pub const TURN_BYTES: u64 = 16 << 20;
const _: () = assert!(TURN_BYTES <= (WRITE_STREAM_SLABS_MAX * SLAB_BYTES) as u64);

/// How long data waits for its slab to be full while the disk is idle: a client of 0.5 GB/s fills one
/// in that time. A window of acks (80 packets, 5 MiB) is larger than a slab, so no busy client waits.
pub const GATHER_PATIENCE: Duration = Duration::from_millis(2);
/// Where slabs take longer than this to fill (0.26 GB/s), waiting gathers less than half of one.
pub const SLAB_PATIENCE: Duration = Duration::from_millis(4);
/// A packet with less data than this, or than the packet before, is flushed at once: its client wants
/// an ack. Clients that write on and on fill packets of 64 KiB.
pub const EAGER_PACKET_BYTES: u64 = 32 << 10;

/// Ranges of one gathered send or write (the kernel's UIO_MAXIOV is 1024). A packet takes two or
/// three.
pub const GATHERED_PARTS_MAX: usize = 256;

/// A volume that has not answered its watch for so long, or whose writes have not got on, gets no new
/// replicas until it does. A disk that retries a sector takes some seconds.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How often operations on disks are looked through for those that are stuck, and after how many looks
/// one is: within 3 s, others get workers of the kernel and slabs in place of those that it holds.
pub const DISK_LOOK_INTERVAL: Duration = Duration::from_secs(1);
pub const STUCK_AFTER_LOOKS: u32 = 2;
/// An operation on a disk that takes so long fails (`ringfs.datanode.disk.operation.timeout`). Clients
/// wait 60 s and more for an ack, so they hear from the node itself which of a pipeline it was. A disk
/// that tries a sector again and again takes some seconds.
pub const DISK_OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Workers that the kernel may give one ring beside its usual ones (four a core), for operations that
/// are stuck: kernel threads of some 16 KiB. A volume that does not answer gets no new operations
/// after [`STALLED_AFTER`], so a ring has no more stuck than its streams began in that time.
pub const STUCK_WORKERS_MAX: u32 = 1024;

/// A write that takes so long is counted (`dfs.datanode.slow.io.warning.threshold.ms` of Apache's).
pub const SLOW_WRITE: Duration = Duration::from_millis(300);
/// Replicas whose writes failed on one volume, since start, beyond which it has failed though its
/// checks pass. Where there is no room (ENOSPC) does not count.
pub const FAILED_WRITES_MAX: u32 = 16;

/// Data that the scrubber reads at a time: at its 1 MiB/s one read in 250 ms.
pub const SCRUB_PIECE_BYTES: u64 = 256 << 10;
/// Suspect replicas that wait for the scrubber of their volume, and are remembered by it.
pub const SUSPECTS_MAX: usize = 1024;

/// Block recoveries, one in 90 s, that a rotten replica stays away from, so that a datanode with a good
/// one can come back meanwhile.
pub const ROT_REFUSALS_MAX: u32 = 4;

/// Connections that a data thread keeps to next datanodes between blocks, a descriptor each, and for how
/// long: datanodes close what waits longer than 4 s for an operation.
pub const IDLE_MIRRORS_MAX: usize = 64;
pub const IDLE_MIRROR_LIFE: Duration = Duration::from_secs(3);

/// What is read at a time where messages are expected: replies, acks, operations.
pub const MESSAGE_READ_BYTES: usize = 4 << 10;

/// What is read at a time of what nobody wants any more.
pub const DROPPED_READ_BYTES: usize = 64 << 10;

/// A stream that is silent between packets keeps its slab this long: a pool of 256 then serves 5,000
/// streams a second that send one packet each, and who sends 20 times a second takes one at each.
pub const SILENCE_PATIENCE: Duration = Duration::from_millis(50);
/// One that stopped in the middle of a packet, whose bytes would be copied, this long.
pub const HALF_PACKET_PATIENCE: Duration = Duration::from_secs(1);

/// HTTP: scrapers, of which there are a few. A connection holds at most its request's head and one
/// page of metrics (some 10 KiB): 1.5 MiB together.
pub const HTTP_CONNECTIONS_MAX: usize = 64;
/// The least that the HTTP library takes is 8 KiB.
pub const HTTP_HEAD_MAX_BYTES: usize = 8 << 10;
/// From connect to the response's last byte.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a start waits for its ports, and between tries. The kernel needs milliseconds to take down the
/// rings of a datanode that was killed, more on a busy machine.
pub const BIND_PATIENCE: Duration = Duration::from_secs(5);
pub const BIND_PAUSE: Duration = Duration::from_millis(20);

/// How long what is sent behind a corrupt packet is taken and dropped (HDFS waits as long).
pub const CORRUPT_SENDER_PATIENCE: Duration = Duration::from_secs(3);

/// Bound of sending to a peer that takes nothing (`dfs.datanode.socket.write.timeout`).
pub const SEND_TIMEOUT: Duration = Duration::from_secs(480);
