//! The journal's file on a disk.
//!
//! Written with O_DIRECT and O_DSYNC: a write is one request to the device and its flush, without the
//! page cache's writeback of others in between. File systems that know no O_DIRECT go without it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::journal::{BLOCK_BYTES, JournalFile};

pub struct DiskJournal {
    file: File,
    /// The blocks to write lie in it where O_DIRECT wants them.
    memory: Vec<u8>,
}

impl DiskJournal {
    /// Opens the file; makes it, if it is not there, with a durable name.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.custom_flags(flags.bits() as i32).open(path)
        };
        let is_new = !path.exists();
        let file = match open(OFlags::DIRECT | OFlags::DSYNC) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::DSYNC),
            opened => opened,
        }?;
        if is_new && let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(Self { file, memory: Vec::new() })
    }

    /// Room for `len` bytes from a whole block of memory on.
    fn aligned(&mut self, len: usize) -> &mut [u8] {
        let block = BLOCK_BYTES as usize;
        if self.memory.len() < len + block {
            self.memory = vec![0; len + block];
        }
        let skip = self.memory.as_ptr().align_offset(block);
        &mut self.memory[skip..skip + len]
    }
}

impl JournalFile for DiskJournal {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let len = self.len_bytes()? as usize;
        let file = self.file.try_clone()?;
        let memory = self.aligned(len.next_multiple_of(BLOCK_BYTES as usize));
        let mut count = 0;
        while count < len {
            match file.read_at(&mut memory[count..], count as u64)? {
                0 => break,
                read => count += read,
            }
        }
        let bytes = memory[..count.min(len)].to_vec();
        self.memory = Vec::new();
        Ok(bytes)
    }

    fn write(&mut self, offset_bytes: u64, blocks: &[u8]) -> io::Result<()> {
        let memory = self.aligned(blocks.len());
        memory.copy_from_slice(blocks);
        let skip = self.memory.as_ptr().align_offset(BLOCK_BYTES as usize);
        self.file.write_all_at(&self.memory[skip..skip + blocks.len()], offset_bytes)
    }

    fn len_bytes(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_written_and_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = DiskJournal::open(&path).unwrap();
        assert_eq!((journal.len_bytes().unwrap(), journal.read().unwrap()), (0, Vec::new()));
        journal.write(4096, &[7; 8192]).unwrap();
        journal.write(4096, &[8; 4096]).unwrap();
        let mut again = DiskJournal::open(&path).unwrap();
        let bytes = again.read().unwrap();
        assert_eq!((bytes.len(), again.len_bytes().unwrap()), (12_288, 12_288));
        assert!(bytes[..4096].iter().all(|byte| *byte == 0));
        assert!(bytes[4096..8192].iter().all(|byte| *byte == 8));
        assert!(bytes[8192..].iter().all(|byte| *byte == 7));
    }
}
