//! A path that a command works on: how it was written, where it is, and what is there.

use std::collections::VecDeque;

use super::Shell;
use super::error::ShellError;
use super::file_system::{FileSystem, Status};
use super::glob::{self, Component};
use super::path::{self, PathParts};

#[derive(Clone)]
pub struct Item {
    /// As the user wrote it, or would have: relative and scheme-less paths stay so below them.
    pub text: String,
    pub file_system: FileSystem,
    /// Absolute within the file system.
    pub path: String,
    /// `None` when nothing is there.
    pub status: Option<Status>,
}

impl Item {
    /// The path exactly as written, with what is there.
    pub async fn look_up(shell: &mut Shell, text: &str) -> Result<Self, ShellError> {
        let (file_system, path) = shell.locate(text)?;
        let status = file_system.status(&path).await?;
        Ok(Self { text: text.to_owned(), file_system, path, status })
    }

    /// A path of the local file system, as a path or a `file:` URI.
    pub async fn look_up_local(text: &str) -> Result<Self, ShellError> {
        let parts = PathParts::split(text);
        let local = match parts.scheme {
            None => text,
            Some("file") => parts.path,
            Some(_) => return Err(ShellError::Message(format!("{text}: not a local path"))),
        };
        let file_system = FileSystem::Local;
        let path = path::absolute(&file_system.home(), local);
        let status = file_system.status(&path).await?;
        Ok(Self { text: text.to_owned(), file_system, path, status })
    }

    pub fn exists(&self) -> bool {
        self.status.is_some()
    }

    pub fn is_directory(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_directory)
    }

    pub fn length(&self) -> u64 {
        self.status.as_ref().map_or(0, |status| status.length)
    }

    /// What is there, or the error that nothing is.
    pub fn status(&self) -> Result<&Status, ShellError> {
        self.status.as_ref().ok_or_else(|| self.not_found())
    }

    pub fn name(&self) -> &str {
        path::name(&self.path)
    }

    pub fn uri(&self) -> String {
        format!("{}{}", self.file_system.uri(), self.path)
    }

    pub fn not_found(&self) -> ShellError {
        ShellError::NotFound(self.text.clone())
    }

    pub async fn refresh(&mut self) -> Result<(), ShellError> {
        self.status = self.file_system.status(&self.path).await?;
        Ok(())
    }

    /// Whether the text can only mean a directory: it ends in `/`, `.` or `..`.
    pub fn must_be_directory(&self) -> bool {
        matches!(path::name(&self.text), "" | "." | "..")
    }

    pub async fn parent_exists(&self) -> Result<bool, ShellError> {
        let directory = if self.must_be_directory() {
            Some(self.path.as_str())
        } else {
            path::parent(&self.path)
        };
        match directory {
            Some(directory) => Ok(self.file_system.status(directory).await?.is_some()),
            None => Ok(true),
        }
    }

    /// The child of that name with a status already known.
    fn child_with(&self, name: &str, status: Option<Status>) -> Self {
        let text = if self.text == "." { name.to_owned() } else { path::join(&self.text, name) };
        let path = path::join(&self.path, name);
        Self { text, file_system: self.file_system.clone(), path, status }
    }

    pub async fn child(&self, name: &str) -> Result<Self, ShellError> {
        let mut child = self.child_with(name, None);
        child.refresh().await?;
        Ok(child)
    }

    /// The path with something appended to its name.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self {
            text: format!("{}{suffix}", self.text),
            file_system: self.file_system.clone(),
            path: format!("{}{suffix}", self.path),
            status: None,
        }
    }

    /// What a directory holds, by name.
    pub async fn children(&self) -> Result<Vec<Self>, ShellError> {
        let entries = self.file_system.list(&self.path).await?;
        Ok(entries.into_iter().map(|(name, status)| self.child_with(&name, Some(status))).collect())
    }
}

