/**
 * The answers of the broker's API that are read here, as they are on the wire. `openapi.json` describes them. An answer that does not fit, such as the page of something
 * in between that answers 200, is {@link BrokerUnavailable}, and is never quoted.
 */
import type { Access } from "./access.js";
import { BrokerUnavailable } from "./errors.js";

/** A length of time: seconds, or a text with units such as `90s`, `5m` or `1h30m`. */
export type Duration = number | string;

/** How a credential can end before its expiry. */
export type Revocation = "immediate" | "deny_listed" | "at_expiry" | "never";

/** What made the life of a credential no longer. */
export type BoundedBy = "requested" | "default" | "policy" | "agent" | "tool" | "provider" | "task" | "attestation";

/** How a task ended. */
export type Outcome = "completed" | "failed" | "cancelled" | "expired" | "lost" | "revoked" | "parent_ended";

export interface TaskAnswer {
  readonly id: string;
  readonly agent: string;
  readonly purpose: string;
  readonly scope: readonly Access[];
  readonly depth: number;
  readonly parent?: string | null;
  readonly on_behalf_of?: string | null;
  readonly deadline: string;
  /** Seconds. */
  readonly heartbeat?: number | null;
  readonly state: "open" | "suspended" | "ended";
  readonly outcome?: Outcome | null;
}

export interface LeaseAnswer {
  readonly id: string;
  readonly tool: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  readonly state: string;
  readonly cause?: string | null;
  readonly proof?: string | null;
  readonly proven_at?: string | null;
  readonly receipt?: string | null;
}

export interface EndedTaskAnswer {
  readonly task: TaskAnswer;
  readonly leases: readonly LeaseAnswer[];
  readonly settled: boolean;
}

export type CredentialAnswer =
  | { readonly type: "bearer_token"; readonly token: string }
  | {
      readonly type: "aws_session";
      readonly access_key_id: string;
      readonly secret_access_key: string;
      readonly session_token: string;
      readonly region?: string | null;
    }
  | {
      readonly type: "database_login";
      readonly host: string;
      readonly port: number;
      readonly database: string;
      readonly username: string;
      readonly password: string;
    }
  | { readonly type: "fields"; readonly fields: Readonly<Record<string, string>> };

export interface IssuedAnswer {
  readonly credential?: CredentialAnswer | null;
  readonly lease: LeaseAnswer;
  /** Seconds. */
  readonly requested: number;
  /** Seconds. */
  readonly granted: number;
  readonly bounded_by: BoundedBy;
  readonly revocation: Revocation;
  readonly expires_at: string;
  readonly decision: string;
  /** Where a bearer token may be sent. */
  readonly origins?: readonly string[] | null;
}

export interface VerdictsAnswer {
  readonly verdicts: readonly {
    readonly access: Access;
    readonly permitted: boolean;
    readonly granted?: number | null;
    readonly bounded_by?: BoundedBy | null;
    readonly reason?: string | null;
    readonly approval?: string | null;
    readonly decision: string;
  }[];
}

/** A task. */
export function readTask(answer: unknown): TaskAnswer {
  if (!isTask(answer)) throw unreadable("task");
  return answer;
}

/** What was issued or renewed; a renewal may leave the credential out. */
export function readIssued(answer: unknown): IssuedAnswer {
  const { credential, lease, granted, expires_at: expires, origins } = membersOf(answer);
  const fits =
    isLease(lease) &&
    typeof granted === "number" &&
    isInstant(expires) &&
    (origins === undefined || origins === null || isTexts(origins)) &&
    (credential === undefined || credential === null || isCredential(credential));
  if (!fits) throw unreadable("credential");
  return answer as IssuedAnswer;
}

/** The end of a task. */
export function readEnded(answer: unknown): EndedTaskAnswer {
  const { task, leases } = membersOf(answer);
  if (typeof task !== "object" || task === null || !Array.isArray(leases) || !leases.every(isLease)) throw unreadable("end of a task");
  return answer as EndedTaskAnswer;
}

/** What policy would say. */
export function readVerdicts(answer: unknown): VerdictsAnswer {
  const { verdicts } = membersOf(answer);
  const fits = Array.isArray(verdicts) && verdicts.every((each) => {
    const { access, permitted, decision } = membersOf(each);
    return isAccess(access) && typeof permitted === "boolean" && typeof decision === "string";
  });
  if (!fits) throw unreadable("verdict");
  return answer as VerdictsAnswer;
}

function unreadable(what: string): BrokerUnavailable {
  return new BrokerUnavailable(`the broker's answer is no ${what}: compare the versions`, undefined, { retryable: false });
}

function isTask(answer: unknown): answer is TaskAnswer {
  const { id, agent, purpose, scope, deadline, state } = membersOf(answer);
  return [id, agent, purpose, state].every((each) => typeof each === "string") && Array.isArray(scope) && scope.every(isAccess) && isInstant(deadline);
}

function isLease(value: unknown): value is LeaseAnswer {
  return typeof membersOf(value)["id"] === "string" && isAccess(value);
}

function isAccess(value: unknown): value is Access {
  const { tool, actions, resources } = membersOf(value);
  return typeof tool === "string" && isTexts(actions) && (resources === undefined || isTexts(resources));
}

/** The members that are texts, of each kind. */
const TEXTS: Readonly<Record<string, readonly string[]>> = {
  bearer_token: ["token"],
  aws_session: ["access_key_id", "secret_access_key", "session_token"],
  database_login: ["host", "database", "username", "password"],
};

/** Whether it is a credential. A kind that is not known here is said to be that by whoever reads it. */
function isCredential(value: unknown): boolean {
  const members = membersOf(value);
  const { type, fields } = members;
  if (typeof type !== "string") return false;
  if (type === "fields") return Object.values(membersOf(fields)).every((each) => typeof each === "string");
  return (TEXTS[type] ?? []).every((name) => typeof members[name] === "string");
}

function isInstant(value: unknown): boolean {
  return typeof value === "string" && !Number.isNaN(Date.parse(value));
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function membersOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
