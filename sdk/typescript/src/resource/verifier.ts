/**
 * Accepts or refuses access tokens: offline, by the broker's keys, and by its feed of cutoffs, which is followed in the
 * background. It fails closed: whoever has not read the feed lately knows nothing about revocations.
 */
import "../dispose.js";
import { DayflyError, InvalidRequest } from "../errors.js";
import { evidenceSource, findEvidence, type EvidenceLike } from "../evidence.js";
import { parseAddress, Transport } from "../transport.js";
import { orAborted, sleep, Wire } from "../wire.js";
import { Claims } from "./claims.js";
import { DenyList, readCutoff } from "./deny-list.js";
import { parse, readKeys, type KeySet } from "./jose.js";
import { InvalidToken, Stale, TokenRevoked } from "./refusal.js";

const TYP = "at+jwt";
/** How long the broker may let us wait when there is nothing new, in seconds, and how long it may take beyond that at most. */
const WAIT = 20;
const PATIENCE = 10_000;
/** The feed is asked no more often than this when it has nothing to say. */
const PAUSE = 1_000;
/** Keys are read again after this time even when nothing asks for them: some may be gone. */
const KEYS_AGE = 300_000;
const [FIRST_BACKOFF, LONGEST_BACKOFF] = [250, 15_000];

/** What to accept, and from whom. Times are in seconds. */
export interface VerifierOptions {
  /** The `iss` of tokens: the URL of the broker. */
  readonly issuer: string;
  /** The `aud` of tokens: what the catalogue says for this tool. */
  readonly audience: string;
  /** Where the broker is, where that is not its URL as an issuer. */
  readonly address?: string | undefined;
  /** Nothing is accepted once the feed was last read longer ago than this: 10 if absent, at least 5. */
  readonly maxStaleness?: number | undefined;
  /** What this tool proves itself to the feed with; found if absent, as an agent's is. */
  readonly evidence?: EvidenceLike | undefined;
  /** How far the clock here may be behind the broker's: 30 if absent, at most 60. It never prolongs a token. */
  readonly skew?: number | undefined;
  /** The longest life of a token that is accepted: 3600 if absent. Its cutoff could be forgotten before its expiry otherwise. */
  readonly longestLife?: number | undefined;
  /** How many cutoffs are held at most: 200 000 if absent. */
  readonly mostCutoffs?: number | undefined;
  /** Permits plain HTTP to another machine than this one. */
  readonly allowPlainHttp?: boolean | undefined;
  /** Hears why the keys or the feed cannot be read. No error holds a secret. Without it there is a warning on the process. */
  readonly onError?: ((error: Error) => void) | undefined;
}

/** Accepts or refuses access tokens of one broker for one tool. Follows the broker until it is closed. */
export class Verifier {
  readonly #options: VerifierOptions;
  readonly #address: URL;
  readonly #transport: Transport;
  readonly #wire = new Wire();
  readonly #denied: DenyList;
  readonly #closing = new AbortController();
  readonly #staleness: number;
  readonly #skew: number;
  readonly #longestLife: number;
  readonly #ready: Promise<void>;
  #isReady!: () => void;
  #keys: KeySet = [];
  /** When the keys were last read, and when they were last asked for, on the clock that never turns back. */
  #keysAt = Number.NEGATIVE_INFINITY;
  #keysAskedAt = Number.NEGATIVE_INFINITY;
  #readingKeys: Promise<void> | undefined;
  #warned: string | undefined;
  /** The state of the broker that the deny list shows, on both clocks: one may be set back, the other may sleep. */
  #asOf: { readonly wall: number; readonly steady: number } | undefined;

