//! Safe mode: no change to the namespace or to replicas until enough blocks have been reported.

use crate::error::Result;

pub struct SafeMode {}

impl SafeMode {
    pub fn is_on(&self) -> bool {
        todo!()
    }

    /// `Err` while safe mode is on; `operation` as in "Cannot create file/x".
    pub fn check(&self, operation: &str) -> Result<()> {
        let _ = operation;
        todo!()
    }

    /// Turns it on by hand: it stays until [`Self::leave`].
    pub fn enter(&self) {
        todo!()
    }

    pub fn leave(&self) {
        todo!()
    }
}
