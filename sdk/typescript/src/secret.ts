/**
 * Secrets: values that only `reveal()` gives. Printing, logging and serialising show `<redacted>` or fail, so
 * that a credential in a log line or a checkpoint takes somebody who asked for it.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { inspect } from "node:util";

const REDACTED = "<redacted>";

/** A text that does not show itself. */
export class Secret {
  readonly #value: string;

  /** Wraps `value`. */
  constructor(value: string) {
    this.#value = value;
    Object.freeze(this);
  }

  /** The value itself. Hand it to whoever needs it, and keep it nowhere. */
  reveal(): string {
    return this.#value;
  }

  /** Whether the other is the same, in a time that says nothing about where they differ. */
  equals(other: Secret | string): boolean {
    const text = typeof other === "string" ? other : other.#value;
    return timingSafeEqual(digest(this.#value), digest(text));
  }

  /** `<redacted>`. */
  toString(): string {
    return REDACTED;
  }

  /** `<redacted>`, in templates and additions too. */
  [Symbol.toPrimitive](): string {
    return REDACTED;
  }

  /** Throws a `TypeError`: what would be read back later has to be stopped when it is written. */
  toJSON(): never {
    throw new TypeError("a Secret is not written as JSON: reveal() it where it is needed");
  }

  /** `<redacted>`, for `console.log` and `util.inspect`. */
  [inspect.custom](): string {
    return REDACTED;
  }
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