/// The items that an operand stands for: those that match its pattern, or itself, there or not.
pub async fn expand(shell: &mut Shell, text: &str) -> Result<Vec<Item>, ShellError> {
    let (file_system, _) = shell.locate(text)?;
    let pattern = PathParts::split(text).path;
    let home = file_system.home();
    let alternatives = glob::alternatives(pattern)?;
    let mut found = Vec::new();
    let mut is_pattern = alternatives.len() > 1;
    for alternative in &alternatives {
        let absolute = path::absolute(&home, alternative);
        let components =
            absolute[1..].split('/').map(Component::parse).collect::<Result<Vec<_>, _>>()?;
        is_pattern |= components.iter().any(|part| matches!(part, Component::Pattern(_)));
        found.extend(matching(&file_system, components).await?);
    }
    if found.is_empty() && !is_pattern {
        let plain = path::absolute(&home, &glob::unescape(pattern));
        let text = glob::unescape(text);
        return Ok(vec![Item { text, file_system, path: plain, status: None }]);
    }
    if found.is_empty() {
        return Err(ShellError::NotFound(text.to_owned()));
    }
    Ok(found
        .into_iter()
        .map(|(path, status)| Item {
            text: written_like(text, &file_system, &path),
            file_system: file_system.clone(),
            path,
            status: Some(status),
        })
        .collect())
}

/// The operands' items in order; what matches nothing is reported.
pub async fn expand_all(
    shell: &mut Shell,
    operands: VecDeque<String>,
) -> Result<Vec<Item>, ShellError> {
    let mut items = Vec::new();
    for operand in operands {
        match expand(shell, &operand).await {
            Ok(found) => items.extend(found),
            Err(error) => shell.report(error)?,
        }
    }
    Ok(items)
}

/// Walks the components from the root; names without pattern are looked up only where a listing
/// left a choice, and at the end.
async fn matching(
    file_system: &FileSystem,
    components: Vec<Component>,
) -> Result<Vec<(String, Status)>, ShellError> {
    let mut candidates: Vec<(String, Option<Status>)> = vec![("/".to_owned(), None)];
    for component in components {
        let mut next = Vec::new();
        for (directory, status) in candidates {
            if status.is_some_and(|status| !status.is_directory) {
                continue;
            }
            match &component {
                Component::Name(name) if name.is_empty() => next.push((directory, None)),
                Component::Name(name) => next.push((path::join(&directory, name), None)),
                Component::Pattern(regex) => {
                    for (name, status) in list_if_directory(file_system, &directory).await? {
                        if regex.is_match(&name) {
                            next.push((path::join(&directory, &name), Some(status)));
                        }
                    }
                }
            }
        }
        candidates = next;
    }
    let mut found = Vec::new();
    for (path, status) in candidates {
        let status = match status {
            Some(status) => Some(status),
            None => file_system.status(&path).await?,
        };
        found.extend(status.map(|status| (path, status)));
    }
    Ok(found)
}

async fn list_if_directory(
    file_system: &FileSystem,
    path: &str,
) -> Result<Vec<(String, Status)>, ShellError> {
    match file_system.status(path).await? {
        Some(status) if status.is_directory => file_system.list(path).await,
        _ => Ok(Vec::new()),
    }
}

/// A match in the form of its pattern: a URI, an absolute path, or one relative to home.
fn written_like(pattern: &str, file_system: &FileSystem, path: &str) -> String {
    let parts = PathParts::split(pattern);
    match (parts.scheme, parts.authority) {
        (Some(scheme), Some(authority)) => format!("{scheme}://{authority}{path}"),
        (Some(scheme), None) => format!("{scheme}://{path}"),
        (None, _) if parts.path.starts_with('/') => path.to_owned(),
        (None, _) => path::relative(&file_system.home(), path),
    }
}

/// A walk down from some items: a directory's children come right after it.
pub struct Walk {
    /// What is still to come, next one last.
    pending: Vec<Item>,
}

impl Walk {
    pub fn from(items: Vec<Item>) -> Self {
        let mut pending = items;
        pending.reverse();
        Self { pending }
    }

    pub fn next(&mut self) -> Option<Item> {
        self.pending.pop()
    }

    pub fn descend(&mut self, children: Vec<Item>) {
        self.pending.extend(children.into_iter().rev());
    }

    /// Descends into `item` when it is a directory; that it cannot be listed is reported.
    pub async fn enter(&mut self, shell: &mut Shell, item: &Item) -> Result<(), ShellError> {
        if item.is_directory() {
            match item.children().await {
                Ok(children) => self.descend(children),
                Err(error) => shell.report(error)?,
            }
        }
        Ok(())
    }
}
