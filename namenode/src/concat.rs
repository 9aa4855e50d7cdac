//! `concat`: the blocks of several files become one file's, without a byte being copied.

use std::sync::Arc;

use ringfs_protocol::collections::HashSet;
use ringfs_protocol::messages::{ConcatRequestProto, ConcatResponseProto};

use crate::error::{NamenodeError, Result};
use crate::namespace::ResolvedPath;
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::file_of;
use crate::paths;
use crate::permissions::{PathUse, READ, WRITE};
use crate::retry_cache::Outcome;
use crate::schema::{FileRecord, Inode};
use crate::store::{Update, View};

impl Namesystem {
    pub async fn concat(
        self: &Arc<Self>,
        call: &ClientCall,
        request: ConcatRequestProto,
    ) -> Result<ConcatResponseProto> {
        if request.srcs.is_empty() {
            return Err(NamenodeError::IllegalArgument("No sources given".to_owned()));
        }
        for path in request.srcs.iter().chain([&request.trg]) {
            if paths::components(path).next() == Some(paths::RESERVED) {
                return Err(NamenodeError::Io(format!(
                    "Concat operation doesn't support {} relative path : {path}",
                    paths::RESERVED
                )));
            }
        }
        let caller = call.clone();
        let what = format!("Cannot concat {}", request.trg);
        self.change_once(call, what, move |namesystem, update| {
            namesystem.concat_files(update, &caller, &request)?;
            Ok(Outcome::Done(ConcatResponseProto {}))
        })
        .await
    }

    fn concat_files(
        &self,
        update: &mut Update,
        call: &ClientCall,
        request: &ConcatRequestProto,
    ) -> Result<()> {
        let target = self.resolve(update, call, &request.trg, PathUse::Existing)?;
        call.principal.check_last(&target, WRITE)?;
        let mut inode = target.file()?.clone();
        if file_of(&inode).writer.is_some() {
            return refuse(format!("concat: target file {} is under construction", target.path));
        }
        let mut sources = Vec::with_capacity(request.srcs.len());
        let mut seen = HashSet::from_iter([inode.id]);
        for source in &request.srcs {
            let path = self.resolve(update, call, source, PathUse::Existing)?;
            call.principal.check_last(&path, READ)?;
            call.principal.check_parent_write(&path)?;
            let source = check_source(&target, &inode, &path)?.clone();
            if !seen.insert(source.id) {
                return refuse(format!(
                    "concat: source file {} is given twice or is the target",
                    path.path
                ));
            }
            sources.push((path, source));
        }
        for (path, source) in &sources {
            self.move_blocks(update, source, &mut inode)?;
            update.remove_entry(source.parent, path.name().as_bytes())?;
            update.remove_inode(source.id)?;
        }
        let now_ms = self.now_ms();
        inode.mtime_ms = now_ms;
        update.put_inode(inode.id, &inode)?;
        if let Some(mut parent) = update.inode(inode.parent)? {
            parent.add_children(-(sources.len() as i64));
            parent.mtime_ms = now_ms;
            update.put_inode(parent.id, &parent)?;
        }
        self.set_block_replication(update, inode.id, file_of(&inode).replication)
    }

    /// Appends the blocks of `source` to `target`.
    fn move_blocks(&self, update: &mut Update, source: &Inode, target: &mut Inode) -> Result<()> {
        let mut index = file_of(target).blocks;
        for mut block in update.file_blocks(source.id)? {
            update.remove_file_block(source.id, block.index)?;
            block.inode = target.id;
            block.index = index;
            update.put_block(&block)?;
            update.put_file_block(target.id, index, block.id)?;
            index += 1;
        }
        let added = file_of(source).length;
        if let Some(file) = target.file_mut() {
            *file = FileRecord { blocks: index, length: file.length + added, ..file.clone() };
        }
        Ok(())
    }
}

fn check_source<'a>(
    target_path: &ResolvedPath,
    target: &Inode,
    path: &'a ResolvedPath,
) -> Result<&'a Inode> {
    let source = match path.last() {
        Some(source) if !source.is_directory() => source,
        Some(_) => return refuse(format!("concat: source {} is not a file", path.path)),
        None => return refuse(format!("concat: source file {} does not exist", path.path)),
    };
    let file = file_of(source);
    let why = if source.parent != target.parent {
        format!("is not in the same directory with the target {}", target_path.path)
    } else if file.writer.is_some() {
        "is under construction".to_owned()
    } else if file.blocks == 0 {
        "is empty".to_owned()
    } else if file.preferred_block_size > file_of(target).preferred_block_size {
        format!(
            "has preferred block size {} which is greater than the target file's preferred block \
             size {}",
            file.preferred_block_size,
            file_of(target).preferred_block_size
        )
    } else {
        return Ok(source);
    };
    refuse(format!("concat: source file {} {why}", path.path))
}

fn refuse<T>(why: String) -> Result<T> {
    Err(NamenodeError::HadoopIllegalArgument(why))
}
