/**
 * Heartbeats of all tasks of a broker: one timer, set to whoever is due next. It keeps no process alive: one
 * that has nothing else to do ends, its heartbeats stop, and the broker ends what it left.
 */

/** Something that has to be done at intervals. */
export interface Beating {
  /** Milliseconds between the beginning of one beat and that of the next. */
  readonly interval: number;
  /** Says whether it was heard. Takes no longer than the interval by much. One that rejects was not heard. */
  beat(): Promise<boolean>;
}

/** A beat that nobody heard is repeated so many milliseconds after it began, where the next is not due before. */
const AFTER_SILENCE = 1_000;

/** Beats for whoever was added, until it is removed. */
export class Heart {
  readonly #due = new Map<Beating, number>();
  #timer: NodeJS.Timeout | undefined;

  /** Begins: the first beat comes after one interval. */
  add(beating: Beating): void {
    this.#due.set(beating, performance.now() + beating.interval);
    this.#schedule();
  }

  /** Stops. A beat that is under way goes on. */
  remove(beating: Beating): void {
    this.#due.delete(beating);
    this.#schedule();
  }

  /** Stops for all. */
  stop(): void {
    this.#due.clear();
    this.#schedule();
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const next = Math.min(...this.#due.values());
    if (!Number.isFinite(next)) return;
    this.#timer = setTimeout(() => {
      this.#fire();
    }, Math.max(0, next - performance.now()));
    this.#timer.unref();
  }

  #fire(): void {
    const now = performance.now();
    for (const [beating, due] of this.#due) {
      if (due > now) continue;
      // Not again before this one is answered.
      this.#due.set(beating, Number.POSITIVE_INFINITY);
      void beating
        .beat()
        .catch(() => false)
        .then((heard) => {
          if (!this.#due.has(beating)) return;
          this.#due.set(beating, now + (heard ? beating.interval : Math.min(AFTER_SILENCE, beating.interval)));
          this.#schedule();
        });
    }
    this.#schedule();
  }
}
