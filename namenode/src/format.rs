//! `ringfs namenode -format`: an empty namespace with a new identity, and opening what was formatted.
//!
//! The store is `current/namespace.redb` in the directory that `dfs.namenode.name.dir` names, and the
//! journal beside it, whose records count until the namenode stops in order. The identity beside the namespace in it is what Hadoop keeps in a VERSION file: datanodes
//! compare it with theirs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError};
use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::NamespaceConfig;
use crate::error::{NamenodeError, Result};
use crate::journal_file::DiskJournal;
use crate::limits::STORE_CACHE_BYTES;
use crate::schema::{
    Counter, DirectoryRecord, IdentityRecord, InodeKind, InodeRecord, LAST_RESERVED_BLOCK_ID,
    LAST_RESERVED_GENERATION_STAMP, NO_PARENT, ROOT_INODE, STORE_VERSION,
};
use crate::store::{self, Store, Update};
use crate::store_check;

#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// Erase a namespace that is already there.
    pub force: bool,
    /// Use this cluster id instead of a new one.
    pub cluster_id: Option<String>,
}

/// The one directory of `dfs.namenode.name.dir`.
pub fn name_directory(configuration: &Configuration) -> Result<PathBuf> {
    let setting = &settings::DFS_NAMENODE_NAME_DIR;
    let directories = configuration.directories(setting)?;
    match directories.as_slice() {
        [directory] => Ok(directory.path.clone()),
        _ => Err(configuration
            .refuse(
                setting,
                &configuration.text(setting),
                "must name exactly one directory: the metadata store is one file; mirror the disk \
                 below it instead",
            )
            .into()),
    }
}

pub fn is_formatted(directory: &Path) -> bool {
    store_file(directory).exists()
}

/// Creates the store in `directory`, or empties it when `options.force`.
pub fn format(
    directory: &Path,
    config: &NamespaceConfig,
    options: &FormatOptions,
    clock: &dyn Clock,
) -> Result<IdentityRecord> {
    let file = store_file(directory);
    if file.exists() && !options.force {
        return Err(NamenodeError::Format {
            path: file.display().to_string(),
            why: "already formatted; -force erases the namespace and every file in it".to_owned(),
        });
    }
    let current = directory.join("current");
    fs::create_dir_all(&current)
        .map_err(|error| NamenodeError::system(format!("creating {}", current.display()), error))?;
    let identity = new_identity(options, clock);
    let journal = journal_file(directory);
    match fs::remove_file(&journal) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("removing {}", journal.display());
            return Err(NamenodeError::system(what, error));
        }
        _ => {}
    }
    let database = open_database(&file, true)?;
    store::format(&database, &identity, |update| create_root(update, config, clock.now_ms()))?;
    drop(database);
    for path in [&current, directory] {
        fs::File::open(path)
            .and_then(|opened| opened.sync_all())
            .map_err(|error| NamenodeError::system(format!("syncing {}", path.display()), error))?;
    }
    Ok(identity)
}

/// Opens the store that [`format`] made.
pub fn open(directory: &Path) -> Result<Store> {
    let file = store_file(directory);
    if !file.exists() {
        return Err(NamenodeError::Format {
            path: file.display().to_string(),
            why: "no metadata store; run `ringfs namenode -format` once before the first start"
                .to_owned(),
        });
    }
    store_check::verify_at_start(&file)?;
    let database = open_database(&file, false)?;
    let journal = journal_file(directory);
    let opened = DiskJournal::open(&journal)
        .map_err(|error| NamenodeError::system(format!("opening {}", journal.display()), error))?;
    let (place, journal_place) = (file.display().to_string(), journal.display().to_string());
    Store::open(database, &place, Box::new(opened), &journal_place)
}

pub(crate) fn store_file(directory: &Path) -> PathBuf {
    directory.join("current").join("namespace.redb")
}

fn journal_file(directory: &Path) -> PathBuf {
    store_file(directory).with_file_name("namespace.journal")
}

