//! Where `-put`, `-get`, `-cp` and `-mv` may put things: several sources need a directory, one source
//! needs a free name whose parent exists, or a directory.

use std::collections::VecDeque;

use super::Shell;
use super::error::ShellError;
use super::file_system::FileSystem;
use super::item::{Item, expand};

/// The last operand as a local path; a lone operand is a source, for the current directory.
pub async fn local(operands: &mut VecDeque<String>) -> Result<Item, ShellError> {
    let text = take_last(operands);
    Item::look_up_local(&text).await
}

/// The last operand in the default file system; a pattern must match exactly one path.
pub async fn remote(
    shell: &mut Shell,
    operands: &mut VecDeque<String>,
) -> Result<Item, ShellError> {
    if operands.len() < 2 {
        return Item::look_up(shell, ".").await;
    }
    let text = take_last(operands);
    let mut items = expand(shell, &text).await?;
    match items.pop() {
        Some(item) if items.is_empty() => Ok(item),
        _ => Err(ShellError::Path { path: text, why: "Too many matches".to_owned() }),
    }
}

fn take_last(operands: &mut VecDeque<String>) -> String {
    let last = if operands.len() < 2 { None } else { operands.pop_back() };
    last.unwrap_or_else(|| ".".to_owned())
}

/// Refuses a destination that cannot take that many sources.
pub async fn check(sources: usize, target: &Item, overwrite: bool) -> Result<(), ShellError> {
    if sources > 1 {
        return match &target.status {
            None => Err(target.not_found()),
            Some(status) if !status.is_directory => {
                Err(ShellError::NotDirectory(target.text.clone()))
            }
            Some(_) => Ok(()),
        };
    }
    match &target.status {
        Some(status) if !status.is_directory && !overwrite => {
            Err(ShellError::Exists(target.text.clone()))
        }
        Some(_) => Ok(()),
        None if target.parent_exists().await? => Ok(()),
        None => Err(ShellError::NotFoundInFull {
            path: target.text.clone(),
            full: match &target.file_system {
                // Hadoop's two spellings: one for what was absolute, one for what it made absolute.
                FileSystem::Local if target.text.starts_with('/') => {
                    format!("file://{}", target.path)
                }
                _ => target.uri(),
            },
        }),
    }
}

/// What `source` becomes: a child of a directory, else the destination itself.
pub async fn target_of(source: &Item, destination: &Item) -> Result<Item, ShellError> {
    if destination.is_directory() || destination.must_be_directory() {
        destination.status()?;
        return destination.child(source.name()).await;
    }
    Ok(destination.clone())
}

/// A directory cannot go into itself.
pub fn refuse_into_itself(source: &Item, target: &Item) -> Result<(), ShellError> {
    if !source.is_directory() || !source.file_system.is_same(&target.file_system) {
        return Ok(());
    }
    let (target_path, why) = if source.path == target.path {
        (target.uri(), "are identical")
    } else if super::path::is_within(&target.path, &source.path) {
        (target.text.clone(), "is a subdirectory of itself")
    } else {
        return Ok(());
    };
    Err(ShellError::Pair { source_path: source.text.clone(), target_path, why })
}
