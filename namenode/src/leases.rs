//! Leases: the right to write a file, and how it passes on when its holder is gone.
//!
//! Which files a holder has open is in the store; when each holder was last heard of is in memory
//! only, so after a restart every lease counts anew. Past the soft limit another client may take a
//! file over; past the hard limit the monitor does, under the name [`NAMENODE_HOLDER`]. Either starts
//! the *release* of the lease: a file whose blocks are complete is closed at once; else the replicas
//! of its last block are brought to one length by a datanode, whose `commitBlockSynchronization`
//! then closes the file (`block_recovery.rs`). A recovery that came to nothing, or that a restart cut
//! short, is started anew after its time (Apache waits for the hard limit, or for another caller).

use std::sync::Arc;

use parking_lot::Mutex;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp};
use ringfs_protocol::collections::{HashMap, HashSet};

use crate::block_locations::{last_block, penultimate_block};
use crate::block_manager::RecoveryRequest;
use crate::error::{NamenodeError, Result};
use crate::limits::{
    ALLOCATIONS_KEPT_MAX, LEASE_CHECK_INTERVAL, LEASE_RECOVERIES_PER_CHECK, LEASE_SOFT_LIMIT_MS,
};
use crate::namespace;
use crate::namesystem::{ClientCall, Namesystem, RetryKey};
use crate::open_file::file_of;
use crate::permissions::{PathUse, WRITE};
use crate::schema::{BlockPhase, FileBlock, Inode, InodeId, Space, WriterRecord, split_lease_key};
use crate::store::{Snapshot, Update, View};

/// Holder of the leases that the namenode itself recovers.
pub const NAMENODE_HOLDER: &str = "HDFS_NameNode";

pub struct Leases {
    /// When each holder was last heard of.
    renewals_ms: Mutex<HashMap<String, u64>>,
    /// Until when each running block recovery may take.
    recoveries_ms: Mutex<HashMap<BlockId, u64>>,
    /// Files whose last block is under recovery: nobody else may ask again for one that came to
    /// nothing, or that the namenode's end cut short.
    unfinished: Mutex<HashSet<InodeId>>,
    /// The call that allocated the last block of an open file, since the start.
    allocations: Mutex<HashMap<InodeId, RetryKey>>,
}

impl Leases {
    /// Every stored lease starts as if renewed now.
    pub fn load(snapshot: &Snapshot, now_ms: u64) -> Result<Self> {
        let leases = snapshot.scan_prefix(Space::Leases, &[], usize::MAX)?;
        let mut renewals_ms = HashMap::default();
        let mut unfinished = HashSet::default();
        for (holder, id) in leases.iter().filter_map(|(key, _)| split_lease_key(key)) {
            renewals_ms.insert(holder, now_ms);
            if let Some(inode) = snapshot.inode(id)?
                && last_block(snapshot, id, file_of(&inode))?
                    .is_some_and(|last| last.phase() == BlockPhase::UnderRecovery)
            {
                unfinished.insert(id);
            }
        }
        Ok(Self {
            renewals_ms: Mutex::new(renewals_ms),
            recoveries_ms: Mutex::default(),
            unfinished: Mutex::new(unfinished),
            allocations: Mutex::default(),
        })
    }

    fn start(&self, holder: &str, now_ms: u64) {
        self.renewals_ms.lock().insert(holder.to_owned(), now_ms);
    }

    /// A holder without open files is not remembered.
    fn renew(&self, holder: &str, now_ms: u64) {
        if let Some(renewed_ms) = self.renewals_ms.lock().get_mut(holder) {
            *renewed_ms = now_ms;
        }
    }

    fn is_older_than(&self, holder: &str, limit_ms: u64, now_ms: u64) -> bool {
        let renewed_ms = self.renewals_ms.lock().get(holder).copied();
        renewed_ms.is_none_or(|renewed_ms| now_ms.saturating_sub(renewed_ms) > limit_ms)
    }

    fn holders_older_than(&self, limit_ms: u64, now_ms: u64) -> Vec<String> {
        let renewals = self.renewals_ms.lock();
        let old = renewals
            .iter()
            .filter(|(_, renewed_ms)| now_ms.saturating_sub(**renewed_ms) > limit_ms);
        old.map(|(holder, _)| holder.clone()).collect()
    }

