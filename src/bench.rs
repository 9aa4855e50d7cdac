//! `ringfs bench`: the measurements of the bench crate, on the command line.

use clap::Args;
use ringfs_bench::{BenchCommand, Session, SessionOptions};

use crate::error::CommandError;

#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    session: SessionOptions,
    #[command(subcommand)]
    what: BenchCommand,
}

impl Bench {
    pub fn run(self) -> Result<(), CommandError> {
        let mut session = Session::new(self.what.name(), self.session)?;
        self.what.run(&mut session)?;
        Ok(session.finish()?)
    }
}
