//! The journal from its configuration, with its key.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::Context as _;

use crate::config::journal::JournalConfig;
use crate::entropy::Entropy;
use crate::journal::audit_key;
use crate::journal::file::{FileJournal, Options};
use crate::journal::receipt::ReceiptSigner;

/// Opens the journal, and what signs the receipts of this `issuer` with its key. The key is its own, made
/// at the first start; the public part is written beside it, for auditors to take away.
pub fn open(
    config: &JournalConfig,
    issuer: &str,
    entropy: &dyn Entropy,
) -> anyhow::Result<(FileJournal, ReceiptSigner)> {
    let dir = &config.dir;
    // Purposes are nobody else's to read.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let signer = audit_key::open(&dir.join("audit.pem"), &config.origin, entropy)?;
    let (vkey, key) = (dir.join("vkey"), format!("{}\n", signer.verifier()));
    // Not written anew at each start: on a full disk that would leave it empty.
    if std::fs::read(&vkey).ok().as_deref() != Some(key.as_bytes()) {
        std::fs::write(&vkey, key).with_context(|| format!("cannot write {}", vkey.display()))?;
    }
    let options = Options {
        segment_bytes: config.segment_bytes,
        sign_every: config.checkpoint_interval,
        ..Options::default()
    };
    let receipts = ReceiptSigner::new(issuer, signer.clone());
    Ok((FileJournal::open(dir, options, signer)?, receipts))
}