    /// Forgets a holder, unless it was heard of in the meantime.
    fn forget_older_than(&self, holder: &str, limit_ms: u64, now_ms: u64) {
        let mut renewals = self.renewals_ms.lock();
        let renewed_ms = renewals.get(holder).copied();
        if renewed_ms.is_some_and(|renewed_ms| now_ms.saturating_sub(renewed_ms) > limit_ms) {
            renewals.remove(holder);
        }
    }

    pub(crate) fn note_allocation(&self, file: InodeId, call: Option<RetryKey>) {
        let mut allocations = self.allocations.lock();
        if allocations.len() >= ALLOCATIONS_KEPT_MAX {
            allocations.clear();
        }
        match call {
            Some(call) => drop(allocations.insert(file, call)),
            None => drop(allocations.remove(&file)),
        }
    }

    /// Whether the client made the call before it asked for the file's last block: what it says of the
    /// last block is then of the one before.
    pub(crate) fn is_before_allocation(&self, file: InodeId, call: Option<RetryKey>) -> bool {
        let allocations = self.allocations.lock();
        let (Some(allocation), Some(call)) = (allocations.get(&file), call) else { return false };
        // The client's id, then the number of the call.
        allocation[..16] == call[..16] && call[16..] < allocation[16..]
    }

    fn is_recovering(&self, block: BlockId, now_ms: u64) -> bool {
        self.recoveries_ms.lock().get(&block).is_some_and(|until_ms| now_ms < *until_ms)
    }

    pub(crate) fn start_recovery(&self, block: BlockId, until_ms: u64) {
        self.recoveries_ms.lock().insert(block, until_ms);
    }

    pub(crate) fn end_recovery(&self, block: BlockId) {
        self.recoveries_ms.lock().remove(&block);
    }
}

/// Why a file that is open is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseUse {
    CreateFile,
    AppendFile,
    TruncateFile,
    RecoverLease,
}

impl LeaseUse {
    fn name(self) -> &'static str {
        match self {
            Self::CreateFile => "CREATE_FILE",
            Self::AppendFile => "APPEND_FILE",
            Self::TruncateFile => "TRUNCATE_FILE",
            Self::RecoverLease => "RECOVER_LEASE",
        }
    }
}

impl Namesystem {
    pub fn renew_lease(&self, holder: &str) -> Result<()> {
        self.check_safe_mode(&format!("Cannot renew lease for {holder}"))?;
        self.leases.renew(holder, self.clock.monotonic_ms());
        Ok(())
    }

    /// True when the file is closed; else its recovery has been started or goes on.
    pub async fn recover_lease(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        holder: String,
    ) -> Result<bool> {
        let call = call.clone();
        let what = format!("Cannot recover the lease of {path}");
        self.change(what, move |namesystem, update| {
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            let inode = resolved.file()?.clone();
            if file_of(&inode).writer.is_none() {
                return Ok(true);
            }
            call.principal.check_last(&resolved, WRITE)?;
            namesystem.release_lease(
                update,
                &resolved.path,
                inode,
                LeaseUse::RecoverLease,
                Some(&holder),
            )
        })
        .await
    }

    /// Makes an open file available to `holder`: nothing to do when it is closed; when its lease is
    /// past the soft limit, the lease is released. `Some`: why it is not available, for the caller
    /// to answer *and keep what was begun*.
    pub(crate) fn take_over(
        self: &Arc<Self>,
        update: &mut Update,
        lease_use: LeaseUse,
        path: &str,
        inode: Inode,
        holder: &str,
        machine: &str,
    ) -> Result<Option<NamenodeError>> {
        let Some(writer) = file_of(&inode).writer.clone() else { return Ok(None) };
        let refusal = |why: String| {
            format!("Failed to {} {path} for {holder} on {machine} because {why}", lease_use.name())
        };
        if writer.holder == holder {
            let why = format!("{holder} is already the current lease holder.");
            return Ok(Some(NamenodeError::AlreadyBeingCreated(refusal(why))));
        }
        let now_ms = self.clock.monotonic_ms();
        if self.leases.is_older_than(&writer.holder, LEASE_SOFT_LIMIT_MS, now_ms) {
            return match self.release_lease(update, path, inode, lease_use, None) {
                Ok(true) => Ok(None),
                Ok(false) => {
                    let why = "lease recovery is in progress. Try again later.".to_owned();
                    Ok(Some(NamenodeError::RecoveryInProgress(refusal(why))))
                }
                Err(error) => Err(error),
            };
        }
        let WriterRecord { holder: owner, machine } = &writer;
        let last = last_block(update, inode.id, file_of(&inode))?;
        if last.is_some_and(|last| last.phase() == BlockPhase::UnderRecovery) {
            let why = format!("another recovery is in progress by {owner} on {machine}");
            return Ok(Some(NamenodeError::RecoveryInProgress(refusal(why))));
        }
        let why = format!("this file lease is currently owned by {owner} on {machine}");
        Ok(Some(NamenodeError::AlreadyBeingCreated(refusal(why))))
    }