/// A new, empty database.
pub(crate) fn create_database(file: &Path) -> Result<Database> {
    open_database(file, true)
}

fn open_database(file: &Path, create: bool) -> Result<Database> {
    let mut builder = Database::builder();
    builder.set_cache_size(STORE_CACHE_BYTES);
    let opened = if create { builder.create(file) } else { builder.open(file) };
    opened.map_err(|error| NamenodeError::Format {
        path: file.display().to_string(),
        why: match error {
            DatabaseError::DatabaseAlreadyOpen => {
                "in use by another process: is a namenode running on it?".to_owned()
            }
            error => error.to_string(),
        },
    })
}

fn new_identity(options: &FormatOptions, clock: &dyn Clock) -> IdentityRecord {
    let now_ms = clock.now_ms();
    let namespace_id = rand::random_range(1..=i32::MAX as u32);
    let pool_number = rand::random_range(1..=i32::MAX as u32);
    IdentityRecord {
        store_version: STORE_VERSION,
        cluster_id: options.cluster_id.clone().unwrap_or_else(|| format!("CID-{}", Uuid::new_v4())),
        namespace_id,
        block_pool_id: format!("BP-{pool_number}-{}-{now_ms}", host_address()),
        c_time: now_ms,
    }
}

/// An address of this host, to make the pool's id telling; nothing depends on it.
fn host_address() -> IpAddr {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().into_owned();
    (host.as_str(), 0)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.find(|address| address.is_ipv4()))
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

pub(crate) fn create_root(
    update: &mut Update,
    config: &NamespaceConfig,
    now_ms: u64,
) -> Result<()> {
    update.put_counter(Counter::LastInode, ROOT_INODE)?;
    update.put_counter(Counter::LastBlock, LAST_RESERVED_BLOCK_ID)?;
    update.put_counter(Counter::GenerationStamp, LAST_RESERVED_GENERATION_STAMP)?;
    update.put_counter(Counter::CompleteBlocks, 0)?;
    let root = InodeRecord {
        parent: NO_PARENT,
        owner: config.superuser.clone(),
        group: config.supergroup.clone(),
        mode: 0o755,
        mtime_ms: now_ms,
        kind: Some(InodeKind::Directory(DirectoryRecord::default())),
        ..InodeRecord::default()
    };
    update.put_inode(ROOT_INODE, &root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn formats_once_and_refuses_to_erase_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let config = NamespaceConfig::for_tests();
        let clock = ManualClock::new(5);
        let missing = open(directory.path()).err().unwrap().to_string();
        assert!(missing.contains("-format"), "{missing}");
        let first = format(directory.path(), &config, &FormatOptions::default(), &clock).unwrap();
        assert!(first.block_pool_id.starts_with("BP-") && first.cluster_id.starts_with("CID-"));
        assert!(first.namespace_id >= 1 && first.namespace_id <= i32::MAX as u32);
        assert!(format(directory.path(), &config, &FormatOptions::default(), &clock).is_err());
        let store = open(directory.path()).unwrap();
        assert_eq!(store.identity(), &first);
        let in_use = open(directory.path()).err().unwrap().to_string();
        assert!(in_use.contains("in use"), "{in_use}");
        drop(store);
        let force = FormatOptions { force: true, cluster_id: Some("CID-x".to_owned()) };
        let second = format(directory.path(), &config, &force, &clock).unwrap();
        assert_eq!(second.cluster_id, "CID-x");
        assert_eq!(open(directory.path()).unwrap().identity(), &second);
    }

    #[test]
    fn another_store_version_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("store.redb");
        let identity = IdentityRecord { store_version: 7, ..IdentityRecord::default() };
        let database = open_database(&file, true).unwrap();
        store::format(&database, &identity, |_| Ok(())).unwrap();
        let journal = DiskJournal::open(&directory.path().join("journal")).unwrap();
        let opened = Store::open(database, "store.redb", Box::new(journal), "journal");
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("store version 7") && error.contains("version 1"), "{error}");
    }
}
