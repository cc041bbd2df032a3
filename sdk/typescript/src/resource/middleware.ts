/** What stands before a handler: for Express and whatever has its middleware, and for servers of the Fetch API. */
import { Claims } from "./claims.js";
import { InvalidToken, NoToken, Refusal } from "./refusal.js";
import type { Verifier } from "./verifier.js";

/** What a request has to be permitted. Without `action` the token has to hold, and the handler asks {@link Claims.demand}. */
export interface Guarding<R> {
  /** The action, such as `read`, or what it is for a request. */
  readonly action?: string | ((request: R) => string) | undefined;
  /** The resource, such as `customers/42`, or what it is for a request; the tool as a whole if absent. */
  readonly resource?: string | ((request: R) => string) | undefined;
}

/** As much of an Express request as is used. */
export interface RequestLike {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** As much of an Express response as is used. */
export interface ResponseLike {
  statusCode: number;
  setHeader(name: string, value: string): unknown;
  end(body: string): unknown;
}

const held = new WeakMap<object, Claims>();

/** The claims of a request that {@link expressGuard} let through. */
export function claimsOf(request: object): Claims {
  const claims = held.get(request);
  if (claims === undefined) throw new TypeError("no guard let this request through");
  return claims;
}

/** Middleware for Express: `app.get("/customers/:id", expressGuard(verifier, { action: "read", resource: (r) => … }), …)`. */
export function expressGuard<R extends RequestLike>(
  verifier: Verifier,
  guarding: Guarding<R> = {},
): (request: R, response: ResponseLike, next: (error?: unknown) => void) => void {
  return (request, response, next) => {
    const { authorization } = request.headers;
    judge(verifier, guarding, request, typeof authorization === "string" ? authorization : undefined).then(
      (claims) => {
        held.set(request, claims);
        next();
      },
      (error: unknown) => {
        if (!(error instanceof Refusal)) {
          next(error);
          return;
        }
        response.statusCode = error.status;
        for (const [name, value] of Object.entries(error.headers)) response.setHeader(name, value);
        response.end(bodyOf(error));
      },
    );
  };
}

/** A handler of the Fetch API that is asked only where the token permits it. What it is called with besides the request is passed on. */
export function fetchGuard<A extends unknown[]>(
  verifier: Verifier,
  guarding: Guarding<Request>,
  handler: (request: Request, claims: Claims, ...rest: A) => Response | Promise<Response>,
): (request: Request, ...rest: A) => Promise<Response> {
  return async (request, ...rest) => {
    let claims: Claims;
    try {
      claims = await judge(verifier, guarding, request, request.headers.get("authorization") ?? undefined);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return new Response(bodyOf(error), { status: error.status, headers: error.headers });
    }
    return await handler(request, claims, ...rest);
  };
}

async function judge<R>(verifier: Verifier, guarding: Guarding<R>, request: R, header: string | undefined): Promise<Claims> {
  const claims = await verifier.verify(bearer(header));
  const { action, resource } = guarding;
  if (action !== undefined) {
    const where = typeof resource === "function" ? resource(request) : resource;
    claims.demand(typeof action === "function" ? action(request) : action, where);
  }
  return claims;
}

/** The token of an `Authorization` header (RFC 6750 §2.1). */
function bearer(header: string | undefined): string {
  if (header === undefined) throw new NoToken();
  const [, token] = /^bearer +([^\s,]+)$/i.exec(header.trim()) ?? [];
  if (token === undefined) {
    if (/^bearer\b/i.test(header)) throw new InvalidToken("the header holds no token");
    throw new NoToken();
  }
  return token;
}

function bodyOf(refusal: Refusal): string {
  return JSON.stringify({ detail: refusal.detail });
}
