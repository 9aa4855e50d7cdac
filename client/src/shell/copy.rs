//! `-put`, `-get`, `-cp` and their other names.
//!
//! A file is written as `NAME._COPYING_` and renamed when it is complete, so that nobody reads half of
//! it; when anything fails, or the user interrupts, that file is removed. `-d` writes to the name
//! itself.

use tokio::task::JoinSet;

use super::arguments::{Arguments, OptionSpec, Takes, flag};
use super::command::{ANY_NUMBER, Command};
use super::destination;
use super::error::ShellError;
use super::file_system::Source;
use super::item::{Item, expand_all};
use super::progress::Progress;
use super::{Shell, temporaries::Temporaries};

const TEMPORARY_SUFFIX: &str = "._COPYING_";

/// Most files copied at the same time, whatever `-t` asks: each holds a block's worth of packets.
const THREADS_MAX: usize = 64;

const FORCE: OptionSpec = flag("f", "Replaces a file that exists.");
const PRESERVE: OptionSpec = flag("p", "Keeps times, owner, group and mode.");
const LAZY: OptionSpec = flag("l", "Writes one replica only, whatever the replication is set to.");
const DIRECT: OptionSpec = flag("d", "Writes to the name itself, not to a temporary file first.");
const THREADS: OptionSpec = OptionSpec {
    name: "t",
    alias: "",
    takes: Takes::Optional,
    value: "<thread count>",
    help: "Files copied at the same time (1).",
};
const QUEUE: OptionSpec = OptionSpec {
    name: "q",
    alias: "",
    takes: Takes::Optional,
    value: "<thread pool queue size>",
    help: "Taken for the sake of scripts; files wait in order.",
};
const IGNORE_CRC: OptionSpec = flag("ignoreCrc", "Does not verify checksums.");

pub const PUT: Command = Command {
    name: "put",
    options: &[FORCE, PRESERVE, LAZY, DIRECT, THREADS, QUEUE],
    operands: "<localsrc> ... <dst>",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Copies local files and directories into the file system; - is standard input. Several \
            sources need a directory to go to. A file that exists is an error unless -f is given.",
    run: |shell, arguments| Box::pin(put(shell, arguments, false)),
};

pub const COPY_FROM_LOCAL: Command =
    Command { name: "copyFromLocal", about: "The same as -put.", ..PUT };

pub const MOVE_FROM_LOCAL: Command = Command {
    name: "moveFromLocal",
    options: &[FORCE, PRESERVE, LAZY, DIRECT],
    about: "As -put, and removes each source once it is copied.",
    run: |shell, arguments| Box::pin(put(shell, arguments, true)),
    ..PUT
};

pub const GET: Command = Command {
    name: "get",
    options: &[FORCE, PRESERVE, IGNORE_CRC, THREADS, QUEUE],
    operands: "<src> ... <localdst>",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Copies files and directories to the local file system. Several sources need a directory \
            to go to. A file that exists is an error unless -f is given.",
    run: |shell, arguments| Box::pin(get(shell, arguments)),
};

pub const COPY_TO_LOCAL: Command =
    Command { name: "copyToLocal", about: "The same as -get.", ..GET };

pub const CP: Command = Command {
    name: "cp",
    options: &[
        FORCE,
        OptionSpec {
            name: "p",
            alias: "",
            takes: Takes::Suffix,
            value: "[topax]",
            help: "Keeps times (t), owner and group (o), mode (p); alone, all three. The letters \
                   a and x are taken and mean the mode and nothing: there are no ACLs or extended \
                   attributes.",
        },
        DIRECT,
        THREADS,
        QUEUE,
    ],
    operands: "<src> ... <dst>",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Copies files and directories within the file system, or between two of them.",
    run: |shell, arguments| Box::pin(cp(shell, arguments)),
};

#[derive(Clone, Copy, Debug, Default)]
struct Preserve {
    times: bool,
    ownership: bool,
    mode: bool,
}

impl Preserve {
    const ALL: Self = Self { times: true, ownership: true, mode: true };

    fn parse(letters: &str) -> Result<Self, ShellError> {
        let mut preserve = if letters.is_empty() { Self::ALL } else { Self::default() };
        for letter in letters.chars() {
            match letter.to_ascii_lowercase() {
                't' => preserve.times = true,
                'o' => preserve.ownership = true,
                'p' | 'a' => preserve.mode = true,
                'x' => {}
                other => return Err(ShellError::Usage(format!("No attribute for {other}"))),
            }
        }
        Ok(preserve)
    }