    /// Closes an open file, or starts the recovery of its last block; true when it is closed. The
    /// lease passes to `new_holder` meanwhile.
    fn release_lease(
        self: &Arc<Self>,
        update: &mut Update,
        path: &str,
        mut inode: Inode,
        lease_use: LeaseUse,
        new_holder: Option<&str>,
    ) -> Result<bool> {
        let file = file_of(&inode).clone();
        let mut penultimate = penultimate_block(update, inode.id, &file)?;
        let settled = match &mut penultimate {
            Some(block) => self.settle(update, block)?,
            None => true,
        };
        let Some(mut last) = last_block(update, inode.id, &file)? else {
            self.close_file(update, inode)?;
            return Ok(true);
        };
        match last.phase() {
            BlockPhase::Committed | BlockPhase::Complete => {
                if settled && self.settle(update, &mut last)? {
                    self.close_file(update, inode)?;
                    return Ok(true);
                }
                Err(NamenodeError::AlreadyBeingCreated(format!(
                    "{}: failed to release lease for file {path}. Committed blocks are waiting to \
                     be minimally replicated. Try again later.",
                    lease_use.name()
                )))
            }
            BlockPhase::UnderConstruction | BlockPhase::UnderRecovery => {
                if self.was_never_written(&last) {
                    self.remove_last_block(update, &mut inode, &last)?;
                    self.close_file(update, inode)?;
                    return Ok(true);
                }
                self.start_block_recovery(update, last)?;
                if let Some(holder) = new_holder {
                    self.reassign(update, &mut inode, holder)?;
                }
                Ok(false)
            }
        }
    }

    /// A block that no datanode holds and nobody has flushed: its writer died before the first byte.
    /// As long as no datanode of its pipeline has reported since the start, its replicas may yet
    /// turn up.
    fn was_never_written(&self, block: &FileBlock) -> bool {
        let has_reported = |uuid: &String| {
            let info = self.blocks.datanode_info(uuid);
            info.is_some_and(|info| info.last_block_report_time() > 0)
        };
        block.num_bytes == 0
            && self.blocks.expected(block.id).is_empty()
            && (block.pipeline.is_empty() || block.pipeline.iter().any(has_reported))
    }

    /// Has a datanode bring the replicas of a block to one length, unless one is at it.
    fn start_block_recovery(self: &Arc<Self>, update: &mut Update, block: FileBlock) -> Result<()> {
        let now_ms = self.clock.monotonic_ms();
        if self.leases.is_recovering(block.id, now_ms) || self.blocks.expected(block.id).is_empty()
        {
            return Ok(());
        }
        self.recover_block(update, block)
    }

    /// Puts a block under recovery towards a new generation stamp.
    pub(crate) fn recover_block(
        self: &Arc<Self>,
        update: &mut Update,
        mut block: FileBlock,
    ) -> Result<()> {
        let recovery_id = update.next_generation_stamp()?;
        block.set_phase(BlockPhase::UnderRecovery);
        block.recovery_id = recovery_id.0;
        update.put_block(&block)?;
        let request = RecoveryRequest {
            block: block.block(),
            recovery_id,
            truncate_to: block.truncate_to.map(|num_bytes| Block {
                id: block.id,
                generation_stamp: GenerationStamp(recovery_id.0),
                num_bytes,
            }),
        };
        let until_ms = self.clock.monotonic_ms() + self.config.recovery_timeout_ms;
        let (namesystem, file) = (self.clone(), block.inode);
        update.after_commit(move || {
            namesystem.leases.unfinished.lock().insert(file);
            if namesystem.blocks.queue_recovery(&request) {
                namesystem.leases.start_recovery(request.block.id, until_ms);
            }
        });
        Ok(())
    }

