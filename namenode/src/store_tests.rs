//! What a kill leaves of the store, and what a start makes of it.

use std::fs;
use std::path::Path;

use redb::Database;

use crate::clock::ManualClock;
use crate::config::NamespaceConfig;
use crate::error::NamenodeError;
use crate::format::{self, FormatOptions};
use crate::limits::CONFIRM_AFTER;
use crate::schema::Space;
use crate::store::{Store, Update, View, definition};

fn formatted(directory: &Path) -> Store {
    let (config, clock) = (NamespaceConfig::for_tests(), ManualClock::new(5));
    format::format(directory, &config, &FormatOptions::default(), &clock).unwrap();
    format::open(directory).unwrap()
}

/// What a kill at this moment leaves of the store: the files as they are.
fn killed(store: &Path, name: &str) -> std::path::PathBuf {
    let copy = store.with_file_name(name);
    fs::create_dir_all(copy.join("current")).unwrap();
    for file in ["namespace.redb", "namespace.journal"] {
        let file = Path::new("current").join(file);
        fs::copy(store.join(&file), copy.join(&file)).unwrap();
    }
    copy
}

async fn put(store: &Store, key: u32, value_bytes: usize) {
    let put = move |update: &mut Update| {
        update.put(Space::Retries, &key.to_be_bytes(), &vec![key as u8; value_bytes]).map(drop)
    };
    store.write(put).await.unwrap();
}

fn keys(store: &Store) -> Vec<u32> {
    let pairs = store.snapshot().scan_prefix(Space::Retries, &[], usize::MAX);
    let pairs = pairs.unwrap().into_iter();
    pairs.map(|(key, _)| u32::from_be_bytes(key.try_into().unwrap())).collect()
}

#[tokio::test]
async fn a_kill_loses_no_answered_change_before_or_behind_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("name");
    let store = formatted(&name);
    for key in 0..5 {
        put(&store, key, 100).await;
    }
    let failing = store.write(|update| {
        update.put(Space::Retries, b"lost", b"")?;
        Err::<(), _>(NamenodeError::Io("no".to_owned()))
    });
    failing.await.unwrap_err();
    store.write(|update| update.remove(Space::Retries, &1u32.to_be_bytes())).await.unwrap();
    let first = killed(&name, "first");
    assert_eq!(keys(&format::open(&first).unwrap()), [0, 2, 3, 4]);
    // Killed again after its replay, and closed in order.
    let reopened = format::open(&first).unwrap();
    put(&reopened, 5, 100).await;
    let second = killed(&first, "second");
    drop(reopened);
    for store in [first, second] {
        assert_eq!(keys(&format::open(&store).unwrap()), [0, 2, 3, 4, 5]);
    }

    // These do not fit one journal: a checkpoint lies between, old records behind the new ones.
    for key in 10..16 {
        put(&store, key, 6 << 20).await;
    }
    put(&store, 10, 1).await;
    let copy = killed(&name, "third");
    let reopened = format::open(&copy).unwrap();
    assert_eq!(keys(&reopened), [0, 2, 3, 4, 10, 11, 12, 13, 14, 15]);
    let value = reopened.snapshot().get(Space::Retries, &10u32.to_be_bytes());
    assert_eq!(value.unwrap().unwrap(), [10]);
}

#[tokio::test]
async fn records_that_the_database_has_already_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("name");
    let store = formatted(&name);
    put(&store, 1, 10).await;
    put(&store, 2, 10).await;
    store.write(|update| update.remove(Space::Retries, &1u32.to_be_bytes())).await.unwrap();
    let copy = killed(&name, "copy");
    // The database with the records' changes and their epoch both, as redb may write it out.
    let database = Database::open(format::store_file(&copy)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(definition(Space::Retries))
        .unwrap()
        .insert(&2u32.to_be_bytes()[..], &[2; 10][..])
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(keys(&format::open(&copy).unwrap()), [2]);
}

#[tokio::test]
async fn a_journal_that_is_needed_must_be_whole_and_one_that_is_not_may_be_gone() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("name");
    let store = formatted(&name);
    put(&store, 1, 10).await;
    put(&store, 2, 10).await;
    let journal = Path::new("current").join("namespace.journal");
    let (gone, damaged) = (killed(&name, "gone"), killed(&name, "damaged"));
    fs::remove_file(gone.join(&journal)).unwrap();
    let mut bytes = fs::read(damaged.join(&journal)).unwrap();
    bytes[40] ^= 1;
    fs::write(damaged.join(&journal), bytes).unwrap();
    for (copy, why) in [(gone, "truncated"), (damaged, "corrupt")] {
        let error = format::open(&copy).err().unwrap().to_string();
        assert!(error.contains("namespace.journal: byte 0") && error.contains(why), "{error}");
    }
    drop(store);
    fs::remove_file(name.join(&journal)).unwrap();
    assert_eq!(keys(&format::open(&name).unwrap()), [1, 2]);
}

/// Some 1 s, for the pause after which the last change is confirmed.
#[tokio::test]
async fn damage_to_the_last_change_before_a_pause_is_no_torn_write() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("name");
    let store = formatted(&name);
    put(&store, 1, 10).await;
    put(&store, 2, 10).await;
    tokio::time::sleep(2 * CONFIRM_AFTER).await;
    let journal = Path::new("current").join("namespace.journal");
    let (whole, damaged) = (killed(&name, "whole"), killed(&name, "damaged"));
    let mut bytes = fs::read(damaged.join(&journal)).unwrap();
    bytes[4096..8192].fill(0);
    fs::write(damaged.join(&journal), bytes).unwrap();
    let error = format::open(&damaged).err().unwrap().to_string();
    assert!(error.contains("namespace.journal: byte 4096: record 2 is corrupt"), "{error}");
    assert_eq!(keys(&format::open(&whole).unwrap()), [1, 2]);
    put(&store, 3, 10).await;
    assert_eq!(keys(&format::open(&killed(&name, "later")).unwrap()), [1, 2, 3]);
}
