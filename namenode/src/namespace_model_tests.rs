//! Random operations on the tree, those that fail included, against a map of paths: after each one
//! answer and tree are the model's, also over restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::namesystem::ClientCall;
use crate::test_support::{Fixture, create_request};

/// A tree as a map from path to "is a directory".
type Model = BTreeMap<String, bool>;

#[derive(Clone, Debug)]
enum Op {
    Mkdirs(String),
    Create(String, bool),
    Delete(String, bool),
    Rename(String, String),
    Rename2(String, String, bool),
    Restart,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|names| names.iter().map(|name| format!("/{name}")).collect())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => path().prop_map(Op::Mkdirs),
        4 => (path(), any::<bool>()).prop_map(|(p, o)| Op::Create(p, o)),
        3 => (path(), any::<bool>()).prop_map(|(p, r)| Op::Delete(p, r)),
        4 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        4 => (path(), path(), any::<bool>()).prop_map(|(a, b, o)| Op::Rename2(a, b, o)),
        1 => Just(Op::Restart),
    ]
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn is_directory(model: &Model, path: &str) -> bool {
    path.is_empty() || model.get(path) == Some(&true)
}

fn has_children(model: &Model, path: &str) -> bool {
    model.keys().any(|other| other.starts_with(&format!("{path}/")))
}

/// Makes the missing directories down to `path`; false when a file is in the way.
fn make_directories(model: &mut Model, path: &str) -> bool {
    let mut ancestor = path;
    while !ancestor.is_empty() {
        match model.get(ancestor) {
            Some(false) => return false,
            Some(true) => break,
            None => ancestor = parent(ancestor),
        }
    }
    let mut made = path;
    while made != ancestor {
        model.insert(made.to_owned(), true);
        made = parent(made);
    }
    true
}

fn move_tree(model: &mut Model, from: &str, to: &str) {
    let moved: Vec<_> = model
        .iter()
        .filter(|(path, _)| *path == from || path.starts_with(&format!("{from}/")))
        .map(|(path, kind)| (path.clone(), *kind))
        .collect();
    for (path, kind) in moved {
        model.remove(&path);
        model.insert(format!("{to}{}", &path[from.len()..]), kind);
    }
}

/// What an operation does to the model: whether it succeeds (and answers true).
fn apply(model: &mut Model, op: &Op) -> bool {
    let under = |path: &str, top: &str| path == top || path.starts_with(&format!("{top}/"));
    match op {
        Op::Mkdirs(path) => make_directories(model, path),
        Op::Create(path, overwrite) => match model.get(path) {
            Some(true) => false,
            Some(false) => *overwrite,
            None => {
                let made = make_directories(model, parent(path));
                if made {
                    model.insert(path.clone(), false);
                }
                made
            }
        },
        Op::Delete(path, recursive) => {
            let gone = model.contains_key(path) && (*recursive || !has_children(model, path));
            if gone {
                model.retain(|other, _| !under(other, path));
            }
            gone
        }
        Op::Rename(from, to) => {
            let name = &from[parent(from).len()..];
            let to = if is_directory(model, to) { format!("{to}{name}") } else { to.clone() };
            if !model.contains_key(from) || to.starts_with(&format!("{from}/")) {
                return false;
            }
            if to == *from {
                return true;
            }
            if model.contains_key(&to) || !is_directory(model, parent(&to)) {
                return false;
            }
            move_tree(model, from, &to);
            true
        }
        Op::Rename2(from, to, overwrite) => {
            let Some(kind) = model.get(from).copied() else { return false };
            if under(to, from) || !is_directory(model, parent(to)) {
                return false;
            }
            if let Some(old) = model.get(to)
                && (*old != kind || !overwrite || has_children(model, to))
            {
                return false;
            }
            model.remove(to);
            move_tree(model, from, to);
            true
        }
        Op::Restart => true,
    }
}

async fn run(fixture: &Fixture, call: &ClientCall, op: &Op) -> bool {
    let ns = &fixture.namesystem;
    match op.clone() {
        Op::Mkdirs(path) => ns.mkdirs(call, path, 0o755, true).await.unwrap_or(false),
        Op::Create(path, overwrite) => {
            let flags = if overwrite { 3 } else { 1 };
            ns.create(call, create_request(&path, flags)).await.is_ok()
        }
        Op::Delete(path, recursive) => {
            ns.delete(call, path, recursive).await.is_ok_and(|reply| reply.result)
        }
        Op::Rename(from, to) => ns.rename(call, from, to).await.is_ok_and(|reply| reply.result),
        Op::Rename2(from, to, over) => ns.rename2(call, from, to, over, false).await.is_ok(),
        Op::Restart => true,
    }
}

/// Every path below the root with its kind, as listings show it.
fn walk(fixture: &Fixture, call: &ClientCall, top: &str, found: &mut Model) {
    let directory = if top.is_empty() { "/" } else { top };
    let listing = fixture.namesystem.get_listing(call, directory, b"", false).unwrap().unwrap();
    assert_eq!(listing.remaining_entries, 0);
    let status = fixture.namesystem.get_file_info(call, directory, false).unwrap().unwrap();
    assert_eq!(status.children_num, Some(listing.partial_listing.len() as i32));
    for status in listing.partial_listing {
        let path = format!("{top}/{}", String::from_utf8(status.path).unwrap());
        let is_directory = status.file_type == 1;
        if is_directory {
            walk(fixture, call, &path, found);
        }
        found.insert(path, is_directory);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_behaves_like_its_model(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut fixture = Fixture::new();
            let call = fixture.superuser().await;
            let mut model = Model::new();
            for op in &ops {
                if matches!(op, Op::Restart) {
                    fixture = fixture.restart();
                }
                let expected = apply(&mut model, op);
                prop_assert_eq!(run(&fixture, &call, op).await, expected, "{:?}", op);
                let mut found = Model::new();
                walk(&fixture, &call, "", &mut found);
                prop_assert_eq!(&found, &model, "{:?}", op);
            }
            Ok(())
        })?;
    }
}
