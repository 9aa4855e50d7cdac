//! `ringfs bench`: the measurements of the bench crate, on the command line.

use clap::Args;
use ringfs_bench::{BenchCommand, BenchError, Session, SessionOptions};

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
        let outcome = self.what.run(&mut session);
        if outcome.as_ref().err().is_none_or(BenchError::is_verdict) {
            session.finish()?;
        }
        Ok(outcome?)
    }
}
