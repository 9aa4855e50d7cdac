//! `ringfs datanode`: its arguments.

use std::path::PathBuf;

use ringfs_protocol::site_config::Configuration;

use crate::error::Result;
use crate::process;

/// Stores blocks in the directories of dfs.datanode.data.dir, until SIGTERM or SIGINT.
#[derive(Clone, Debug, clap::Args)]
pub struct DatanodeCommand {
    /// Directory of core-site.xml and hdfs-site.xml
    #[arg(long, alias = "conf", value_name = "DIR", env = "HADOOP_CONF_DIR")]
    config: Option<PathBuf>,

    /// Set a property, over what the files say (unless it is final there)
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = definition)]
    definitions: Vec<(String, String)>,
}

impl DatanodeCommand {
    pub fn run(self) -> Result<()> {
        process::run(&Configuration::load(self.config.as_deref(), &self.definitions)?)
    }
}

fn definition(argument: &str) -> std::result::Result<(String, String), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
