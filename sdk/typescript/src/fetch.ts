/**
 * A `fetch` that sends the credential of an access, and sends it to the tool alone: it looks at the origin of each
 * request, of each redirect too, which it follows itself for that reason.
 */
import type { Credential } from "./credential.js";
import { InvalidRequest, OriginRefused } from "./errors.js";
import { headerValue } from "./wire.js";

/** A function like the global `fetch`. */
export type FetchLike = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** What an authorised fetch takes from its task. */
export interface Binding {
  /** The credential for a request that begins now. */
  credential(signal: AbortSignal | undefined): Promise<Credential>;
  /** Another one, because the tool refused this. */
  replaced(refused: Credential, signal: AbortSignal | undefined): Promise<Credential>;
  /** Ends one that came in place of another and may not be sent. */
  discard(credential: Credential): void;
  /** The origins that the caller names; none at all where that list is empty. */
  readonly origins: readonly string[] | undefined;
  /** What sends. */
  readonly fetch: FetchLike;
}

/** As many as browsers follow. */
const MOST_REDIRECTS = 20;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** What a redirect to another origin takes off (Fetch §4.4), and what else proves somebody. */
const PRIVATE = ["authorization", "proxy-authorization", "cookie"];

/** The fetch function of a binding. */
export function authorisedFetch(binding: Binding): FetchLike {
  const named = binding.origins?.map(originOf);
  return async (input, init = {}) => {
    const request = input instanceof Request ? input : undefined;
    const signal = init.signal ?? request?.signal ?? undefined;
    const address = input instanceof Request ? input.url : input instanceof URL ? input.href : input;
    // Nothing is minted for where the caller says no.
    if (named !== undefined && URL.canParse(address)) demandOrigin(new URL(address), named);
    let credential = await binding.credential(signal);
    let allowed = originsFor(credential, named);
    let url = target(address, allowed);
    demandOrigin(url, allowed);

    const follow = init.redirect ?? request?.redirect ?? "follow";
    const headers = new Headers(init.headers ?? request?.headers);
    let method = (init.method ?? request?.method ?? "GET").toUpperCase();
    // A request that was made already gives its body once, as a stream.
    let body = init.body ?? request?.body ?? undefined;
    const rest: RequestInit = { ...init, redirect: "manual", ...(signal === undefined ? {} : { signal }) };
    const send = async (bearer: Credential | undefined): Promise<Response> => {
      if (bearer !== undefined) headers.set("authorization", `Bearer ${tokenOf(bearer)}`);
      const streaming = body instanceof ReadableStream ? { duplex: "half" as const } : {};
      return await binding.fetch(url.href, { ...rest, ...streaming, method, headers, body: body ?? null });
    };

    let trusted = true;
    for (let redirects = 0; ; redirects += 1) {
      let response = await send(trusted ? credential : undefined);
      if (response.status === 401 && trusted && redirects === 0 && isRepeatable(body)) {
        await response.body?.cancel();
        credential = await binding.replaced(credential, signal);
        // The tool may have moved since the first was issued, and somebody else be where it was.
        allowed = originsFor(credential, named);
        if (!allowed.includes(url.origin)) binding.discard(credential);
        demandOrigin(url, allowed);
        response = await send(credential);
      }
      const location = response.headers.get("location");
      if (follow === "manual" || !REDIRECTS.has(response.status) || location === null) return response;
      await response.body?.cancel();
      if (follow === "error") throw new TypeError("the tool answers with a redirect, which was not to be followed");
      if (redirects === MOST_REDIRECTS) throw new TypeError("the tool redirects too often");
      const next = new URL(location, url);
      if (next.protocol !== "https:" && next.protocol !== "http:") throw new TypeError("the tool redirects to no http URL");
      if (!allowed.includes(next.origin) && trusted) {
        // Whoever is there may send us back with a request of their making, so it stays off.
        trusted = false;
        headers.delete("authorization");
      }
      if (next.origin !== url.origin) PRIVATE.forEach((name) => { headers.delete(name); });
      if (response.status === 303 ? method !== "HEAD" : response.status < 303 && method === "POST") {
        method = "GET";
        body = undefined;
        for (const name of ["content-type", "content-length", "content-encoding", "content-language", "content-location"]) {
          headers.delete(name);
        }
      } else if (!isRepeatable(body)) {
        throw new TypeError("the tool redirects, and the body of the request cannot be sent again");
      }
      url = next;
    }
  };
}

/** Throws {@link OriginRefused} unless this credential may be sent to `url`, by the broker and by the caller. @internal */
export function demandAllowed(credential: Credential, url: URL, named: readonly string[] | undefined): void {
  demandOrigin(url, originsFor(credential, named?.map(originOf)));
}

/** The broker's origins, which the caller may only narrow; the caller's, where the broker names none. */
function originsFor(credential: Credential, named: readonly string[] | undefined): readonly string[] {
  const given = credential.origins.map(originOf);
  if (given.length === 0) return named ?? [];
  return named === undefined ? given : given.filter((origin) => named.includes(origin));
}

function demandOrigin(url: URL, allowed: readonly string[]): void {
  if (!allowed.includes(url.origin)) throw new OriginRefused(url.origin, allowed);
}

function originOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || (url.protocol !== "https:" && url.protocol !== "http:")) {
    throw new InvalidRequest("an origin is written as https://crm.example.org", "/origins");
  }
  return url.origin;
}

/** A path alone is one at the tool, where the tool has one origin. */
function target(text: string, allowed: readonly string[]): URL {
  const base = text.startsWith("/") && !text.startsWith("//") && allowed.length === 1 ? allowed[0] : undefined;
  if (!URL.canParse(text, base)) throw new TypeError("the URL of the request is not valid");
  return new URL(text, base);
}

function tokenOf(credential: Credential): string {
  const value = headerValue(credential.token.reveal());
  // An error of the header itself would quote it.
  if (value === undefined) throw new InvalidRequest("the token does not fit into a header");
  return value;
}

function isRepeatable(body: RequestInit["body"]): boolean {
  return !(body instanceof ReadableStream) && !(typeof body === "object" && body !== null && Symbol.asyncIterator in body);
}
