//! Opening a closed file again: `append` and `truncate`.

use std::sync::Arc;

use ringfs_protocol::messages::{
    AppendRequestProto, AppendResponseProto, CreateFlagProto, TruncateResponseProto,
};

use crate::block_locations::last_block;
use crate::error::{NamenodeError, Result};
use crate::file_write::writer_record;
use crate::leases::LeaseUse;
use crate::limits::APPEND_WAIT;
use crate::listing::{effective_policy, file_status};
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::file_of;
use crate::permissions::{PathUse, WRITE};
use crate::retry_cache::Outcome;
use crate::schema::{BlockPhase, FileBlock, Inode};
use crate::storage_policies;
use crate::store::{Update, View};

impl Namesystem {
    pub async fn append(
        self: &Arc<Self>,
        call: &ClientCall,
        request: AppendRequestProto,
    ) -> Result<AppendResponseProto> {
        let caller = call.clone();
        let what = format!("Cannot append to file{}", request.src);
        self.wait_for_replicas(call, &request.src).await;
        self.change_once(call, what, move |namesystem, update| {
            namesystem.append_file(update, &caller, &request)
        })
        .await
    }

    /// One replica is enough to close a file. Right behind that the others are not known yet, and the
    /// pipeline of an append would stand on that one alone.
    async fn wait_for_replicas(&self, call: &ClientCall, path: &str) {
        let last = || -> Result<Option<FileBlock>> {
            let snapshot = self.snapshot();
            let path = self.resolve(&snapshot, call, path, PathUse::Existing)?;
            let inode = path.file()?;
            last_block(&snapshot, inode.id, file_of(inode))
        };
        // What is wrong with the path, the append itself says.
        if let Ok(Some(last)) = last() {
            self.blocks.wait_for_pending(&last.block(), APPEND_WAIT).await;
        }
    }

    fn append_file(
        self: &Arc<Self>,
        update: &mut Update,
        call: &ClientCall,
        request: &AppendRequestProto,
    ) -> Result<Outcome<AppendResponseProto>> {
        let path = self.resolve(update, call, &request.src, PathUse::Existing)?;
        if let Some(inode) = path.last()
            && inode.is_directory()
        {
            return Err(NamenodeError::FileAlreadyExists(format!(
                "Cannot append to directory {}; already exists as a directory.",
                path.path
            )));
        }
        call.principal.check_last(&path, WRITE)?;
        let inode = path.file()?.clone();
        let policy = effective_policy(&path);
        if policy == storage_policies::LAZY_PERSIST {
            return Err(NamenodeError::UnsupportedOperation(format!(
                "Cannot append to lazy persist file {}",
                path.path
            )));
        }
        let (id, machine) = (inode.id, call.address.to_string());
        let holder = &request.client_name;
        let refusal =
            self.take_over(update, LeaseUse::AppendFile, &path.path, inode, holder, &machine)?;
        if let Some(refusal) = refusal {
            return Ok(Outcome::Refused(refusal));
        }
        // Taking over may have closed it.
        let Some(mut inode) = update.inode(id)? else { return Err(path.missing()) };
        let last = last_block(update, id, file_of(&inode))?;
        if let Some(last) = &last {
            self.check_appendable(last, &path.path)?;
        }
        self.open_for(update, &mut inode, writer_record(call, holder))?;
        let new_block = request.flag() & CreateFlagProto::NewBlock as u32 != 0;
        let block = match last {
            // The client names it as the previous one, and must not write to it.
            Some(last) if new_block => {
                let offset = file_of(&inode).length - last.num_bytes;
                Some(self.located_at(&last, offset, &[], false))
            }
            Some(mut last) if last.num_bytes < last.preferred_block_size => {
                let (targets, _) = self.blocks.locations(&last.stored(), call.address);
                let offset = file_of(&inode).length - last.num_bytes;
                last.set_phase(BlockPhase::UnderConstruction);
                last.pipeline = crate::file_write::pipeline(&targets);
                update.put_block(&last)?;
                let (blocks, stored) = (self.blocks.clone(), last.stored());
                update.after_commit(move || {
                    blocks.reopen_for_append(&stored);
                });
                Some(self.located_at(&last, offset, &targets, false))
            }
            _ => None,
        };
        let stat = Some(file_status(&inode, Vec::new(), policy));
        Ok(Outcome::Done(AppendResponseProto { block, stat }))
    }

