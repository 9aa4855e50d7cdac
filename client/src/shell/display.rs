//! `-cat`, `-text`, `-head` and `-tail`.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

use super::Shell;
use super::arguments::{Arguments, OptionSpec, Takes, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::file_system::Source;
use super::item::{Item, expand_all};

/// What `-head` and `-tail` show.
const EXCERPT_BYTES: u64 = 1024;

/// What `-tail -f` waits between two looks.
const FOLLOW_INTERVAL_MS: i64 = 5000;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

pub const CAT: Command = Command {
    name: "cat",
    options: &[flag("ignoreCrc", "Does not verify checksums.")],
    operands: "<src> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Prints files.",
    run: |shell, arguments| Box::pin(cat(shell, arguments, false)),
};

pub const TEXT: Command = Command {
    name: "text",
    about: "Prints files, those compressed with gzip in plain.",
    run: |shell, arguments| Box::pin(cat(shell, arguments, true)),
    ..CAT
};

pub const HEAD: Command = Command {
    name: "head",
    options: &[],
    operands: "<file>",
    operands_max: 1,
    about: "Prints the first 1024 bytes of a file.",
    run: |shell, arguments| Box::pin(head(shell, arguments)),
    ..CAT
};

pub const TAIL: Command = Command {
    name: "tail",
    options: &[
        flag("f", "Goes on printing what is appended."),
        OptionSpec {
            name: "s",
            alias: "",
            takes: Takes::Optional,
            value: "<sleep interval>",
            help: "With -f, milliseconds between two looks (5000).",
        },
    ],
    about: "Prints the last 1024 bytes of a file.",
    run: |shell, arguments| Box::pin(tail(shell, arguments)),
    ..HEAD
};

async fn cat(shell: &mut Shell, arguments: Arguments, unpack: bool) -> Result<(), ShellError> {
    let verify = !arguments.has("ignoreCrc");
    for item in expand_all(shell, arguments.operands).await? {
        if let Err(error) = cat_one(shell, &item, verify, unpack).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

async fn cat_one(
    shell: &mut Shell,
    item: &Item,
    verify: bool,
    unpack: bool,
) -> Result<(), ShellError> {
    refuse_directory(item)?;
    let mut source = item.file_system.open(&item.path, verify).await?;
    let first = source.next().await?;
    match first {
        Some(data) if unpack && data.starts_with(&GZIP_MAGIC) => {
            print_unpacked(shell, item, data, source).await
        }
        first => print(shell, first, source).await,
    }
}

async fn print(
    shell: &mut Shell,
    mut next: Option<Bytes>,
    mut source: Source,
) -> Result<(), ShellError> {
    while let Some(data) = next {
        shell.console().bytes(&data)?;
        next = source.next().await?;
    }
    Ok(())
}

async fn print_unpacked(
    shell: &mut Shell,
    item: &Item,
    first: Bytes,
    mut source: Source,
) -> Result<(), ShellError> {
    let broken = |error: std::io::Error| ShellError::Path {
        path: item.text.clone(),
        why: format!("not a gzip file: {error}"),
    };
    let mut decoder = MultiGzDecoder::new(Vec::new());
    let mut next = Some(first);
    while let Some(data) = next {
        // Small pieces bound what one of them can unpack to.
        for piece in data.chunks(4 << 10) {
            decoder.write_all(piece).map_err(broken)?;
            shell.console().bytes(decoder.get_ref())?;
            decoder.get_mut().clear();
        }
        next = source.next().await?;
    }
    decoder.try_finish().map_err(broken)?;
    shell.console().bytes(decoder.get_ref())
}

fn refuse_directory(item: &Item) -> Result<(), ShellError> {
    if item.status()?.is_directory {
        return Err(ShellError::IsDirectory(item.text.clone()));
    }
    Ok(())
}

async fn head(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let item = Item::look_up(shell, &arguments.take_operand()?).await?;
    refuse_directory(&item)?;
    print_range(shell, &item, 0, EXCERPT_BYTES).await?;
    Ok(())
}

async fn tail(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let interval_ms = arguments.number("s")?.filter(|ms| *ms > 0).unwrap_or(FOLLOW_INTERVAL_MS);
    let mut item = Item::look_up(shell, &arguments.take_operand()?).await?;
    refuse_directory(&item)?;
    let mut offset = item.length().saturating_sub(EXCERPT_BYTES);
    loop {
        offset += print_range(shell, &item, offset, u64::MAX).await?;
        if !arguments.has("f") {
            return Ok(());
        }
        shell.console().flush()?;
        tokio::time::sleep(Duration::from_millis(interval_ms as u64)).await;
        item.refresh().await?;
        refuse_directory(&item)?;
        // A file that shrank is followed from its new end.
        offset = offset.min(item.length());
    }
}

/// Prints at most `length` bytes from `offset` on and says how many there were.
async fn print_range(
    shell: &mut Shell,
    item: &Item,
    offset: u64,
    length: u64,
) -> Result<u64, ShellError> {
    let mut source = item.file_system.open_at(&item.path, offset).await?;
    let mut left = length;
    while left > 0
        && let Some(mut data) = source.next().await?
    {
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        shell.console().bytes(&data)?;
        left -= data.len() as u64;
    }
    Ok(length - left)
}
