/**
 * Evidence: what a workload proves itself with. Where none is named it is found, in the order that the
 * reference gives. Whatever is rotated by somebody else is read anew for each request, whatever has to be
 * asked for is kept while it is fresh.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { AttestationFailed, InvalidRequest } from "./errors.js";
import { Secret } from "./secret.js";
import { eitherSignal, headerValue, isLoopback, NoAnswer, orAborted, Wire } from "./wire.js";
import { fetchJwtSvid } from "./workload-api.js";

/** What a source may want to know. */
export interface EvidenceRequest {
  /** Whom the evidence is for: the `aud` of the token. */
  readonly audience: string;
  /** Whether the broker refused what the source gave last: nothing that was kept is to be given again. */
  readonly fresh: boolean;
  /** Calls it off. */
  readonly signal?: AbortSignal | undefined;
}

/** Gives the token that proves this workload. */
export interface EvidenceSource {
  /** Names it in errors, such as the path of a file. */
  readonly name: string;
  /** The token, as text or as a {@link Secret}. */
  token(request: EvidenceRequest): Promise<string | Secret> | string | Secret;
}

/** A source, the path of a file, or a function that gives the token. */
export type EvidenceLike = EvidenceSource | string | (() => string | Promise<string>);

/** Where Kubernetes puts the token of a volume that is mounted as our guide says. */
const KUBERNETES = "/var/run/secrets/dayfly/token";
/** How long the Workload API and GitHub may take, in milliseconds. */
const PATIENCE = 10_000;

/** The sources by themselves, for those who do not want them found. */
export const evidence = {
  /** A file, read anew for each request. */
  file(path: string): EvidenceSource {
    // A path is named in errors.
    if (isToken(path)) throw new InvalidRequest("this is a token, and no path: give the path of a file, a function, or `evidence.token(…)`");
    return {
      name: path,
      async token() {
        try {
          return await readFile(path, "utf8");
        } catch (error) {
          throw new AttestationFailed(`the evidence at ${path} cannot be read: ${codeOf(error)}`);
        }
      },
    };
  },

  /** A token that does not change. */
  token(token: string | Secret, name = "the given token"): EvidenceSource {
    const secret = typeof token === "string" ? new Secret(token) : token;
    return { name, token: () => secret };
  },

  /** The SPIFFE Workload API at `unix:///path` or `tcp://ip:port`. What it gives is kept for half of its life. */
  spiffe(socket: string): EvidenceSource {
    return kept(`the SPIFFE Workload API at ${socket}`, (issued, expires) => issued + (expires - issued) / 2, (request) =>
      fetchJwtSvid(socket, request.audience, PATIENCE, request.signal),
    );
  },

  /** The ID token of a GitHub Actions job with `id-token: write`. It is kept until a minute before it expires. */
  githubActions(url: string, requestToken: string | Secret): EvidenceSource {
    const bearer = typeof requestToken === "string" ? new Secret(requestToken) : requestToken;
    const wire = new Wire();
    return kept("GitHub Actions", (_, expires) => expires - 60_000, async (request) => {
      const place = new URL(url);
      place.searchParams.set("audience", request.audience);
      if (place.protocol !== "https:" && !isLoopback(place)) throw new Error("its address is no https URL");
      const answer = await wire.exchange({
        method: "GET",
        url: place,
        headers: { authorization: `Bearer ${bearer.reveal()}`, accept: "application/json" },
        timeout: PATIENCE,
        connectTimeout: 5_000,
        signal: request.signal,
      });
      const value = answer.status === 200 ? (JSON.parse(answer.body) as { value?: unknown }).value : undefined;
      if (typeof value !== "string") throw new Error(`it answered ${answer.status} without a token`);
      return value;
    });
  },
};

/** What finding depends on. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Where the broker is. */
  readonly broker: URL;
}

/** The first source that there is here. Throws {@link AttestationFailed} with all that was looked at. */
export function findEvidence({ env, broker }: Surroundings): EvidenceSource {
  const { DAYFLY_EVIDENCE_FILE: file, DAYFLY_EVIDENCE: token, SPIFFE_ENDPOINT_SOCKET: socket } = env;
  if (isGiven(file)) {
    if (isToken(file)) throw new AttestationFailed("DAYFLY_EVIDENCE_FILE holds a token, and no path: put it into DAYFLY_EVIDENCE");
    return evidence.file(file);
  }
  if (isGiven(token)) return evidence.token(token, "DAYFLY_EVIDENCE");
  if (isGiven(socket)) return evidence.spiffe(socket);
  if (existsSync(KUBERNETES)) return evidence.file(KUBERNETES);
  const { ACTIONS_ID_TOKEN_REQUEST_URL: url, ACTIONS_ID_TOKEN_REQUEST_TOKEN: bearer } = env;
  if (isGiven(url) && isGiven(bearer)) return evidence.githubActions(url, bearer);
  const agent = env["DAYFLY_AGENT"];
  if (isGiven(agent) && isLoopback(broker)) {
    // The name becomes part of a path.
    if (!/^[a-z0-9][a-z0-9._-]*$/.test(agent)) throw new AttestationFailed("DAYFLY_AGENT is no name of an agent");
    return evidence.file(join(env["DAYFLY_DEV_FOLDER"] ?? ".dayfly", "evidence", `${agent}.jwt`));
  }
  const lookedAt = [
    "DAYFLY_EVIDENCE_FILE (not set)",
    "DAYFLY_EVIDENCE (not set)",
    "SPIFFE_ENDPOINT_SOCKET (not set)",
    `${KUBERNETES} (no such file)`,
    "ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN (not set)",
    isGiven(agent)
      ? "DAYFLY_AGENT (only for a broker on this machine)"
      : "DAYFLY_AGENT, for `dayfly dev` on this machine (not set)",
  ];
  throw new AttestationFailed(`there is no evidence of this workload; looked at: ${lookedAt.join("; ")}`);
}

