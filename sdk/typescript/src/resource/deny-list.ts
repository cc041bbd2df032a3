/**
 * Which tokens are refused before their expiry: the cutoffs of the feed, by what they select. A cutoff is forgotten
 * once every token that it could match is over, so the list is as long as what was ended lately.
 */
import { selectorKey, type Claims } from "./claims.js";

/** A cutoff: it ends what its selector names and was made up to an instant. Times are milliseconds since 1970. */
export interface Cutoff {
  readonly key: string;
  readonly upTo: number;
  readonly at: number;
  readonly cause: string;
}

const KINDS = new Set(["lease", "task", "agent", "tool", "user", "environment", "trust_domain"]);
/** How often what is over is looked for, in milliseconds. */
const SWEEP = 10_000;

/** Reads a cutoff of the feed. What is not understood throws: to pass over it would be to accept what it ends. */
export function readCutoff(value: unknown): Cutoff {
  const { selector, up_to, at, cause } = (value ?? {}) as Record<string, unknown>;
  const { kind, id } = (selector ?? {}) as Record<string, unknown>;
  const [upTo, recorded] = [instant(up_to), instant(at)];
  if (typeof cause !== "string") throw new Error("the feed has a cutoff without a cause");
  if (kind === "all") return { key: selectorKey("all"), upTo, at: recorded, cause };
  if (typeof kind !== "string" || !KINDS.has(kind) || typeof id !== "string" || id === "") {
    throw new Error("the feed has a selector that is not known here");
  }
  return { key: selectorKey(kind, id), upTo, at: recorded, cause };
}

/** The cutoffs that still matter. */
export class DenyList {
  readonly #entries = new Map<string, { upTo: number; cause: string; until: number }>();
  readonly #keep: number;
  readonly #most: number;
  #sweptAt = 0;

  /** At most `most` cutoffs, each for `keep` milliseconds after it was recorded. */
  constructor(keep: number, most: number) {
    this.#keep = keep;
    this.#most = most;
  }

  /** How many there are. */
  get size(): number {
    return this.#entries.size;
  }

  /** Takes a cutoff in. Again changes nothing, and an older one undoes nothing. Throws when there are too many. */
  apply(cutoff: Cutoff, now: number): void {
    const until = cutoff.at + this.#keep;
    if (until <= now) return;
    const entry = this.#entries.get(cutoff.key);
    if (entry === undefined) {
      if (this.#entries.size >= this.#most) throw new Error(`the deny list is full: it holds ${this.#most} cutoffs`);
      this.#entries.set(cutoff.key, { upTo: cutoff.upTo, cause: cutoff.cause, until });
      return;
    }
    if (cutoff.upTo > entry.upTo) [entry.upTo, entry.cause] = [cutoff.upTo, cutoff.cause];
    entry.until = Math.max(entry.until, until);
  }

  /** Forgets what no living token can match; looks every ten seconds at most. */
  forget(now: number): void {
    if (now - this.#sweptAt < SWEEP) return;
    this.#sweptAt = now;
    for (const [key, { until }] of this.#entries) if (until <= now) this.#entries.delete(key);
  }

  /** Why this token is refused, if it is. */
  denies(claims: Claims): string | undefined {
    for (const key of claims.selectors()) {
      const entry = this.#entries.get(key);
      if (entry !== undefined && claims.madeAt <= entry.upTo) return entry.cause;
    }
    return undefined;
  }
}

function instant(value: unknown): number {
  const time = typeof value === "string" ? Date.parse(value) : Number.NaN;
  if (Number.isNaN(time)) throw new Error("the feed has a time that cannot be read");
  return time;
}
