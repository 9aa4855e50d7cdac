//! The checksum of a whole file from its datanodes' checksums of the blocks: BLOCK_CHECKSUM.

use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::file_checksum::{CompositeCrc, FileChecksum};
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::Opcode;
use tracing::warn;

use crate::client::Shared;
use crate::{ClientError, CombineMode};

/// What a datanode says of one block.
struct BlockSum {
    checksum: DataChecksum,
    crc_per_block: u64,
    bytes: Vec<u8>,
}

impl Shared {
    pub(crate) async fn file_checksum(
        &self,
        path: &str,
        mode: CombineMode,
    ) -> Result<FileChecksum, ClientError> {
        let located = self.namenode.block_locations(path, 0, u64::MAX).await?;
        let mut md5s = Vec::new();
        let mut composite = None;
        let mut first: Option<(DataChecksum, u64)> = None;
        let mut rest = located.file_length;
        for mut block in located.blocks {
            let len = block.b.num_bytes().min(rest);
            if len == 0 {
                break;
            }
            block.b.num_bytes = Some(len);
            rest -= len;
            let sum = self.block_sum(path, &block, mode).await?;
            let (checksum, _) = *first.get_or_insert((sum.checksum, sum.crc_per_block));
            let mixed = match mode {
                CombineMode::Md5Md5Crc => sum.checksum != checksum,
                CombineMode::CompositeCrc => sum.checksum.kind != checksum.kind,
            };
            if mixed {
                let why = format!("blocks have {checksum:?} and {:?}", sum.checksum);
                return Err(ClientError::Invalid { what: format!("checksum of {path}"), why });
            }
            let malformed = || self.malformed_sum(&block, &sum);
            match mode {
                CombineMode::Md5Md5Crc => {
                    md5s.push(sum.bytes.as_slice().try_into().map_err(|_| malformed())?);
                }
                CombineMode::CompositeCrc => {
                    let crc = sum.bytes.as_slice().try_into().map_err(|_| malformed())?;
                    let crcs = composite.get_or_insert_with(|| CompositeCrc::new(checksum));
                    crcs.push(u32::from_be_bytes(crc), len);
                }
            }
        }
        Ok(match (first, mode, composite) {
            (Some((checksum, crc_per_block)), CombineMode::Md5Md5Crc, _) => {
                FileChecksum::of_block_md5s(checksum, crc_per_block, &md5s)
            }
            (Some((checksum, _)), CombineMode::CompositeCrc, Some(crcs)) => {
                FileChecksum::Composite { kind: checksum.kind, crc: crcs.finish() }
            }
            _ => FileChecksum::of_empty_file(),
        })
    }

    /// Asks the block's datanodes one after the other.
    async fn block_sum(
        &self,
        path: &str,
        block: &LocatedBlockProto,
        mode: CombineMode,
    ) -> Result<BlockSum, ClientError> {
        let mut last = "the namenode knows no datanode that has it".to_owned();
        for datanode in &block.locs {
            match self.ask_block_sum(&datanode.id, block, mode).await {
                Ok(sum) => return Ok(sum),
                Err(error) => {
                    warn!("{path}: {error}; trying another replica");
                    last = error.to_string();
                }
            }
        }
        Err(ClientError::NoReplica {
            path: path.to_owned(),
            block: ExtendedBlock::from(&block.b),
            offset: block.offset,
            last,
        })
    }

    async fn ask_block_sum(
        &self,
        id: &DatanodeIDProto,
        located: &LocatedBlockProto,
        mode: CombineMode,
    ) -> Result<BlockSum, ClientError> {
        let kind = match mode {
            CombineMode::Md5Md5Crc => BlockChecksumTypeProto::Md5crc,
            CombineMode::CompositeCrc => BlockChecksumTypeProto::CompositeCrc,
        };
        let operation = OpBlockChecksumProto {
            header: BaseHeaderProto {
                block: located.b.clone(),
                token: Some(located.block_token.clone()),
                trace_info: None,
            },
            block_checksum_options: Some(BlockChecksumOptionsProto {
                block_checksum_type: Some(kind as i32),
                stripe_length: None,
            }),
        };
        let limit = self.settings.socket_timeout;
        let mut stream = self.connector.connect(id).await?;
        stream.send_operation(Opcode::BlockChecksum, &operation, limit).await?;
        let response = stream.read_response(limit).await?;
        let block = ExtendedBlock::from(&located.b);
        stream.check("BLOCK_CHECKSUM", &block, &response)?;
        let malformed =
            |why: &str| stream.malformed(ProtocolError::malformed("BLOCK_CHECKSUM reply", why));
        let sum = response.checksum_response.ok_or_else(|| malformed("no checksum"))?;
        // A datanode that knows of MD5 only answers with it, and without options.
        let answered = sum.block_checksum_options.as_ref().map(|o| o.block_checksum_type());
        if answered.unwrap_or(BlockChecksumTypeProto::Md5crc) != kind {
            return Err(malformed("another kind of checksum than was asked for"));
        }
        let crc_type = sum.crc_type.unwrap_or(ChecksumTypeProto::ChecksumCrc32 as i32);
        let checksum = ChecksumType::from_number(crc_type)
            .ok_or_else(|| malformed("unknown checksum type"))
            .and_then(|kind| {
                DataChecksum::new(kind, sum.bytes_per_crc).map_err(|error| stream.malformed(error))
            })?;
        Ok(BlockSum { checksum, crc_per_block: sum.crc_per_block, bytes: sum.block_checksum })
    }

    fn malformed_sum(&self, block: &LocatedBlockProto, sum: &BlockSum) -> ClientError {
        let why = format!("a checksum of {} bytes", sum.bytes.len());
        ClientError::Protocol {
            peer: format!("a datanode of {}", ExtendedBlock::from(&block.b)),
            source: ProtocolError::malformed("BLOCK_CHECKSUM reply", why),
        }
    }
}
