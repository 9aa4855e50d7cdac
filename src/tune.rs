//! `ringfs tune`: what this host gives a datanode, and what to change. Nothing is changed here.

use std::path::PathBuf;

use clap::Args;
use ringfs_datanode::ring::{ZeroCopyReceive, of_network_cards};
use ringfs_tuning::checks::{self, Check, Verdict};
use ringfs_tuning::disk::DiskFacts;
use ringfs_tuning::host::HostFacts;

use crate::error::CommandError;

#[derive(Debug, Args)]
pub struct TuneCommand {
    /// Directories that keep blocks, or will
    #[arg(value_name = "DIR", default_value = ".")]
    directories: Vec<PathBuf>,
}

impl TuneCommand {
    pub fn run(self) -> Result<(), CommandError> {
        for check in checks::of_host(&HostFacts::gather()).into_iter().chain(network_cards()) {
            println!("{check}");
        }
        for directory in &self.directories {
            let disk =
                DiskFacts::of(directory).map_err(CommandError::file("look at", directory))?;
            println!("{}: {disk}", directory.display());
            for check in checks::of_disk(&disk) {
                println!("  {check}");
            }
        }
        Ok(())
    }
}

/// Its absence is no fault: datanodes do without.
fn network_cards() -> impl Iterator<Item = Check> {
    of_network_cards().into_iter().map(|(card, answer)| Check {
        name: "zero-copy receive",
        verdict: Verdict::Good,
        found: match answer {
            ZeroCopyReceive::Offered => format!("{card} offers it; datanodes receive by copy"),
            absent => format!("{card}: {absent}"),
        },
        remedy: "",
    })
}
