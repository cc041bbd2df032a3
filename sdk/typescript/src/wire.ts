/**
 * One HTTP exchange with the broker, over `node:http` and not the global `fetch`: that has no time-out for
 * connecting, and where it is told to use the proxies of the environment it sends loopback through them too.
 * Redirects are answers like others here; nothing follows them.
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { isIP, type Socket } from "node:net";

/** The longest answer that is read, in bytes. */
const LONGEST_ANSWER = 8 << 20;

/** What to send. */
export interface Exchange {
  readonly method: "GET" | "POST";
  readonly url: URL;
  readonly headers: Record<string, string>;
  readonly body?: string | undefined;
  /** How long the whole may take, in milliseconds. */
  readonly timeout: number;
  /** How long connecting may take, in milliseconds. */
  readonly connectTimeout: number;
  /** Ends the exchange; it then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** What came back. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** There was no answer. The message names no header and no body. */
export class NoAnswer extends Error {
  /** Whether the time was up, as opposed to no connection. */
  readonly timedOut: boolean;

  constructor(message: string, timedOut = false) {
    super(message);
    this.name = "NoAnswer";
    this.timedOut = timedOut;
  }
}

/** Connections that are kept and used again. */
export class Wire {
  readonly #http = new HttpAgent({ keepAlive: true });
  readonly #https = new HttpsAgent({ keepAlive: true });

  /** Sends, and reads the whole answer. */
  async exchange(exchange: Exchange): Promise<Answer> {
    exchange.signal?.throwIfAborted();
    return await new Promise<Answer>((resolve, reject) => {
      const { url, body, signal } = exchange;
      const secure = url.protocol === "https:";
      const options: RequestOptions = {
        method: exchange.method,
        headers: {
          ...exchange.headers,
          ...(body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) }),
        },
        agent: secure ? this.#https : this.#http,
      };
      const request = (secure ? httpsRequest : httpRequest)(url, options);
      const timers: NodeJS.Timeout[] = [];
      const settle = (): void => {
        timers.forEach(clearTimeout);
        signal?.removeEventListener("abort", aborted);
      };
      const fail = (error: unknown): void => {
        settle();
        reject(error instanceof Error ? error : new NoAnswer(String(error)));
        request.destroy();
      };
      const aborted = (): void => {
        fail(signal?.reason);
      };
      const within = (milliseconds: number, what: string): NodeJS.Timeout => {
        const timer = setTimeout(() => {
          fail(new NoAnswer(`${what} within ${milliseconds / 1000} s`, what !== "no connection"));
        }, milliseconds);
        timers.push(timer);
        return timer;
      };
      signal?.addEventListener("abort", aborted, { once: true });
      within(exchange.timeout, "no answer");
      request.once("socket", (socket: Socket) => {
        if (!socket.connecting) return;
        const timer = within(exchange.connectTimeout, "no connection");
        socket.once(secure ? "secureConnect" : "connect", () => {
          clearTimeout(timer);
        });
      });
      request.on("error", (error: NodeJS.ErrnoException) => {
        fail(new NoAnswer(error.code ?? "the connection failed"));
      });
      request.once("response", (response) => {
        const chunks: Buffer[] = [];
        let length = 0;
        response.on("data", (chunk: Buffer) => {
          length += chunk.length;
          chunks.push(chunk);
          if (length > LONGEST_ANSWER) fail(new NoAnswer("the answer is too long"));
        });
        response.on("error", () => {
          fail(new NoAnswer("the answer broke off"));
        });
        response.once("end", () => {
          settle();
          if (!response.complete) {
            reject(new NoAnswer("the answer broke off"));
            return;
          }
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks).toString("utf8"),
          });
        });
      });
      request.end(body);
    });
  }

  /** Closes idle connections. */
  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }
}

/** Whether a URL's host is this machine, by name or by number. */
export function isLoopback(url: URL): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

/** A text that is safe as the value of a header, trimmed; `undefined` where it is none. */
export function headerValue(text: string): string | undefined {
  const value = text.trim();
  return /^[!-~]{1,32768}$/.test(value) ? value : undefined;
}

/** Waits, or throws the signal's reason. */
export async function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, milliseconds);
    const aborted = (): void => {
      clearTimeout(timer);
      reject(reasonOf(signal));
    };
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/** A promise that is given up, not ended, when the signal aborts: others may wait for it too. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  // Nobody may be left to hear how it went.
  promise.catch(() => undefined);
  signal.throwIfAborted();
  let aborted = (): void => undefined;
  const abort = new Promise<never>((_, reject) => {
    aborted = () => {
      reject(reasonOf(signal));
    };
    signal.addEventListener("abort", aborted, { once: true });
  });
  try {
    return await Promise.race([promise, abort]);
  } finally {
    signal.removeEventListener("abort", aborted);
  }
}

/** Aborts when one of them does. `done` takes the listeners away, however long the signals live. */
export function eitherSignal(one: AbortSignal, other: AbortSignal | undefined): { signal: AbortSignal; done: () => void } {
  if (other === undefined) return { signal: one, done: () => undefined };
  const controller = new AbortController();
  const [first, second] = [one, other].map((signal) => {
    const abort = (): void => { controller.abort(signal.reason); };
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    return () => { signal.removeEventListener("abort", abort); };
  });
  return {
    signal: controller.signal,
    done: () => {
      first?.();
      second?.();
    },
  };
}

function reasonOf(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new DOMException("This operation was aborted", "AbortError");
}
