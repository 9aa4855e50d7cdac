//! How many bytes of an interrupted replica are good.
//!
//! While a block is being written its data file may be longer than what was written (preallocated,
//! or padded to a sector), and the meta file is written after the data. So the meta file tells the
//! number of chunks, and the stored checksum of the last one tells how far that chunk goes: to the
//! one prefix whose checksum it is. A directory that Apache's datanode left needs nothing else: its
//! files end at the true length, which is the prefix tried first.
//!
//! A last chunk that no prefix fits is dropped, and so is each one before it, until one proves itself:
//! such bytes were never acknowledged, unless the machine lost power. After that the checksums behind
//! the last durable chunk may be anything, and that chunk's own may be the one of its synced part.

use std::io;

use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::meta_file::META_HEADER_BYTES;

/// What a disk writes whole, or not at all.
const SECTOR_BYTES: u64 = 512;

/// What nearly every meta file has: good enough to count its size without opening it.
pub const DEFAULT_CHECKSUM: DataChecksum =
    DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 };

/// The good length of a data file of `file_len` bytes, given the checksums stored in its meta file.
/// `read_at` fills the whole slice from an offset within the file.
pub fn good_len(
    checksum: DataChecksum,
    stored: &[u8],
    file_len: u64,
    mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<u64> {
    if checksum.kind == ChecksumType::Null {
        return Ok(file_len);
    }
    let chunk_len = u64::from(checksum.bytes_per_checksum);
    let (stored, _) = stored.as_chunks::<4>();
    let chunks = file_len.div_ceil(chunk_len).min(stored.len() as u64);
    let mut chunk = vec![0; checksum.bytes_per_checksum as usize];
    for index in (0..chunks).rev() {
        let start = index * chunk_len;
        let available = chunk_len.min(file_len - start) as usize;
        let bytes = &mut chunk[..available];
        read_at(start, bytes)?;
        let expected = u32::from_be_bytes(stored[index as usize]);
        // Whatever is stored behind it proved nothing, so it may be the last one, and partial.
        let proven = good_prefix(checksum, expected, u32::MAX, bytes);
        let proven = proven.or_else(|| {
            // Behind a header of 7 bytes one checksum of 128 lies across two sectors, and power may keep
            // the new one's first byte and the old one's others, or the reverse: each fits its prefix.
            let at = META_HEADER_BYTES as u64 + index * 4;
            let is_across = at % SECTOR_BYTES == SECTOR_BYTES - 1;
            is_across.then(|| good_prefix(checksum, expected, 0x00ff_ffff, bytes)).flatten()
        });
        if let Some(len) = proven {
            let off_by_one = ringfs_protocol::mutant!("datanode: off by one chunk");
            return Ok(if off_by_one { start } else { start + len });
        }
    }
    Ok(0)
}

/// Length of the meta file of a replica of `len` bytes.
pub fn meta_len(checksum: DataChecksum, len: u64) -> u64 {
    META_HEADER_BYTES as u64 + checksum.checksums_len(len)
}

/// All of `bytes`, or the shorter prefix with this checksum, as far as `mask` looks at it.
pub fn good_prefix(checksum: DataChecksum, expected: u32, mask: u32, bytes: &[u8]) -> Option<u64> {
    let fits = |crc: u32| crc & mask == expected & mask;
    if fits(checksum.crc(bytes)) {
        return Some(bytes.len() as u64);
    }
    let mut crc = checksum.crc(&[]);
    for (index, byte) in bytes.iter().enumerate() {
        crc = checksum.crc_append(crc, std::slice::from_ref(byte));
        if fits(crc) {
            return Some(index as u64 + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32c() -> DataChecksum {
        DataChecksum::new(ChecksumType::Crc32c, 512).unwrap()
    }

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 512) as u8).collect()
    }

    fn stored(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; crc32c().checksums_len(data.len() as u64) as usize];
        crc32c().fill(data, &mut out);
        out
    }

    fn good(file: &[u8], stored: &[u8]) -> u64 {
        good_len(crc32c(), stored, file.len() as u64, |offset, out| {
            out.copy_from_slice(&file[offset as usize..][..out.len()]);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn every_length_is_found_again_under_preallocation_and_padding() {
        for len in 0..=1030 {
            let written = data(len);
            let checksums = stored(&written);
            assert_eq!(good(&written, &checksums), len as u64, "a file that ends at {len}");
            for file_len in [len.next_multiple_of(4096), 8192] {
                let mut file = written.clone();
                file.resize(file_len, 0);
                assert_eq!(good(&file, &checksums), len as u64, "{len} bytes in {file_len}");
            }
        }
    }

    #[test]
    fn bytes_beyond_the_last_checksum_do_not_count() {
        // Data is written before its checksums: what was not acknowledged has none yet.
        let file = data(2000);
        for acked in [0, 1, 511, 512, 513, 1500, 1536] {
            assert_eq!(good(&file, &stored(&file[..acked])), acked as u64);
        }
    }

    #[test]
    fn zeros_that_were_written_are_told_from_zeros_of_preallocation() {
        for len in [1, 5, 511, 700] {
            let file = vec![0; 4096];
            assert_eq!(good(&file, &stored(&file[..len])), len as u64);
        }
    }

    #[test]
    fn damaged_chunks_at_the_end_are_dropped() {
        let mut file = data(1200);
        let checksums = stored(&file);
        file[1100] ^= 1;
        assert_eq!(good(&file, &checksums), 1024);
        file[600] ^= 1;
        assert_eq!(good(&file, &checksums), 512);
        file[0] ^= 1;
        assert_eq!(good(&file, &checksums), 0);
    }

    #[test]
    fn a_data_file_shorter_than_its_checksums_ends_at_its_last_whole_chunk() {
        let file = data(1200);
        assert_eq!(good(&file[..1000], &stored(&file)), 512);
        assert_eq!(good(&file[..1024], &stored(&file)), 1024);
        assert_eq!(good(&[], &stored(&file)), 0);
    }

    #[test]
    fn a_checksum_of_a_chunks_synced_part_counts_where_those_behind_it_are_lost() {
        let file = data(2048);
        let mut checksums = stored(&file[..1200]);
        checksums.extend_from_slice(&[0; 4]);
        assert_eq!(good(&file, &checksums), 1200);
    }

    #[test]
    fn a_checksum_across_two_sectors_proves_one_of_its_lengths_when_torn() {
        let file = data(126 * 512 + 300);
        let (old, new) = (stored(&file[..126 * 512 + 100]), stored(&file));
        let torn =
            |first: &[u8], rest: &[u8]| [&first[..126 * 4 + 1], &rest[126 * 4 + 1..]].concat();
        assert_eq!(good(&file, &torn(&new, &old)), 126 * 512 + 100);
        assert_eq!(good(&file, &torn(&old, &new)), 126 * 512 + 300);
    }

    #[test]
    fn a_torn_last_checksum_is_ignored() {
        let file = data(1200);
        let checksums = stored(&file);
        assert_eq!(good(&file, &checksums[..10]), 1024);
    }

    #[test]
    fn without_checksums_the_file_length_is_all_there_is() {
        let null = DataChecksum::new(ChecksumType::Null, 512).unwrap();
        assert_eq!(good_len(null, &[], 77, |_, _| unreachable!()).unwrap(), 77);
    }
}
