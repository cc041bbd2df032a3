/** Why a request is refused, with the status and the challenge to answer with (RFC 6750 §3). */
import { DayflyError } from "../errors.js";

/** A request that is not to be served. `status` is what to answer with. */
export class Refusal extends DayflyError {
  declare readonly status: 401 | 403 | 503;
  /** The `error` of the challenge; absent when the token is not at fault. */
  readonly error: "invalid_token" | "insufficient_scope" | undefined;

  constructor(detail: string, status: 401 | 403 | 503, error?: "invalid_token" | "insufficient_scope") {
    super(detail, { status, retryable: status === 503 });
    this.error = error;
  }

  /** The value of the `WWW-Authenticate` header; absent where none belongs. */
  get challenge(): string | undefined {
    if (this.status === 503) return undefined;
    return this.error === undefined ? "Bearer" : `Bearer error="${this.error}"`;
  }

  /** The headers of the answer. */
  get headers(): Record<string, string> {
    const { challenge } = this;
    const common = { "content-type": "application/json", "cache-control": "no-store" };
    return challenge === undefined ? { ...common, "retry-after": "1" } : { ...common, "www-authenticate": challenge };
  }
}

/** Nobody here knows what was revoked lately, so nothing is accepted. */
export class Stale extends Refusal {
  constructor() {
    super("revocations were not read lately enough: try again later", 503);
  }
}

/** The request has no token. */
export class NoToken extends Refusal {
  constructor() {
    super("send a Dayfly token: Authorization: Bearer …", 401);
  }
}

/** The token is none of ours, not for this tool, or not for now. */
export class InvalidToken extends Refusal {
  constructor(detail: string) {
    super(detail, 401, "invalid_token");
  }
}

/** The token was ended before its expiry. */
export class TokenRevoked extends InvalidToken {
  /** Why, such as `task_completed`. */
  readonly reason: string;

  constructor(cause: string) {
    super(`the token was revoked (${cause})`);
    this.reason = cause;
  }
}

/** The token holds, and does not permit this. */
export class InsufficientScope extends Refusal {
  constructor(action: string) {
    super(`the token does not permit \`${action}\` there`, 403, "insufficient_scope");
  }
}
