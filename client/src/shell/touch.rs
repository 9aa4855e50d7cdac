//! `-touch` and `-touchz`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::arguments::{Arguments, OptionSpec, Takes, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand_all};
use super::{Shell, format};

pub const TOUCH: Command = Command {
    name: "touch",
    options: &[
        flag("a", "Changes the access time alone."),
        flag("m", "Changes the modification time alone."),
        OptionSpec {
            name: "t",
            alias: "",
            takes: Takes::Required,
            value: "TIMESTAMP (yyyyMMdd:HHmmss) ",
            help: "Sets that time, in the local time zone, instead of now.",
        },
        flag("c", "Does not make files."),
    ],
    operands: "<path> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Sets access and modification time to now; makes an empty file where there is none.",
    run: |shell, arguments| Box::pin(touch(shell, arguments)),
};

pub const TOUCHZ: Command = Command {
    name: "touchz",
    options: &[],
    about: "Makes empty files, or makes anew those that exist and are empty.",
    run: |shell, arguments| Box::pin(touchz(shell, arguments)),
    ..TOUCH
};

/// Which times to set, to when; `None` is now.
struct Touch {
    modification: bool,
    access: bool,
    make: bool,
    time_ms: Option<i64>,
}

async fn touch(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let time_ms = match arguments.value("t") {
        None => None,
        Some(text) => Some(format::parse_timestamp(text).ok_or_else(|| {
            ShellError::Usage(format!(
                "Unable to parse the specified timestamp {text}. The expected format is yyyyMMdd:HHmmss"
            ))
        })?),
    };
    let (access_only, modification_only) = (arguments.has("a"), arguments.has("m"));
    let touch = Touch {
        modification: modification_only || !access_only,
        access: access_only || !modification_only,
        make: !arguments.has("c"),
        time_ms,
    };
    for item in expand_all(shell, arguments.operands).await? {
        if let Err(error) = touch.apply(&item).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

impl Touch {
    async fn apply(&self, item: &Item) -> Result<(), ShellError> {
        if !item.exists() {
            refuse_without_parent(item).await?;
            if !self.make {
                return Ok(());
            }
            make_empty(item).await?;
            if self.time_ms.is_none() {
                return Ok(());
            }
        }
        let now = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_millis() as i64
        };
        let time = self.time_ms.unwrap_or_else(now);
        let modified = self.modification.then_some(time);
        let accessed = self.access.then_some(time);
        item.file_system.set_times(&item.path, modified, accessed).await
    }
}

async fn touchz(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    for item in expand_all(shell, arguments.operands).await? {
        if let Err(error) = touchz_one(&item).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

async fn touchz_one(item: &Item) -> Result<(), ShellError> {
    match &item.status {
        Some(status) if status.is_directory => {
            return Err(ShellError::IsDirectory(item.text.clone()));
        }
        Some(status) if status.length != 0 => {
            let why = "Not a zero-length file".to_owned();
            return Err(ShellError::Path { path: item.text.clone(), why });
        }
        Some(_) => {}
        None => refuse_without_parent(item).await?,
    }
    make_empty(item).await
}

async fn refuse_without_parent(item: &Item) -> Result<(), ShellError> {
    if item.parent_exists().await? {
        return Ok(());
    }
    Err(ShellError::NotFoundInFull { path: item.text.clone(), full: item.uri() })
}

async fn make_empty(item: &Item) -> Result<(), ShellError> {
    item.file_system.create_empty(&item.path).await
}
