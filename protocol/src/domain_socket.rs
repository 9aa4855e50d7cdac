//! Short-circuit reads: a datanode passes a replica's two files to a client of its host over a UNIX
//! domain socket.
//!
//! | from | what |
//! |---|---|
//! | client | operation 87 with the block, and whether it can confirm a receipt |
//! | datanode | `BlockOpResponseProto`; SUCCESS, or the client reads over TCP |
//! | datanode | one byte ([`CONFIRM_RECEIPT`] or 0), with the descriptors of the data and the meta file |
//! | client | one byte, where the datanode asked for it: it has the descriptors |

use std::path::PathBuf;

/// The layout of block files that is passed, and that a client must be able to read.
pub const BLOCK_FILES_VERSION: u32 = 1;
/// The byte that carries the descriptors, when the client is to confirm that it has them.
pub const CONFIRM_RECEIPT: u8 = 1;

/// `dfs.domain.socket.path` of the datanode with this transfer port.
pub fn path_of(configured: &str, transfer_port: u16) -> PathBuf {
    configured.replace("_PORT", &transfer_port.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_put_in() {
        assert_eq!(path_of("/run/dn._PORT", 9866), PathBuf::from("/run/dn.9866"));
        assert_eq!(path_of("/run/dn", 9866), PathBuf::from("/run/dn"));
    }
}