    fn reassign(&self, update: &mut Update, inode: &mut Inode, holder: &str) -> Result<()> {
        let Some(old) = file_of(inode).writer.clone().filter(|old| old.holder != holder) else {
            return Ok(());
        };
        update.remove_lease(&old.holder, inode.id)?;
        self.open_for(update, inode, WriterRecord { holder: holder.to_owned(), ..old })
    }

    /// Records that `holder` has a file open.
    pub(crate) fn hand_lease(
        &self,
        update: &mut Update,
        holder: &str,
        inode: InodeId,
    ) -> Result<()> {
        update.put_lease(holder, inode)?;
        // Before the commit: a lease must never be found without its start.
        self.leases.start(holder, self.clock.monotonic_ms());
        Ok(())
    }

    /// Recovers what is held past the hard limit, for ever.
    pub(crate) async fn monitor_leases(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(LEASE_CHECK_INTERVAL).await;
            if self.blocks.safe_mode().is_on() {
                continue;
            }
            if let Err(error) = self.check_leases().await {
                tracing::warn!("recovering expired leases: {error}");
            }
        }
    }

    pub(crate) async fn check_leases(self: &Arc<Self>) -> Result<()> {
        let now_ms = self.clock.monotonic_ms();
        let for_ever = ringfs_protocol::mutant!("namenode: leases last for ever");
        let limit_ms = if for_ever { u64::MAX / 2 } else { self.config.lease_hard_limit_ms };
        let mut holders = self.leases.holders_older_than(limit_ms, now_ms);
        holders.retain(|holder| holder != NAMENODE_HOLDER);
        // What is the namenode's own needs no limit: a recovery that failed is started anew.
        holders.push(NAMENODE_HOLDER.to_owned());
        for holder in holders {
            let files = self.snapshot().leased_files(&holder, LEASE_RECOVERIES_PER_CHECK)?;
            if files.is_empty() {
                self.leases.forget_older_than(&holder, limit_ms, now_ms);
            }
            for id in files {
                if let Err(error) = self.recover_expired(&holder, id).await {
                    tracing::warn!("lease of {holder} on inode {id}: {error}");
                }
            }
        }
        self.repeat_recoveries().await
    }

    /// Starts the recoveries anew whose time is over, whoever holds the lease.
    async fn repeat_recoveries(self: &Arc<Self>) -> Result<()> {
        let files: Vec<InodeId> = self.leases.unfinished.lock().iter().copied().collect();
        for id in files.into_iter().take(LEASE_RECOVERIES_PER_CHECK) {
            if self.is_being_recovered(id)? {
                continue;
            }
            let what = format!("Cannot recover the last block of inode {id}");
            self.change(what, move |namesystem, update| {
                let last = match update.inode(id)? {
                    Some(inode) => last_block(update, id, file_of(&inode))?,
                    None => None,
                };
                match last {
                    Some(last) if last.phase() == BlockPhase::UnderRecovery => {
                        namesystem.start_block_recovery(update, last)
                    }
                    _ => {
                        namesystem.leases.unfinished.lock().remove(&id);
                        Ok(())
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn recover_expired(self: &Arc<Self>, holder: &str, id: InodeId) -> Result<()> {
        if self.is_being_recovered(id)? {
            return Ok(());
        }
        let holder = holder.to_owned();
        let what = format!("Cannot recover the lease of inode {id}");
        self.change(what, move |namesystem, update| {
            let Some(inode) = update.inode(id)? else {
                return update.remove_lease(&holder, id);
            };
            let is_held =
                file_of(&inode).writer.as_ref().is_some_and(|writer| writer.holder == holder);
            // A deleted file's lease goes when the file is reaped.
            let Some(path) = namespace::path_of(update, id)?.filter(|_| is_held) else {
                return Ok(());
            };
            let lease_use = LeaseUse::RecoverLease;
            let closed =
                namesystem.release_lease(update, &path, inode, lease_use, Some(NAMENODE_HOLDER))?;
            tracing::info!("lease of {holder} on {path} expired: closed {closed}");
            Ok(())
        })
        .await
    }

    fn is_being_recovered(&self, id: InodeId) -> Result<bool> {
        let snapshot = self.snapshot();
        let Some(inode) = snapshot.inode(id)? else { return Ok(false) };
        let last = last_block(&snapshot, id, file_of(&inode))?;
        let now_ms = self.clock.monotonic_ms();
        Ok(last.is_some_and(|last| self.leases.is_recovering(last.id, now_ms)))
    }
}
