//! A table whose entries keep their index while they live; free places are used again.

pub struct Table<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// The index that the next entry will have.
    pub fn next_index(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    pub fn insert(&mut self, entry: T) -> (usize, &mut T) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        (index, self.places[index].insert(entry))
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.places.get_mut(index)?.as_mut()
    }

    pub fn contains(&self, index: usize) -> bool {
        self.places.get(index).is_some_and(Option::is_some)
    }

    pub fn remove(&mut self, index: usize) -> Option<T> {
        let removed = self.places.get_mut(index)?.take();
        if removed.is_some() {
            self.free.push(index);
        }
        removed
    }

    pub fn indices(&self) -> impl Iterator<Item = usize> {
        let occupied = self.places.iter().enumerate().filter(|(_, place)| place.is_some());
        occupied.map(|(index, _)| index)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_place_and_free_places_are_reused() {
        let mut table = Table::default();
        let indices: Vec<_> = "abc".chars().map(|entry| table.insert(entry).0).collect();
        assert_eq!(indices, [0, 1, 2]);
        assert_eq!(table.remove(1), Some('b'));
        assert_eq!((table.remove(1), table.next_index()), (None, 1));
        assert_eq!(table.insert('d').0, 1);
        assert_eq!(table.get_mut(2), Some(&mut 'c'));
        assert_eq!(table.indices().collect::<Vec<_>>(), [0, 1, 2]);
        for index in 0..3 {
            assert!(table.remove(index).is_some());
        }
        assert!(table.is_empty());
    }
}
