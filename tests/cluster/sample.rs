//! Sample bytes that every run and every language can make again: byte `i` is the lowest byte of
//! the `i`-th state of xorshift64 (13, 7, 17) started at `0x9e3779b97f4a7c15`.

pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

/// Checksums of a file of [`bytes`], as Apache's Hadoop prints them (`hdfs dfs -checksum`).
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    pub len: usize,
    pub md5: &'static str,
    pub composite_crc: &'static str,
}

/// Block size of the files in [`GOLDEN`].
pub const BLOCK: usize = 1 << 20;

/// Made with Apache's client and datanodes from files of [`bytes`] with `dfs.blocksize=1m`; the
/// composite CRC is the CRC32C of the whole file.
pub const GOLDEN: &[Golden] = &[
    golden(
        0,
        "MD5-of-0MD5-of-0CRC32\t00000000000000000000000070bc8f4b72a86921468bf8e8441dce51",
        "00000000",
    ),
    golden(
        1,
        "MD5-of-0MD5-of-512CRC32C\t00000200000000000000000092d40d1a81e46a62cb4dc3708b657b8f",
        "4f1eaa24",
    ),
    golden(
        511,
        "MD5-of-0MD5-of-512CRC32C\t00000200000000000000000027dab48b07baf35c1c0ffe2dc15904aa",
        "9e230b33",
    ),
    golden(
        512,
        "MD5-of-0MD5-of-512CRC32C\t00000200000000000000000096124b3602bc72631f732272304bd3c8",
        "c864effa",
    ),
    golden(
        513,
        "MD5-of-0MD5-of-512CRC32C\t0000020000000000000000000ed9417e04f79b6fd32aa6c75932bc36",
        "ace666d1",
    ),
    golden(
        64512,
        "MD5-of-0MD5-of-512CRC32C\t00000200000000000000000064a38922b0c3ffc19c2ad471620a4ca0",
        "b544ef91",
    ),
    golden(
        65536,
        "MD5-of-0MD5-of-512CRC32C\t000002000000000000000000068a03c1b9112ec546cc96b04c40d7b1",
        "015c30fd",
    ),
    golden(
        BLOCK - 1,
        "MD5-of-0MD5-of-512CRC32C\t00000200000000000000000081bd20f735892ca43ae86deadfd317e0",
        "c59ee165",
    ),
    golden(
        BLOCK,
        "MD5-of-0MD5-of-512CRC32C\t000002000000000000000000827cf859a0baaef559cbec41a019c325",
        "8f58269a",
    ),
    golden(
        BLOCK + 1,
        "MD5-of-2048MD5-of-512CRC32C\t00000200000000000000080009065ba75f10bacf4ed363c011842a41",
        "880b651d",
    ),
    golden(
        3 * BLOCK + 70_001,
        "MD5-of-2048MD5-of-512CRC32C\t000002000000000000000800fd4e5bad69ce2b9d0901239cc7d1b74a",
        "fe29d6d1",
    ),
];

/// The same for a file over one block of the default size, 128 MiB.
pub const GOLDEN_DEFAULT_BLOCK: Golden = golden(
    (128 << 20) + 513,
    "MD5-of-262144MD5-of-512CRC32C\t0000020000000000000400005bbd85c04bc028e8e3fb986df6caeb1c",
    "c28e2815",
);

const fn golden(len: usize, md5: &'static str, composite_crc: &'static str) -> Golden {
    Golden { len, md5, composite_crc }
}
