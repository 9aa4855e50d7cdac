//! Whether a metadata store is whole, looked at before it is opened.
//!
//! redb keeps a checksum of each page in the page above it, and looks at them only when it is told to.
//! The check works on a copy of its own: what redb would write while it checks (a repair, which may go
//! back to an older state) stays in memory, so that a store which was refused is refused the next time
//! as well, and is left to whoever looks into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parking_lot::Mutex;
use redb::{Database, StorageBackend};

use crate::error::{NamenodeError, Result};
use crate::limits::{STORE_CACHE_BYTES, STORE_VERIFIED_MAX_BYTES};

/// [`verify`], where that takes no longer than a start may; else the log says that it is left undone.
pub fn verify_at_start(path: &Path) -> Result<()> {
    let len = fs::metadata(path).map_err(reading(path))?.len();
    if len > STORE_VERIFIED_MAX_BYTES {
        tracing::warn!(
            path = %path.display(), len,
            "the store is not verified, for it is large: `ringfs namenode -verify` does it while the \
             namenode is stopped, or to a copy that -backup made"
        );
        return Ok(());
    }
    match verify(path) {
        // Opening it tells so.
        Err(NamenodeError::Format { why, .. }) if why == IN_USE => Ok(()),
        verified => verified.map(drop),
    }
}

const IN_USE: &str = "in use by another process, so it cannot be verified";

/// Refuses a store with a page that is not what its checksum says, or that is too short. Returns how
/// many bytes it looked at.
pub fn verify(path: &Path) -> Result<u64> {
    let refuse = |why: String| NamenodeError::Format { path: path.display().to_string(), why };
    let file = File::open(path).map_err(reading(path))?;
    let len = file.metadata().map_err(reading(path))?.len();
    // Held by a running namenode, it changes under our eyes.
    if file.try_lock().is_err() {
        return Err(refuse(IN_USE.to_owned()));
    }
    let shadow = Shadow { file, len: Mutex::new(len), written: Mutex::default() };
    // redb was not written to be handed any bytes: some make it panic.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(STORE_CACHE_BYTES);
        builder.create_with_backend(shadow)?.check_integrity()
    }));
    match checked {
        Ok(Ok(true)) => Ok(len),
        Ok(Ok(false)) => Err(refuse(damaged("its pages do not match their checksums"))),
        Ok(Err(error)) => Err(refuse(damaged(&error.to_string()))),
        Err(_) => Err(refuse(damaged("its structure makes no sense"))),
    }
}

