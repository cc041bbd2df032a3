/**
 * MCP TypeScript SDK, both the one package of version 1 and those of version 2: credentials for each request of a client,
 * and the verification of tokens for a server. A connection outlives a token, so nothing here is bound to one.
 */
import { currentTask } from "../ambient.js";
import type { AccessLike } from "../access.js";
import type { Credential } from "../credential.js";
import { InvalidRequest } from "../errors.js";
import { demandAllowed, type FetchLike } from "../fetch.js";
import type { Claims } from "../resource/claims.js";
import { InvalidToken, Refusal, Stale } from "../resource/refusal.js";
import type { Verifier } from "../resource/verifier.js";
import type { FetchOptions, Task } from "../task.js";

/** Whose credential it is. */
export interface McpClientOptions extends FetchOptions {
  /** The task; the ambient one of each request if absent, so that tasks can share a connection. */
  readonly task?: Task | undefined;
}

/**
 * The `fetch` for a `StreamableHTTPClientTransport`: every request gets the credential of now, for the origins of the tool
 * alone, and a new one once on a 401.
 */
export function mcpFetch(access: AccessLike, options: McpClientOptions = {}): FetchLike {
  return async (input, init) => await taskOf(options).fetch(access, options)(input, init);
}

/** What version 2 of the client takes as `authProvider`. */
export interface McpAuthProvider {
  token(): Promise<string | undefined>;
  onUnauthorized(context?: unknown): Promise<void>;
}

/** The `authProvider` for a server at `url`. {@link mcpFetch} does more: it looks at where each request goes. */
export function mcpAuth(url: string | URL, access: AccessLike, options: McpClientOptions = {}): McpAuthProvider {
  const server = new URL(url);
  // Tasks share a connection: what one is refused is not another's.
  const last = new WeakMap<Task, Credential>();
  return {
    async token() {
      const task = taskOf(options);
      const credential = await task.credential(access, { ttl: options.ttl });
      demandAllowed(credential, server, options.origins);
      last.set(task, credential);
      return credential.token.reveal();
    },
    async onUnauthorized() {
      const task = taskOf(options);
      const refused = last.get(task);
      if (refused !== undefined) await task.credential(access, { ttl: options.ttl, instead: refused });
    },
  };
}

function taskOf(options: McpClientOptions): Task {
  const task = options.task ?? currentTask();
  if (task === undefined) throw new InvalidRequest("call this within broker.withTask(), or name the task");
  return task;
}

/** The SDK's `AuthInfo`. */
export interface McpAuthInfo {
  token: string;
  clientId: string;
  scopes: string[];
  expiresAt: number;
  resource?: URL;
  extra: Record<string, unknown>;
}

/** The SDK's `OAuthTokenVerifier`. */
export interface McpTokenVerifier {
  verifyAccessToken(token: string): Promise<McpAuthInfo>;
}

const CLAIMS = "dayfly";

/**
 * The verifier for `requireBearerAuth`. `refuse` makes the SDK's error for an invalid token, by which it answers 401:
 * `(message) => new InvalidTokenError(message)` in version 1, `(message) => new OAuthError(OAuthErrorCode.InvalidToken, message)`
 * in version 2.
 */
export function mcpTokenVerifier(verifier: Verifier, refuse: (message: string) => Error): McpTokenVerifier {
  return {
    async verifyAccessToken(token) {
      let claims: Claims;
      try {
        claims = await verifier.verify(token);
      } catch (error) {
        // Not knowing is the server's fault, and not the token's.
        if (error instanceof Refusal && !(error instanceof Stale)) throw refuse(error.detail);
        throw error;
      }
      const { agent, scope, audience } = claims;
      return {
        token,
        clientId: agent,
        scopes: scope.split(" "),
        expiresAt: Math.floor(claims.expiresAt.getTime() / 1000),
        ...(URL.canParse(audience) ? { resource: new URL(audience) } : {}),
        extra: { [CLAIMS]: claims },
      };
    },
  };
}

/**
 * The claims behind the `authInfo` of a request (`extra.authInfo` in version 1, `ctx.http?.authInfo` in version 2), which
 * have to permit this. Throws {@link InsufficientScope}, or {@link InvalidToken} where nobody verified a token.
 */
export function mcpDemand(authInfo: { readonly extra?: Record<string, unknown> } | undefined, action: string, resource?: string): Claims {
  const claims = authInfo?.extra?.[CLAIMS] as Claims | undefined;
  if (claims === undefined) throw new InvalidToken("nobody verified a token for this request");
  claims.demand(action, resource);
  return claims;
}
