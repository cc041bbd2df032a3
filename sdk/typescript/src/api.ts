/** The answers of the broker's API that are read here, as they are on the wire. `openapi.json` describes them. */
import type { Access } from "./access.js";

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