fn reading(path: &Path) -> impl Fn(io::Error) -> NamenodeError {
    let what = format!("reading {}", path.display());
    move |error| NamenodeError::system(what.clone(), error)
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

/// Closing is not enough: a process just started has the file as well until it runs its program.
impl Drop for Shadow {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the store that was verified stays locked");
        }
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
    use std::path::Path;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use crate::format;
    use crate::schema::Space;
    use crate::store::{Store, View};
    use crate::test_support::Fixture;

    type Contents = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

    fn contents(store: &Store) -> Contents {
        let snapshot = store.snapshot();
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

    /// The files of a store.
    #[derive(Clone)]
    struct Files {
        database: Vec<u8>,
        journal: Vec<u8>,
    }

    impl Files {
        fn read(directory: &Path) -> Self {
            let database = format::store_file(directory);
            let journal = database.with_file_name("namespace.journal");
            Self { database: fs::read(database).unwrap(), journal: fs::read(journal).unwrap() }
        }

        fn write(&self, directory: &Path) {
            let database = format::store_file(directory);
            fs::create_dir_all(database.parent().unwrap()).unwrap();
            fs::write(database.with_file_name("namespace.journal"), &self.journal).unwrap();
            fs::write(database, &self.database).unwrap();
        }
    }

    /// Opens a damaged copy: refused with the path of `file`, or as if nothing had happened.
    fn open_damaged(
        what: &str,
        original: &Files,
        expected: &Contents,
        file: &str,
        damage: impl Fn(&mut Files),
    ) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let mut files = original.clone();
        damage(&mut files);
        files.write(directory.path());
        for attempt in 0..2 {
            match format::open(directory.path()) {
                Ok(store) => {
                    assert!(contents(&store) == *expected, "{what}: opened with other contents");
                    return false;
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(file), "{what}, {attempt}: {error}");
                }
            }
        }
        true
    }

    /// Some that mean something: the first `head` words one by one, then anywhere.
    fn sample_bits(bytes: &[u8], count: usize, head: usize) -> Vec<(usize, u8)> {
        let used: Vec<usize> = (0..bytes.len()).filter(|offset| bytes[*offset] != 0).collect();
        let mut rng = SmallRng::seed_from_u64(16322);
        let offset = |round: usize, rng: &mut SmallRng| match round < head {
            true => round * 8,
            false => used[rng.random_range(0..used.len())],
        };
        (0..count).map(|round| (offset(round, &mut rng), 1 << rng.random_range(0..8))).collect()
    }

    /// How many of them are refused; the others do no harm.
    fn refused_flips(
        original: &Files,
        expected: &Contents,
        in_journal: bool,
        bits: &[(usize, u8)],
    ) -> usize {
        let file = if in_journal { "namespace.journal" } else { "namespace.redb" };
        let is_refused = |(offset, bit): &&(usize, u8)| {
            let what = format!("bit {bit:#x} of byte {offset} of {file}");
            open_damaged(&what, original, expected, file, |files| {
                let bytes = if in_journal { &mut files.journal } else { &mut files.database };
                bytes[*offset] ^= bit;
            })
        };
        bits.iter().filter(is_refused).count()
    }

    #[tokio::test]
    async fn a_store_with_a_flipped_bit_is_refused_or_unharmed() {
        let fixture = filled().await;
        let expected = contents(&fixture.namesystem.store);
        let directory = fixture.directory.clone();
        drop(fixture);
        let original = Files::read(directory.path());
        assert!(!open_damaged("nothing", &original, &expected, "", |_| {}));
        let bits = sample_bits(&original.database, 120, 40);
        let refused = refused_flips(&original, &expected, false, &bits);
        assert!(refused > 30, "only {refused} of 120 were refused");
    }

    /// As a crash leaves it: the database is as of its last checkpoint, the rest is in the journal.
    #[tokio::test]
    async fn an_unclosed_store_with_a_flipped_bit_is_refused_or_unharmed() {
        let fixture = filled().await;
        let expected = contents(&fixture.namesystem.store);
        let original = Files::read(fixture.directory.path());
        assert!(!open_damaged("nothing", &original, &expected, "", |_| {}));
        // Much of it is free: pages of the states before.
        let bits = sample_bits(&original.database, 60, 40);
        let refused = refused_flips(&original, &expected, false, &bits);
        assert!(refused > 5, "only {refused} of 60 were refused");
        // Where the header says which of its two states counts: the other is older.
        let bits: Vec<_> = (0..8).map(|bit| (9, 1 << bit)).collect();
        refused_flips(&original, &expected, false, &bits);
        let bits = sample_bits(&original.journal, 16, 4);
        let refused = refused_flips(&original, &expected, true, &bits);
        assert!(refused > 8, "only {refused} of 16 were refused");
        // The last record has none behind it: a torn write, which nobody was answered, ends so too.
        let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let last = used(&original.journal) / 4096 * 4096;
        let bits: Vec<_> = (last..=used(&original.journal)).step_by(29).map(|at| (at, 4)).collect();
        let refused = refused_flips(&original, &expected, true, &bits);
        assert_eq!(refused, bits.len(), "of the last record");
    }

    #[tokio::test]
    async fn a_store_is_verified_by_command_where_nobody_uses_it() {
        let fixture = filled().await;
        let directory = fixture.directory.clone();
        let file = format::store_file(directory.path());
        let error = super::verify(&file).unwrap_err().to_string();
        assert!(error.contains("namespace.redb") && error.contains("in use"), "{error}");
        drop(fixture);
        let len = fs::metadata(&file).unwrap().len();
        assert_eq!(super::verify(&file).unwrap(), len);
    }

    #[tokio::test]
    async fn a_verified_store_is_free_at_once_whatever_starts_meanwhile() {
        let fixture = filled().await;
        let directory = fixture.directory.clone();
        drop(fixture);
        let file = format::store_file(directory.path());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
            let outcomes: Vec<_> = (0..200).map(|_| super::verify(&file)).collect();
            is_over.store(true, Ordering::Relaxed);
            for outcome in outcomes {
                outcome.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn a_truncated_store_is_refused() {
        let fixture = filled().await;
        let expected = contents(&fixture.namesystem.store);
        let directory = fixture.directory.clone();
        drop(fixture);
        let original = Files::read(directory.path());
        for part in 0..16 {
            let len = original.database.len() * part / 16;
            let what = format!("cut to {len}");
            let refused = open_damaged(&what, &original, &expected, "namespace.redb", |files| {
                files.database.truncate(len);
            });
            assert!(refused, "{what}");
        }
    }
}
