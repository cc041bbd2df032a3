//! Signed receipts: what a broker states about the end of one lease, as a compact JWS (RFC 7515 §7.1) of
//! type `dayfly-receipt+jwt`, signed with its audit key (EdDSA, RFC 8037). Whoever holds the verifier key
//! of the journal can verify it years later, without the broker and without the journal.
//!
//! The keys that sign tokens would not do: they are published while their tokens live, and then forgotten.
//!
//! A receipt is made of a lease, so an ended lease keeps the signature alone and [`compact`] makes the
//! text again. Its form is therefore fixed: a later form needs another type.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};

use super::JournalError;
use super::note::{NoteSigner, NoteVerifier};
use crate::keys::jose::{JoseError, Unverified};
use crate::keys::jwk::VerifyingKey;
use crate::model::ids::{LeaseId, TaskId};
use crate::model::lease::{Cause, Handle, Lease, LeaseState, Receipt, ReceiptSignature};
use crate::model::name::{AgentName, ProviderName, ToolName};
use crate::model::time::Timestamp;

/// The `typ` of a receipt (RFC 8725 §3.11).
pub const TYP: &str = "dayfly-receipt+jwt";
/// The longest receipt that is looked at, in bytes. A usual one has some 700.
pub const LONGEST: usize = 16 * 1024;
/// A longer handle is left out: a receipt has an upper bound.
const LONGEST_HANDLE: usize = 512;

/// What a receipt states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// Who states it: the issuer, as in its tokens.
    pub issuer: String,
    /// When the end was settled and this was signed, in whole seconds.
    pub at: Timestamp,
    /// The lease that ended; the `jti` of a token.
    pub lease: LeaseId,
    /// Its task.
    pub task: TaskId,
    /// Whose it was.
    pub agent: AgentName,
    /// What it was for.
    pub tool: ToolName,
    /// Who made and ended it.
    pub provider: ProviderName,
    /// The provider's name for it, up to 512 bytes; absent where the provider has none but the lease's id.
    pub handle: Option<Handle>,
    /// Why it ended.
    pub cause: Cause,
    /// The proof.
    pub receipt: Receipt,
}

/// The claims as they are written. The order of the fields is part of what is signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    iss: String,
    iat: u64,
    lease: LeaseId,
    task: TaskId,
    agent: AgentName,
    tool: ToolName,
    provider: ProviderName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handle: Option<Handle>,
    cause: Cause,
    proof: String,
    proven_at: Timestamp,
}

/// Signs receipts with the audit key.
#[derive(Debug)]
pub struct ReceiptSigner {
    issuer: String,
    key: NoteSigner,
}

/// A receipt and what has to be kept to make it again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// The compact JWS.
    pub text: String,
    /// What an ended lease keeps of it.
    pub signature: ReceiptSignature,
}

impl ReceiptSigner {
    /// Signs as `issuer`, the URL where the broker is found, with the key of its journal.
    pub fn new(issuer: impl Into<String>, key: NoteSigner) -> Self {
        Self {
            issuer: issuer.into(),
            key,
        }
    }

    /// States that this lease ended at this instant, for this cause and with this proof.
    pub fn sign(
        &self,
        lease: &Lease,
        cause: Cause,
        receipt: Receipt,
        at: Timestamp,
    ) -> Result<Signed, JournalError> {
        let id = self.key.id();
        let unsigned = |reason: String| {
            JournalError::Unavailable(format!("the receipt of an end cannot be signed: {reason}"))
        };
        let input = signing_input(&self.issuer, id, lease, (cause, receipt, at))
            .map_err(|error| unsigned(error.to_string()))?;
        let bytes = self
            .key
            .sign_jws(&input)
            .map_err(|error| unsigned(error.to_string()))?;
        let signature = ReceiptSignature {
            issuer: self.issuer.clone(),
            key: id,
            bytes: Box::new(bytes),
        };
        let text = joined(input, &signature);
        Ok(Signed { text, signature })
    }
}

/// The receipt of an ended lease, as it was signed. `None` when it has not ended, or ended before receipts
/// were signed.
pub fn compact(lease: &Lease) -> Option<String> {
    let LeaseState::Ended {
        cause,
        at,
        receipt,
        signed: Some(signature),
    } = &lease.state
    else {
        return None;
    };
    let input = signing_input(&signature.issuer, signature.key, lease, (*cause, *receipt, *at)).ok()?;
    Some(joined(input, signature))
}

