//! The two files of a replica, through the ring: created, moved, cut, copied.

use std::io;
use std::path::{Path, PathBuf};

use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::meta_file::{self, META_HEADER_BYTES};

use crate::error::{DatanodeError, Result};
use crate::replica::{Replica, ReplicaFiles};
use crate::replica_length::meta_len;
use crate::ring;
use crate::volume::{BlockData, Volume};

/// A replica moves at most twice between two looks: when it is finalized, and when appended to.
const OPEN_TRIES: u32 = 3;
const COPY_CHUNK_BYTES: usize = 1 << 20;

pub async fn open_existing(path: &Path, direct: bool) -> Result<ring::File> {
    let options = ring::OpenOptions { read: true, write: true, direct, ..Default::default() };
    ring::File::open(path, options)
        .await
        .map_err(DatanodeError::io(format!("opening {}", path.display())))
}

/// Opens both files for reading, through the page cache, with the meta file's path. A transition may
/// rename them at any moment, so that one of them is not where it was: then look again.
pub async fn open_reader(
    replica: &Replica,
    direct: bool,
) -> Result<(ring::File, ring::File, PathBuf)> {
    require_stored(replica)?;
    let read = ring::OpenOptions { read: true, ..Default::default() };
    let read_data = ring::OpenOptions { direct, ..read };
    let mut tries = 0;
    loop {
        let files = replica.files();
        let opened = async {
            let data = ring::File::open(&files.data, read_data).await?;
            Ok((data, ring::File::open(&files.meta, read).await?))
        };
        match opened.await {
            Ok((data, meta)) => return Ok((data, meta, files.meta)),
            Err(error) if is_not_found(&error) && tries < OPEN_TRIES => tries += 1,
            Err(source) => {
                let what = format!("opening {} and its meta file", files.data.display());
                return Err(DatanodeError::Io { what, source });
            }
        }
    }
}

/// Closes files, where that may take long, on a thread of its own; those that others still use are
/// closed by them.
pub fn close_elsewhere(files: impl IntoIterator<Item = ring::File>) {
    let files = files.into_iter();
    let descriptors: Vec<_> = files.filter_map(ring::File::into_descriptor).collect();
    // A simulated world has one thread.
    #[cfg(feature = "simulation")]
    if ringfs_protocol::simulation::is_entered() {
        return drop(descriptors);
    }
    if !descriptors.is_empty() {
        std::thread::spawn(move || drop(descriptors));
    }
}

