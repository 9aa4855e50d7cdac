//! `ringfs settings`: the table of all settings.

use std::io::{self, Write};

use ringfs_protocol::settings::ALL;

use crate::error::CommandError;

pub fn print() -> Result<(), CommandError> {
    write_table(&mut io::stdout().lock()).map_err(CommandError::Output)
}

/// One setting a line, in columns; a name or default that is longer than its column only moves the
/// rest of its own line.
fn write_table(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<52}  {:<20}  MEANING", "NAME", "DEFAULT")?;
    for setting in ALL {
        let default = if setting.default.is_empty() { "-" } else { setting.default };
        writeln!(out, "{:<52}  {default:<20}  {}", setting.name, setting.meaning)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_setting() {
        let mut table = Vec::new();
        write_table(&mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        assert_eq!(table.lines().count(), ALL.len() + 1);
        for setting in ALL {
            let line = table.lines().find(|line| line.starts_with(setting.name)).unwrap();
            assert!(line.contains(setting.meaning), "{line}");
        }
    }
}
