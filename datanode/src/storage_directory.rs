//! One configured data directory in Apache's layout: its lock, its VERSION files, its block pool.
//!
//! ```text
//! <root>/in_use.lock               fcntl record lock while a datanode runs, "<pid>@<host>"
//! <root>/current/VERSION           clusterID, datanodeUuid, storageID, layoutVersion
//! <root>/current/BP-…/current/VERSION   blockpoolID, namespaceID, cTime, layoutVersion
//! ```
//!
//! A directory is taken over as it is: identities are kept, a layout version found is kept, nothing
//! is formatted where there are files but no VERSION, and a foreign cluster's directory is refused.
//! VERSION files are replaced by rename, so a crash leaves the old or the new one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use ringfs_protocol::messages::{NamespaceInfoProto, StorageTypeProto};
use ringfs_protocol::meta_file::DatanodeLayout;
use ringfs_protocol::site_config::StorageDirectory as StorageLocation;
use rustix::fs::FlockOperation;
use tracing::{info, warn};

use crate::disk_threads::{DiskWork, run_in_time};
use crate::error::{DatanodeError, Result};
use crate::java_properties::{self, Properties};

const LOCK_FILE: &str = "in_use.lock";
const VERSION_FILE: &str = "VERSION";
/// How long a stop waits for a disk to take the lock file away.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(2);
const POOL_DIR_MODE: u32 = 0o700;

/// The namespace that the namenode serves, as its versionRequest reply names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceIdentity {
    pub namespace_id: u32,
    pub cluster_id: String,
    pub pool_id: String,
    pub c_time: u64,
}

impl From<&NamespaceInfoProto> for NamespaceIdentity {
    fn from(info: &NamespaceInfoProto) -> Self {
        Self {
            namespace_id: info.storage_info.namespace_id,
            cluster_id: info.storage_info.cluster_id.clone(),
            pool_id: info.block_pool_id.clone(),
            c_time: info.storage_info.c_time,
        }
    }
}

/// What `current/VERSION` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVersion {
    pub storage_id: String,
    pub cluster_id: String,
    pub datanode_uuid: String,
    pub layout: DatanodeLayout,
}

/// A locked directory, formatted or not; the lock lasts as long as the value.
#[derive(Debug)]
pub struct LockedDirectory {
    root: PathBuf,
    storage_type: StorageTypeProto,
    lock: DirectoryLock,
    version: Option<NodeVersion>,
}

/// A locked directory that belongs to the namenode's namespace.
#[derive(Debug)]
pub struct StorageDirectory {
    root: PathBuf,
    storage_type: StorageTypeProto,
    lock: DirectoryLock,
    version: NodeVersion,
}

#[derive(Debug)]
struct DirectoryLock {
    path: PathBuf,
    /// Taken when it is let go of.
    file: Mutex<Option<fs::File>>,
}

impl StorageDirectory {
    /// Another process may have the directory from now on.
    pub fn unlock(&self) {
        self.lock.release();
    }
}

impl LockedDirectory {
    /// Creates the directory when absent, locks it, reads its VERSION.
    pub fn open(location: &StorageLocation, mode: u32) -> Result<Self> {
        let root = location.path.clone();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&root)
            .map_err(DatanodeError::io(format!("creating data directory {}", root.display())))?;
        set_mode(&root, mode)?;
        let lock = DirectoryLock::acquire(root.join(LOCK_FILE))?;
        refuse_interrupted_upgrade(&root)?;
        let version = read_node_version(&root)?;
        Ok(Self { root, storage_type: location.storage_type, lock, version })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn version(&self) -> Option<&NodeVersion> {
        self.version.as_ref()
    }

    /// Makes the directory this namespace's: a fresh one is formatted, another is compared with it.
    pub fn join_namespace(
        self,
        namespace: &NamespaceIdentity,
        datanode_uuid: &str,
        fresh_layout: DatanodeLayout,
    ) -> Result<StorageDirectory> {
        let version = match self.version {
            Some(version) => {
                let path = self.root.join("current").join(VERSION_FILE);
                expect_same(&path, "clusterIDs", &namespace.cluster_id, &version.cluster_id)?;
                expect_same(&path, "datanodeUuids", datanode_uuid, &version.datanode_uuid)?;
                version
            }
            None => {
                let version = NodeVersion {
                    storage_id: format!("DS-{}", uuid::Uuid::new_v4()),
                    cluster_id: namespace.cluster_id.clone(),
                    datanode_uuid: datanode_uuid.to_owned(),
                    layout: fresh_layout,
                };
                write_version(&self.root.join("current"), &node_properties(&version))?;
                info!(root = %self.root.display(), storage_id = version.storage_id, "formatted");
                version
            }
        };
        let directory = StorageDirectory {
            root: self.root,
            storage_type: self.storage_type,
            lock: self.lock,
            version,
        };
        directory.join_pool(namespace)?;
        Ok(directory)
    }
}

