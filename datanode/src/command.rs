//! `ringfs datanode`: its arguments.

use std::path::PathBuf;

use ringfs_protocol::site_config::Configuration;

use crate::error::Result;
use crate::process;
use crate::volume::BlockData;

/// Stores blocks in the directories of dfs.datanode.data.dir, until SIGTERM or SIGINT.
#[derive(Clone, Debug, clap::Args)]
pub struct DatanodeCommand {
    /// Directory of core-site.xml and hdfs-site.xml
    #[arg(long, alias = "conf", value_name = "DIR", env = "HADOOP_CONF_DIR")]
    config: Option<PathBuf>,

    /// Set a property, over what the files say (unless it is final there)
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = definition)]
    definitions: Vec<(String, String)>,

    /// Throw the data of blocks away: for measurements without a disk, and for nothing else. Not a
    /// setting, so that no file can turn it on; every directory must be discard:///PATH then
    #[arg(long, hide = true)]
    bench_discard_block_data: bool,
}

impl DatanodeCommand {
    pub fn run(self) -> Result<()> {
        let block_data = match self.bench_discard_block_data {
            true => BlockData::Discarded,
            false => BlockData::Stored,
        };
        process::run(&Configuration::load(self.config.as_deref(), &self.definitions)?, block_data)
    }
}

fn definition(argument: &str) -> std::result::Result<(String, String), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
