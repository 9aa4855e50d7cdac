//! The standard library's hash tables, for code that also lives in simulated worlds. There their
//! order is the seed's choice: another one for each table, and the same when the seed is replayed.
//! Without the feature `simulation` they are the standard ones, hasher and all.

#[cfg(not(feature = "simulation"))]
pub use std::hash::RandomState as State;

#[cfg(feature = "simulation")]
pub use seeded::State;

pub type HashMap<K, V> = std::collections::HashMap<K, V, State>;
pub type HashSet<T> = std::collections::HashSet<T, State>;

#[cfg(feature = "simulation")]
mod seeded {
    use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

    use crate::simulation;

    #[derive(Clone, Debug)]
    pub struct State(u64);

    impl Default for State {
        fn default() -> Self {
            Self(simulation::choice().unwrap_or_else(|| RandomState::new().hash_one(0)))
        }
    }

    impl BuildHasher for State {
        type Hasher = DefaultHasher;

        fn build_hasher(&self) -> DefaultHasher {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.0);
            hasher
        }
    }
}
