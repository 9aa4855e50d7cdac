//! A copy of the namespace while it is served: `ringfs namenode -backup DIR`.
//!
//! A running namenode listens on a socket in its metadata directory, which only its own user may
//! use. A request is the directory, a line; the answer `ok BYTES` or `error WHY`, a line. The copy is
//! of one snapshot, so it has every change answered before the request and no half of any other;
//! changes go on meanwhile. Where no namenode runs, the command copies the store itself.
//!
//! DIR becomes a metadata directory like any other: to restore, let `dfs.namenode.name.dir` name it.
//! The copy is made beside its final name, synced and renamed: what a failed backup leaves is taken
//! for no namespace. A directory that holds one already is refused.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::error::{NamenodeError, Result};
use crate::format;
use crate::limits::{BACKUP_REQUEST_MAX_BYTES, BACKUP_REQUEST_TIMEOUT};
use crate::store::Store;

/// Has the namenode that serves `directory`, or else this process, copy its namespace to `target`;
/// the bytes of the copy.
pub fn back_up(directory: &Path, target: &Path) -> Result<u64> {
    let fail = |error| NamenodeError::system(format!("naming {}", target.display()), error);
    let target = std::path::absolute(target).map_err(fail)?;
    match UnixStream::connect(socket(directory)) {
        Ok(stream) => ask(stream, &target)
            .map_err(|error| NamenodeError::system("asking the running namenode", error))?,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            copy(&format::open(directory)?, &target)
        }
        Err(error) => {
            let socket = socket(directory);
            Err(NamenodeError::system(format!("connecting to {}", socket.display()), error))
        }
    }
}

/// Answers requests until cancelled. Without its socket the namenode serves on: only backups from
/// outside are then impossible, and the log says why.
pub async fn serve(directory: PathBuf, store: Arc<Store>) {
    let path = socket(&directory);
    // The store is ours alone, so a socket that is there is one that a killed namenode left.
    // It gets its name when nobody else may use it any more.
    let unnamed = path.with_extension("new");
    let _ = fs::remove_file(&unnamed);
    let bound = UnixListener::bind(&unnamed).and_then(|listener| {
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
        fs::rename(&unnamed, &path)?;
        Ok(listener)
    });
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(socket = %path.display(), %error, "no backups while this namenode serves");
            return std::future::pending().await;
        }
    };
    loop {
        // One at a time: a second one would only slow the first one down.
        if let Ok((stream, _)) = listener.accept().await
            && let Err(error) = answer(stream, &store).await
        {
            tracing::warn!(%error, "a request for a backup broke off");
        }
    }
}

async fn answer(stream: tokio::net::UnixStream, store: &Arc<Store>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut bounded = tokio::io::BufReader::new(reader.take(BACKUP_REQUEST_MAX_BYTES));
    tokio::time::timeout(BACKUP_REQUEST_TIMEOUT, bounded.read_line(&mut line)).await??;
    let Some(target) = line.strip_suffix('\n').map(PathBuf::from) else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let (store, to) = (store.clone(), target.clone());
    let copied = tokio::task::spawn_blocking(move || copy(&store, &to)).await?;
    let reply = match copied {
        Ok(bytes) => {
            tracing::info!(target = %target.display(), bytes, "the namespace was backed up");
            format!("ok {bytes}\n")
        }
        Err(error) => format!("error {}\n", error.to_string().replace('\n', " ")),
    };
    writer.write_all(reply.as_bytes()).await
}

fn ask(mut stream: UnixStream, target: &Path) -> std::io::Result<Result<u64>> {
    writeln!(stream, "{}", target.display())?;
    let mut reply = String::new();
    BufReader::new(stream.take(BACKUP_REQUEST_MAX_BYTES)).read_line(&mut reply)?;
    Ok(match reply.trim_end().split_once(' ') {
        Some(("ok", bytes)) => bytes.parse().map_err(|_| NamenodeError::Io(reply.clone())),
        Some(("error", why)) => Err(NamenodeError::Io(why.to_owned())),
        _ => return Err(ErrorKind::UnexpectedEof.into()),
    })
}

