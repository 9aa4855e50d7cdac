//! How far a volume's scrubber has got: the last replica it read, by directories and name, in the
//! order of their names. Kept in `scanner.cursor` as Apache's datanode keeps it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::meta_file::{ReplicaFile, parse_replica_file_name};
use serde::{Deserialize, Serialize};

/// A cursor is some 200 bytes.
const CURSOR_MAX_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrubCursor {
    last_saved_ms: u64,
    iter_start_ms: u64,
    cur_finalized_dir: Option<String>,
    cur_finalized_sub_dir: Option<String>,
    cur_entry: Option<String>,
    at_end: bool,
    /// The replicas after the cursor in its directory; listed once.
    #[serde(skip)]
    listed: Option<std::vec::IntoIter<String>>,
}

impl ScrubCursor {
    pub fn start_at(now_ms: u64) -> Self {
        Self { iter_start_ms: now_ms, ..Self::default() }
    }

    /// From the start, where there is none, or none that can be understood.
    pub fn load(path: &Path, now_ms: u64) -> Self {
        let read = || {
            if fs::metadata(path).ok()?.len() > CURSOR_MAX_BYTES {
                return None;
            }
            serde_json::from_slice(&fs::read(path).ok()?).ok()
        };
        read().filter(Self::is_below_root).unwrap_or_else(|| Self::start_at(now_ms))
    }

    fn is_below_root(&self) -> bool {
        let mut dirs = self.cur_finalized_dir.iter().chain(&self.cur_finalized_sub_dir);
        dirs.all(|dir| is_subdir(dir) && !dir.contains('/'))
    }

    pub fn save(&mut self, path: &Path, now_ms: u64) -> io::Result<()> {
        self.last_saved_ms = now_ms;
        let unfinished = path.with_extension("cursor.tmp");
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(&unfinished, path)
    }

    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    pub fn time_to_next(&self, now_ms: u64, period: Duration) -> Duration {
        let due_ms = self.iter_start_ms.saturating_add(period.as_millis() as u64);
        // A clock that was set back shall not end scrubbing for good.
        Duration::from_millis(due_ms.saturating_sub(now_ms)).min(period)
    }

    /// The next replica below `root`; `None` at the end.
    pub fn advance(&mut self, root: &Path) -> io::Result<Option<BlockId>> {
        loop {
            if let Some(id) = self.next_in_directory(root)? {
                return Ok(Some(id));
            }
            if !self.next_directory(root)? {
                self.at_end = true;
                return Ok(None);
            }
        }
    }

    fn next_in_directory(&mut self, root: &Path) -> io::Result<Option<BlockId>> {
        let (Some(dir), Some(subdir)) = (&self.cur_finalized_dir, &self.cur_finalized_sub_dir)
        else {
            return Ok(None);
        };
        let listed = match &mut self.listed {
            Some(listed) => listed,
            None => {
                let names = names(&root.join(dir).join(subdir), |name| block_id(name).is_some())?;
                let after = self.cur_entry.as_deref().unwrap_or_default();
                let rest: Vec<String> =
                    names.into_iter().filter(|name| name.as_str() > after).collect();
                self.listed.insert(rest.into_iter())
            }
        };
        let Some(name) = listed.next() else { return Ok(None) };
        let id = block_id(&name);
        self.cur_entry = Some(name);
        Ok(id)
    }

    /// Moves on to the next of the directories of the second level; `false` after the last.
    fn next_directory(&mut self, root: &Path) -> io::Result<bool> {
        (self.cur_entry, self.listed) = (None, None);
        loop {
            if let Some(dir) = &self.cur_finalized_dir {
                let subdirs = names(&root.join(dir), is_subdir)?;
                self.cur_finalized_sub_dir =
                    following(subdirs, self.cur_finalized_sub_dir.as_deref());
                if self.cur_finalized_sub_dir.is_some() {
                    return Ok(true);
                }
            }
            self.cur_finalized_dir =
                following(names(root, is_subdir)?, self.cur_finalized_dir.as_deref());
            if self.cur_finalized_dir.is_none() {
                return Ok(false);
            }
        }
    }
}

fn following(names: Vec<String>, current: Option<&str>) -> Option<String> {
    names.into_iter().find(|name| current.is_none_or(|current| name.as_str() > current))
}

fn is_subdir(name: &str) -> bool {
    name.starts_with("subdir")
}

fn block_id(name: &str) -> Option<BlockId> {
    match parse_replica_file_name(name) {
        Some(ReplicaFile::Block(id)) => Some(id),
        _ => None,
    }
}

/// Names in a directory, sorted; none when there is no such directory any more.
fn names(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_wanted(name)));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn all(cursor: &mut ScrubCursor, root: &Path) -> Vec<u64> {
        std::iter::from_fn(|| cursor.advance(root).unwrap()).map(|id| id.0).collect()
    }

    #[test]
    fn every_replica_is_met_once_and_a_saved_cursor_goes_on() {
        let root = tree(&[
            "subdir0/subdir10/blk_3",
            "subdir0/subdir2/blk_11",
            "subdir0/subdir2/blk_2",
            "subdir0/subdir2/blk_2_1001.meta",
            "subdir1/empty",
            "subdir7/subdir0/blk_9",
            "other/subdir0/blk_99",
        ]);
        let mut cursor = ScrubCursor::start_at(5);
        assert_eq!(all(&mut cursor, root.path()), [3, 11, 2, 9]);
        assert!(cursor.is_at_end());

        let mut cursor = ScrubCursor::start_at(5);
        assert_eq!(cursor.advance(root.path()).unwrap(), Some(BlockId(3)));
        assert_eq!(cursor.advance(root.path()).unwrap(), Some(BlockId(11)));
        let path = root.path().join("scanner.cursor");
        cursor.save(&path, 77).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "lastSavedMs": 77, "iterStartMs": 5, "curFinalizedDir": "subdir0",
                "curFinalizedSubDir": "subdir2", "curEntry": "blk_11", "atEnd": false
            })
        );
        // What the cursor names may be gone.
        fs::remove_file(root.path().join("subdir0/subdir2/blk_11")).unwrap();
        assert_eq!(all(&mut ScrubCursor::load(&path, 1), root.path()), [2, 9]);
        fs::remove_dir_all(root.path().join("subdir0")).unwrap();
        assert_eq!(all(&mut ScrubCursor::load(&path, 1), root.path()), [9]);
    }

    #[test]
    fn a_cursor_that_is_no_cursor_is_a_start() {
        let root = tree(&["subdir0/subdir0/blk_1"]);
        let path = root.path().join("scanner.cursor");
        for text in
            ["", "{", "[1]", r#"{"atEnd":"perhaps"}"#, r#"{"curFinalizedDir":"subdir/../.."}"#]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(all(&mut ScrubCursor::load(&path, 1), root.path()), [1]);
        }
    }

    #[test]
    fn the_next_round_is_due_a_period_after_the_last_began() {
        let cursor = ScrubCursor::start_at(10_000);
        let period = Duration::from_secs(5);
        assert_eq!(cursor.time_to_next(12_000, period), Duration::from_secs(3));
        assert!(cursor.time_to_next(16_000, period).is_zero());
        assert_eq!(cursor.time_to_next(0, period), period, "the clock was set back");
    }
}