impl StorageDirectory {
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn storage_type(&self) -> StorageTypeProto {
        self.storage_type
    }

    pub fn storage_id(&self) -> &str {
        &self.version.storage_id
    }

    pub fn layout(&self) -> DatanodeLayout {
        self.version.layout
    }

    pub fn pool_dir(&self, pool_id: &str) -> PathBuf {
        self.root.join("current").join(pool_id)
    }

    fn join_pool(&self, namespace: &NamespaceIdentity) -> Result<()> {
        let pool_dir = self.pool_dir(&namespace.pool_id);
        let current = pool_dir.join("current");
        let Some(found) = read_version(&current)? else {
            refuse_unversioned_files(&current)?;
            create_private_dir(&pool_dir)?;
            create_private_dir(&current)?;
            write_version(&current, &pool_properties(namespace, self.layout()))?;
            self.warn_of_other_pools(&namespace.pool_id);
            return Ok(());
        };
        let path = current.join(VERSION_FILE);
        let same = |key, namenode: &str, property: &str| {
            expect_same(&path, key, namenode, found.get(property).map_or("", String::as_str))
        };
        same("blockpoolIDs", &namespace.pool_id, "blockpoolID")?;
        same("namespaceIDs", &namespace.namespace_id.to_string(), "namespaceID")?;
        same("cTimes", &namespace.c_time.to_string(), "cTime")?;
        let layout = layout_of(&path, &found)?;
        if layout != self.layout() {
            return Err(DatanodeError::Storage {
                path: path.display().to_string(),
                why: format!(
                    "layoutVersion {} differs from the {} of the directory above: an upgrade was \
                     not finished; start the datanode that began it",
                    layout.version(),
                    self.layout().version()
                ),
            });
        }
        remove_if_present(&current.join("replicas"))?;
        remove_if_present(&current.join("dfsUsed"))
    }

    /// Blocks of another pool are no harm and may be wanted: they stay, and are not served.
    fn warn_of_other_pools(&self, pool_id: &str) {
        let Ok(entries) = fs::read_dir(self.root.join("current")) else { return };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            let name = name.to_string_lossy();
            if name.starts_with("BP-") && name != pool_id {
                warn!(
                    root = %self.root.display(), serving = pool_id, found = %name,
                    "another block pool's blocks lie here: they are kept, and not served"
                );
            }
        }
    }
}

impl DirectoryLock {
    /// POSIX record locks and no others exclude Apache's datanode, which takes one on this file.
    fn acquire(path: PathBuf) -> Result<Self> {
        let failed =
            |source| DatanodeError::Io { what: format!("locking {}", path.display()), source };
        loop {
            let mut file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                    let owner = fs::read_to_string(&path).unwrap_or_default();
                    let owner = if owner.is_empty() { "another process" } else { owner.trim() };
                    return Err(DatanodeError::Locked {
                        path: path.display().to_string(),
                        owner: owner.to_owned(),
                    });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // The owner before us removes the file as it leaves: a lock on a file that has no name
            // any more excludes nobody.
            let held = file.metadata().map_err(failed)?;
            match fs::metadata(&path) {
                Ok(named) if named.ino() == held.ino() && named.dev() == held.dev() => {}
                _ => continue,
            }
            file.set_len(0).map_err(failed)?;
            write!(file, "{}@{}", std::process::id(), host_name()).map_err(failed)?;
            return Ok(Self { path, file: Mutex::new(Some(file)) });
        }
    }
}

