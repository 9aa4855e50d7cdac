//! A directory of the measured file system that a run has for itself. It goes with everything in it,
//! and with those of its parents that were made for it and are empty.

use ringfs_client::{Client, ClientError};
use uuid::Uuid;

use crate::BenchError;

#[derive(Clone, Debug)]
pub struct ScratchDirectory {
    client: Client,
    pub path: String,
    /// Parents that did not exist before, the deepest first.
    made: Vec<String>,
}

impl ScratchDirectory {
    /// A directory below `base` that nobody else has.
    pub async fn create(client: &Client, base: &str) -> Result<Self, BenchError> {
        let base = base.trim_end_matches('/');
        if !base.starts_with('/') {
            return Err(BenchError::Usage(format!("{base:?} is not an absolute directory")));
        }
        let mut made = Vec::new();
        let mut parent = base;
        while !parent.is_empty() && client.file_status(parent).await?.is_none() {
            made.push(parent.to_owned());
            parent = parent.rsplit_once('/').map_or("", |(above, _)| above);
        }
        let path = format!("{base}/{}", Uuid::new_v4().simple());
        client.mkdirs(&path, 0o777, true).await?;
        Ok(Self { client: client.clone(), path, made })
    }

    pub async fn remove(&self) -> Result<(), BenchError> {
        self.client.delete(&self.path, true).await?;
        for parent in &self.made {
            match self.client.delete(parent, false).await {
                Ok(_) => {}
                // Somebody else uses it by now.
                Err(ClientError::Remote(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