pub fn copy(store: &Store, target: &Path) -> Result<u64> {
    let file = format::store_file(target);
    if file.exists() {
        return Err(NamenodeError::Format {
            path: file.display().to_string(),
            why: "holds a namespace already: name a new directory".to_owned(),
        });
    }
    let parent = file.parent().unwrap_or(target);
    let named = |what: &str, path: &Path| format!("{what} {}", path.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|error| NamenodeError::system(named("creating", parent), error))?;
    let partial = file.with_extension("redb.partial");
    let _ = fs::remove_file(&partial);
    let copied = format::create_database(&partial).and_then(|database| store.copy_to(&database));
    if let Err(error) = copied {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    fs::rename(&partial, &file)
        .map_err(|error| NamenodeError::system(named("renaming", &partial), error))?;
    for directory in [parent, target] {
        File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(|error| NamenodeError::system(named("syncing", directory), error))?;
    }
    let size = fs::metadata(&file).map(|metadata| metadata.len());
    size.map_err(|error| NamenodeError::system(named("looking at", &file), error))
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("current").join("backup.sock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FormatOptions;
    use crate::schema::Space;
    use crate::store::View;

    fn formatted(directory: &Path) -> Arc<Store> {
        let config = crate::config::NamespaceConfig::for_tests();
        let clock = crate::clock::ManualClock::new(5);
        format::format(directory, &config, &FormatOptions::default(), &clock).unwrap();
        Arc::new(format::open(directory).unwrap())
    }

    async fn put(store: &Store, key: u32) {
        let put = move |update: &mut crate::store::Update| {
            update.put(Space::Retries, &key.to_be_bytes(), &[7; 100]).map(drop)
        };
        store.write(put).await.unwrap();
    }

    fn keys(store: &Store) -> Vec<Vec<u8>> {
        let pairs = store.snapshot().scan_prefix(Space::Retries, &[], usize::MAX);
        pairs.unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_of_a_serving_namenode_has_what_was_answered() {
        let directory = tempfile::tempdir().unwrap();
        let (name, target) = (directory.path().join("name"), directory.path().join("backup"));
        let store = formatted(&name);
        for key in 0..2500 {
            put(&store, key).await;
        }
        let serving = tokio::spawn(serve(name.clone(), store.clone()));
        while !socket(&name).exists() {
            tokio::task::yield_now().await;
        }
        let mode = fs::metadata(socket(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may not ask");
        let back_up = |target: PathBuf| {
            let name = name.clone();
            tokio::task::spawn_blocking(move || back_up(&name, &target))
        };
        let writing = {
            let store = store.clone();
            tokio::spawn(async move { put(&store, 9999).await })
        };
        let bytes = back_up(target.clone()).await.unwrap().unwrap();
        assert_eq!(bytes, fs::metadata(format::store_file(&target)).unwrap().len());
        writing.await.unwrap();
        let again = back_up(target.clone()).await.unwrap().unwrap_err().to_string();
        assert!(again.contains("holds a namespace already"), "{again}");
        serving.abort();
        let _ = serving.await;

        let restored = format::open(&target).unwrap();
        assert_eq!(restored.identity(), store.identity());
        assert_eq!(keys(&restored)[..2500], keys(&store)[..2500]);
    }

    #[test]
    fn a_stopped_namenodes_store_is_copied_too_and_failures_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (name, target) = (directory.path().join("name"), directory.path().join("backup"));
        let missing = back_up(&name, &target).unwrap_err().to_string();
        assert!(missing.contains("no metadata store"), "{missing}");
        let identity = formatted(&name).identity().clone();
        back_up(&name, &target).unwrap();
        assert_eq!(format::open(&target).unwrap().identity(), &identity);
        let blocked = directory.path().join("file");
        fs::write(&blocked, "").unwrap();
        let error = back_up(&name, &blocked.join("x")).unwrap_err().to_string();
        assert!(error.contains("creating"), "{error}");
    }
}
