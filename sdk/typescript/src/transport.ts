/**
 * Calls of the broker's API: evidence on each, one more try with new evidence when it proves nothing, retries
 * of what may work a moment later, and problems as errors.
 *
 * Every write is repeatable: by its idempotency key, or by itself. So a try that broke off is tried again.
 */
import { AttestationFailed, BrokerUnavailable, DayflyError, errorOf, InvalidRequest } from "./errors.js";
import { obtain, type EvidenceSource } from "./evidence.js";
import { isLoopback, NoAnswer, sleep, Wire, type Answer } from "./wire.js";

const TRIES = 4;
/** All tries and the pauses between them, in milliseconds. */
const IN_ALL = 10_000;
/** The first pause is at most this long, in milliseconds, and each at most twice the one before. */
const BASE = 100;
const LONGEST_PAUSE = 5_000;
const AGAIN = new Set([429, 502, 503, 504]);

/** How to reach a broker. */
export interface TransportOptions {
  readonly address: URL;
  readonly audience: string;
  /** Found at the first call, so that a broker can be named where there is no evidence yet. */
  readonly evidence: () => EvidenceSource;
  /** In milliseconds. */
  readonly timeout: number;
  /** In milliseconds. */
  readonly connectTimeout: number;
}

/** One call. */
export interface Call {
  readonly method: "GET" | "POST";
  /** The path, with its query, from the broker's address on. */
  readonly path: string;
  readonly json?: unknown;
  readonly form?: Readonly<Record<string, string>> | undefined;
  readonly idempotencyKey?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** False for what is repeated anyway, such as a heartbeat. */
  readonly retry?: boolean;
  /** How long one try may take, in milliseconds, where that is less than what the broker is given elsewhere. */
  readonly timeout?: number;
}

/** Calls one broker. */
export class Transport {
  readonly #options: TransportOptions;
  readonly #wire = new Wire();
  #evidence: EvidenceSource | undefined;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** The answer, as parsed JSON. Throws a {@link DayflyError}, or the signal's reason. */
  async call(call: Call): Promise<unknown> {
    const began = performance.now();
    for (let tries = 1; ; tries += 1) {
      const { error, answer } = await this.#attempt(call);
      if (error === undefined) return answer;
      const pause = Math.max(waitOf(error) ?? 0, Math.random() * Math.min(LONGEST_PAUSE, BASE * 2 ** (tries - 1)));
      const tooLate = performance.now() - began + pause > IN_ALL;
      if (call.retry === false || tries === TRIES || tooLate || !mayWorkLater(error)) throw error;
      await sleep(pause, call.signal);
    }
  }

  /** Closes idle connections. */
  close(): void {
    this.#wire.close();
  }

  async #attempt(call: Call): Promise<{ error?: DayflyError; answer?: unknown }> {
    let answer = await this.#send(call, false);
    if (answer instanceof DayflyError) return { error: answer };
    let error = failure(answer);
    if (error instanceof AttestationFailed && error.slug === "unidentified") {
      answer = await this.#send(call, true);
      if (answer instanceof DayflyError) return { error: answer };
      error = failure(answer);
    }
    if (error !== undefined) return { error };
    try {
      return { answer: answer.body === "" ? undefined : JSON.parse(answer.body) };
    } catch {
      // The parser's own error quotes what it could not read.
      throw new DayflyError(`the answer to ${call.method} ${bare(call.path)} is no JSON`, { status: answer.status });
    }
  }

  async #send(call: Call, fresh: boolean): Promise<Answer | DayflyError> {
    const { address, audience, connectTimeout } = this.#options;
    const timeout = Math.min(this.#options.timeout, call.timeout ?? Number.POSITIVE_INFINITY);
    this.#evidence ??= this.#options.evidence();
    const began = performance.now();
    const token = await obtain(this.#evidence, { audience, fresh, signal: call.signal }, timeout);
    const headers: Record<string, string> = { authorization: `Bearer ${token.reveal()}`, accept: "application/json" };
    let body: string | undefined;
    if (call.json !== undefined) {
      body = JSON.stringify(call.json);
      headers["content-type"] = "application/json";
    } else if (call.form !== undefined) {
      body = new URLSearchParams(call.form).toString();
      headers["content-type"] = "application/x-www-form-urlencoded";
    }
    if (call.idempotencyKey !== undefined) headers["idempotency-key"] = call.idempotencyKey;
    const url = new URL(`${address.href.replace(/\/$/, "")}${call.path}`);
    try {
      const { method, signal } = call;
      // What the evidence took is not there for the answer.
      const left = Math.max(1, Math.ceil(timeout - (performance.now() - began)));
      return await this.#wire.exchange({ method, url, headers, body, timeout: left, connectTimeout, signal });
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
      return new BrokerUnavailable(`the broker at ${address.origin} does not answer: ${error.message}`, undefined);
    }
  }
}

/** Reads the address of a broker, and says no where evidence would cross a network in clear. */
export function parseAddress(text: string, allowPlainHttp: boolean): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new InvalidRequest("the address of the broker is no URL: write it as https://dayfly.example.org");
  }
  if ((url.protocol !== "https:" && url.protocol !== "http:") || url.username + url.password + url.search + url.hash !== "") {
    throw new InvalidRequest("the address of the broker is an http or https URL without user, query and fragment");
  }
  if (url.protocol === "http:" && !isLoopback(url) && !allowPlainHttp) {
    throw new InvalidRequest(
      `evidence is not sent to ${url.origin} in clear: use https, or say allowPlainHttp where something else protects the way`,
    );
  }
  return url;
}

function failure(answer: Answer): DayflyError | undefined {
  if (answer.status >= 200 && answer.status < 300) return undefined;
  let body: unknown;
  try {
    body = JSON.parse(answer.body);
  } catch {
    body = undefined;
  }
  return errorOf(answer.status, body, answer.headers["retry-after"]);
}

function mayWorkLater(error: DayflyError): boolean {
  return error.status === undefined
    ? error instanceof BrokerUnavailable
    : AGAIN.has(error.status) || (error.status === 409 && error.slug === "conflict");
}

/** How long the broker asks to wait, in milliseconds. */
function waitOf(error: DayflyError): number | undefined {
  const { retryAfter } = error as { retryAfter?: number };
  return retryAfter === undefined ? undefined : retryAfter * 1000;
}

function bare(path: string): string {
  return path.split("?")[0] ?? path;
}
