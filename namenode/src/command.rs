//! `ringfs namenode`: its arguments.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ringfs_protocol::site_config::{Configuration, user_name};
use tokio::signal::unix::{SignalKind, signal};

use crate::backup;
use crate::clock::SystemClock;
use crate::config::NamespaceConfig;
use crate::error::{NamenodeError, Result};
use crate::format::{self, FormatOptions};
use crate::server;
use crate::store_check;

/// Keeps the namespace in the directory of dfs.namenode.name.dir, until SIGTERM or SIGINT.
#[derive(Clone, Debug, clap::Args)]
pub struct NamenodeCommand {
    /// Create an empty namespace instead of serving one
    #[arg(long)]
    format: bool,

    /// Erase a namespace that is already there
    #[arg(long, requires = "format")]
    force: bool,

    /// Cluster id of the new namespace, instead of a random one
    #[arg(long, value_name = "ID", requires = "format")]
    clusterid: Option<String>,

    /// Accepted for scripts: nothing is ever asked
    #[arg(long, alias = "nonInteractive", requires = "format")]
    non_interactive: bool,

    /// Copy the namespace to a new directory, from the running namenode if there is one
    #[arg(long, value_name = "DIR", conflicts_with = "format")]
    backup: Option<PathBuf>,

    /// Verify each page of the namespace, of any size, while no namenode serves it
    #[arg(long, conflicts_with_all = ["format", "backup"])]
    verify: bool,

    /// Directory of core-site.xml and hdfs-site.xml
    #[arg(long, alias = "conf", value_name = "DIR", env = "HADOOP_CONF_DIR")]
    config: Option<PathBuf>,

    /// Set a property, over what the files say (unless it is final there)
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = definition)]
    definitions: Vec<(String, String)>,
}

impl NamenodeCommand {
    pub fn run(self) -> Result<()> {
        let configuration = Configuration::load(self.config.as_deref(), &self.definitions)?;
        if self.format {
            return self.format(&configuration);
        }
        if let Some(target) = &self.backup {
            return back_up(&configuration, target);
        }
        if self.verify {
            return verify(&configuration);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| NamenodeError::system("starting threads", error))?;
        runtime.block_on(serve(&configuration))
    }

    fn format(self, configuration: &Configuration) -> Result<()> {
        let directory = format::name_directory(configuration)?;
        let config = NamespaceConfig::load(configuration, user_name())?;
        let options = FormatOptions { force: self.force, cluster_id: self.clusterid };
        let identity = format::format(&directory, &config, &options, &SystemClock::new())?;
        println!(
            "{} has been formatted: cluster {}, block pool {}",
            directory.display(),
            identity.cluster_id,
            identity.block_pool_id
        );
        Ok(())
    }
}

fn back_up(configuration: &Configuration, target: &Path) -> Result<()> {
    let directory = format::name_directory(configuration)?;
    let bytes = backup::back_up(&directory, target)?;
    println!(
        "{} has been backed up to {} ({bytes} bytes); to restore it, let dfs.namenode.name.dir be that",
        directory.display(),
        target.display()
    );
    Ok(())
}

fn verify(configuration: &Configuration) -> Result<()> {
    let file = format::store_file(&format::name_directory(configuration)?);
    let bytes = store_check::verify(&file)?;
    println!("{}: all of its {bytes} bytes are as they were written", file.display());
    Ok(())
}

/// Serves until SIGTERM or SIGINT.
async fn serve(configuration: &Configuration) -> Result<()> {
    let install = |kind| {
        signal(kind).map_err(|error| NamenodeError::system("installing a signal handler", error))
    };
    let (mut interrupt, mut terminate) =
        (install(SignalKind::interrupt())?, install(SignalKind::terminate())?);
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    // Scripts that let the system choose the port read it here.
    let serving = |address: SocketAddr| println!("hdfs://{address}");
    server::run(configuration, serving, shutdown).await
}

fn definition(argument: &str) -> std::result::Result<(String, String), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