/** What {@link EvidenceLike} stands for. */
export function evidenceSource(given: EvidenceLike): EvidenceSource {
  if (typeof given === "string") return evidence.file(given);
  if (typeof given === "function") return { name: "the given function", token: () => given() };
  return given;
}

/**
 * The token of a source, fit for a header; every failure is an {@link AttestationFailed} without it, and so is one that
 * takes longer than `patience`, in milliseconds, whether its source heeds the signal or not.
 */
export async function obtain(source: EvidenceSource, request: EvidenceRequest, patience = PATIENCE): Promise<Secret> {
  let given: string | Secret;
  const late = new AbortController();
  const either = eitherSignal(late.signal, request.signal);
  const timer = setTimeout(() => { late.abort(); }, patience);
  try {
    given = await orAborted(Promise.resolve(source.token({ ...request, signal: either.signal })), either.signal);
  } catch (error) {
    if (request.signal?.aborted === true) throw error;
    if (late.signal.aborted) throw new AttestationFailed(`${source.name} gave no evidence within ${patience / 1000} s`);
    if (error instanceof AttestationFailed) throw error;
    // What a foreign source says may hold anything.
    throw new AttestationFailed(`${source.name} gives no evidence: ${codeOf(error)}`);
  } finally {
    clearTimeout(timer);
    either.done();
  }
  const value = headerValue(typeof given === "string" ? given : given.reveal());
  if (value === undefined) throw new AttestationFailed(`${source.name} gives no token: it is empty, too long, or no single word`);
  return new Secret(value);
}

/** A source that asks somebody, and keeps what it got until `until`, which takes and gives milliseconds since 1970. */
function kept(
  name: string,
  until: (issued: number, expires: number) => number,
  ask: (request: EvidenceRequest) => Promise<string>,
): EvidenceSource {
  const held = new Map<string, { token: Secret; until: number }>();
  const asking = new Map<string, Promise<Secret>>();
  return {
    name,
    async token(request) {
      const { audience } = request;
      const have = held.get(audience);
      if (have !== undefined && !request.fresh && Date.now() < have.until) return have.token;
      let answer = asking.get(audience);
      if (answer === undefined) {
        const asked = Date.now();
        // Several may wait for it, so that none of them calls it off for the others.
        answer = ask({ audience, fresh: request.fresh })
          .then((text) => {
            const token = new Secret(text.trim());
            const { iat, exp } = times(text);
            held.set(audience, { token, until: exp === undefined ? 0 : until((iat ?? asked / 1000) * 1000, exp * 1000) });
            return token;
          })
          .catch((error: unknown) => {
            throw new AttestationFailed(`${name} gives no evidence: ${ownWords(error)}`);
          })
          .finally(() => asking.delete(audience));
        asking.set(audience, answer);
      }
      return await answer;
    },
  };
}

/** When a token was issued and expires, in seconds since 1970, by its own words: for keeping it, and nothing else. */
function times(token: string): { iat?: number; exp?: number } {
  try {
    const claims: unknown = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8"));
    const { iat, exp } = claims as { iat?: unknown; exp?: unknown };
    return { ...(typeof iat === "number" ? { iat } : {}), ...(typeof exp === "number" ? { exp } : {}) };
  } catch {
    return {};
  }
}

/** Whether a text is a JWT by its looks: its first part is the header, a JSON object. */
function isToken(text: string): boolean {
  const [header = "", ...rest] = text.trim().split(".");
  if (rest.length < 2 || ![header, ...rest].every((part) => /^[\w-]*$/.test(part))) return false;
  try {
    return typeof JSON.parse(Buffer.from(header, "base64url").toString("utf8")) === "object";
  } catch {
    return false;
  }
}

function isGiven(value: string | undefined): value is string {
  return value !== undefined && value.trim() !== "";
}

/** An error by its code, because its message may quote what must not be shown. */
function codeOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return typeof code === "string" ? code : "it failed";
}

/** Errors of the sources in this file say nothing that they were given in confidence; those of the JSON parser quote it. */
function ownWords(error: unknown): string {
  if (error instanceof SyntaxError) return "its answer is no JSON";
  return error instanceof NoAnswer || error instanceof Error ? error.message : "it failed";
}
