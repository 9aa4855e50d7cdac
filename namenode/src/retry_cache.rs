//! The replies of at-most-once calls, kept for clients that never saw them.
//!
//! A client that lost its connection repeats the call under the same client id and call id. Its first
//! run and the record of its reply are one transaction, so the repetition finds either both or none,
//! also after a restart. The writer runs one operation at a time: a repetition that arrives while the
//! first run is still queued waits for it there.

use std::ops::Bound;
use std::sync::Arc;

use prost::Message;

use crate::error::{NamenodeError, Result};
use crate::limits::RETRY_PURGE_BATCH_MAX;
use crate::namesystem::{ClientCall, Namesystem, RetryKey};
use crate::schema::{RetryRecord, Space, decode};
use crate::store::{Update, View};

/// How an at-most-once change ends when it did not fail outright.
pub(crate) enum Outcome<M> {
    /// Done: a repetition gets the same reply.
    Done(M),
    /// Nothing was changed that a repetition could harm: it runs again.
    Nothing(M),
    /// The call fails, yet what it began (a lease recovery) stays.
    Refused(NamenodeError),
}

impl Namesystem {
    /// One change that must not run twice for one call of a client.
    pub(crate) async fn change_once<M, F>(
        self: &Arc<Self>,
        call: &ClientCall,
        what: String,
        operation: F,
    ) -> Result<M>
    where
        M: Message + Default + 'static,
        F: FnOnce(&Arc<Self>, &mut Update) -> Result<Outcome<M>> + Send + 'static,
    {
        let namesystem = self.clone();
        let key = call.retry_key;
        let run = move |update: &mut Update| -> Result<Result<M>> {
            let now_ms = namesystem.now_ms();
            let forgets = ringfs_protocol::mutant!("namenode: double-apply a retried call");
            let known = if forgets { None } else { recall(update, key, now_ms)? };
            if let Some(reply) = known {
                return decode(Space::Retries, &reply).map(Ok);
            }
            namesystem.check_safe_mode(&what)?;
            match operation(&namesystem, update)? {
                Outcome::Done(reply) => {
                    let expiry_ms = now_ms + namesystem.config.retry_cache_expiry_ms;
                    remember(update, key, expiry_ms, reply.encode_to_vec())?;
                    Ok(Ok(reply))
                }
                Outcome::Nothing(reply) => Ok(Ok(reply)),
                Outcome::Refused(error) => Ok(Err(error)),
            }
        };
        self.store.write(run).await?
    }

    /// Drops expired replies, for ever.
    pub(crate) async fn purge_retries(self: &Arc<Self>) {
        let period = std::time::Duration::from_millis(self.config.retry_cache_expiry_ms.max(1000));
        loop {
            tokio::time::sleep(period / 10).await;
            if let Err(error) = self.purge_expired_retries().await {
                tracing::warn!("purging the retry cache: {error}");
            }
        }
    }

    pub(crate) async fn purge_expired_retries(&self) -> Result<()> {
        loop {
            let now_ms = self.now_ms();
            let purged = self.store.write(move |update| purge(update, now_ms)).await?;
            if purged < RETRY_PURGE_BATCH_MAX {
                return Ok(());
            }
        }
    }
}

fn recall(view: &dyn View, key: Option<RetryKey>, now_ms: u64) -> Result<Option<Vec<u8>>> {
    let Some(key) = key else { return Ok(None) };
    let Some(value) = view.get(Space::Retries, &key)? else { return Ok(None) };
    let record: RetryRecord = decode(Space::Retries, &value)?;
    Ok((now_ms < record.expiry_ms).then_some(record.reply))
}

fn remember(
    update: &mut Update,
    key: Option<RetryKey>,
    expiry_ms: u64,
    reply: Vec<u8>,
) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let record = RetryRecord { expiry_ms, reply };
    update.put(Space::Retries, &key, &record.encode_to_vec())?;
    update.put(Space::RetryExpiry, &expiry_key(expiry_ms, &key), &[])?;
    Ok(())
}

fn purge(update: &mut Update, now_ms: u64) -> Result<usize> {
    let end = now_ms.to_be_bytes();
    let end = Bound::Excluded(&end[..]);
    let expired = update.scan(Space::RetryExpiry, Bound::Unbounded, end, RETRY_PURGE_BATCH_MAX)?;
    for (expiry_key, _) in &expired {
        update.remove(Space::RetryExpiry, expiry_key)?;
        let key = &expiry_key[8.min(expiry_key.len())..];
        // A call that was run anew after its first record expired has a younger record.
        let value = update.get(Space::Retries, key)?;
        if let Some(value) = value
            && decode::<RetryRecord>(Space::Retries, &value)?.expiry_ms < now_ms
        {
            update.remove(Space::Retries, key)?;
        }
    }
    Ok(expired.len())
}

fn expiry_key(expiry_ms: u64, key: &RetryKey) -> Vec<u8> {
    [&expiry_ms.to_be_bytes()[..], key].concat()
}
