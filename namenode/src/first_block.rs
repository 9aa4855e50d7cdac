//! The first block of a new file, allocated by the change that makes the file.
//!
//! A writer that has data already is spared a call and a synced write of the journal. HDFS has no such
//! thing: clients of another make do not ask for it, and other namenodes pass over the question. Where
//! no block can be had there is none in the reply, and addBlock tells why; the file is made as ever. A block
//! that is not used after all is abandoned by its writer, or given up with the writer's lease.

use ringfs_protocol::messages::{CreateRequestProto, LocatedBlockProto};

use crate::block_manager::TargetRequest;
use crate::error::Result;
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::WriterClaim;
use crate::schema::Inode;
use crate::store::Update;

impl Namesystem {
    /// For a file that nothing stands against any more: the room that a block is to have is promised with
    /// the choice of its datanodes. `None` when no block is wanted, or too few datanodes are there for it.
    pub(crate) fn allocate_first_block(
        &self,
        update: &mut Update,
        call: &ClientCall,
        request: &CreateRequestProto,
        inode: Inode,
    ) -> Result<Option<LocatedBlockProto>> {
        if request.wants_first_block != Some(true) {
            return Ok(None);
        }
        let targets = self.blocks.choose_targets(&TargetRequest {
            count: request.replication as usize,
            block_size: request.block_size,
            writer: call.address,
            excluded: &[],
            existing: &[],
            favored: &[],
            no_local_write: false,
        });
        if targets.len() < self.config.replication_min.max(1) as usize {
            return Ok(None);
        }
        let claim = WriterClaim {
            path: request.src.clone(),
            file_id: inode.id,
            holder: request.client_name.clone(),
        };
        self.leases.note_allocation(inode.id, call.retry_key);
        let (block, offset) = self.allocate(update, &claim, inode, None, targets.clone())?;
        Ok(Some(self.located_at(&block, offset, &targets, false)))
    }
}

#[cfg(test)]
mod tests {
    use ringfs_protocol::messages::{CreateRequestProto, CreateResponseProto};

    use crate::block_manager::StoredBlocks;
    use crate::error::Result;
    use crate::namesystem::ClientCall;
    use crate::test_support::{Fixture, block_of, claim, create_request, written};

    fn asking(path: &str, flags: u32) -> CreateRequestProto {
        CreateRequestProto { wants_first_block: Some(true), ..create_request(path, flags) }
    }

    async fn create(
        fixture: &Fixture,
        call: &ClientCall,
        path: &str,
    ) -> Result<CreateResponseProto> {
        fixture.namesystem.create(call, asking(path, 1)).await
    }

    #[tokio::test]
    async fn a_file_is_written_to_the_block_that_came_with_it() {
        let fixture = Fixture::new();
        fixture.datanodes(&["dn1", "dn2", "dn3", "dn4"]);
        let root = fixture.superuser().await;
        let first = create(&fixture, &root, "/f").await.unwrap().first_block.unwrap();
        assert_eq!((first.locs.len(), first.offset, first.b.num_bytes()), (3, 0, 0));
        // One that is asked for all the same is this one.
        assert_eq!(fixture.add_block(&root, "/f", None).await.unwrap(), first);
        let last = written(&first, 700);
        fixture.report("dn1", block_of(&last));
        assert!(fixture.namesystem.complete(claim("/f"), Some(last)).await.unwrap());
        assert_eq!(fixture.length(&root, "/f"), 700);
    }

    #[tokio::test]
    async fn who_does_not_ask_or_cannot_have_one_gets_none() {
        let fixture = Fixture::new();
        let root = fixture.superuser().await;
        assert_eq!(create(&fixture, &root, "/alone").await.unwrap().first_block, None);
        fixture.datanodes(&["dn1", "dn2", "dn3"]);
        let plain = create_request("/plain", 1);
        assert_eq!(fixture.namesystem.create(&root, plain).await.unwrap().first_block, None);
        for path in ["/alone", "/plain"] {
            assert!(fixture.namesystem.complete(claim(path), None).await.unwrap(), "{path}");
        }
        let request = CreateRequestProto { replication: u32::MAX, ..asking("/f", 1) };
        assert!(fixture.namesystem.create(&root, request).await.is_err());
        assert!(fixture.namesystem.store.stored_blocks_after(None, 9).is_empty());
    }

    #[tokio::test]
    async fn a_repeated_call_gets_the_same_block() {
        let fixture = Fixture::new();
        fixture.datanodes(&["dn1", "dn2", "dn3", "dn4"]);
        let call = fixture.numbered("super", 7).await;
        let reply = create(&fixture, &call, "/f").await.unwrap();
        assert_eq!(create(&fixture, &call, "/f").await.unwrap(), reply);
        let fixture = fixture.restart();
        assert_eq!(create(&fixture, &call, "/f").await.unwrap(), reply);
        assert_eq!(fixture.namesystem.store.stored_blocks_after(None, 9).len(), 1);
    }

    #[tokio::test]
    async fn files_that_are_refused_take_no_room() {
        let fixture = Fixture::new();
        fixture.datanodes(&["dn1", "dn2", "dn3"]);
        let root = fixture.superuser().await;
        create(&fixture, &root, "/f").await.unwrap();
        let large = |path| CreateRequestProto { block_size: 1 << 36, ..asking(path, 1) };
        for _ in 0..100 {
            fixture.namesystem.create(&root, large("/f")).await.unwrap_err();
        }
        let reply = fixture.namesystem.create(&root, large("/g")).await.unwrap();
        assert!(reply.first_block.is_some());
    }

    #[tokio::test]
    async fn a_block_that_is_not_used_goes_back() {
        let fixture = Fixture::new();
        fixture.datanodes(&["dn1", "dn2", "dn3"]);
        let root = fixture.superuser().await;
        let first = create(&fixture, &root, "/f").await.unwrap().first_block.unwrap();
        let ns = &fixture.namesystem;
        assert!(!ns.complete(claim("/f"), None).await.unwrap(), "it has no replica");
        ns.abandon_block(claim("/f"), first.b.clone()).await.unwrap();
        assert!(ns.complete(claim("/f"), None).await.unwrap());
        assert!(fixture.removed(block_of(&first.b).id));
        assert_eq!(fixture.length(&root, "/f"), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_overwritten_leaves_its_unused_block_too() {
        let fixture = Fixture::new();
        fixture.datanodes(&["dn1", "dn2", "dn3"]);
        let root = fixture.superuser().await;
        let old = create(&fixture, &root, "/f").await.unwrap().first_block.unwrap();
        let new = fixture.namesystem.create(&root, asking("/f", 3)).await.unwrap();
        let new = new.first_block.unwrap();
        assert_ne!(old.b.block_id, new.b.block_id);
        assert!(fixture.removed(block_of(&old.b).id));
        let last = written(&new, 1);
        fixture.report("dn2", block_of(&last));
        assert!(fixture.namesystem.complete(claim("/f"), Some(last)).await.unwrap());
    }
}
