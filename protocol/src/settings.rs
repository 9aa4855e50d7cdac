//! Every setting that ringfs reads, by Hadoop's own name where Hadoop has one, `ringfs.*` else:
//! name, default and meaning in one table, which `ringfs settings` prints.

/// How a value is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Float,
    Boolean,
    /// `128m`, `1g`, or plain bytes.
    Bytes,
    /// A number without suffix is in milliseconds; `30s`, `10m`, `500ms` also accepted.
    Millis,
    /// A number without suffix is in seconds.
    Seconds,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    pub meaning: &'static str,
    /// Older names that Hadoop still accepts for it.
    pub deprecated_names: &'static [&'static str],
}

/// One setting as a constant; [`ALL`] lists them.
pub const DFS_BLOCK_SIZE: Setting = Setting {
    name: "dfs.blocksize",
    default: "134217728",
    kind: Kind::Bytes,
    meaning: "Block size of new files, in bytes (128m)",
    deprecated_names: &["dfs.block.size"],
};

pub const ALL: &[Setting] = &[DFS_BLOCK_SIZE];