  /** Begins to follow the broker. Everything is refused as {@link Stale} until {@link ready}. */
  constructor(options: VerifierOptions) {
    const { issuer, audience, maxStaleness = 10, skew = 30, longestLife = 3600, mostCutoffs = 200_000 } = options;
    if (issuer === "" || audience === "") throw new InvalidRequest("`issuer` and `audience` are needed");
    if (!(maxStaleness >= 5)) throw new InvalidRequest("`maxStaleness` is at least 5 seconds");
    if (!(skew >= 0 && skew <= 60)) throw new InvalidRequest("`skew` is at most 60 seconds");
    if (!(longestLife > 0) || !(mostCutoffs > 0)) throw new InvalidRequest("`longestLife` and `mostCutoffs` are more than 0");
    this.#options = options;
    this.#address = parseAddress((options.address ?? issuer).replace(/\/+$/, ""), options.allowPlainHttp ?? false);
    [this.#staleness, this.#skew, this.#longestLife] = [maxStaleness * 1000, skew, longestLife];
    // A cutoff is recorded by one broker's clock, a token by another's, and read by ours.
    this.#denied = new DenyList((longestLife + 2 * skew) * 1000, mostCutoffs);
    const surroundings = { env: { ...process.env }, broker: this.#address };
    const source = options.evidence === undefined ? undefined : evidenceSource(options.evidence);
    this.#transport = new Transport({
      address: this.#address,
      audience: process.env["DAYFLY_AUDIENCE"] ?? (options.address ?? issuer).replace(/\/+$/, ""),
      evidence: () => source ?? findEvidence(surroundings),
      timeout: WAIT * 1000 + PATIENCE,
      connectTimeout: 5_000,
    });
    this.#ready = new Promise((ready) => { this.#isReady = ready; });
    void this.#follow();
  }

