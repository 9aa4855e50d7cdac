//! The local file that the demo writes to the cluster.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::CommandError;

const STEP_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    /// How many of the file's bytes, from its start, are meant.
    pub bytes: u64,
}

impl Source {
    /// The same file, not more than `bytes` of it.
    pub fn start(&self, bytes: u64) -> Self {
        Self { path: self.path.clone(), bytes: self.bytes.min(bytes) }
    }

    pub fn open(path: &Path) -> Result<Self, CommandError> {
        let metadata = path.metadata().map_err(CommandError::file("read", path))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(CommandError::Usage(format!("{}: not a file with bytes", path.display())));
        }
        Ok(Self { path: path.to_owned(), bytes: metadata.len() })
    }

    /// Bytes that do not compress and do not repeat, on the disk before anything is measured.
    pub fn make(path: &Path, bytes: u64) -> Result<Self, CommandError> {
        let fail = CommandError::file("write", path);
        write_random(path, bytes).map_err(fail)?;
        Ok(Self { path: path.to_owned(), bytes })
    }
}

fn write_random(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut step = vec![0_u8; STEP_BYTES];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    while left > 0 {
        for word in step.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let len = left.min(STEP_BYTES as u64) as usize;
        file.write_all(&step[..len])?;
        left -= len as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_file_of_any_length_that_does_not_repeat() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("source");
        let source = Source::make(&path, (2 << 20) + 3).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, source.bytes);
        assert_ne!(bytes[..1 << 20], bytes[1 << 20..2 << 20]);
        assert_eq!(Source::open(&path).unwrap().bytes, source.bytes);
        assert!(Source::make(&path, 1).is_err(), "never over an existing file");
        assert!(Source::open(directory.path()).is_err());
    }
}