impl DirectoryLock {
    /// On a thread of its own: neither the removal nor the close is waited for any longer when the
    /// disk does not answer.
    fn release(&self) {
        let Some(file) = self.file.lock().take() else { return };
        let path = self.path.clone();
        let remove: DiskWork<()> = Box::new(move |_| {
            if let Err(error) = fs::remove_file(&path) {
                warn!(path = %path.display(), %error, "the lock file stays behind");
            }
            drop(file);
        });
        if !matches!(run_in_time(vec![remove], UNLOCK_PATIENCE).as_deref(), Ok([Some(())])) {
            warn!(path = %self.path.display(), "the lock file stays behind");
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        self.release();
    }
}

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn refuse_interrupted_upgrade(root: &Path) -> Result<()> {
    for name in ["previous.tmp", "removed.tmp"] {
        let path = root.join(name);
        if path.exists() {
            return Err(DatanodeError::Storage {
                path: path.display().to_string(),
                why: "an upgrade or rollback was interrupted: start the datanode that began it"
                    .into(),
            });
        }
    }
    Ok(())
}

fn read_node_version(root: &Path) -> Result<Option<NodeVersion>> {
    let current = root.join("current");
    let path = current.join(VERSION_FILE);
    let Some(found) = read_version(&current)? else {
        if root.join("previous").exists() {
            return Err(DatanodeError::Storage {
                path: path.display().to_string(),
                why: "missing, while `previous` exists: an upgrade was not finished".into(),
            });
        }
        refuse_unversioned_files(&current)?;
        return Ok(None);
    };
    let required = |key: &str| {
        found.get(key).filter(|value| !value.is_empty()).cloned().ok_or_else(|| {
            DatanodeError::Storage {
                path: path.display().to_string(),
                why: format!("has no {key}"),
            }
        })
    };
    let storage_type = required("storageType")?;
    if storage_type != "DATA_NODE" {
        return Err(DatanodeError::Storage {
            path: path.display().to_string(),
            why: format!("storageType is {storage_type}, not DATA_NODE"),
        });
    }
    Ok(Some(NodeVersion {
        storage_id: required("storageID")?,
        cluster_id: required("clusterID")?,
        datanode_uuid: required("datanodeUuid")?,
        layout: layout_of(&path, &found)?,
    }))
}

fn layout_of(path: &Path, found: &Properties) -> Result<DatanodeLayout> {
    let text = found.get("layoutVersion").map_or("", String::as_str);
    text.parse().ok().and_then(DatanodeLayout::from_version).ok_or_else(|| DatanodeError::Storage {
        path: path.display().to_string(),
        why: format!("layoutVersion {text:?} is neither -56 (Hadoop 2.7) nor -57 (2.8 to 3.5)"),
    })
}

/// Files without a VERSION are somebody's data: never formatted over.
fn refuse_unversioned_files(current: &Path) -> Result<()> {
    let entries = match fs::read_dir(current) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(DatanodeError::Io {
                what: format!("reading {}", current.display()),
                source,
            });
        }
    };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    match names.find(|name| name != "VERSION.tmp") {
        None => Ok(()),
        Some(name) => Err(DatanodeError::Storage {
            path: current.display().to_string(),
            why: format!(
                "holds {} but no VERSION file: restore VERSION, or empty the directory if its \
                 blocks are not wanted",
                name.to_string_lossy()
            ),
        }),
    }
}

fn expect_same(path: &Path, key: &'static str, namenode: &str, found: &str) -> Result<()> {
    if namenode == found {
        return Ok(());
    }
    Err(DatanodeError::ForeignStorage {
        path: path.display().to_string(),
        key,
        namenode: namenode.to_owned(),
        found: found.to_owned(),
    })
}

