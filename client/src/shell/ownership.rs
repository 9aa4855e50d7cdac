//! `-chmod`, `-chown` and `-chgrp`.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, Walk, expand_all};
use super::mode::ModeChange;

pub const CHMOD: Command = Command {
    name: "chmod",
    options: &[flag("R", "Descends into directories.")],
    operands: "<MODE[,MODE]... | OCTALMODE> PATH...",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: true,
    about: "Changes permissions: three octal digits, or four with the sticky bit (0 or 1) first, or \
            clauses of [ugoa][+-=][rwxXt] with commas between. A clause without ugoa is for all; no \
            umask is applied.",
    run: |shell, arguments| Box::pin(chmod(shell, arguments)),
};

pub const CHOWN: Command = Command {
    name: "chown",
    operands: "[OWNER][:[GROUP]] PATH...",
    leaves_unknown_options: false,
    about: "Changes owner, group or both. Names are letters, digits and any of -+_./@.",
    run: |shell, arguments| Box::pin(chown(shell, arguments)),
    ..CHMOD
};

pub const CHGRP: Command = Command {
    name: "chgrp",
    operands: "GROUP PATH...",
    about: "Changes the group, as -chown :GROUP does.",
    run: |shell, arguments| Box::pin(chgrp(shell, arguments)),
    ..CHOWN
};

async fn chmod(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let text = arguments.take_operand()?;
    let change = ModeChange::parse(&text).ok_or_else(|| {
        ShellError::Usage(format!("chmod : mode '{text}' does not match the expected pattern."))
    })?;
    each(shell, arguments, async |item: &Item| {
        let status = item.status()?;
        let mode = change.apply(status.mode, status.is_directory);
        if mode == status.mode {
            return Ok(());
        }
        item.file_system.set_mode(&item.path, mode).await.map_err(|error| {
            let reason = error.first_line();
            ShellError::Message(format!("changing permissions of '{}': {reason}", item.text))
        })
    })
    .await
}

async fn chown(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let text = arguments.take_operand()?;
    let (owner, group) = split_owner(&text)?;
    change_owner(shell, arguments, owner, group).await
}

async fn chgrp(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let text = arguments.take_operand()?;
    let group = Some(text.trim().to_owned()).filter(|name| is_name(name)).ok_or_else(|| {
        ShellError::Usage(format!("'{text}' does not match expected pattern for group"))
    })?;
    change_owner(shell, arguments, None, Some(group)).await
}

/// Owner and group of `owner`, `owner:group`, `owner:` or `:group`.
fn split_owner(text: &str) -> Result<(Option<String>, Option<String>), ShellError> {
    let (owner, group) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
    if [owner, group].iter().any(|name| !name.is_empty() && !is_name(name)) {
        return Err(ShellError::Usage(format!(
            "'{text}' does not match expected pattern for [owner][:group]."
        )));
    }
    let given = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    if owner.is_empty() && group.is_empty() {
        return Err(ShellError::Usage(format!("'{text}' does not specify owner or group.")));
    }
    Ok((given(owner), given(group)))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-+_./@".contains(c))
}

async fn change_owner(
    shell: &mut Shell,
    arguments: Arguments,
    owner: Option<String>,
    group: Option<String>,
) -> Result<(), ShellError> {
    each(shell, arguments, async |item: &Item| {
        let status = item.status()?;
        let owner = owner.as_deref().filter(|name| *name != status.owner);
        let group = group.as_deref().filter(|name| *name != status.group);
        if owner.is_none() && group.is_none() {
            return Ok(());
        }
        item.file_system.set_owner(&item.path, owner, group).await.map_err(|error| {
            let reason = error.first_line();
            ShellError::Message(format!("changing ownership of '{}': {reason}", item.text))
        })
    })
    .await
}

/// Does the change to each path, and with `-R` to all below.
async fn each(
    shell: &mut Shell,
    arguments: Arguments,
    change: impl AsyncFn(&Item) -> Result<(), ShellError>,
) -> Result<(), ShellError> {
    let recursive = arguments.has("R");
    let mut walk = Walk::from(expand_all(shell, arguments.operands).await?);
    while let Some(item) = walk.next() {
        match change(&item).await {
            Ok(()) if recursive => walk.enter(shell, &item).await?,
            Ok(()) => {}
            Err(error) => shell.report(error)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let split = |text| split_owner(text).ok();
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(split("alice"), Some((some("alice"), None)));
        assert_eq!(split("alice:staff"), Some((some("alice"), some("staff"))));
        assert_eq!(split("alice:"), Some((some("alice"), None)));
        assert_eq!(split(":staff"), Some((None, some("staff"))));
        assert_eq!(split(" a+b.c@d "), Some((some("a+b.c@d"), None)));
        for wrong in [":", "", "a!b", "a:b:c", "a b"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
