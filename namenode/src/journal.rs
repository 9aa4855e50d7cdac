//! The journal in front of the store's database: what a batch changed, in one synced write.
//!
//! ```text
//! | header, payload, padding | header, payload, padding | ... | at least one block behind the last |
//! ```
//!
//! A record is a batch: its changes as keys and new values, so applying one again changes nothing. It
//! begins at a whole block; its header names epoch, sequence and length under a checksum of its own.
//! The database holds the epoch that counts. A durable commit of the database (a checkpoint) puts a
//! new one there, and the records of the old one are void from that moment: the file begins anew
//! without being touched, and its blocks are written again in place, which changes no metadata of the
//! file system. Epochs grow by random steps, so that nothing a client has stored can pass for a record,
//! and a first record that is of a later epoch than the database's tells that the database has fallen
//! back to an older state: that is refused.
//!
//! Each record is durable before the next is written. So what does not read at the end is the torn
//! write of a batch that nobody was answered, and is cut; what does not read with a later record of
//! the epoch behind it is damage, and is refused with its place, as is a file that ends too early, and
//! a last record that a single flipped bit keeps from its checksum, which no torn write does. So that
//! the last one is not the last for long, an empty record confirms it when no other change comes.

use std::io;

use ringfs_protocol::checksum::{ChecksumType, DataChecksum};

use crate::error::{NamenodeError, Result};
use crate::limits::{JOURNAL_BYTES_MAX, JOURNAL_STEP_BYTES};
use crate::schema::Space;

/// What a disk writes as a whole; records begin at multiples of it.
pub const BLOCK_BYTES: u64 = 4096;

const HEADER_BYTES: usize = 32;
const MAGIC: u32 = 0x524e_4a31;
const REMOVED: u8 = 0x80;

/// The file below a journal.
pub trait JournalFile: Send {
    /// All of it; empty when it is new.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// Writes whole blocks at a whole block, behind the end too, and returns when they are durable.
    fn write(&mut self, offset_bytes: u64, blocks: &[u8]) -> io::Result<()>;

    fn len_bytes(&mut self) -> io::Result<u64>;
}

pub struct Journal {
    file: Box<dyn JournalFile>,
    /// Names it in errors.
    place: String,
    epoch: u64,
    sequence: u64,
    /// Where the next record goes.
    at: u64,
    /// Whether nothing is behind the last record that has changes: damage to it would look torn.
    unconfirmed: bool,
    len_bytes: u64,
    record: Vec<u8>,
}

impl Journal {
    pub fn new(file: Box<dyn JournalFile>, place: String) -> Self {
        Self {
            file,
            place,
            epoch: 0,
            sequence: 1,
            at: 0,
            unconfirmed: false,
            len_bytes: 0,
            record: Vec::new(),
        }
    }

    /// Makes the file ready for records.
    pub fn prepare(&mut self) -> Result<()> {
        self.len_bytes = self.file.len_bytes().map_err(|error| self.failed(error))?;
        self.reach(JOURNAL_STEP_BYTES)
    }

    /// To be called once the database has `epoch` durably: the records so far are void.
    pub fn begin(&mut self, epoch: u64) {
        (self.epoch, self.sequence, self.at) = (epoch, 1, 0);
        self.unconfirmed = false;
    }

    /// Whether a record of so many bytes still has room before the next checkpoint.
    pub fn has_room(&self, payload_bytes: usize) -> bool {
        self.at + record_bytes(payload_bytes) + BLOCK_BYTES <= JOURNAL_BYTES_MAX
    }

    /// Writes the changes as one record; durable when it returns.
    pub fn append(&mut self, changes: &Changes) -> Result<()> {
        let payload = &changes.0;
        let bytes = record_bytes(payload.len());
        self.reach(self.at + bytes + BLOCK_BYTES)?;
        let header = Header {
            epoch: self.epoch,
            sequence: self.sequence,
            payload_bytes: payload.len() as u32,
            payload_crc: crc(payload),
        };
        self.record.clear();
        self.record.extend_from_slice(&header.encode());
        self.record.extend_from_slice(payload);
        self.record.resize(bytes as usize, 0);
        if let Err(error) = self.file.write(self.at, &self.record) {
            return Err(self.failed(error));
        }
        self.sequence += 1;
        self.at += bytes;
        self.unconfirmed = !payload.is_empty();
        Ok(())
    }

    /// Whether [`Journal::confirm`] would be of use.
    pub fn wants_confirmation(&self) -> bool {
        self.unconfirmed && self.has_room(0)
    }

    /// Those of this epoch so far.
    pub fn records(&self) -> u64 {
        self.sequence - 1
    }

    /// Puts an empty record behind the last one, which from then on nobody takes for a torn write.
    pub fn confirm(&mut self) -> Result<()> {
        self.append(&Changes::default())
    }

