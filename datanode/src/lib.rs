//! See the head comments of the modules.
