//! Asks a namenode whether its cluster serves.

use std::fmt;
use std::time::Duration;

use ringfs_protocol::messages::{
    DatanodeReportTypeProto, GetDatanodeReportRequestProto, GetDatanodeReportResponseProto,
    SafeModeActionProto, SetSafeModeRequestProto, SetSafeModeResponseProto,
};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions, RpcError};
use ringfs_protocol::rpc::protocol_name;

#[derive(Clone, Copy, Debug)]
pub struct Status {
    pub safe_mode: bool,
    pub live_datanodes: usize,
    /// Those of them whose blocks the namenode knows.
    pub reported_datanodes: usize,
}

impl Status {
    pub fn serves(&self, datanodes: usize) -> bool {
        !self.safe_mode && self.reported_datanodes >= datanodes
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let safe_mode = if self.safe_mode { "on" } else { "off" };
        let (live, reported) = (self.live_datanodes, self.reported_datanodes);
        write!(f, "safe mode {safe_mode}, {live} live datanodes, {reported} reported their blocks")
    }
}

/// A connection to the namenode, with the thread of execution it needs.
pub struct Probe {
    runtime: Option<tokio::runtime::Runtime>,
    namenode: RpcClient,
}

impl Probe {
    pub fn new(address: &str) -> Self {
        let timeout = Duration::from_secs(2);
        let options = RpcClientOptions {
            connect_timeout: timeout,
            call_timeout: Some(timeout),
            ..RpcClientOptions::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok();
        let user = std::env::var("HADOOP_USER_NAME").unwrap_or_else(|_| "ringfs".to_owned());
        Self { runtime, namenode: RpcClient::new(address, protocol_name::CLIENT, &user, options) }
    }

    /// An error is a sentence: while a namenode starts, no answer is what is expected.
    pub fn ask(&mut self) -> Result<Status, String> {
        let runtime = self.runtime.as_ref().ok_or("no runtime for remote calls")?;
        runtime.block_on(status(&self.namenode)).map_err(|error| error.to_string())
    }
}

async fn status(namenode: &RpcClient) -> Result<Status, RpcError> {
    let get =
        SetSafeModeRequestProto { action: SafeModeActionProto::SafemodeGet.into(), checked: None };
    let safe_mode: SetSafeModeResponseProto = namenode.call("setSafeMode", &get).await?;
    let live = GetDatanodeReportRequestProto { r#type: DatanodeReportTypeProto::Live.into() };
    let report: GetDatanodeReportResponseProto = namenode.call("getDatanodeReport", &live).await?;
    let reported = |time: Option<u64>| time.is_some_and(|time| time > 0);
    Ok(Status {
        safe_mode: safe_mode.result,
        live_datanodes: report.di.len(),
        reported_datanodes: report
            .di
            .iter()
            .filter(|datanode| reported(datanode.last_block_report_time))
            .count(),
    })
}
