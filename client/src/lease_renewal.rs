//! Keeps the client's lease on its open files: while any [`Lease`] is held, one task renews.

use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tracing::warn;

use crate::limits::LEASE_RENEWAL_INTERVAL;
use crate::namenode::Namenode;

/// Counts a client's open files.
#[derive(Debug)]
pub(crate) struct LeaseRenewal {
    namenode: Namenode,
    holder: String,
    renewing: std::sync::Mutex<Weak<watch::Sender<()>>>,
}

/// One open file's share in the renewal; the last one dropped ends it.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    _open: Arc<watch::Sender<()>>,
}

impl LeaseRenewal {
    pub fn new(namenode: Namenode, holder: String) -> Self {
        Self { namenode, holder, renewing: std::sync::Mutex::default() }
    }

    pub fn hold(&self) -> Lease {
        let mut renewing = self.renewing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(open) = renewing.upgrade() {
            return Lease { _open: open };
        }
        let (open, closed) = watch::channel(());
        let open = Arc::new(open);
        *renewing = Arc::downgrade(&open);
        tokio::spawn(renew_until(closed, self.namenode.clone(), self.holder.clone()));
        Lease { _open: open }
    }
}

/// A renewal that fails is tried again at the next interval: should the lease be lost meanwhile,
/// the writers' own calls say so.
async fn renew_until(mut closed: watch::Receiver<()>, namenode: Namenode, holder: String) {
    loop {
        tokio::select! {
            biased;
            _ = closed.changed() => return,
            () = tokio::time::sleep(LEASE_RENEWAL_INTERVAL) => {}
        }
        if let Err(error) = namenode.renew_lease(&holder).await {
            warn!("could not renew the lease of {holder}: {error}");
        }
    }
}
