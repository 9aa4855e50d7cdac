//! The hdfs-native crate, a client written in Rust by others, on a cluster of ours.

use std::collections::HashMap;

use ::hdfs_native::client::FileStatus;
use ::hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use bytes::Bytes;

use crate::cluster::{TestCluster, sample};

/// Runs `test` on a fresh cluster, which is started and stopped outside the runtime.
fn with_client(test: impl AsyncFnOnce(&Client)) {
    let cluster = TestCluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = ClientBuilder::new()
        .with_url(cluster.uri())
        .with_config(HashMap::from([("dfs.replication", "3")]))
        .build()
        .unwrap();
    runtime.block_on(test(&client));
}

async fn write(client: &Client, path: &str, bytes: &[u8], options: WriteOptions) {
    let mut writer = client.create(path, options).await.unwrap();
    for piece in bytes.chunks(150_001) {
        writer.write_bytes(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.close().await.unwrap();
}

async fn read(client: &Client, path: &str) -> Vec<u8> {
    let mut reader = client.read(path).await.unwrap();
    reader.read_bytes(reader.file_length()).await.unwrap().to_vec()
}

fn blocks_of_1m() -> WriteOptions {
    WriteOptions::default().block_size(1 << 20).replication(3)
}

#[test]
fn writes_and_reads_files_of_every_size() {
    with_client(async |client| {
        let bytes = sample::bytes(3 * sample::BLOCK + 70_001);
        for golden in sample::GOLDEN {
            let path = format!("/sizes/f{}", golden.len);
            write(client, &path, &bytes[..golden.len], blocks_of_1m()).await;
            assert!(read(client, &path).await == bytes[..golden.len], "{path} differs");
        }
        let reader = client.read("/sizes/f3215729").await.unwrap();
        for (offset, len) in [(0, 1), (511, 2), (65_535, 70_000), (1_048_570, 12), (3_215_000, 729)]
        {
            let range = reader.read_range(offset, len).await.unwrap();
            assert!(range == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
    });
}

#[test]
fn appends_wherever_a_file_ends() {
    with_client(async |client| {
        // Within a chunk, at a chunk's end, over a packet's, at a block's end, in the next block.
        let steps = [1, 100, 411, 512, 64_000, (1 << 20) - 65_024, 1, 700_000];
        let bytes = sample::bytes(steps.iter().sum());
        write(client, "/a", &[], blocks_of_1m()).await;
        let mut len = 0;
        for step in steps {
            let mut writer = client.append("/a").await.unwrap();
            writer.write_bytes(Bytes::copy_from_slice(&bytes[len..len + step])).await.unwrap();
            writer.close().await.unwrap();
            len += step;
            assert!(
                read(client, "/a").await == bytes[..len],
                "after appending {step} at {}",
                len - step
            );
        }
    });
}

#[test]
fn lists_renames_and_deletes() {
    with_client(async |client| {
        client.mkdirs("/d/sub", 0o750, true).await.unwrap();
        write(client, "/d/one", b"one", blocks_of_1m()).await;
        write(client, "/d/sub/two", b"two and more", blocks_of_1m()).await;
        let names = |entries: Vec<FileStatus>| {
            entries.into_iter().map(|entry| (entry.path, entry.length)).collect::<Vec<_>>()
        };
        let flat = names(client.list_status("/d", false).await.unwrap());
        assert_eq!(flat, [("/d/one".to_owned(), 3), ("/d/sub".to_owned(), 0)]);
        assert_eq!(client.list_status("/d", true).await.unwrap().len(), 3);

        let refused = client.rename("/d/one", "/d/sub/two", false).await.unwrap_err();
        assert!(matches!(refused, HdfsError::AlreadyExists(_)), "{refused:?}");
        client.rename("/d/one", "/d/sub/two", true).await.unwrap();
        assert_eq!(read(client, "/d/sub/two").await, b"one");
        client.rename("/d/sub", "/moved", false).await.unwrap();
        let info = client.get_file_info("/moved").await.unwrap();
        assert!(info.isdir && info.permission == 0o750, "{info:?}");
        let gone = client.get_file_info("/d/sub").await.unwrap_err();
        assert!(matches!(gone, HdfsError::FileNotFound(_)), "{gone:?}");

        client.set_permission("/moved/two", 0o600).await.unwrap();
        client.set_owner("/moved/two", Some("alice"), Some("staff")).await.unwrap();
        client.set_times("/moved/two", 1_000, 2_000).await.unwrap();
        assert!(client.set_replication("/moved/two", 2).await.unwrap());
        let info = client.get_file_info("/moved/two").await.unwrap();
        assert_eq!((info.owner.as_str(), info.group.as_str()), ("alice", "staff"));
        assert_eq!((info.permission, info.replication), (0o600, Some(2)));
        assert_eq!((info.modification_time, info.access_time), (1_000, 2_000));
        let summary = client.get_content_summary("/moved").await.unwrap();
        assert_eq!((summary.file_count, summary.length), (1, 3));

        assert!(client.delete("/moved", true).await.unwrap());
        assert!(!client.delete("/moved", true).await.unwrap(), "gone already");
    });
}

#[test]
fn many_writers_at_once() {
    with_client(async |client| {
        let bytes = sample::bytes(1_500_000);
        let writers = (0..12).map(|number| {
            let (path, bytes) = (format!("/many/{number}"), &bytes[number * 1_000..]);
            async move {
                write(client, &path, bytes, blocks_of_1m()).await;
                assert!(read(client, &path).await == bytes, "{path} differs");
            }
        });
        futures::future::join_all(writers).await;
        assert_eq!(client.list_status("/many", false).await.unwrap().len(), 12);
    });
}