    /// The last block must be there to be written on.
    fn check_appendable(&self, last: &FileBlock, path: &str) -> Result<()> {
        let live = self.blocks.live_datanodes();
        let min = (self.config.replication_min as usize).min(live);
        if self.blocks.finalized_replicas(&last.block()) < min {
            return Err(NamenodeError::Io(format!(
                "append: lastBlock={} of src={path} is not sufficiently replicated yet.",
                last.block()
            )));
        }
        Ok(())
    }

    /// True when the file has its new length; false when a datanode still has to cut the last block,
    /// after which the file is closed.
    pub async fn truncate(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        new_length: u64,
        holder: String,
    ) -> Result<TruncateResponseProto> {
        let caller = call.clone();
        let what = format!("Cannot truncate for {path}");
        self.change_once(call, what, move |namesystem, update| {
            namesystem.truncate_file(update, &caller, &path, new_length, &holder)
        })
        .await
    }

    fn truncate_file(
        self: &Arc<Self>,
        update: &mut Update,
        call: &ClientCall,
        path: &str,
        new_length: u64,
        holder: &str,
    ) -> Result<Outcome<TruncateResponseProto>> {
        let answer = |result| Ok(Outcome::Done(TruncateResponseProto { result }));
        let resolved = self.resolve(update, call, path, PathUse::Existing)?;
        let inode = resolved.file()?.clone();
        call.principal.check_last(&resolved, WRITE)?;
        if effective_policy(&resolved) == storage_policies::LAZY_PERSIST {
            return Err(NamenodeError::UnsupportedOperation(format!(
                "Cannot truncate lazy persist file {}",
                resolved.path
            )));
        }
        if self.is_being_cut_to(update, &inode, new_length)? {
            return answer(false);
        }
        let (id, machine) = (inode.id, call.address.to_string());
        let refusal = self.take_over(
            update,
            LeaseUse::TruncateFile,
            &resolved.path,
            inode,
            holder,
            &machine,
        )?;
        if let Some(refusal) = refusal {
            return Ok(Outcome::Refused(refusal));
        }
        let Some(mut inode) = update.inode(id)? else { return Err(resolved.missing()) };
        let length = file_of(&inode).length;
        if new_length == length {
            return answer(true);
        }
        if new_length > length {
            return Err(NamenodeError::HadoopIllegalArgument(format!(
                "Cannot truncate to a larger file size. Current size: {length}, truncate size: \
                 {new_length}."
            )));
        }
        let mut start = length;
        while let Some(mut last) = last_block(update, id, file_of(&inode))? {
            start -= last.num_bytes;
            if start < new_length {
                last.truncate_to = Some(new_length - start);
                self.open_for(update, &mut inode, writer_record(call, holder))?;
                // The replicas are cut where they are: they are the ones to recover.
                let (blocks, stored) = (self.blocks.clone(), last.stored());
                update.after_commit(move || {
                    blocks.reopen_for_append(&stored);
                });
                self.recover_block(update, last)?;
                return answer(false);
            }
            self.remove_last_block(update, &mut inode, &last)?;
            if start == new_length {
                break;
            }
        }
        inode.mtime_ms = self.now_ms();
        update.put_inode(id, &inode)?;
        answer(true)
    }

    fn is_being_cut_to(&self, view: &dyn View, inode: &Inode, new_length: u64) -> Result<bool> {
        let file = file_of(inode);
        let last = last_block(view, inode.id, file)?;
        Ok(last.is_some_and(|last| {
            last.truncate_to.is_some_and(|cut| file.length - last.num_bytes + cut == new_length)
        }))
    }
}