    async fn apply(self, source: &Item, target: &Item) -> Result<(), ShellError> {
        let status = source.status()?;
        let (file_system, path) = (&target.file_system, &target.path);
        if self.times {
            let (modified, accessed) = (Some(status.modified_ms), Some(status.accessed_ms));
            file_system.set_times(path, modified, accessed).await?;
        }
        if self.ownership {
            file_system.set_owner(path, Some(&status.owner), Some(&status.group)).await?;
        }
        if self.mode {
            file_system.set_mode(path, status.mode).await?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct CopyOptions {
    overwrite: bool,
    preserve: Preserve,
    direct: bool,
    one_replica: bool,
    verify_checksums: bool,
    remove_source: bool,
    threads: usize,
}

impl CopyOptions {
    fn from(arguments: &Arguments) -> Result<Self, ShellError> {
        let preserve = match arguments.value("p") {
            Some(letters) => Preserve::parse(letters)?,
            None => Preserve::default(),
        };
        arguments.number("q")?;
        let threads = arguments.number("t")?.unwrap_or(1).clamp(1, THREADS_MAX as i64);
        Ok(Self {
            overwrite: arguments.has("f"),
            preserve,
            direct: arguments.has("d"),
            one_replica: arguments.has("l"),
            verify_checksums: !arguments.has("ignoreCrc"),
            remove_source: false,
            threads: threads as usize,
        })
    }
}

async fn put(
    shell: &mut Shell,
    mut arguments: Arguments,
    remove_source: bool,
) -> Result<(), ShellError> {
    let options = CopyOptions { remove_source, ..CopyOptions::from(&arguments)? };
    let target = destination::remote(shell, &mut arguments.operands).await?;
    if arguments.operands == ["-"] {
        let source = Item::look_up_local("-").await?;
        let target = destination::target_of(&source, &target).await?;
        return Job { source, target, options, temporaries: shell.temporaries() }
            .run_from(Source::StandardInput)
            .await;
    }
    let mut sources = Vec::new();
    for operand in &arguments.operands {
        match Item::look_up_local(operand).await {
            Ok(source) => sources.push(source),
            Err(error) => shell.report(error)?,
        }
    }
    copy_all(shell, sources, target, options).await
}

async fn get(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let options = CopyOptions::from(&arguments)?;
    let target = destination::local(&mut arguments.operands).await?;
    let sources = expand_all(shell, arguments.operands).await?;
    copy_all(shell, sources, target, options).await
}

async fn cp(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let options = CopyOptions::from(&arguments)?;
    let target = destination::remote(shell, &mut arguments.operands).await?;
    let sources = expand_all(shell, arguments.operands).await?;
    copy_all(shell, sources, target, options).await
}

async fn copy_all(
    shell: &mut Shell,
    sources: Vec<Item>,
    destination: Item,
    options: CopyOptions,
) -> Result<(), ShellError> {
    if sources.is_empty() {
        return Ok(());
    }
    destination::check(sources.len(), &destination, options.overwrite).await?;
    let mut copier = Copier { options, running: JoinSet::new(), steps: Vec::new() };
    for source in sources {
        if let Err(error) = copier.start(&source, &destination).await {
            shell.report(error)?;
            continue;
        }
        copier.finish(shell).await?;
    }
    copier.wait(shell).await
}

/// What is left to do of one source, the next step last.
enum Step {
    /// Copy `source` to `target`, whatever it is.
    Copy { source: Item, target: Item },
    /// All that `source`, a directory, holds is copied.
    Leave { source: Item, target: Item },
}

struct Copier {
    options: CopyOptions,
    running: JoinSet<Result<(), ShellError>>,
    steps: Vec<Step>,
}

impl Copier {
    async fn start(&mut self, source: &Item, destination: &Item) -> Result<(), ShellError> {
        source.status()?;
        let target = destination::target_of(source, destination).await?;
        destination::refuse_into_itself(source, &target)?;
        self.steps.push(Step::Copy { source: source.clone(), target });
        Ok(())
    }

    async fn finish(&mut self, shell: &mut Shell) -> Result<(), ShellError> {
        while let Some(step) = self.steps.pop() {
            let outcome = match step {
                Step::Copy { source, target } if source.is_directory() => {
                    self.enter(source, target).await
                }
                Step::Copy { source, target } => self.file(shell, source, target).await,
                Step::Leave { source, target } => {
                    self.wait(shell).await?;
                    self.leave(&source, &target).await
                }
            };
            if let Err(error) = outcome {
                shell.report(error)?;
            }
        }
        Ok(())
    }

    async fn enter(&mut self, source: Item, mut target: Item) -> Result<(), ShellError> {
        match &target.status {
            Some(_) if self.options.remove_source => {
                return Err(ShellError::Exists(target.text));
            }
            Some(status) if !status.is_directory => {
                return Err(ShellError::NotDirectory(target.text));
            }
            Some(_) => {}
            None => {
                if !target.file_system.make_directories(&target.path).await? {
                    return Err(ShellError::Operation { operation: "mkdir", path: target.text });
                }
                target.refresh().await?;
            }
        }
        let children = source.children().await?;
        let mut copies = Vec::with_capacity(children.len());
        for child in children {
            let target = target.child(child.name()).await?;
            copies.push(Step::Copy { source: child, target });
        }
        self.steps.push(Step::Leave { source, target });
        self.steps.extend(copies.into_iter().rev());
        Ok(())
    }

    async fn leave(&self, source: &Item, target: &Item) -> Result<(), ShellError> {
        self.options.preserve.apply(source, target).await?;
        if self.options.remove_source {
            remove(source).await?;
        }
        Ok(())
    }

    async fn file(
        &mut self,
        shell: &mut Shell,
        source: Item,
        target: Item,
    ) -> Result<(), ShellError> {
        let job = Job { source, target, options: self.options, temporaries: shell.temporaries() };
        if self.options.threads == 1 {
            return job.run().await;
        }
        while self.running.len() >= self.options.threads {
            self.wait_for_one(shell).await?;
        }
        // Local files block, so each copy has a thread of its own.
        let runtime = tokio::runtime::Handle::current();
        self.running.spawn_blocking(move || runtime.block_on(job.run()));
        Ok(())
    }

    async fn wait(&mut self, shell: &mut Shell) -> Result<(), ShellError> {
        while !self.running.is_empty() {
            self.wait_for_one(shell).await?;
        }
        Ok(())
    }

    async fn wait_for_one(&mut self, shell: &mut Shell) -> Result<(), ShellError> {
        match self.running.join_next().await {
            Some(Ok(Err(error))) => shell.report(error),
            Some(Err(panic)) => {
                Err(ShellError::Message(format!("a copy ended abnormally: {panic}")))
            }
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }
}

async fn remove(source: &Item) -> Result<(), ShellError> {
    let failed = || ShellError::Operation { operation: "remove", path: source.text.clone() };
    match source.file_system.delete(&source.path, false).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(failed()),
    }
}

/// One file to copy.
struct Job {
    source: Item,
    target: Item,
    options: CopyOptions,
    temporaries: Temporaries,
}

impl Job {
    async fn run(self) -> Result<(), ShellError> {
        let verify = self.options.verify_checksums;
        if self.options.remove_source && self.target.is_directory() {
            return Err(ShellError::Exists(self.target.text));
        }
        let input = self.source.file_system.open(&self.source.path, verify).await?;
        self.run_from(input).await
    }

    async fn run_from(self, input: Source) -> Result<(), ShellError> {
        let Self { source, target, options, temporaries } = self;
        if target.exists() && (target.is_directory() || !options.overwrite) {
            return Err(ShellError::Exists(target.text));
        }
        if options.direct {
            write_file(input, &source, &target, options).await?;
        } else {
            let temporary = target.with_suffix(TEMPORARY_SUFFIX);
            temporaries.add(&temporary);
            let outcome = match write_file(input, &source, &temporary, options).await {
                Ok(()) => put_in_place(&temporary, &target).await,
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                // The first error is the one to tell; a file that was never made cannot be deleted.
                let _ = temporary.file_system.delete(&temporary.path, false).await;
            }
            temporaries.forget(&temporary);
            outcome?;
        }
        if source.exists() {
            options.preserve.apply(&source, &target).await?;
        }
        if options.remove_source {
            remove(&source).await?;
        }
        Ok(())
    }
}

async fn write_file(
    mut input: Source,
    source: &Item,
    target: &Item,
    options: CopyOptions,
) -> Result<(), ShellError> {
    let mut output = target.file_system.create(&target.path, options.one_replica).await?;
    let length = source.status.as_ref().map(|status| status.length);
    let mut progress = Progress::new(&source.text, length, options.threads == 1);
    while let Some(data) = input.next().await? {
        progress.advance(data.len() as u64);
        output.write(data).await?;
    }
    output.close().await
}

async fn put_in_place(temporary: &Item, target: &Item) -> Result<(), ShellError> {
    let file_system = &target.file_system;
    if target.exists() && !file_system.delete(&target.path, false).await? {
        return Err(ShellError::Operation { operation: "delete", path: target.text.clone() });
    }
    if !file_system.rename(&temporary.path, &target.path).await? {
        return Err(ShellError::Operation { operation: "rename", path: temporary.text.clone() });
    }
    Ok(())
}
