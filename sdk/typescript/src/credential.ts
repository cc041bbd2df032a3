/** A credential: what is known about it, and the secret parts of it as {@link Secret}s. */
import { inspect, type InspectOptions } from "node:util";
import { formatAccess } from "./access.js";
import { readIssued, type BoundedBy, type CredentialAnswer, type IssuedAnswer, type Revocation } from "./api.js";
import { BrokerUnavailable, InvalidRequest } from "./errors.js";
import { Secret } from "./secret.js";

/** What a credential consists of. */
export type CredentialKind = CredentialAnswer["type"];

/** The parts of a credential, with every value that is secret wrapped. */
type Parts =
  | { readonly kind: "bearer_token"; readonly token: Secret }
  | {
      readonly kind: "aws_session";
      readonly accessKeyId: Secret;
      readonly secretAccessKey: Secret;
      readonly sessionToken: Secret;
      readonly region: string | undefined;
    }
  | {
      readonly kind: "database_login";
      readonly host: string;
      readonly port: number;
      readonly database: string;
      readonly username: string;
      readonly password: Secret;
    }
  | { readonly kind: "fields"; readonly fields: Readonly<Record<string, Secret>> };

/**
 * A credential for one tool. It prints and serialises as what is known about it, without its secret parts. A part
 * that this kind does not have throws {@link InvalidRequest}.
 */
export class Credential {
  readonly #parts: Parts;
  /** Its lease at the broker; the `jti` of a token. */
  readonly leaseId: string;
  /** The tool that it is for. */
  readonly tool: string;
  /** The permitted actions. */
  readonly actions: readonly string[];
  /** The permitted resources; none means the tool as a whole. */
  readonly resources: readonly string[];
  /** When it ends by itself. */
  readonly expiresAt: Date;
  /** The life that was granted, in seconds. */
  readonly granted: number;
  /** What made that no longer. */
  readonly boundedBy: BoundedBy;
  /** How it can end before its expiry. */
  readonly revocation: Revocation;
  /** The record of why it exists. */
  readonly decision: string;
  /** The origins that the broker names for the tool, such as `https://crm.example.org`. */
  readonly origins: readonly string[];

  /** @internal */
  private constructor(answer: IssuedAnswer, parts: Parts) {
    const { lease } = answer;
    this.#parts = parts;
    this.leaseId = lease.id;
    this.tool = lease.tool;
    this.actions = lease.actions;
    this.resources = lease.resources;
    this.expiresAt = new Date(answer.expires_at);
    this.granted = answer.granted;
    this.boundedBy = answer.bounded_by;
    this.revocation = answer.revocation;
    this.decision = answer.decision;
    this.origins = answer.origins ?? [];
    Object.freeze(this);
  }

  /** From an answer; a renewal may leave the credential out, and then `before` lives on. @internal */
  static from(answer: unknown, before?: Credential): Credential {
    const issued = readIssued(answer);
    const kept = before === undefined ? undefined : before.#parts;
    const parts = issued.credential == null ? kept : wrap(issued.credential);
    if (parts === undefined) throw new BrokerUnavailable("the broker's answer holds no credential", undefined, { retryable: false });
    return new Credential(issued, parts);
  }

  /** What it consists of. */
  get kind(): CredentialKind {
    return this.#parts.kind;
  }

  /** The token of a `bearer_token`. */
  get token(): Secret {
    return this.#as("bearer_token").token;
  }

  /** `AWS_ACCESS_KEY_ID` of an `aws_session`. */
  get accessKeyId(): Secret {
    return this.#as("aws_session").accessKeyId;
  }

  /** `AWS_SECRET_ACCESS_KEY` of an `aws_session`. */
  get secretAccessKey(): Secret {
    return this.#as("aws_session").secretAccessKey;
  }

  /** `AWS_SESSION_TOKEN` of an `aws_session`. */
  get sessionToken(): Secret {
    return this.#as("aws_session").sessionToken;
  }

  /** `AWS_REGION` of an `aws_session`, if the tool says where. */
  get region(): string | undefined {
    return this.#as("aws_session").region;
  }

  /** The server of a `database_login`. */
  get host(): string {
    return this.#as("database_login").host;
  }

  /** The port of that server. */
  get port(): number {
    return this.#as("database_login").port;
  }

  /** The database on it. */
  get database(): string {
    return this.#as("database_login").database;
  }

  /** The name of a `database_login`. */
  get username(): string {
    return this.#as("database_login").username;
  }

  /** The password of a `database_login`. */
  get password(): Secret {
    return this.#as("database_login").password;
  }

  /** The connection string of a `database_login`, which holds the password. */
  dsn(scheme = "postgresql"): Secret {
    const { host, port, database, username, password } = this.#as("database_login");
    const [user, word] = [encodeURIComponent(username), encodeURIComponent(password.reveal())];
    const place = host.includes(":") ? `[${host}]` : host;
    return new Secret(`${scheme}://${user}:${word}@${place}:${port}/${encodeURIComponent(database)}`);
  }

  /** The values of `fields`, by name. */
  get fields(): Readonly<Record<string, Secret>> {
    return this.#as("fields").fields;
  }

  /** What it opens, and its lease. */
  toString(): string {
    return `Credential ${formatAccess(this)} (${this.leaseId})`;
  }

  /** What is known about it, without a secret. */
  toJSON(): Record<string, unknown> {
    const { leaseId, tool, actions, resources, kind, granted, boundedBy, revocation, decision, origins } = this;
    const expiresAt = this.expiresAt.toISOString();
    return { leaseId, tool, actions, resources, kind, expiresAt, granted, boundedBy, revocation, decision, origins };
  }

  /** As {@link toJSON}. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `Credential ${inspect({ ...this.toJSON(), secret: new Secret("") }, options)}`;
  }

  #as<K extends CredentialKind>(kind: K): Extract<Parts, { kind: K }> {
    const parts: Parts = this.#parts;
    if (parts.kind !== kind) {
      throw new InvalidRequest(`the credential for ${this.tool} is of the kind ${parts.kind}, not ${kind}`);
    }
    return parts as Extract<Parts, { kind: K }>;
  }
}

function wrap(answer: CredentialAnswer): Parts {
  switch (answer.type) {
    case "bearer_token":
      return { kind: answer.type, token: new Secret(answer.token) };
    case "aws_session":
      return {
        kind: answer.type,
        accessKeyId: new Secret(answer.access_key_id),
        secretAccessKey: new Secret(answer.secret_access_key),
        sessionToken: new Secret(answer.session_token),
        region: answer.region ?? undefined,
      };
    case "database_login": {
      const { host, port, database, username, password } = answer;
      return { kind: answer.type, host, port, database, username, password: new Secret(password) };
    }
    case "fields": {
      const fields = Object.entries(answer.fields).map(([name, value]) => [name, new Secret(value)] as const);
      return { kind: answer.type, fields: Object.freeze(Object.fromEntries(fields)) };
    }
    default:
      throw new BrokerUnavailable("the credential is of a kind that this version does not know", undefined, { retryable: false });
  }
}
