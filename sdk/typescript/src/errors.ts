/**
 * What can go wrong, one class for each thing that a caller would do differently. None of them ever holds
 * evidence or a credential: they are made from the broker's problem documents and from our own words.
 */

/** What every error may know about the answer behind it. */
export interface ErrorContext {
  /** The HTTP status of the broker's answer; absent when there was none. */
  readonly status?: number | undefined;
  /** The broker's stable name for the problem, such as `denied`; absent when it is not the broker's. */
  readonly slug?: string | undefined;
  /** Names the request in the broker's logs and records. */
  readonly requestId?: string | undefined;
  /** Whether the same call may work later as it is. */
  readonly retryable?: boolean | undefined;
}

/** Anything that this library reports. */
export class DayflyError extends Error {
  /** What happened, and what to do next. */
  readonly detail: string;
  /** The HTTP status of the broker's answer, if there was one. */
  readonly status: number | undefined;
  /** The broker's stable name for the problem, if it is the broker's. */
  readonly slug: string | undefined;
  /** Names the request in the broker's logs and records. */
  readonly requestId: string | undefined;
  /** Whether the same call may work later as it is. */
  readonly retryable: boolean;

  constructor(detail: string, context: ErrorContext = {}) {
    const { status, slug, requestId } = context;
    const kind = slug === undefined ? "" : ` (${slug}${status === undefined ? "" : `, ${status}`})`;
    const request = requestId === undefined ? "" : `; request ${requestId}`;
    super(`${detail}${kind}${request}`);
    this.name = new.target.name;
    this.detail = detail;
    this.status = status;
    this.slug = slug;
    this.requestId = requestId;
    this.retryable = context.retryable ?? false;
  }
}

/** Policy or the scope of the task does not permit it. */
export class Denied extends DayflyError {
  /** Why. */
  readonly reason: string;
  /** The record of the denial. */
  readonly decision: string | undefined;

  constructor(reason: string, decision: string | undefined, context: ErrorContext) {
    super(reason, context);
    this.reason = reason;
    this.decision = decision;
  }
}

/** Policy would permit it once somebody approves. Suspend the task, and resume it afterwards. No {@link Denied}. */
export class ApprovalPending extends DayflyError {
  /** What is waited for. */
  readonly reason: string;
  /** The record of the decision. */
  readonly decision: string | undefined;
  /** The role of whoever may approve. */
  readonly approval: string | undefined;

  constructor(
    reason: string,
    decision: string | undefined,
    approval: string | undefined,
    context: ErrorContext,
  ) {
    super(reason, context);
    this.reason = reason;
    this.decision = decision;
    this.approval = approval;
  }
}

/** The workload is no registered agent, or one that gets nothing for now. */
export class NotAdmitted extends DayflyError {}

/** The evidence proves nothing to the broker, or there is none to be had. */
export class AttestationFailed extends DayflyError {}

/** The task is over. */
export class TaskEnded extends DayflyError {
  /** Always `ended`. */
  readonly state = "ended";
  /** How it ended, such as `completed`, `expired`, `lost` or `revoked`; absent when nobody could say. */
  readonly outcome: string | undefined;

  constructor(outcome: string | undefined, context: ErrorContext = {}) {
    super(`the task has ended${outcome === undefined ? "" : `: ${outcome}`}`, context);
    this.outcome = outcome;
  }
}

/** The task is suspended: nothing is issued until it is resumed. */
export class TaskSuspended extends DayflyError {
  constructor(context: ErrorContext = {}) {
    super("the task is suspended: resume it first", context);
  }
}

/** A cutoff, such as a kill order, is in force. */
export class Revoked extends DayflyError {}

/** There is no such thing, or none that this agent may see. */
export class NotFound extends DayflyError {}

/** The request itself is wrong. */
export class InvalidRequest extends DayflyError {
  /** The part of the request that is wrong, as a JSON pointer (RFC 6901). */
  readonly pointer: string | undefined;

  constructor(detail: string, pointer?: string, context: ErrorContext = {}) {
    super(pointer === undefined ? detail : `${detail} (at ${pointer})`, context);
    this.pointer = pointer;
  }
}

/** As many credentials are live, or tasks open, as there may be. */
export class Budget extends DayflyError {
  /** After how many seconds it may work. */
  readonly retryAfter: number | undefined;
  /** Whose budget is used up: `task`, `agent`, `tool`, `open_tasks` or `sub_tasks`. */
  readonly budget: string | undefined;

  constructor(detail: string, budget: string | undefined, retryAfter: number | undefined, context: ErrorContext) {
    super(detail, { ...context, retryable: true });
    this.budget = budget;
    this.retryAfter = retryAfter;
  }
}