    /// The epoch of the first record, which has been the newest of the file since it was written.
    pub fn newest_epoch(&mut self) -> Result<u64> {
        let bytes = self.file.read().map_err(|error| self.failed(error))?;
        Ok(header_at(&bytes, 0).map_or(0, |header| header.epoch))
    }

    /// Hands out the changes of all records of `epoch`, in order.
    pub fn replay(
        &mut self,
        epoch: u64,
        mut apply: impl FnMut(Space, &[u8], Option<&[u8]>) -> Result<()>,
    ) -> Result<u64> {
        let bytes = self.file.read().map_err(|error| self.failed(error))?;
        let (mut at, mut sequence) = (0, 1);
        while let Some(header) = header_at(&bytes, at).filter(|header| header.is(epoch, sequence)) {
            let start = at + HEADER_BYTES;
            let end = start + header.payload_bytes as usize;
            let Some(payload) = bytes.get(start..end) else { break };
            if crc(payload) != header.payload_crc {
                if is_one_bit_off(payload, header.payload_crc) {
                    let why = format!("record {sequence} is corrupt: a bit of it has flipped");
                    return Err(self.refuse(at, &why));
                }
                break;
            }
            let mut rest = payload;
            while !rest.is_empty() {
                let (space, key, value) = take_change(&mut rest).ok_or_else(|| {
                    self.refuse(at, &format!("record {sequence} does not decode"))
                })?;
                apply(space, key, value)?;
            }
            at = end.next_multiple_of(BLOCK_BYTES as usize);
            sequence += 1;
        }
        if let Some(header) = mended_header_at(&bytes, at)
            && header.is(epoch, sequence)
        {
            let why = format!("record {sequence} is corrupt: a bit of its header has flipped");
            return Err(self.refuse(at, &why));
        }
        let torn_end = header_at(&bytes, at)
            .filter(|header| header.is(epoch, sequence))
            .map_or(at, |header| at + record_bytes(header.payload_bytes as usize) as usize);
        if bytes.len() < torn_end + BLOCK_BYTES as usize {
            return Err(self.refuse(bytes.len(), "the file has been truncated there"));
        }
        for later in (at..bytes.len()).step_by(BLOCK_BYTES as usize).skip(1) {
            if let Some(header) = header_at(&bytes, later)
                && header.epoch == epoch
                && header.sequence >= sequence
            {
                let why = format!(
                    "record {sequence} is corrupt: record {} follows it at {later}",
                    header.sequence
                );
                return Err(self.refuse(at, &why));
            }
        }
        Ok(sequence - 1)
    }

