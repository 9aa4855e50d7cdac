//! `ringfs bench`: the measurements of the bench crate, and the goals, on the command line.

use clap::{Args, Subcommand};
use ringfs_bench::{BenchCommand, Session, SessionOptions};

use crate::error::CommandError;
use crate::goals::GoalCommand;

#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    session: SessionOptions,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(flatten)]
    Measure(BenchCommand),
    /// Hold a cluster started for it against what this machine gives, and against another one
    Goal(GoalCommand),
}

impl Bench {
    pub fn run(self) -> Result<(), CommandError> {
        let name = match &self.what {
            What::Measure(command) => command.name(),
            What::Goal(_) => "goal",
        };
        let mut session = Session::new(name, self.session)?;
        let outcome = match self.what {
            What::Measure(command) => command.run(&mut session).map_err(CommandError::from),
            What::Goal(command) => command.run(&mut session),
        };
        // With a verdict, the figures that it is of are printed all the same.
        if outcome.as_ref().err().is_none_or(CommandError::is_verdict) {
            session.finish()?;
        }
        outcome
    }
}
