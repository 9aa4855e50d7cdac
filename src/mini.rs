//! `ringfs mini`: a cluster on this machine for as long as the command runs. Its URI is the only
//! thing on stdout, for scripts; what a person wants to know goes to stderr.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ringfs::cluster::{Cluster, ClusterOptions};
use tempfile::TempDir;

use crate::error::CommandError;

#[derive(Debug, Args)]
pub struct MiniCommand {
    /// Datanodes to start [default: as many as DIR has, else 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    datanodes: Option<u16>,
    /// RPC port of the namenode [default: the directory's last one while it is free, else any]
    #[arg(long)]
    port: Option<u16>,
    /// Directory to keep the cluster in; one that was used before is served again
    #[arg(long, default_value = "ringfs-mini")]
    dir: PathBuf,
    /// Use a new directory below the current one, and delete it at the end
    #[arg(long, conflicts_with = "dir")]
    temp: bool,
    /// A setting of all processes and clients, such as dfs.blocksize=64m
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl MiniCommand {
    /// Ends when a child ends, or by being dropped.
    pub async fn run(self) -> Result<(), CommandError> {
        let temporary = if self.temp { Some(Arc::new(temporary_directory("mini")?)) } else { None };
        let directory = match &temporary {
            Some(temporary) => temporary.path(),
            None => self.dir.as_path(),
        };
        let mut options = ClusterOptions::new(&this_binary()?, directory);
        options.datanodes = match self.datanodes {
            Some(datanodes) => datanodes.into(),
            None => datanodes_of_before(directory).max(3),
        };
        options.namenode_port = self.port;
        options.settings = self.settings;
        let mut running = Running::start(options, temporary.clone()).await?;
        announce(running.cluster(), temporary.is_none()).map_err(CommandError::Output)?;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            running.cluster().check_children()?;
        }
    }
}

/// A cluster that is stopped in order when this is dropped, and its directory that is deleted after
/// that when it is a temporary one.
pub struct Running {
    cluster: Option<Cluster>,
    _temporary: Option<Arc<TempDir>>,
}

impl Running {
    pub async fn start(
        options: ClusterOptions,
        temporary: Option<Arc<TempDir>>,
    ) -> Result<Self, CommandError> {
        let starting = tokio::task::spawn_blocking(move || {
            let cluster = Some(Cluster::start(options)?);
            Ok(Self { cluster, _temporary: temporary })
        });
        starting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("only drop takes it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.cluster.take().map(|mut cluster| cluster.stop()) {
            eprintln!("ringfs: {error}");
        }
    }
}

/// In the current directory: it is on a disk, while `/tmp` may be memory.
pub fn temporary_directory(what: &str) -> Result<TempDir, CommandError> {
    tempfile::Builder::new()
        .prefix(&format!("ringfs-{what}-"))
        .tempdir_in(".")
        .map_err(CommandError::file("create a directory in", Path::new(".")))
}

pub fn this_binary() -> Result<PathBuf, CommandError> {
    std::env::current_exe().map_err(CommandError::file("find", Path::new("this executable")))
}

/// A `-D` argument.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn datanodes_of_before(directory: &Path) -> usize {
    (0..).take_while(|index| directory.join(format!("data{index}")).exists()).count()
}

fn announce(cluster: &Cluster, kept: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", cluster.uri())?;
    out.flush()?;
    let conf = cluster.conf_dir();
    let fate = if kept { "kept" } else { "deleted at the end" };
    eprintln!(
        "{} datanodes, {fate}: {}\nfor any Hadoop client:  export HADOOP_CONF_DIR={}\n\
         for this one:           ringfs dfs -fs {} -ls /\nCtrl-C stops it",
        cluster.datanode_count(),
        conf.parent().unwrap_or(&conf).display(),
        conf.display(),
        cluster.uri(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_a_name() {
        assert_eq!(setting("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert_eq!(setting("a="), Ok(("a".to_owned(), String::new())));
        assert!(setting("=v").is_err() && setting("word").is_err());
    }

    #[test]
    fn counts_the_datanodes_that_a_directory_had() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(datanodes_of_before(directory.path()), 0);
        for index in [0, 1, 3] {
            std::fs::create_dir(directory.path().join(format!("data{index}"))).unwrap();
        }
        assert_eq!(datanodes_of_before(directory.path()), 2);
    }
}