/// Header and claims (RFC 7515 §5.1). All of it comes from what an ended lease keeps, and from nothing else.
fn signing_input(
    issuer: &str,
    key: [u8; 4],
    lease: &Lease,
    (cause, receipt, at): (Cause, Receipt, Timestamp),
) -> Result<String, serde_json::Error> {
    let handle = lease.handle.clone().filter(|Handle(text)| {
        text.len() <= LONGEST_HANDLE && *text != lease.id.to_string() // a token's handle is its lease
    });
    let claims = Written {
        iss: issuer.to_owned(),
        iat: at.as_secs(),
        lease: lease.id,
        task: lease.task,
        agent: lease.agent.clone(),
        tool: lease.tool.clone(),
        provider: lease.provider.clone(),
        handle,
        cause,
        proof: receipt.as_str().to_owned(),
        proven_at: receipt.at(),
    };
    let header = format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{TYP}"}}"#, kid(key));
    let mut input = String::with_capacity(800);
    BASE64URL.encode_string(header, &mut input);
    input.push('.');
    BASE64URL.encode_string(serde_json::to_vec(&claims)?, &mut input);
    Ok(input)
}

fn joined(mut input: String, signature: &ReceiptSignature) -> String {
    input.push('.');
    BASE64URL.encode_string(signature.bytes.as_slice(), &mut input);
    input
}

/// How a receipt names its key: the key id, as a verifier key has it.
fn kid(key: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(key))
}

/// Verifies a receipt with the verifier keys of the journals whose brokers are trusted to state it. Answers
/// what it states, and which of the keys signed it.
pub fn verify<'k>(
    text: &str,
    keys: &'k [NoteVerifier],
) -> Result<(Claims, &'k NoteVerifier), InvalidReceipt> {
    let receipt = Unverified::parse(text, LONGEST)?;
    let header = receipt.header();
    if header.typ.as_deref() != Some(TYP) {
        return Err(InvalidReceipt::OtherType);
    }
    if !header.members().eq(["alg", "kid", "typ"]) {
        return Err(InvalidReceipt::OtherHeader);
    }
    let mut named = keys
        .iter()
        .filter(|key| header.kid.as_deref() == Some(&*kid(key.id())))
        .peekable();
    if named.peek().is_none() {
        return Err(InvalidReceipt::OtherKey);
    }
    let mut verified = Err(JoseError::NoKey);
    for key in named {
        let public = VerifyingKey::from_jwk(&key.jwk()).ok_or(JoseError::NoKey)?;
        verified = receipt.verify(&public).map(|()| key);
        if verified.is_ok() {
            break;
        }
    }
    let key = verified?;
    let written: Written = receipt.claims().map_err(|_| InvalidReceipt::OtherClaims)?;
    Ok((written.read()?, key))
}

impl Written {
    fn read(self) -> Result<Claims, InvalidReceipt> {
        Ok(Claims {
            receipt: Receipt::of(&self.proof, self.proven_at).ok_or(InvalidReceipt::OtherClaims)?,
            issuer: self.iss,
            at: Timestamp::from_secs(self.iat),
            lease: self.lease,
            task: self.task,
            agent: self.agent,
            tool: self.tool,
            provider: self.provider,
            handle: self.handle,
            cause: self.cause,
        })
    }
}

/// Why a receipt is refused. The texts contain nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReceipt {
    /// It is another kind of token.
    #[error("it is no receipt: its `typ` is not `{TYP}`")]
    OtherType,
    /// Its header says more or less than ours.
    #[error("it is no receipt of Dayfly's: its header has to have `alg`, `kid` and `typ`, and nothing else")]
    OtherHeader,
    /// Its `kid` is not the id of any of these keys.
    #[error("it was signed with another key: give the `vkey` of the broker that ended the lease")]
    OtherKey,
    /// It is no JWS that is understood, or its signature is wrong.
    #[error("{0}")]
    Jws(#[from] JoseError),
    /// It was signed, and its claims are not those of a receipt.
    #[error("its claims are not those of a receipt that this version of Dayfly knows")]
    OtherClaims,
}

#[cfg(test)]
mod tests;
