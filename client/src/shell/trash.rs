//! The trash, which is the client's work in HDFS: with an interval above 0 (the namenode's, else our
//! own `fs.trash.interval`) a deleted path moves to `/user/NAME/.Trash/Current/PATH`, and with a time
//! behind its name when that is taken.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Shell;
use super::error::ShellError;
use super::item::Item;
use super::path;

const DIRECTORY_MODE: u16 = 0o700;

/// Moves the item to the trash; `false` when there is none for it and it is to be deleted.
pub async fn take(shell: &mut Shell, item: &Item) -> Result<bool, ShellError> {
    if !item.file_system.has_trash(shell.configuration()).await? {
        return Ok(false);
    }
    let root = path::join(&item.file_system.home(), ".Trash");
    if path::is_within(&item.path, &root) {
        return Ok(false);
    }
    if path::is_within(&root, &item.path) {
        return Err(ShellError::Message(format!(
            "Cannot move \"{}\" to the trash, as it contains the trash. \
             Consider using -skipTrash option",
            item.uri()
        )));
    }
    let wanted = format!("{root}/Current{}", item.path);
    let target = move_to(item, &wanted).await.map_err(|error| {
        ShellError::Message(format!("{}. Consider using -skipTrash option", error.first_line()))
    })?;
    let uri = item.file_system.uri();
    shell.console().complain(&format!("Moved: '{}' to trash at: {uri}{target}", item.uri()))?;
    Ok(true)
}

async fn move_to(item: &Item, wanted: &str) -> Result<String, ShellError> {
    let file_system = &item.file_system;
    let directory = path::parent(wanted).unwrap_or(wanted);
    if !file_system.make_directories_with(directory, DIRECTORY_MODE).await? {
        return Err(ShellError::Message(format!("Can't create trash directory {directory}")));
    }
    let mut target = wanted.to_owned();
    if file_system.status(&target).await?.is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        target.push_str(&now.as_millis().to_string());
    }
    if file_system.rename(&item.path, &target).await? {
        Ok(target)
    } else {
        Err(ShellError::Message(format!("Failed to move to trash: {}", item.uri())))
    }
}