    /// Lengthens the file to `bytes` or more: rarely, for a write that does is slower than others.
    fn reach(&mut self, bytes: u64) -> Result<()> {
        while self.len_bytes < bytes {
            // What a crash left of a former step may end anywhere.
            let from = self.len_bytes / BLOCK_BYTES * BLOCK_BYTES;
            let zeros = vec![0; JOURNAL_STEP_BYTES as usize];
            self.file.write(from, &zeros).map_err(|error| self.failed(error))?;
            self.len_bytes = from + JOURNAL_STEP_BYTES;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> NamenodeError {
        NamenodeError::Store(format!("{}: {source}", self.place))
    }

    fn refuse(&self, offset_bytes: usize, why: &str) -> NamenodeError {
        NamenodeError::Format {
            path: self.place.clone(),
            why: format!("byte {offset_bytes}: {why}"),
        }
    }
}

/// What a batch changes, encoded as it is done.
#[derive(Default)]
pub struct Changes(Vec<u8>);

impl Changes {
    pub fn push(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        self.0.push(space as u8 | if value.is_some() { 0 } else { REMOVED });
        for field in [Some(key), value].into_iter().flatten() {
            self.0.extend_from_slice(&(field.len() as u32).to_le_bytes());
            self.0.extend_from_slice(field);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what came behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

type Change<'a> = (Space, &'a [u8], Option<&'a [u8]>);

fn take_change<'a>(rest: &mut &'a [u8]) -> Option<Change<'a>> {
    let kind = *rest.split_off_first()?;
    let space = *Space::ALL.get(usize::from(kind & !REMOVED))?;
    let key = take_field(rest)?;
    let value = if kind & REMOVED == 0 { Some(take_field(rest)?) } else { None };
    Some((space, key, value))
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?);
    rest.split_off(..len as usize)
}

#[derive(Clone, Copy)]
struct Header {
    epoch: u64,
    sequence: u64,
    payload_bytes: u32,
    payload_crc: u32,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let own = crc(&bytes[..28]);
        bytes[28..32].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    fn is(&self, epoch: u64, sequence: u64) -> bool {
        self.epoch == epoch && self.sequence == sequence
    }
}

/// The header at `at`, if there is a whole one.
fn header_at(bytes: &[u8], at: usize) -> Option<Header> {
    let bytes: &[u8; HEADER_BYTES] = bytes.get(at..at + HEADER_BYTES)?.try_into().ok()?;
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    if u32_at(0) != MAGIC || u32_at(28) != crc(&bytes[..28]) {
        return None;
    }
    let (epoch, sequence) = (u64_at(8), u64_at(16));
    Some(Header { epoch, sequence, payload_bytes: u32_at(4), payload_crc: u32_at(24) })
}

/// The header that flipping one bit back makes whole, where there is none.
fn mended_header_at(bytes: &[u8], at: usize) -> Option<Header> {
    if header_at(bytes, at).is_some() {
        return None;
    }
    let mut header = bytes.get(at..at + HEADER_BYTES)?.to_vec();
    (0..HEADER_BYTES * 8).find_map(|bit| {
        header[bit / 8] ^= 1 << (bit % 8);
        let mended = header_at(&header, 0);
        header[bit / 8] ^= 1 << (bit % 8);
        mended
    })
}

/// Whether it is a record's payload but for one flipped bit. One that was torn is not: it would have to
/// have the checksum of another and make sense besides.
fn is_one_bit_off(payload: &[u8], expected_crc: u32) -> bool {
    let Some(bit) = flipped_bit(crc(payload) ^ expected_crc, payload.len()) else { return false };
    let mut mended = payload.to_vec();
    mended[bit / 8] ^= 1 << (bit % 8);
    let mut rest = &mended[..];
    while !rest.is_empty() {
        if take_change(&mut rest).is_none() {
            return false;
        }
    }
    true
}

/// The bit by which alone two strings of `len` bytes differ whose checksums differ by `difference`: the
/// checksum is linear, so that depends on the bit's distance from the end only.
fn flipped_bit(difference: u32, len: usize) -> Option<usize> {
    /// CRC32C's polynomial, the lowest bit that of the highest power.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut of_bit = POLYNOMIAL;
    (0..len * 8).rev().find(|_| {
        let is_it = of_bit == difference;
        of_bit = (of_bit >> 1) ^ if of_bit & 1 == 1 { POLYNOMIAL } else { 0 };
        is_it
    })
}

fn record_bytes(payload_bytes: usize) -> u64 {
    ((HEADER_BYTES + payload_bytes) as u64).next_multiple_of(BLOCK_BYTES)
}

fn crc(bytes: &[u8]) -> u32 {
    DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 }.crc(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const EPOCH: u64 = 77;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl JournalFile for Memory {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.0.lock().unwrap().clone())
        }

        fn write(&mut self, offset_bytes: u64, blocks: &[u8]) -> io::Result<()> {
            assert_eq!((offset_bytes % BLOCK_BYTES, blocks.len() as u64 % BLOCK_BYTES), (0, 0));
            let mut bytes = self.0.lock().unwrap();
            let end = offset_bytes as usize + blocks.len();
            let len = bytes.len().max(end);
            bytes.resize(len, 0);
            bytes[offset_bytes as usize..end].copy_from_slice(blocks);
            Ok(())
        }

        fn len_bytes(&mut self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().len() as u64)
        }
    }

    fn changes(key: u8, value_len: usize) -> Changes {
        let mut changes = Changes::default();
        changes.push(Space::Retries, &[key], Some(&vec![key; value_len]));
        changes.push(Space::Leases, &[key, 1], None);
        changes
    }

    fn journal(memory: &Memory) -> Journal {
        let mut journal = Journal::new(Box::new(memory.clone()), "the journal".to_owned());
        journal.prepare().unwrap();
        journal.begin(EPOCH);
        journal
    }

    /// The keys that were put, of all records that count.
    fn replayed(memory: &Memory, epoch: u64) -> Result<Vec<u8>> {
        let mut keys = Vec::new();
        let mut journal = Journal::new(Box::new(memory.clone()), "the journal".to_owned());
        let records = journal.replay(epoch, |space, key, value| {
            match value {
                Some(value) => {
                    assert!(space == Space::Retries && value.iter().all(|byte| *byte == key[0]));
                    keys.push(key[0]);
                }
                None => assert!(space == Space::Leases && key.len() == 2),
            }
            Ok(())
        })?;
        assert_eq!(records, keys.len() as u64);
        Ok(keys)
    }

    #[test]
    fn gives_back_what_was_written_in_its_epoch() {
        let memory = Memory::default();
        let mut journal = journal(&memory);
        assert_eq!(replayed(&memory, EPOCH).unwrap(), [0; 0]);
        for (key, len) in [(1, 10), (2, 9000), (3, 0), (4, 3 << 20), (5, 7)] {
            journal.append(&changes(key, len)).unwrap();
        }
        assert_eq!(replayed(&memory, EPOCH).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(replayed(&memory, EPOCH + 1).unwrap(), [0; 0]);
        journal.begin(EPOCH + 1);
        assert_eq!(replayed(&memory, EPOCH + 1).unwrap(), [0; 0]);
        journal.append(&changes(6, 10)).unwrap();
        assert_eq!(replayed(&memory, EPOCH + 1).unwrap(), [6]);
        assert!(journal.has_room(1 << 20) && !journal.has_room(JOURNAL_BYTES_MAX as usize));
    }

    #[test]
    fn a_torn_last_record_is_cut_wherever_it_was_torn() {
        let memory = Memory::default();
        let mut journal = journal(&memory);
        journal.append(&changes(9, 20_000)).unwrap();
        journal.begin(EPOCH + 1);
        journal.append(&changes(1, 10)).unwrap();
        let before = memory.0.lock().unwrap().clone();
        journal.append(&changes(2, 5000)).unwrap();
        let after = memory.0.lock().unwrap().clone();
        let last = BLOCK_BYTES as usize..BLOCK_BYTES as usize + HEADER_BYTES + 5000 + 17;
        for torn in last.step_by(17) {
            let mut bytes = after[..torn].to_vec();
            bytes.extend_from_slice(&before[torn..]);
            *memory.0.lock().unwrap() = bytes;
            let expected: &[u8] = if after[torn..] == before[torn..] { &[1, 2] } else { &[1] };
            assert_eq!(replayed(&memory, EPOCH + 1).unwrap(), expected, "torn at {torn}");
        }
    }

    #[test]
    fn damage_before_a_record_and_a_file_that_ends_too_early_are_refused_with_their_place() {
        let memory = Memory::default();
        let mut journal = journal(&memory);
        for key in 1..=3 {
            journal.append(&changes(key, 5000)).unwrap();
        }
        let whole = memory.0.lock().unwrap().clone();
        let refused = |bytes: Vec<u8>, wanted: &[&str]| {
            *memory.0.lock().unwrap() = bytes;
            let why = replayed(&memory, EPOCH).unwrap_err().to_string();
            assert!(wanted.iter().all(|part| why.contains(part)), "{why}");
        };
        for (at, place, record) in
            [(5, "byte 0:", "record 1"), (8192 + 40, "byte 8192:", "record 2")]
        {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            refused(bytes, &["the journal", place, record, "corrupt"]);
        }
        for len in [0, 10, 4096, 8192, 8200, 16384, 20000, 24576] {
            refused(whole[..len].to_vec(), &["the journal", &format!("byte {len}:"), "truncated"]);
        }
        // Of the last record only a torn write cannot be told from nothing.
        for (at, bit) in [(0, 1), (9, 64), (31, 128), (50, 1), (4095, 8), (5000, 16), (5036, 2)] {
            let mut last = whole.clone();
            last[16384 + at] ^= bit;
            refused(last, &["the journal", "byte 16384:", "record 3", "flipped"]);
        }
        let mut last = whole.clone();
        last[16384 + 4096..16384 + 5000].fill(0);
        *memory.0.lock().unwrap() = last;
        assert_eq!(replayed(&memory, EPOCH).unwrap(), [1, 2], "as a torn write would look");
    }

    #[test]
    fn a_confirmed_record_that_does_not_read_is_damage() {
        let memory = Memory::default();
        let mut journal = journal(&memory);
        assert!(!journal.wants_confirmation());
        journal.append(&changes(1, 10)).unwrap();
        journal.append(&changes(2, 5000)).unwrap();
        assert!(journal.wants_confirmation());
        journal.confirm().unwrap();
        assert!(!journal.wants_confirmation());
        let whole = memory.0.lock().unwrap().clone();
        let with_zeros = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at..at + 4096].fill(0);
            *memory.0.lock().unwrap() = bytes;
        };
        for at in [4096, 8192] {
            with_zeros(at);
            let why = replayed(&memory, EPOCH).unwrap_err().to_string();
            assert!(why.contains("byte 4096: record 2") && why.contains("record 3"), "{why}");
        }
        // The confirmation itself may be torn: it has nothing to lose.
        with_zeros(12_288);
        assert_eq!(replayed(&memory, EPOCH).unwrap(), [1, 2]);
    }

    #[test]
    fn one_flipped_bit_is_known_by_its_checksum() {
        let bytes: Vec<u8> = (0..700u32).map(|at| (at * 7) as u8).collect();
        for bit in (0..bytes.len() * 8).step_by(5) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(flipped_bit(crc(&bytes) ^ crc(&flipped), bytes.len()), Some(bit));
            flipped[(bit / 8 + 1) % bytes.len()] ^= 3;
            assert_eq!(flipped_bit(crc(&bytes) ^ crc(&flipped), bytes.len()), None, "bit {bit}");
        }
    }
}
