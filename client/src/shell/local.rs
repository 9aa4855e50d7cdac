//! The local file system, as `file:` paths and the local side of `-put` and `-get` see it.
//!
//! Calls block: a command runs on its own thread, apart from the runtime's workers.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::ShellError;
use super::file_system::{Access, Status};

/// Hadoop's block size of local files, which `-stat %o` shows.
const BLOCK_SIZE_BYTES: u64 = 32 << 20;

type Result<T> = std::result::Result<T, ShellError>;

pub fn home() -> String {
    std::env::current_dir().map_or_else(|_| "/".to_owned(), |path| path.display().to_string())
}

pub fn status(path: &str) -> Result<Option<Status>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(status_of(&metadata))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(ShellError::local(Path::new(path), error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn status_of(metadata: &fs::Metadata) -> Status {
    let is_directory = metadata.is_dir();
    Status {
        is_directory,
        length: metadata.len(),
        replication: u32::from(!is_directory),
        block_size: BLOCK_SIZE_BYTES,
        owner: name_of(users(), metadata.uid()),
        group: name_of(groups(), metadata.gid()),
        mode: (metadata.mode() & 0o1777) as u16,
        modified_ms: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
        accessed_ms: metadata.atime() * 1000 + metadata.atime_nsec() / 1_000_000,
    }
}

pub fn list(path: &str) -> Result<Vec<(String, Status)>> {
    let refuse = |error| ShellError::local(Path::new(path), error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = entry.file_name().into_string().map_err(|name| {
            ShellError::Message(format!("{path}/{}: the name is not UTF-8", name.display()))
        })?;
        // A link to nothing is not shown.
        if let Some(status) = status(&format!("{path}/{name}"))? {
            entries.push((name, status));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

pub fn make_directories(path: &str) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o777)
        .create(path)
        .map_err(|error| ShellError::local(Path::new(path), error))
}

/// Whether something was deleted.
pub fn delete(path: &str, recursive: bool) -> Result<bool> {
    let refuse = |error| ShellError::local(Path::new(path), error);
    let is_directory = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(refuse(error)),
    };
    match (is_directory, recursive) {
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    }
    .map_err(refuse)?;
    Ok(true)
}

pub fn rename(from: &str, to: &str) -> Result<()> {
    fs::rename(from, to).map_err(|error| ShellError::local(Path::new(from), error))
}

pub fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|error| ShellError::local(Path::new(path), error))
}

pub fn create(path: &str) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .open(path)
        .map_err(|error| ShellError::local(Path::new(path), error))
}

/// Sets the times given, in milliseconds since 1970.
pub fn set_times(path: &str, modified_ms: Option<i64>, accessed_ms: Option<i64>) -> Result<()> {
    let time = |millis: i64| -> SystemTime {
        let span = Duration::from_millis(millis.unsigned_abs());
        if millis < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
    };
    let mut times = fs::FileTimes::new();
    if let Some(millis) = modified_ms {
        times = times.set_modified(time(millis));
    }
    if let Some(millis) = accessed_ms {
        times = times.set_accessed(time(millis));
    }
    File::open(path)
        .and_then(|file| file.set_times(times))
        .map_err(|error| ShellError::local(Path::new(path), error))
}

pub fn set_mode(path: &str, mode: u16) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(u32::from(mode)))
        .map_err(|error| ShellError::local(Path::new(path), error))
}

pub fn set_owner(path: &str, owner: Option<&str>, group: Option<&str>) -> Result<()> {
    let unknown =
        |what: &str, name: &str| ShellError::Message(format!("chown: invalid {what}: ‘{name}’"));
    let id = |table: &HashMap<u32, String>, name: &str| {
        table
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| *id)
            .or_else(|| name.parse().ok())
    };
    let user_id = match owner {
        Some(name) => Some(id(users(), name).ok_or_else(|| unknown("user", name))?),
        None => None,
    };
    let group_id = match group {
        Some(name) => Some(id(groups(), name).ok_or_else(|| unknown("group", name))?),
        None => None,
    };
    std::os::unix::fs::chown(path, user_id, group_id)
        .map_err(|error| ShellError::local(Path::new(path), error))
}

pub fn may(path: &str, access: Access) -> bool {
    let wanted = match access {
        Access::Read => rustix::fs::Access::READ_OK,
        Access::Write => rustix::fs::Access::WRITE_OK,
    };
    rustix::fs::access(path, wanted).is_ok()
}

fn users() -> &'static HashMap<u32, String> {
    static USERS: OnceLock<HashMap<u32, String>> = OnceLock::new();
    USERS.get_or_init(|| read_ids("/etc/passwd"))
}

fn groups() -> &'static HashMap<u32, String> {
    static GROUPS: OnceLock<HashMap<u32, String>> = OnceLock::new();
    GROUPS.get_or_init(|| read_ids("/etc/group"))
}

/// `name:x:id:...` lines; an account known elsewhere appears by its number.
fn read_ids(file: &str) -> HashMap<u32, String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) =
            (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()))
        {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn name_of(names: &HashMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        assert!(status(&path("x")).unwrap().is_none());
        assert!(status(&path("x/y")).unwrap().is_none());
        make_directories(&path("d/e")).unwrap();
        fs::write(path("d/f"), "abc").unwrap();
        set_times(&path("d/f"), Some(981_173_106_789), None).unwrap();
        set_mode(&path("d/f"), 0o640).unwrap();
        let listed = list(&path("d")).unwrap();
        let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["e", "f"]);
        assert!(listed[0].1.is_directory);
        let file = &listed[1].1;
        assert_eq!((file.length, file.mode, file.modified_ms), (3, 0o640, 981_173_106_789));
        assert!(delete(&path("d"), false).is_err());
        assert!(delete(&path("d"), true).unwrap());
        assert!(!delete(&path("d"), true).unwrap());
    }

    #[test]
    fn unknown_owners_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = set_owner(&file.path().display().to_string(), Some("nobody-here"), None);
        assert_eq!(error.unwrap_err().to_string(), "chown: invalid user: ‘nobody-here’");
    }
}
