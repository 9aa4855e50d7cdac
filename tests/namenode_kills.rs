//! The namenode killed at any instant under a load of changes: every call that it answered is there
//! afterwards, and of those that it did not answer each is there whole or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfs_client::{Client, ClientError, CreateOptions};
use ringfs_protocol::site_config::Configuration;

use crate::cluster::TestCluster;

const ROUNDS: u64 = 8;
const CLIENTS: usize = 4;

/// What a client's directory holds: name to replication, 0 for a directory.
type Tree = BTreeMap<String, u16>;

/// A change, as the oracle does it.
#[derive(Clone, Debug)]
enum Change {
    Create(String),
    MakeDirectory(String),
    /// Of a name and all below it.
    Rename(String, String),
    Delete(String),
    SetReplication(String, u16),
}

impl Change {
    /// The next change of a client, determined by its number and what is there.
    fn next(number: u64, tree: &Tree) -> Self {
        let roots: Vec<&String> = tree.keys().filter(|name| !name.contains('/')).collect();
        let pick =
            |salt: u64| roots[(number.wrapping_mul(7919) + salt) as usize % roots.len()].clone();
        match number % 6 {
            _ if roots.len() < 3 => Self::MakeDirectory(format!("d{number}")),
            0 => Self::MakeDirectory(format!("d{number}")),
            1 | 2 => {
                let parent = pick(number);
                match tree[&parent] {
                    0 => Self::Create(format!("{parent}/f{number}")),
                    _ => Self::Create(format!("f{number}")),
                }
            }
            3 => Self::Rename(pick(3), format!("r{number}")),
            4 => match tree.iter().find(|(_, replication)| **replication > 0) {
                Some((name, replication)) => {
                    Self::SetReplication(name.clone(), replication % 3 + 1)
                }
                None => Self::Create(format!("f{number}")),
            },
            _ => Self::Delete(pick(5)),
        }
    }

    fn apply(&self, tree: &mut Tree) {
        let below = |tree: &Tree, name: &str| -> Vec<String> {
            let prefix = format!("{name}/");
            tree.keys().filter(|key| *key == name || key.starts_with(&prefix)).cloned().collect()
        };
        match self {
            Self::Create(name) => drop(tree.insert(name.clone(), 1)),
            Self::MakeDirectory(name) => drop(tree.insert(name.clone(), 0)),
            Self::SetReplication(name, replication) => {
                tree.insert(name.clone(), *replication);
            }
            Self::Delete(name) => {
                let gone = below(tree, name);
                tree.retain(|key, _| !gone.contains(key));
            }
            Self::Rename(from, to) => {
                for key in below(tree, from) {
                    let replication = tree.remove(&key).unwrap();
                    tree.insert(format!("{to}{}", &key[from.len()..]), replication);
                }
            }
        }
    }

    async fn run(&self, client: &Client, home: &str) -> Result<(), ClientError> {
        let path = |name: &str| format!("{home}/{name}");
        match self {
            Self::Create(name) => {
                let options = CreateOptions { replication: Some(1), ..CreateOptions::default() };
                client.create(&path(name), options).await?.close().await
            }
            Self::MakeDirectory(name) => client.mkdirs(&path(name), 0o755, false).await,
            Self::Rename(from, to) => client.rename2(&path(from), &path(to), false, false).await,
            Self::Delete(name) => client.delete(&path(name), true).await.map(drop),
            Self::SetReplication(name, replication) => {
                client.set_replication(&path(name), *replication).await.map(drop)
            }
        }
    }
}

#[test]
fn every_answered_call_outlives_a_kill_and_no_half_of_any_other() {
    // A client that loses its connection gives up at once: its last call is then unanswered.
    let mut cluster = TestCluster::start_with(1, &[("ipc.client.connect.max.retries", "0")]);
    let configuration = Configuration::load(Some(&cluster.conf_dir()), &[]).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let homes: Vec<String> = (0..CLIENTS).map(|index| format!("/c{index}")).collect();
    for home in &homes {
        cluster.dfs(&["-mkdir", home]).succeeded();
    }
    let mut trees = vec![Tree::new(); CLIENTS];
    let mut answered = 0;
    for round in 0..ROUNDS {
        let clients: Vec<_> = homes
            .iter()
            .zip(&trees)
            .map(|(home, tree)| {
                let client = Client::connect(&configuration, None).unwrap();
                runtime.spawn(change_until_cut(client, home.clone(), tree.clone(), round * 10_000))
            })
            .collect();
        // At instants that differ from round to round, in the middle of the load.
        std::thread::sleep(Duration::from_millis(150 + round * 37 % 100));
        cluster.kill_namenode();
        let cut: Vec<_> =
            clients.into_iter().map(|client| runtime.block_on(client).unwrap()).collect();
        cluster.start_all().unwrap();
        let client = Client::connect(&configuration, None).unwrap();
        for ((home, tree), (with, unanswered, count)) in homes.iter().zip(&mut trees).zip(cut) {
            answered += count;
            let found = runtime.block_on(tree_of(&client, home));
            let mut with_last = with.clone();
            unanswered.apply(&mut with_last);
            let is_right = found == with || found == with_last;
            assert!(is_right, "{home} has {found:#?}, was {with:#?}, then came {unanswered:?}");
            *tree = found;
        }
    }
    assert!(answered > 8 * ROUNDS, "only {answered} calls were answered");
}

/// The tree as answered, the change that got no answer, and how many did.
async fn change_until_cut(
    client: Client,
    home: String,
    mut tree: Tree,
    first: u64,
) -> (Tree, Change, u64) {
    for number in first.. {
        let change = Change::next(number, &tree);
        if let Err(error) = change.run(&client, &home).await {
            let class = error.class().map(str::to_owned);
            assert!(class.is_none(), "{change:?}: {error}");
            return (tree, change, number - first);
        }
        change.apply(&mut tree);
    }
    unreachable!("the namenode is killed")
}

async fn tree_of(client: &Client, home: &str) -> Tree {
    let mut tree = Tree::new();
    let mut pending = vec![home.to_owned()];
    while let Some(directory) = pending.pop() {
        for status in client.list(&directory).await.unwrap() {
            let path = format!("{directory}/{}", status.name());
            if status.is_dir {
                pending.push(path.clone());
            }
            let replication = if status.is_dir { 0 } else { status.replication };
            tree.insert(path[home.len() + 1..].to_owned(), replication);
        }
    }
    tree
}