/** The system behind the tool refuses to give a credential. */
export class ProviderFailed extends DayflyError {}

/** The broker cannot be reached or does not work now, and that did not change within the retries. */
export class BrokerUnavailable extends DayflyError {
  /** After how many seconds it may work, if the broker said so. */
  readonly retryAfter: number | undefined;

  constructor(detail: string, retryAfter: number | undefined, context: ErrorContext = {}) {
    super(detail, { ...context, retryable: context.retryable ?? true });
    this.retryAfter = retryAfter;
  }
}

/** A request would carry a credential to an origin that is not the tool's. It was not sent. */
export class OriginRefused extends DayflyError {
  /** The origin that was refused. */
  readonly origin: string;

  constructor(origin: string, allowed: readonly string[]) {
    super(
      allowed.length === 0
        ? `the credential is not sent to ${origin}: there is no origin that it is for. Name it in the catalogue, or as { origins: ["${origin}"] }`
        : `the credential is not sent to ${origin}: it is for ${allowed.join(", ")}`,
    );
    this.origin = origin;
  }
}

/** An access is outside the scope of the task. Found before any request. */
export class ScopeWidening extends DayflyError {
  /** The access, as text. */
  readonly access: string;

  constructor(access: string) {
    super(`${access} is outside the scope of the task`);
    this.access = access;
  }
}

/** A problem document (RFC 9457), or an OAuth error with the same members. */
interface Problem {
  readonly type?: unknown;
  readonly error_uri?: unknown;
  readonly detail?: unknown;
  readonly error_description?: unknown;
  readonly request_id?: unknown;
  readonly decision?: unknown;
  readonly approval?: unknown;
  readonly pointer?: unknown;
  readonly budget?: unknown;
  readonly retry_after?: unknown;
}

const SLUGS: Record<string, "invalid" | "missing" | "unavailable"> = {
  malformed: "invalid",
  "bad-parameter": "invalid",
  "invalid-field": "invalid",
  "key-reused": "invalid",
  "key-exhausted": "invalid",
  "too-large": "invalid",
  "media-type": "invalid",
  "method-not-allowed": "invalid",
  "not-acceptable": "invalid",
  "not-found": "missing",
  gone: "missing",
  unavailable: "unavailable",
  quarantine: "unavailable",
  busy: "unavailable",
  "timed-out": "unavailable",
};

/**
 * The error for an answer of the broker. `body` is what it answered, as parsed JSON; anything that is no problem
 * document, such as the page of a proxy in between, is told apart by its status and never quoted.
 */
export function errorOf(status: number, body: unknown, header?: string): DayflyError {
  const problem: Problem = typeof body === "object" && body !== null ? body : {};
  const uri = text(problem.type) ?? text(problem.error_uri);
  const slug = uri?.split("/").pop();
  const requestId = text(problem.request_id);
  const context: ErrorContext = { status, slug, requestId };
  const detail = text(problem.detail) ?? text(problem.error_description) ?? `the broker answered ${status}`;
  const decision = text(problem.decision);
  const retryAfter = number(problem.retry_after) ?? seconds(header);
  if (slug === "denied") return new Denied(detail, decision, context);
  if (slug === "approval-required") return new ApprovalPending(detail, decision, text(problem.approval), context);
  if (slug === "not-admitted") return new NotAdmitted(detail, context);
  if (slug === "revoked") return new Revoked(detail, context);
  if (slug === "conflict") return new DayflyError(detail, { ...context, retryable: true });
  const known = slug === undefined ? undefined : SLUGS[slug];
  if (known === "invalid") return new InvalidRequest(detail, text(problem.pointer), context);
  if (known === "missing") return new NotFound(detail, context);
  if (known === "unavailable") return new BrokerUnavailable(detail, retryAfter, context);
  // What a proxy says, or a slug that is newer than this library.
  if (status === 401) return new AttestationFailed(detail, context);
  if (status === 404) return new NotFound(detail, context);
  if (status === 429) return new Budget(detail, text(problem.budget), retryAfter, context);
  if (slug === "provider-refused") return new ProviderFailed(detail, { ...context, retryable: true });
  if (status >= 502 && status <= 504) return new BrokerUnavailable(detail, retryAfter, context);
  if (status >= 300 && status < 400) {
    return new DayflyError(`${detail}, a redirect, which is not followed: name the broker's own address`, context);
  }
  return new DayflyError(detail, context);
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
}

/** A `Retry-After` in seconds; its other form, a date, is not used by the broker. */
function seconds(header: string | undefined): number | undefined {
  return header !== undefined && /^\d{1,9}$/.test(header) ? Number(header) : undefined;
}
