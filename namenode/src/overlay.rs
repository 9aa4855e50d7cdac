//! What the store's journal has and its database does not have yet: some thousand changes in memory,
//! and the state that they make together with the database's tables.
//!
//! A [`Snapshot`] is both as of one commit. The maps share their parts, so that a copy costs a few
//! counters and the writer goes on without waiting for readers; tables are opened once for each fold.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use imbl::OrdMap;
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};

use crate::error::Result;
use crate::schema::Space;

pub use crate::view::View;

pub(crate) type Bytes = &'static [u8];
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn definition(space: Space) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(space.name())
}

/// The newest value of each changed key; `None` where the key was removed.
type Changed = OrdMap<Arc<[u8]>, Option<Arc<[u8]>>>;

#[derive(Clone, Default)]
pub(crate) struct Overlay {
    spaces: [Changed; Space::ALL.len()],
}

impl Overlay {
    pub fn set(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        self.spaces[space as usize].insert(key.into(), value.map(Arc::from));
    }

    pub fn len(&self) -> usize {
        self.spaces.iter().map(OrdMap::len).sum()
    }

    /// In the order of the tables' keys.
    pub fn changes(&self) -> impl Iterator<Item = (Space, &[u8], Option<&[u8]>)> {
        Space::ALL.iter().flat_map(|space| {
            let changes = self.spaces[*space as usize].iter();
            changes.map(|(key, value)| (*space, &**key, value.as_deref()))
        })
    }
}

/// The state as of a commit.
#[derive(Clone)]
pub struct Snapshot {
    tables: Arc<Tables>,
    pub(crate) overlay: Overlay,
}

impl Snapshot {
    /// What the database has, and nothing beside it.
    pub(crate) fn of(database: &Database) -> Result<Self> {
        let tables = Tables { transaction: database.begin_read()?, opened: Default::default() };
        Ok(Self { tables: Arc::new(tables), overlay: Overlay::default() })
    }
}

impl View for Snapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(changed) = self.overlay.spaces[space as usize].get(key) {
            return Ok(changed.as_deref().map(<[u8]>::to_vec));
        }
        Ok(self.tables.table(space)?.get(key)?.map(|value| value.value().to_vec()))
    }

    fn scan(
        &self,
        space: Space,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        max: usize,
    ) -> Result<Pairs> {
        let mut pairs = Vec::new();
        if is_empty(start, end) {
            return Ok(pairs);
        }
        let changes = &self.overlay.spaces[space as usize];
        let mut changes = changes.range::<_, [u8]>((start, end)).peekable();
        let mut stored = self.tables.table(space)?.range::<&[u8]>((start, end))?;
        let mut next_stored = stored.next().transpose()?;
        while pairs.len() < max {
            let order = match (&next_stored, changes.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((changed, _))) => key.value().cmp(changed),
            };
            if order.is_le() {
                if let Some((key, value)) = next_stored.take().filter(|_| order.is_lt()) {
                    pairs.push((key.value().to_vec(), value.value().to_vec()));
                }
                next_stored = stored.next().transpose()?;
            }
            if order.is_ge()
                && let Some((key, Some(value))) = changes.next()
            {
                pairs.push((key.to_vec(), value.to_vec()));
            }
        }
        Ok(pairs)
    }
}

struct Tables {
    transaction: ReadTransaction,
    /// Opened as they are asked for.
    opened: [OnceLock<ReadOnlyTable<Bytes, Bytes>>; Space::ALL.len()],
}

impl Tables {
    fn table(&self, space: Space) -> Result<&ReadOnlyTable<Bytes, Bytes>> {
        let cell = &self.opened[space as usize];
        if let Some(table) = cell.get() {
            return Ok(table);
        }
        let table = self.transaction.open_table(definition(space))?;
        Ok(cell.get_or_init(|| table))
    }
}

/// Whether nothing lies between the bounds: maps do not take such a range.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start >= end,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::RangeBounds;

    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn database(pairs: &Model) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(definition(Space::Entries)).unwrap();
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        database
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3u8, 0..4)
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![
            Just(Bound::Unbounded),
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn changes_over_tables_read_as_one_map(
            stored in prop::collection::btree_map(key(), key(), 0..30),
            changes in prop::collection::vec((key(), prop::option::of(key())), 0..30),
            ranges in prop::collection::vec((bound(), bound(), 0..12usize), 8),
        ) {
            let database = database(&stored);
            let mut snapshot = Snapshot::of(&database).unwrap();
            let mut model = stored;
            for (key, value) in changes {
                snapshot.overlay.set(Space::Entries, &key, value.as_deref());
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            for (start, end, max) in ranges {
                let (start, end) = (start.as_ref().map(|key| &**key), end.as_ref().map(|key| &**key));
                let within = model.iter().filter(|(key, _)| {
                    RangeBounds::<[u8]>::contains(&(start, end), key.as_slice())
                });
                let expected: Pairs =
                    within.take(max).map(|(key, value)| (key.clone(), value.clone())).collect();
                prop_assert_eq!(snapshot.scan(Space::Entries, start, end, max).unwrap(), expected);
            }
            for (key, value) in &model {
                let found = snapshot.get(Space::Entries, key).unwrap();
                prop_assert_eq!(found.as_ref(), Some(value));
            }
        }
    }

    #[test]
    fn a_snapshot_stays_what_it_was() {
        let database = database(&Model::from([(b"a".to_vec(), b"1".to_vec())]));
        let mut now = Snapshot::of(&database).unwrap();
        let before = now.clone();
        now.overlay.set(Space::Entries, b"a", None);
        now.overlay.set(Space::Entries, b"b", Some(b"2"));
        assert_eq!(before.get(Space::Entries, b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(now.get(Space::Entries, b"a").unwrap(), None);
        assert_eq!(now.scan_prefix(Space::Entries, b"", 9).unwrap().len(), 1);
        assert_eq!(now.overlay.len(), 2);
    }
}