  /** Waits until keys and feed were read once. Throws when it is closed before, or the signal's reason. */
  async ready(signal?: AbortSignal): Promise<void> {
    await orAborted(orAborted(this.#ready, this.#closing.signal), signal);
  }

  /** When the feed was last read to its end; undefined before the first time. For a readiness check. */
  get asOf(): Date | undefined {
    return this.#asOf === undefined ? undefined : new Date(this.#asOf.wall);
  }

  /** How many cutoffs are held. For a gauge. */
  get cutoffs(): number {
    return this.#denied.size;
  }

  /** The claims of a token that holds; throws a {@link Refusal} for one that does not. Looks for new keys where one is named that is not known. */
  async verify(token: string): Promise<Claims> {
    const claims = this.#check(token);
    if (claims !== undefined) return claims;
    if (await this.#lookForKeys()) {
      const again = this.#check(token);
      if (again !== undefined) return again;
    }
    throw new InvalidToken("the token is signed by a key that is not known here");
  }

  /** As {@link verify}, by what is known now. No I/O. */
  check(token: string): Claims {
    const claims = this.#check(token);
    if (claims === undefined) throw new InvalidToken("the token is signed by a key that is not known here");
    return claims;
  }

  /** Stops following. Everything is refused as {@link Stale} soon after. */
  close(): void {
    this.#closing.abort();
    this.#transport.close();
    this.#wire.close();
  }

  /** As {@link close}. */
  // eslint-disable-next-line @typescript-eslint/require-await -- the protocol takes a promise
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** The claims; undefined where the key is not known. */
  #check(token: string): Claims | undefined {
    if (this.#isStale()) throw new Stale();
    const unverified = parse(token, TYP);
    const verified = unverified.verify(this.#keys);
    if (verified === undefined) return undefined;
    if (!verified) throw new InvalidToken("the token's signature is wrong");
    const claims = new Claims(unverified.claims);
    const { iat, nbf, exp } = claims.times;
    const now = Date.now() / 1000;
    if (claims.issuer !== this.#options.issuer) throw new InvalidToken("another issuer issued the token");
    if (claims.audience !== this.#options.audience) throw new InvalidToken("the token is for another audience");
    if (claims.bound) throw new InvalidToken("the token is bound to a key (`cnf`), which is not supported here");
    if (now >= exp) throw new InvalidToken("the token has expired");
    if (nbf > now + this.#skew || iat > now + this.#skew) throw new InvalidToken("the token is not valid yet: compare the clocks");
    if (exp - iat > this.#longestLife) throw new InvalidToken("the token lives longer than is accepted here");
    const cause = this.#denied.denies(claims);
    if (cause !== undefined) throw new TokenRevoked(cause);
    return claims;
  }

  #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  #isStale(): boolean {
    if (this.#asOf === undefined) return true;
    return Date.now() - this.#asOf.wall > this.#staleness || performance.now() - this.#asOf.steady > this.#staleness;
  }

  async #follow(): Promise<void> {
    const { signal } = this.#closing;
    let cursor: string | undefined;
    let failures = 0;
    while (!this.#isClosed()) {
      let pause = 0;
      try {
        // Keys first: without them nothing can be accepted, and a feed that was read would claim a readiness that
        // is not there.
        if (this.#keys.length === 0 || performance.now() - this.#keysAt >= KEYS_AGE) {
          await this.#readKeys().catch((error: unknown) => {
            if (this.#keys.length === 0) throw error;
            this.#report(error);
          });
        }
        const step = await this.#readFeed(cursor);
        cursor = step.cursor;
        pause = step.pause;
        failures = 0;
      } catch (error) {
        if (this.#isClosed()) return;
        this.#report(error);
        const most = Math.min(FIRST_BACKOFF * 2 ** Math.min(failures, 16), LONGEST_BACKOFF, this.#staleness / 4);
        pause = most / 2 + (Math.random() * most) / 2;
        failures += 1;
      }
      await sleep(pause, signal).catch(() => undefined);
    }
  }

  /** One question to the feed, and what its answer changes. */
  async #readFeed(cursor: string | undefined): Promise<{ cursor: string | undefined; pause: number }> {
    // The first question wants to know how things stand, not what comes next. What an answer says is as old as its
    // question, and the next answer comes two waits after it.
    const wait = cursor === undefined ? 0 : Math.floor(Math.min(WAIT, this.#staleness / 4000));
    const query = new URLSearchParams({ ...(cursor === undefined ? {} : { cursor }), wait: String(wait) });
    const asked = { wall: Date.now(), steady: performance.now() };
    let answer: unknown;
    try {
      answer = await this.#transport.call({
        method: "GET",
        path: `/v1/revocations?${query.toString()}`,
        signal: this.#closing.signal,
        timeout: wait * 1000 + this.#patience(),
        retry: false,
      });
    } catch (error) {
      // The ledger behind the feed is not the one of before: its cursors mean nothing now.
      const status = error instanceof DayflyError ? error.status : undefined;
      if (cursor !== undefined && (status === 400 || status === 410)) return { cursor: undefined, pause: PAUSE };
      throw error;
    }
    const { cutoffs, cursor: next, more } = (answer ?? {}) as Record<string, unknown>;
    if (!Array.isArray(cutoffs) || typeof next !== "string" || typeof more !== "boolean") {
      throw new Error("the answer of the feed cannot be read");
    }
    const read = cutoffs.map(readCutoff);
    this.#denied.forget(asked.wall);
    for (const cutoff of read) this.#denied.apply(cutoff, asked.wall);
    if (!more) {
      this.#asOf = asked;
      this.#isReady();
    }
    const idle = cursor !== undefined && !more && cutoffs.length === 0 && performance.now() - asked.steady < PAUSE;
    return { cursor: next, pause: idle ? PAUSE : 0 };
  }

  /** Reads the keys anew because a token names one that is not known, unless they were just read. Answers whether to look again. */
  async #lookForKeys(): Promise<boolean> {
    if (this.#readingKeys === undefined && performance.now() - this.#keysAskedAt < 10_000) return false;
    try {
      await this.#readKeys();
      return true;
    } catch (error) {
      this.#report(error);
      return false;
    }
  }

  /** How long an answer may take before it counts as lost. Who has heard nothing yet has nothing to lose. */
  #patience(): number {
    return this.#asOf === undefined ? PATIENCE : Math.min(PATIENCE, this.#staleness / 4);
  }

  async #readKeys(): Promise<void> {
    this.#readingKeys ??= (async () => {
      try {
        const answer = await this.#wire.exchange({
          method: "GET",
          url: new URL(`${this.#address.href.replace(/\/$/, "")}/.well-known/jwks.json`),
          headers: { accept: "application/json" },
          timeout: this.#patience(),
          connectTimeout: 5_000,
          signal: this.#closing.signal,
        });
        if (answer.status !== 200) throw new Error(`the broker's keys cannot be read: it answered ${answer.status}`);
        const keys = readKeys(answer.body);
        if (keys.length === 0) throw new Error("the broker publishes no key that is understood here");
        this.#keys = keys;
        this.#keysAt = performance.now();
      } finally {
        this.#keysAskedAt = performance.now();
        this.#readingKeys = undefined;
      }
    })();
    await this.#readingKeys;
  }

  #report(error: unknown): void {
    const said = error instanceof Error ? error : new Error("it failed");
    if (this.#options.onError !== undefined) {
      this.#options.onError(said);
    } else if (said.message !== this.#warned) {
      // Once for what stays the same.
      this.#warned = said.message;
      process.emitWarning(`the broker's keys or revocations cannot be read: ${said.message}`, "DayflyWarning");
    }
  }
}
