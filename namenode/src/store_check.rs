//! Whether a metadata store is whole, looked at before it is opened.
//!
//! redb keeps a checksum of each page in the page above it, and looks at them only when it is told to.
//! The check works on a copy of its own: what redb would write while it checks (a repair, which may go
//! back to an older state) stays in memory, so that a store which was refused is refused the next time
//! as well, and is left to whoever looks into it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parking_lot::Mutex;
use redb::{Database, StorageBackend};

use crate::error::{NamenodeError, Result};
use crate::limits::{STORE_CACHE_BYTES, STORE_VERIFIED_MAX_BYTES};

/// Refuses a store with a page that is not what its checksum says, or that is too short.
pub fn verify(path: &Path) -> Result<()> {
    let refuse = |why: String| NamenodeError::Format { path: path.display().to_string(), why };
    let failed = |error| NamenodeError::system(format!("reading {}", path.display()), error);
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > STORE_VERIFIED_MAX_BYTES {
        tracing::warn!(path = %path.display(), len, "too large to be verified at start");
        return Ok(());
    }
    // Held by a running namenode, it changes under our eyes: opening it tells so.
    if file.try_lock().is_err() {
        return Ok(());
    }
    let shadow = Shadow { file, len: Mutex::new(len), written: Mutex::default() };
    // redb was not written to be handed any bytes: some make it panic.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(STORE_CACHE_BYTES);
        builder.create_with_backend(shadow)?.check_integrity()
    }));
    match checked {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(refuse(damaged("its pages do not match their checksums"))),
        Ok(Err(error)) => Err(refuse(damaged(&error.to_string()))),
        Err(_) => Err(refuse(damaged("its structure makes no sense"))),
    }
}

fn damaged(why: &str) -> String {
    format!("the metadata store is damaged: {why}; restore it from a backup")
}

const PAGE_BYTES: u64 = 4096;

/// The file as it is, and what was written over it in memory, page by page.
#[derive(Debug)]
struct Shadow {
    file: File,
    len: Mutex<u64>,
    written: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl Shadow {
    /// What the file has at `offset`; zeros beyond its end.
    fn read_file(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut count = 0;
        while count < out.len() {
            match self.file.read_at(&mut out[count..], offset + count as u64)? {
                0 => break,
                read => count += read,
            }
        }
        out[count..].fill(0);
        Ok(())
    }
}

impl StorageBackend for Shadow {
    fn len(&self) -> io::Result<u64> {
        Ok(*self.len.lock())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > *self.len.lock() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(offset, out)?;
        for (page, bytes) in
            self.written.lock().range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
        {
            let start = page * PAGE_BYTES;
            let (from, to) = (start.max(offset), (start + PAGE_BYTES).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        *self.len.lock() = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut written = self.written.lock();
        for page in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            let start = page * PAGE_BYTES;
            let bytes = match written.entry(page) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                    self.read_file(start, &mut bytes)?;
                    entry.insert(bytes)
                }
            };
            let (from, to) = (start.max(offset), (start + PAGE_BYTES).min(end));
            bytes[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use crate::format;
    use crate::schema::Space;
    use crate::store::{Store, View};
    use crate::test_support::Fixture;

    type Contents = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

    fn contents(store: &Store) -> Contents {
        let snapshot = store.snapshot().unwrap();
        Space::ALL
            .iter()
            .map(|space| snapshot.scan_prefix(*space, &[], usize::MAX).unwrap())
            .collect()
    }

    async fn filled() -> Fixture {
        let fixture = Fixture::new();
        let root = fixture.superuser().await;
        for index in 0..300 {
            fixture.create(&root, &format!("/d{}/f{index}", index % 7)).await.unwrap();
        }
        fixture
    }

    /// Opens a damaged copy: refused with its path, or as if nothing had happened.
    fn open_damaged(
        what: &str,
        original: &[u8],
        expected: &Contents,
        damage: impl Fn(&mut Vec<u8>),
    ) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let file = format::store_file(directory.path());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut bytes = original.to_vec();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        for attempt in 0..2 {
            match format::open(directory.path()) {
                Ok(store) => {
                    assert!(contents(&store) == *expected, "{what}: opened with other contents");
                    return false;
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("namespace.redb"), "{what}, {attempt}: {error}");
                }
            }
        }
        true
    }

    #[tokio::test]
    async fn a_store_with_a_flipped_bit_is_refused_or_unharmed() {
        let fixture = filled().await;
        let expected = contents(&fixture.namesystem.store);
        let file = format::store_file(fixture.directory.path());
        let directory = fixture.directory.clone();
        drop(fixture);
        let original = fs::read(&file).unwrap();
        assert!(!open_damaged("nothing", &original, &expected, |_| {}));
        let used: Vec<usize> =
            (0..original.len()).filter(|offset| original[*offset] != 0).collect();
        let mut rng = SmallRng::seed_from_u64(16322);
        let mut refused = 0;
        for round in 0..120 {
            // The header's first bytes one by one, then anywhere.
            let offset = match round {
                0..40 => round * 8,
                _ => used[rng.random_range(0..used.len())],
            };
            let bit = 1 << rng.random_range(0..8);
            let what = format!("bit {bit:#x} of byte {offset}");
            refused += u32::from(open_damaged(&what, &original, &expected, |bytes| {
                bytes[offset] ^= bit;
            }));
        }
        assert!(refused > 40, "only {refused} of 120 were refused");
        drop(directory);
    }

    #[tokio::test]
    async fn a_truncated_store_is_refused() {
        let fixture = filled().await;
        let expected = contents(&fixture.namesystem.store);
        let file = format::store_file(fixture.directory.path());
        let directory = fixture.directory.clone();
        drop(fixture);
        let original = fs::read(&file).unwrap();
        for part in 0..16 {
            let len = original.len() * part / 16;
            let what = format!("cut to {len}");
            let refused = open_damaged(&what, &original, &expected, |bytes| bytes.truncate(len));
            assert!(refused, "{what}");
        }
        drop(directory);
    }
}
