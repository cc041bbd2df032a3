//! Comparing providers with the ledger on demand.

use super::answer::Answer;
use super::extract::Authenticated;
use super::problem::Problem;
use super::wire::reconciliations::Reconciliation;

/// Compare what providers hold with the ledger
///
/// Takes a permit for `dayfly:reconcile`. Ends what should not be there, and turns to their end the
/// leases of what is gone. It happens by itself too; this does not wait for it.
#[utoipa::path(post, path = "/v1/reconciliations", tag = "revocations", operation_id = "reconcile",
    responses((status = 200, body = Reconciliation)))]
pub(super) async fn reconcile(call: Authenticated) -> Result<Answer<Reconciliation>, Problem> {
    let compared = call
        .run(|broker, caller, request| async move { broker.reconcile(&caller, request).await })
        .await?;
    Ok(Answer(compared.into()))
}
