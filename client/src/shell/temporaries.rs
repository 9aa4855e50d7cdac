//! The temporary files of a command's copies: removed when the user interrupts it.

use std::sync::{Arc, Mutex, PoisonError};

use super::item::Item;

#[derive(Clone, Default)]
pub struct Temporaries(Arc<Mutex<Vec<Item>>>);

impl Temporaries {
    pub fn add(&self, item: &Item) {
        self.items().push(item.clone());
    }

    pub fn forget(&self, item: &Item) {
        self.items().retain(|known| known.path != item.path || known.text != item.text);
    }

    /// Deletes them all; what fails is left, as there is nobody to tell.
    pub async fn delete_all(&self) {
        let items = std::mem::take(&mut *self.items());
        for item in items {
            let _ = item.file_system.delete(&item.path, false).await;
        }
    }

    fn items(&self) -> std::sync::MutexGuard<'_, Vec<Item>> {
        // A list of paths is whole whatever thread died over it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
