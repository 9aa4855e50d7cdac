//! Calls whose first reply is lost, every one of them: the repetition gets the answer that the first
//! run had, and nothing is done twice; also when the namenode is killed in between.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfs_client::{Client, ClientError, CreateOptions};
use ringfs_protocol::site_config::Configuration;

use crate::cluster::reply_proxy::ReplyProxy;
use crate::cluster::{TestCluster, sample, wait_for};

const BLOCK: u64 = sample::BLOCK as u64;

struct Site {
    cluster: Arc<Mutex<TestCluster>>,
    proxy: ReplyProxy,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Site {
    /// `kills`: each lost reply comes with a `kill -9` of the namenode.
    fn start(kills: bool) -> Self {
        let settings = [
            ("ipc.client.connect.retry.interval", "20"),
            ("dfs.client.socket-timeout", "1500"),
            ("ringfs.pipeline.timeout.per-datanode", "500"),
            ("dfs.client.block.write.replace-datanode-on-failure.best-effort", "true"),
        ];
        let cluster = TestCluster::start_with(3, &settings);
        let (namenode, conf_dir) = (cluster.namenode_address(), cluster.conf_dir());
        let cluster = Arc::new(Mutex::new(cluster));
        let killed = cluster.clone();
        let proxy = ReplyProxy::start(namenode, move || {
            if kills {
                let mut cluster = killed.lock().unwrap();
                cluster.kill_namenode();
                cluster.start_namenode().unwrap();
                cluster.wait_until_serving(3).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let configuration = Configuration::load(Some(&conf_dir), &[]).unwrap();
        let client = Client::connect(&configuration, Some(&proxy.uri())).unwrap();
        Self { cluster, proxy, runtime, client }
    }

    /// Runs one thing, of which at least one reply must have been lost.
    #[track_caller]
    fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>) -> T {
        let lost = self.proxy.lost();
        let done = self.runtime.block_on(work(&self.client)).unwrap_or_else(|e| panic!("{e}"));
        assert!(self.proxy.lost() > lost, "no reply was lost");
        done
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        self.run(async |client| {
            let mut writer = client.create(path, CreateOptions::default()).await?;
            writer.write_slice(bytes).await?;
            writer.close().await
        });
    }

    fn append(&self, path: &str, bytes: &[u8]) {
        self.run(async |client| {
            let mut writer = client.append(path).await?;
            writer.write_slice(bytes).await?;
            writer.hflush().await?;
            writer.close().await
        });
    }

    #[track_caller]
    fn assert_lost(&self, methods: &[&str]) {
        let lost = self.proxy.lost_methods();
        let missing: Vec<_> =
            methods.iter().filter(|method| !lost.iter().any(|name| name == **method)).collect();
        assert!(missing.is_empty(), "no reply was lost of {missing:?}, only of {lost:?}");
    }

    #[track_caller]
    fn assert_holds(&self, path: &str, bytes: &[u8]) {
        let library = self.cluster.lock().unwrap().connect();
        assert!(library.read(path).unwrap() == bytes, "{path}");
    }

    fn await_closed(&self, path: &str) {
        let library = self.cluster.lock().unwrap().connect();
        wait_for(&format!("{path} closed"), Duration::from_secs(30), || {
            let closed = library.run(async |client| client.is_file_closed(path).await);
            closed.unwrap_or(false).then_some(())
        });
    }
}

#[test]
fn every_call_gets_its_first_answer_when_replies_are_lost() {
    calls_get_their_first_answers(&Site::start(false));
}

#[test]
fn every_call_gets_its_first_answer_from_a_namenode_that_was_killed() {
    calls_get_their_first_answers(&Site::start(true));
}

fn calls_get_their_first_answers(site: &Site) {
    let bytes = sample::bytes(2 * sample::BLOCK + 70_001);
    // create, addBlock, complete; append, fsync; truncate at a block's end and within one.
    site.write("/d/f", &bytes);
    site.assert_holds("/d/f", &bytes);
    site.append("/d/f", b"more");
    site.assert_holds("/d/f", &[&bytes, b"more".as_slice()].concat());
    assert!(site.run(async |client| client.truncate("/d/f", BLOCK).await));
    site.append("/d/f", b"again");
    site.assert_holds("/d/f", &[&bytes[..sample::BLOCK], b"again".as_slice()].concat());
    assert!(!site.run(async |client| client.truncate("/d/f", BLOCK / 2).await));
    site.await_closed("/d/f");
    site.assert_holds("/d/f", &bytes[..sample::BLOCK / 2]);

    // rename answers false to a repetition that is run, rename2 throws, delete answers false.
    assert!(site.run(async |client| client.rename("/d/f", "/d/g").await));
    site.run(async |client| client.rename2("/d/g", "/d/h", false, false).await);
    site.write("/d/victim", &bytes[..10]);
    site.run(async |client| client.rename2("/d/h", "/d/victim", true, false).await);
    site.assert_holds("/d/victim", &bytes[..sample::BLOCK / 2]);
    assert!(site.run(async |client| client.set_replication("/d/victim", 2).await));
    assert!(site.run(async |client| client.delete("/d/victim", false).await));

    site.write("/c/one", &bytes[..sample::BLOCK]);
    site.write("/c/two", &bytes[sample::BLOCK..]);
    site.run(async |client| client.concat("/c/one", &["/c/two"]).await);
    site.assert_holds("/c/one", &bytes);

    site.run(async |client| client.mkdirs("/m/n", 0o755, true).await);
    site.run(async |client| client.set_permission("/m", 0o700).await);
    site.run(async |client| client.set_times("/c/one", Some(1_000), Some(2_000)).await);
    let status = site.run(async |client| client.file_status("/c/one").await).unwrap();
    assert_eq!((status.mtime_ms, status.atime_ms), (1_000, 2_000));
    let create = site.runtime.block_on(site.client.create("/c/one", CreateOptions::default()));
    assert!(create.is_err_and(|error| error.to_string().contains("already exists")));
    site.assert_lost(&[
        "create",
        "addBlock",
        "complete",
        "append",
        "fsync",
        "truncate",
        "rename",
        "rename2",
        "setReplication",
        "delete",
        "concat",
        "mkdirs",
        "setPermission",
        "setTimes",
    ]);
}

/// updateBlockForPipeline, getAdditionalDatanode and updatePipeline of a writer whose datanodes die,
/// addBlock and abandonBlock of one who meets a dead one.
#[test]
fn a_pipeline_recovers_though_every_reply_is_lost() {
    let site = Site::start(false);
    let bytes = sample::bytes(2 * sample::BLOCK + 70_001);
    site.run(async |client| {
        let mut writer = client.create("/f", CreateOptions::default()).await?;
        writer.write_slice(&bytes[..500_000]).await?;
        writer.hflush().await?;
        site.cluster.lock().unwrap().kill_datanode(1);
        writer.write_slice(&bytes[500_000..]).await?;
        writer.close().await
    });
    site.cluster.lock().unwrap().start_all().unwrap();
    site.assert_holds("/f", &bytes);
    site.cluster.lock().unwrap().kill_datanode(2);
    site.write("/g", &bytes);
    site.assert_holds("/g", &bytes);
    site.assert_lost(&[
        "updateBlockForPipeline",
        "getAdditionalDatanode",
        "updatePipeline",
        "abandonBlock",
        "addBlock",
        "complete",
    ]);
}
