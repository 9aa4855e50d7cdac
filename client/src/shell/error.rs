//! What a command reports, in the words of Hadoop's shell, and the exit code it ends with.

use std::io;

use thiserror::Error;

use crate::ClientError;

/// Exit codes: an operation failed; the command line is wrong.
pub const EXIT_FAILURE: u8 = 1;
pub const EXIT_USAGE: u8 = 255;

#[derive(Debug, Error)]
pub enum ShellError {
    /// The command line cannot be meant: it is answered with the usage.
    #[error("{0}")]
    Usage(String),
    #[error("`{0}': No such file or directory")]
    NotFound(String),
    /// A destination whose parent is missing: as given, and in full.
    #[error("`{path}': No such file or directory: `{full}'")]
    NotFoundInFull { path: String, full: String },
    #[error("`{0}': Is a directory")]
    IsDirectory(String),
    #[error("`{0}': Is not a directory")]
    NotDirectory(String),
    #[error("`{0}': File exists")]
    Exists(String),
    #[error("`{0}': Directory is not empty")]
    NotEmpty(String),
    #[error("`{path}': {why}")]
    Path { path: String, why: String },
    #[error("`{source_path}' to `{target_path}': {why}")]
    Pair { source_path: String, target_path: String, why: &'static str },
    #[error("{operation} `{path}': Input/output error")]
    Operation { operation: &'static str, path: String },
    #[error("{0}")]
    Message(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{path} ({})", errno_text(.source))]
    Local { path: String, source: io::Error },
    /// Standard output is gone or fails; nothing more can be said there.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

impl ShellError {
    pub fn not_enough_arguments(expected: usize, got: usize) -> Self {
        Self::Usage(format!("Not enough arguments: expected {expected} but got {got}"))
    }

    /// An operation that the file system answered with no reason.
    pub fn failed(path: &str) -> Self {
        Self::Path { path: path.to_owned(), why: "Input/output error".to_owned() }
    }

    pub fn local(path: &std::path::Path, source: io::Error) -> Self {
        Self::Local { path: path.display().to_string(), source }
    }

    /// Whether the whole command ends with it; other errors concern one path only.
    pub fn ends_command(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Output(_))
    }

    /// The one line that is shown: a server's stack trace stays behind it.
    pub fn first_line(&self) -> String {
        let text = match self {
            Self::Client(ClientError::Remote(remote)) => remote.message.clone(),
            other => other.to_string(),
        };
        text.lines().next().unwrap_or_default().to_owned()
    }
}

/// `Permission denied`, not Rust's `Permission denied (os error 13)`.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
