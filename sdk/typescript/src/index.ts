/**
 * The client of the Dayfly broker for agents: a task, credentials that end with it, and calls that carry them.
 *
 * @packageDocumentation
 */
export { formatAccess, parseAccess, type Access, type AccessLike, type ParsedAccess } from "./access.js";
export { currentCredential, currentFetch, currentTask } from "./ambient.js";
export type { BoundedBy, Duration, Outcome, Revocation } from "./api.js";
export { Broker, type BrokerOptions, type DecideOptions, type Verdict } from "./broker.js";
export { Credential, type CredentialKind } from "./credential.js";
export {
  ApprovalPending,
  AttestationFailed,
  BrokerUnavailable,
  Budget,
  DayflyError,
  Denied,
  InvalidRequest,
  NotAdmitted,
  NotFound,
  OriginRefused,
  ProviderFailed,
  Revoked,
  ScopeWidening,
  TaskEnded,
  TaskSuspended,
} from "./errors.js";
export { evidence, type EvidenceLike, type EvidenceRequest, type EvidenceSource } from "./evidence.js";
export type { FetchLike } from "./fetch.js";
export { Secret } from "./secret.js";
export {
  Handover,
  Task,
  type CredentialOptions,
  type DelegateOptions,
  type EndedLease,
  type EndedTask,
  type FetchOptions,
  type TaskHandle,
  type TaskOptions,
} from "./task.js";