fn is_not_found(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

pub async fn create_new(path: &Path, direct: bool) -> Result<ring::File> {
    let options = ring::OpenOptions { read: true, write: true, create_new: true, direct };
    ring::File::open(path, options)
        .await
        .map_err(DatanodeError::io(format!("creating {}", path.display())))
}

/// The files of a new replica, both through the page cache, the meta file with its header: of a crash
/// in between a start makes a replica without a byte, or nothing.
pub async fn create_files(
    volume: &Volume,
    files: &ReplicaFiles,
    header: &[u8],
) -> Result<(ring::File, ring::File)> {
    if volume.block_data() == BlockData::Discarded {
        return Ok((create_discarding(&files.data).await?, create_discarding(&files.meta).await?));
    }
    let creating =
        |path: &Path| DatanodeError::io(format!("creating or writing {}", path.display()));
    let mut message = ring::SendMessage::new();
    message.push(header.to_vec().into());
    let mut work = ring::FileWork::default();
    work.create(&files.data).map_err(creating(&files.data))?;
    let meta = work.create(&files.meta).map_err(creating(&files.meta))?;
    work.write_created(meta, message, 0);
    let done = work.run(volume.workers()).await;
    if let Some((step, error)) = done.failure {
        return Err(creating(if step == 0 { &files.data } else { &files.meta })(error));
    }
    let [data, meta] = done.created.try_into().expect("both were created");
    Ok((data, meta))
}

/// Cuts the data file to a length, if one is given, and moves both files ([`move_meta_first`]).
pub async fn cut_and_move(
    volume: &Volume,
    cut: Option<(&ring::File, u64)>,
    from: &ReplicaFiles,
    to: &ReplicaFiles,
) -> Result<()> {
    let moving = || format!("moving {} to {}", from.data.display(), to.data.display());
    let mut work = ring::FileWork::default();
    if let Some((data, len)) = cut {
        work.set_len(data, len);
    }
    work.rename(&from.meta, &to.meta).map_err(DatanodeError::io(moving()))?;
    work.rename(&from.data, &to.data).map_err(DatanodeError::io(moving()))?;
    match work.run(volume.workers()).await.failure {
        None => Ok(()),
        // The directory is not there yet.
        Some((_, error)) if is_not_found(&error) => move_meta_first(from, to).await,
        Some((_, error)) => Err(DatanodeError::io(moving())(error)),
    }
}

async fn create_discarding(path: &Path) -> Result<ring::File> {
    drop(create_new(path, false).await?);
    ring::File::discarding()
        .await
        .map_err(DatanodeError::io(format!("discarding what is written to {}", path.display())))
}

/// An error for a replica whose bytes were thrown away.
pub fn require_stored(replica: &Replica) -> Result<()> {
    match replica.volume().block_data() {
        BlockData::Stored => Ok(()),
        BlockData::Discarded => Err(DatanodeError::Discarded { block: replica.block() }),
    }
}

/// Reads the header of a meta file.
pub async fn read_checksum(meta: &ring::File, path: &Path) -> Result<DataChecksum> {
    let header = meta
        .read_exact_at(0, META_HEADER_BYTES)
        .await
        .map_err(DatanodeError::io(format!("reading {}", path.display())))?;
    meta_file::decode_meta_header(&header).map_err(|error| DatanodeError::Storage {
        path: path.display().to_string(),
        why: error.to_string(),
    })
}

/// Moves meta, then data (the commit point of finalize), making the target directory when needed.
pub async fn move_meta_first(from: &ReplicaFiles, to: &ReplicaFiles) -> Result<()> {
    rename_into(&from.meta, &to.meta).await?;
    rename_into(&from.data, &to.data).await
}

/// Moves data, then meta (the commit point of append).
pub async fn move_data_first(from: &ReplicaFiles, to: &ReplicaFiles) -> Result<()> {
    rename_into(&from.data, &to.data).await?;
    rename_into(&from.meta, &to.meta).await
}

pub async fn rename_into(from: &Path, to: &Path) -> Result<()> {
    if from == to {
        return Ok(());
    }
    let mut renamed = ring::fs::rename(from, to).await;
    if let (Err(error), Some(dir)) = (&renamed, to.parent())
        && is_not_found(error)
    {
        make_dirs(dir).await?;
        renamed = ring::fs::rename(from, to).await;
    }
    renamed.map_err(DatanodeError::io(format!("renaming {} to {}", from.display(), to.display())))
}

/// Makes the two `subdir` levels that may be missing.
async fn make_dirs(dir: &Path) -> Result<()> {
    for dir in dir.parent().into_iter().chain([dir]) {
        match ring::fs::create_dir(dir).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let what = format!("creating {}", dir.display());
                return Err(DatanodeError::Io { what, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the names of a finalized replica durable: its directory and the two above it, which may
/// be new.
pub async fn sync_dirs(file: &Path) -> Result<()> {
    for dir in file.ancestors().skip(1).take(3) {
        ring::fs::sync_dir(dir)
            .await
            .map_err(DatanodeError::io(format!("syncing {}", dir.display())))?;
    }
    Ok(())
}

/// Makes a replica that was moved durable, with the names of its files.
pub async fn sync_replica(files: &ReplicaFiles) -> Result<()> {
    for path in [&files.data, &files.meta] {
        let file = open_existing(path, false).await?;
        file.sync_data().await.map_err(DatanodeError::io(format!("syncing {}", path.display())))?;
    }
    sync_dirs(&files.data).await
}

/// Makes the name of a file durable, in a directory that is.
pub async fn sync_name(file: &Path) -> Result<()> {
    let dir = file.parent().unwrap_or(file);
    ring::fs::sync_dir(dir).await.map_err(DatanodeError::io(format!("syncing {}", dir.display())))
}

/// Cuts a replica to `len` bytes: the meta file's length, then the checksum of a last chunk that is
/// partial now, the data file's length last. After each step the stored checksums are right for some
/// length from `len` up to the former one, and a start finds it.
pub async fn cut(files: &ReplicaFiles, len: u64) -> Result<DataChecksum> {
    let meta = open_existing(&files.meta, false).await?;
    let data = open_existing(&files.data, false).await?;
    let checksum = read_checksum(&meta, &files.meta).await?;
    let cutting = || format!("cutting {} to {len} bytes", files.data.display());
    cut_open(&data, &meta, checksum, len)
        .await
        .map_err(|source| DatanodeError::Io { what: cutting(), source })?;
    Ok(checksum)
}

/// Cuts a replica of `known_len` bytes, some of which are known to have rotted, without making them
/// look sound: a last chunk that becomes partial gets a new checksum only if it fits its old one. No
/// file grows, and a meta file without a header stays as it is.
pub async fn cut_rotten(files: &ReplicaFiles, known_len: u64, len: u64) -> Result<()> {
    let meta = open_existing(&files.meta, false).await?;
    let data = open_existing(&files.data, false).await?;
    let checksum = read_checksum(&meta, &files.meta).await.ok();
    let cutting = || format!("cutting {}, which is rotten, to {len} bytes", files.data.display());
    let cut = async {
        if let Some(checksum) = checksum {
            if last_chunk_fits(&data, &meta, checksum, known_len, len).await? {
                return cut_open(&data, &meta, checksum, len).await;
            }
            let stored_len = meta.len().await?.min(meta_len(checksum, len));
            meta.set_len(stored_len).await?;
        }
        let data_len = data.len().await?.min(len);
        data.set_len(data_len).await
    };
    cut.await.map_err(|source| DatanodeError::Io { what: cutting(), source })
}

/// Whether the chunk that a cut to `len` leaves a part of fits its checksum; `false` if none is cut.
async fn last_chunk_fits(
    data: &ring::File,
    meta: &ring::File,
    checksum: DataChecksum,
    known_len: u64,
    len: u64,
) -> io::Result<bool> {
    let chunk_len = u64::from(checksum.bytes_per_checksum);
    let start = len - len % chunk_len;
    let end = known_len.min(data.len().await?).min(start + chunk_len);
    let stored_at = META_HEADER_BYTES as u64 + len / chunk_len * 4;
    if checksum.kind == ChecksumType::Null || end <= len || meta.len().await? < stored_at + 4 {
        return Ok(false);
    }
    let bytes = data.read_exact_at(start, (end - start) as usize).await?;
    let stored = meta.read_exact_at(stored_at, 4).await?;
    Ok(stored[..] == checksum.crc(&bytes).to_be_bytes())
}

async fn cut_open(
    data: &ring::File,
    meta: &ring::File,
    checksum: DataChecksum,
    len: u64,
) -> io::Result<()> {
    let chunk_len = u64::from(checksum.bytes_per_checksum);
    let partial = len % chunk_len;
    meta.set_len(meta_len(checksum, len)).await?;
    if partial != 0 && checksum.kind != ChecksumType::Null {
        let bytes = data.read_exact_at(len - partial, partial as usize).await?;
        let crc = checksum.crc(&bytes).to_be_bytes().to_vec();
        let offset = META_HEADER_BYTES as u64 + (len / chunk_len) * 4;
        meta.write_all_at(crc.into(), offset).await?;
    }
    data.set_len(len).await
}

/// Gives the replica files of its own where they are shared with an upgrade's `previous` by hard
/// links: what is written must not change what a rollback would bring back.
pub async fn break_hard_links(files: &ReplicaFiles) -> Result<()> {
    for path in [&files.data, &files.meta] {
        let failed = || format!("copying {} away from its hard link", path.display());
        let file = open_existing(path, false).await?;
        let links =
            file.links().await.map_err(|source| DatanodeError::Io { what: failed(), source })?;
        if links > 1 {
            let copy = path.with_extension("unlinked");
            copy_range(path, &copy, u64::MAX).await?;
            ring::fs::rename(&copy, path)
                .await
                .map_err(|source| DatanodeError::Io { what: failed(), source })?;
        }
    }
    Ok(())
}

/// Copies a replica to a new block id, its data up to `len_max`; it is to be cut then.
pub async fn copy_replica(from: &ReplicaFiles, to: &ReplicaFiles, len_max: u64) -> Result<()> {
    if let Some(dir) = to.data.parent() {
        make_dirs(dir).await?;
    }
    copy_range(&from.meta, &to.meta, u64::MAX).await?;
    copy_range(&from.data, &to.data, len_max).await
}

async fn copy_range(from: &Path, to: &Path, len_max: u64) -> Result<()> {
    let source = open_existing(from, false).await?;
    let target = create_new(to, false).await?;
    let copying = || format!("copying {} to {}", from.display(), to.display());
    let copied = async {
        let end = source.len().await?.min(len_max);
        let mut offset = 0;
        while offset < end {
            let count = (end - offset).min(COPY_CHUNK_BYTES as u64) as usize;
            let bytes = source.read_exact_at(offset, count).await?;
            target.write_all_at(bytes.into(), offset).await?;
            offset += count as u64;
        }
        target.sync_data().await
    };
    copied.await.map_err(|source| DatanodeError::Io { what: copying(), source })
}