fn node_properties(version: &NodeVersion) -> Properties {
    [
        ("storageType", "DATA_NODE".to_owned()),
        ("clusterID", version.cluster_id.clone()),
        ("cTime", "0".to_owned()),
        ("layoutVersion", version.layout.version().to_string()),
        ("storageID", version.storage_id.clone()),
        ("datanodeUuid", version.datanode_uuid.clone()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn pool_properties(namespace: &NamespaceIdentity, layout: DatanodeLayout) -> Properties {
    [
        ("namespaceID", namespace.namespace_id.to_string()),
        ("blockpoolID", namespace.pool_id.clone()),
        ("cTime", namespace.c_time.to_string()),
        ("layoutVersion", layout.version().to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn read_version(current: &Path) -> Result<Option<Properties>> {
    let path = current.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(java_properties::parse(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            Err(DatanodeError::Io { what: format!("reading {}", path.display()), source })
        }
    }
}

fn write_version(current: &Path, properties: &Properties) -> Result<()> {
    create_private_dir(current)?;
    let path = current.join(VERSION_FILE);
    let staged = current.join("VERSION.tmp");
    let replace = || -> io::Result<()> {
        let mut file = fs::File::create(&staged)?;
        file.write_all(java_properties::format("written by ringfs", properties).as_bytes())?;
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        fs::File::open(current)?.sync_all()
    };
    replace().map_err(DatanodeError::io(format!("writing {}", path.display())))
}

fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(POOL_DIR_MODE)
        .create(path)
        .map_err(DatanodeError::io(format!("creating {}", path.display())))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let what = || format!("setting mode {mode:o} of {}", path.display());
    let metadata =
        fs::metadata(path).map_err(|source| DatanodeError::Io { what: what(), source })?;
    if metadata.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| DatanodeError::Io { what: what(), source })
}

fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatanodeError::Io { what: format!("removing {}", path.display()), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::volume::tests::POOL;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    pub fn namespace() -> NamespaceIdentity {
        NamespaceIdentity {
            namespace_id: 1234,
            cluster_id: "CID-test".into(),
            pool_id: POOL.into(),
            c_time: 0,
        }
    }

    pub fn location(root: &Path, storage_type: StorageTypeProto) -> StorageLocation {
        StorageLocation { path: root.to_owned(), storage_type }
    }

    pub fn formatted_directory(root: &Path, storage_type: StorageTypeProto) -> StorageDirectory {
        LockedDirectory::open(&location(root, storage_type), 0o700)
            .unwrap()
            .join_namespace(&namespace(), UUID, DatanodeLayout::V57)
            .unwrap()
    }

    fn open(root: &Path) -> Result<LockedDirectory> {
        LockedDirectory::open(&location(root, StorageTypeProto::Disk), 0o700)
    }

    #[test]
    fn a_fresh_directory_is_formatted_and_keeps_its_identity() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b");
        let first = formatted_directory(&root, StorageTypeProto::Ssd);
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        assert!(fs::read_to_string(root.join(LOCK_FILE)).unwrap().contains('@'));
        let storage_id = first.storage_id().to_owned();
        let pool = first.pool_dir(POOL);
        fs::write(pool.join("current/replicas"), "stale").unwrap();
        drop(first);
        assert!(!root.join(LOCK_FILE).exists(), "the lock file goes with its owner");

        let again = open(&root).unwrap();
        assert_eq!(again.version().unwrap().datanode_uuid, UUID);
        let again = again.join_namespace(&namespace(), UUID, DatanodeLayout::V57).unwrap();
        assert_eq!(again.storage_id(), storage_id);
        assert!(!pool.join("current/replicas").exists(), "a stale replica cache must not survive");
    }

    #[test]
    fn a_layout_found_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let current = temp.path().join("current");
        fs::create_dir(&current).unwrap();
        fs::write(
            current.join(VERSION_FILE),
            "#Sat Nov 21 06:09:00 UTC 2026\nstorageID=DS-x\nclusterID=CID-test\ncTime=0\n\
             datanodeUuid=11111111-2222-3333-4444-555555555555\nstorageType=DATA_NODE\n\
             layoutVersion=-56\n",
        )
        .unwrap();
        let directory = open(temp.path())
            .unwrap()
            .join_namespace(&namespace(), UUID, DatanodeLayout::V57)
            .unwrap();
        assert_eq!(directory.layout(), DatanodeLayout::V56);
        let pool = read_version(&directory.pool_dir(POOL).join("current")).unwrap().unwrap();
        assert_eq!(pool["layoutVersion"], "-56");
    }

    #[test]
    fn foreign_clusters_and_pools_are_refused_with_file_and_both_ids() {
        let temp = tempfile::tempdir().unwrap();
        drop(formatted_directory(temp.path(), StorageTypeProto::Disk));
        let other = NamespaceIdentity { cluster_id: "CID-other".into(), ..namespace() };
        let error = open(temp.path())
            .unwrap()
            .join_namespace(&other, UUID, DatanodeLayout::V57)
            .unwrap_err()
            .to_string();
        for part in ["current/VERSION", "CID-other", "CID-test", "Incompatible clusterIDs"] {
            assert!(error.contains(part), "{error}");
        }
        let other = NamespaceIdentity { namespace_id: 9, ..namespace() };
        let error = open(temp.path())
            .unwrap()
            .join_namespace(&other, UUID, DatanodeLayout::V57)
            .unwrap_err()
            .to_string();
        assert!(error.contains("namespaceIDs") && error.contains("1234"), "{error}");
    }

    #[test]
    fn files_without_a_version_are_never_formatted_over() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("current/BP-9")).unwrap();
        let error = open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("BP-9") && error.contains("no VERSION"), "{error}");
        fs::remove_dir(temp.path().join("current/BP-9")).unwrap();
        fs::write(temp.path().join("current/VERSION.tmp"), "half").unwrap();
        assert!(open(temp.path()).unwrap().version().is_none(), "a crash while formatting");
        fs::create_dir(temp.path().join("previous")).unwrap();
        assert!(open(temp.path()).is_err());
    }

    /// Run as a process of its own by the test below: record locks do not exclude their owner.
    #[test]
    fn lock_from_another_process() {
        let Some(root) = std::env::var_os("RINGFS_TEST_LOCK_ROOT") else { return };
        let error = open(Path::new(&root)).unwrap_err();
        assert!(
            matches!(&error, DatanodeError::Locked { owner, .. }
            if owner.starts_with(&std::env::var("RINGFS_TEST_LOCK_OWNER").unwrap())),
            "{error}"
        );
    }

    #[test]
    fn the_lock_excludes_another_process() {
        let temp = tempfile::tempdir().unwrap();
        let _held = open(temp.path()).unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage_directory::tests::lock_from_another_process"])
            .env("RINGFS_TEST_LOCK_ROOT", temp.path())
            .env("RINGFS_TEST_LOCK_OWNER", format!("{}@", std::process::id()))
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
    }
}
