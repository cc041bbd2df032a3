/**
 * The credentials of one task, in memory only. However many ask for the same at once, one request is made; and
 * one that is two thirds through its life is renewed while the old one is still given out.
 */
import type { Credential } from "./credential.js";

/** How credentials come about. */
export interface Minting {
  issue(): Promise<Credential>;
  /** A later expiry for the same; undefined where this cannot be renewed, and a new one is to be issued. */
  renew(credential: Credential): Promise<Credential | undefined>;
}

interface Entry {
  credential?: Credential;
  /** When it is to be renewed, and when it is not given out any more, in milliseconds since 1970. */
  renewAt: number;
  until: number;
  /** The one request that is under way. */
  minting?: Promise<Credential>;
}

/** Credentials by what they are for. */
export class CredentialCache {
  readonly #entries = new Map<string, Entry>();

  /** The credential of this key, minted if there is none that is good. */
  async get(key: string, minting: Minting): Promise<Credential> {
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { renewAt: 0, until: 0 };
      this.#entries.set(key, entry);
    }
    const now = Date.now();
    const { credential } = entry;
    if (credential === undefined || now >= entry.until) return await this.#mint(key, entry, () => minting.issue());
    if (now >= entry.renewAt && entry.minting === undefined) {
      const held = entry;
      // What fails here is asked for again by a later call; until then the old one is good.
      this.#mint(key, held, async () => (await minting.renew(credential)) ?? (await minting.issue())).catch(() => {
        held.renewAt = Date.now() + Math.max(1_000, (held.until - now) / 10);
      });
    }
    return credential;
  }

  /** A new one in place of `credential`, which the tool refused; the one that another caller got in its place already. */
  async replace(key: string, credential: Credential, minting: Minting): Promise<Credential> {
    this.drop(key, credential);
    return await this.get(key, minting);
  }

  /** Gives this one out no more. */
  drop(key: string, credential: Credential): void {
    // A renewal of it may be under way: what comes of that is not to be given out either.
    if (this.#entries.get(key)?.credential === credential) this.#entries.delete(key);
  }

  /** Forgets all; what is under way is not kept when it comes. */
  clear(): void {
    this.#entries.clear();
  }

  async #mint(key: string, entry: Entry, how: () => Promise<Credential>): Promise<Credential> {
    entry.minting ??= (async () => {
      const began = Date.now();
      try {
        const credential = await how();
        // By its length and not by its expiry, which is of the broker's clock.
        const life = credential.granted * 1000;
        entry.credential = credential;
        entry.renewAt = began + life * ((2 / 3) * (0.9 + Math.random() * 0.2));
        // Nobody is given one that ends on the way.
        entry.until = began + life - Math.min(5_000, life / 10);
        return credential;
      } catch (error) {
        if (entry.credential === undefined && this.#entries.get(key) === entry) this.#entries.delete(key);
        throw error;
      } finally {
        delete entry.minting;
      }
    })();
    return await entry.minting;
  }
}
