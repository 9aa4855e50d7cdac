//! Planted bugs, to test the tests: [`mutant!`](crate::mutant) is false unless the simulation was
//! built in and has switched that bug on for its thread. Without the feature `simulation` it is a
//! constant, and the code behind it is compiled away.

/// Whether the planted bug of this name is on.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutants::is_on($name)
    };
}

#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(feature = "simulation")]
pub use switched::{firings, is_on, switch};

#[cfg(feature = "simulation")]
mod switched {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
        static FIRINGS: Cell<u64> = const { Cell::new(0) };
    }

    pub fn is_on(name: &str) -> bool {
        let is_on = ON.get() == Some(name);
        if is_on {
            FIRINGS.set(FIRINGS.get() + 1);
        }
        is_on
    }

    /// Switches one bug on for this thread, or all off, and counts its firings anew.
    pub fn switch(name: Option<&'static str>) {
        ON.set(name);
        FIRINGS.set(0);
    }

    /// How often the code of the bug that is on was reached.
    pub fn firings() -> u64 {
        FIRINGS.get()
    }
}
