//! What the processes say about themselves, on stderr: `RINGFS_LOG` chooses, in the form of
//! `RUST_LOG` (`debug`, `ringfs_namenode=trace,info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub const VARIABLE: &str = "RINGFS_LOG";

/// `level` holds while the variable is not set; a variable that does not parse is said and ignored.
pub fn start(level: &str) {
    let filter = match std::env::var(VARIABLE) {
        Ok(wanted) => EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            eprintln!("ringfs: {VARIABLE}={wanted}: {error}");
            EnvFilter::new(level)
        }),
        Err(_) => EnvFilter::new(level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
