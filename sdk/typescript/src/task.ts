/**
 * A task: the work that credentials are for. Everything that was issued in it ends with it, and it ends with its
 * block, with its deadline, or when its heartbeats stop.
 */
import "./dispose.js";
import { randomUUID } from "node:crypto";
import { demandWithin, formatAccess, parseAccess, parseScope, type Access, type AccessLike, type ParsedAccess } from "./access.js";
import { withAmbient } from "./ambient.js";
import { readEnded, readTask, type Duration, type LeaseAnswer, type Outcome, type TaskAnswer } from "./api.js";
import { CredentialCache, type Minting } from "./cache.js";
import { Credential } from "./credential.js";
import { BrokerUnavailable, DayflyError, InvalidRequest, NotFound, TaskEnded, TaskSuspended } from "./errors.js";
import { authorisedFetch, type FetchLike } from "./fetch.js";
import type { Beating, Heart } from "./heart.js";
import type { Call, Transport } from "./transport.js";
import { orAborted } from "./wire.js";

/** How the exit of a block waits: for proofs, in seconds, and for the broker altogether, in milliseconds. */
const PROOFS = 5;
const EXIT = 10_000;
/** The least that a heartbeat may take, in milliseconds, however short the interval is. */
const SHORTEST_BEAT = 1_000;
/** The longest that a timer can wait, in milliseconds. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** What a task is opened with. */
export interface TaskOptions {
  /** Why: 1 to 512 characters, for the journal. It is in no token. */
  readonly purpose: string;
  /** The most that the task may ask for: 1 to 32 accesses, such as `crm:read,comment@customers/42`. */
  readonly scope: AccessLike | readonly AccessLike[];
  /** On whose behalf: the stable id of a person or a service. */
  readonly onBehalfOf?: string | undefined;
  /** How long it may take at most. The broker may say less: look at {@link Task.deadline}. */
  readonly ttl?: Duration | undefined;
  /** It ends when no sign of life comes for so long: 30 seconds unless said. `null`: it needs none. */
  readonly heartbeat?: Duration | null | undefined;
  /** Ends the task as `cancelled` when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** What a part of a task is handed on with. On whose behalf it runs does not change. */
export interface DelegateOptions extends Omit<TaskOptions, "onBehalfOf"> {
  /** Who is to do it: the name of a registered agent; oneself, if absent. */
  readonly agent?: string | undefined;
}

/** How a credential is asked for. */
export interface CredentialOptions {
  /** How long it should live; the tool's default if absent. */
  readonly ttl?: Duration | undefined;
  /** False for one of its own, that nobody else is given. */
  readonly cache?: boolean | undefined;
  /** The one that the tool refused: another comes in its place, and it is given back. */
  readonly instead?: Credential | undefined;
  /** Gives up waiting. Others who wait for the same go on. */
  readonly signal?: AbortSignal | undefined;
}

/** How a tool is called. */
export interface FetchOptions {
  /** Where the credential may be sent, such as `https://crm.example.org`; narrows what the broker names. An empty list: nowhere. */
  readonly origins?: readonly string[] | undefined;
  /** What sends; the global `fetch` if absent. */
  readonly fetch?: FetchLike | undefined;
  /** How long the credentials should live. */
  readonly ttl?: Duration | undefined;
}

/** A suspended task, for whoever resumes it. It holds no secret: resuming takes evidence of the same agent. */
export interface TaskHandle {
  readonly v: 1;
  /** The address of the broker. */
  readonly broker: string;
  /** The id of the task. */
  readonly task: string;
}

/** How one credential of a task ended. */
export interface EndedLease {
  readonly leaseId: string;
  readonly tool: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  /** Why it ended, such as `task_completed`. */
  readonly cause: string | undefined;
  /** How that is known, such as `denied_at`; absent while it is not. */
  readonly proof: string | undefined;
  /** The instant that the proof names. */
  readonly provenAt: Date | undefined;
  /** The broker's signed statement of the end. */
  readonly receipt: string | undefined;
}

/** How a task ended. */
export interface EndedTask {
  readonly outcome: Outcome | undefined;
  /** Whether every credential is proven to have ended. */
  readonly settled: boolean;
  readonly leases: readonly EndedLease[];
}

/** What a task shares with others of its broker. @internal */
export interface Surroundings {
  readonly transport: Transport;
  readonly heart: Heart;
  readonly address: string;
}

/** Work that was handed on to another agent, which takes it up with `broker.join()`. */
export class Handover {
  readonly #surroundings: Surroundings;
  /** The id to hand over. It is no secret, and no right. */
  readonly taskId: string;
  /** Who is to do it. */
  readonly agent: string;
  /** When it ends at the latest. */
  readonly deadline: Date;

  /** @internal */
  constructor(surroundings: Surroundings, answer: TaskAnswer) {
    this.#surroundings = surroundings;
    this.taskId = answer.id;
    this.agent = answer.agent;
    this.deadline = new Date(answer.deadline);
  }

  /** The environment of a process that is to take it up. */
  env(): { DAYFLY_BROKER: string; DAYFLY_TASK: string } {
    return { DAYFLY_BROKER: this.#surroundings.address, DAYFLY_TASK: this.taskId };
  }

  /** Calls it off. */
  async cancel(): Promise<EndedTask> {
    return await finish(this.#surroundings.transport, this.taskId, "cancelled");
  }
}

/** An open task. Made by a broker, or by another task for a part of itself. */
export class Task {
  readonly #surroundings: Surroundings;
  readonly #cache = new CredentialCache();
  readonly #controller = new AbortController();
  readonly #beating: Beating | undefined;
  readonly #cleanUp: (() => void)[] = [];
  readonly #givenBack = new WeakSet<Credential>();
  #state: "open" | "ending" | "suspended" | "ended" = "open";
  #outcome: Outcome | undefined;
  #finishing: Promise<EndedTask> | undefined;
  /** How it is to end, once somebody said so. */
  #leaving: "completed" | "failed" | "cancelled" | undefined;

  /** Its id. No secret, and no right: evidence decides. */
  readonly id: string;
  /** Whose it is. */
  readonly agent: string;
  /** Why it exists. */
  readonly purpose: string;
  /** The most that it may ask for. */
  readonly scope: readonly Access[];
  /** On whose behalf it runs. */
  readonly onBehalfOf: string | undefined;
  /** The task that it is part of. */
  readonly parent: string | undefined;
  /** How many tasks are above it. */
  readonly depth: number;
  /** When it ends at the latest. */
  readonly deadline: Date;
  /** Seconds after which it ends without a sign of life; absent where it needs none. */
  readonly heartbeat: number | undefined;
  /** Fires once with how it ended, whoever ended it. Never rejects. */
  readonly ended: Promise<TaskEnded>;

  /** @internal */
  constructor(surroundings: Surroundings, answer: TaskAnswer, cancel?: AbortSignal, above?: AbortSignal) {
    this.#surroundings = surroundings;
    this.id = answer.id;
    this.agent = answer.agent;
    this.purpose = answer.purpose;
    this.scope = answer.scope;
    this.onBehalfOf = answer.on_behalf_of ?? undefined;
    this.parent = answer.parent ?? undefined;
    this.depth = answer.depth;
    this.deadline = new Date(answer.deadline);
    this.heartbeat = answer.heartbeat ?? undefined;
    this.ended = new Promise((resolve) => {
      this.signal.addEventListener("abort", () => { resolve(this.signal.reason as TaskEnded); }, { once: true });
    });
    if (this.heartbeat !== undefined) {
      const interval = (this.heartbeat * 1000) / 3;
      this.#beating = { interval, beat: () => this.#beat(interval) };
      surroundings.heart.add(this.#beating);
    }
    this.#watchDeadline();
    this.#when(above, () => { this.#end("parent_ended"); });
    this.#when(cancel, () => {
      // Whoever runs the task waits for this at its exit, repeats it there, and hears what goes wrong.
      this.complete("cancelled").catch(() => {
        // It gives nothing more, so nobody is left waiting for its end.
        this.#controller.abort(new TaskEnded(this.#outcome));
      });
    });
  }

  /** Aborts when the task has ended, whoever ended it; the reason is a {@link TaskEnded}. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Where it stands, as far as is known here. */
  get state(): "open" | "suspended" | "ended" {
    return this.#state === "ending" ? "ended" : this.#state;
  }

  /** How it ended, once that is known. */
  get outcome(): Outcome | undefined {
    return this.#outcome;
  }

  /**
   * A credential for one access, such as `"crm:read@customers/42"`. The same is given to all who ask for the same,
   * and renewed before it ends.
   */
  async credential(access: AccessLike, options?: CredentialOptions): Promise<Credential>;
  /** A credential for some actions of a tool, on resources or on the tool as a whole. */
  async credential(
    tool: string,
    actions: string | readonly string[],
    resources?: string | readonly string[],
    options?: CredentialOptions,
  ): Promise<Credential>;
  async credential(
    first: AccessLike,
    second?: string | readonly string[] | CredentialOptions,
    resources: string | readonly string[] = [],
    last?: CredentialOptions,
  ): Promise<Credential> {
    if (typeof first === "string" && (typeof second === "string" || isList(second))) {
      const access = { tool: first, actions: list(second), resources: list(resources) };
      return await this.#credential(parseAccess(access), last ?? {});
    }
    return await this.#credential(parseAccess(first), (second as CredentialOptions | undefined) ?? {});
  }

  /**
   * A `fetch` that sends a bearer token for this access with each request to the tool, and to nobody else
   * ({@link OriginRefused}). A path alone, such as `/customers/42`, is one at the tool. On a 401 it gets a new token
   * once, where the body can be sent again.
   */
  fetch(access: AccessLike, options: FetchOptions = {}): FetchLike {
    const parsed = parseAccess(access);
    demandWithin(this.scope, parsed);
    const { ttl } = options;
    return authorisedFetch({
      origins: options.origins,
      fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
      credential: (signal) => this.#credential(parsed, { ttl, signal }),
      replaced: (refused, signal) => this.#credential(parsed, { ttl, signal, instead: refused }),
      discard: (credential) => {
        this.#cache.drop(keyOf(parsed), credential);
        void this.#giveBack(credential, "the tool is not where it was");
      },
    });
  }

  /**
   * Runs `body` with this as the ambient task, and ends the task as the body ends: `completed`, `failed`, or
   * `cancelled` for an `AbortError`. What the body throws is thrown on, whatever becomes of the end.
   */
  async run<T>(body: (task: Task) => T | Promise<T>): Promise<T> {
    let value: T;
    try {
      value = await withAmbient(this, async () => await body(this));
    } catch (error) {
      const cancelled = error instanceof Error && error.name === "AbortError";
      await this.leave(cancelled ? "cancelled" : "failed").catch(() => undefined);
      throw error;
    }
    await this.leave("completed");
    return value;
  }

  /**
   * Ends it, and waits up to 5 seconds for the proofs that its credentials have ended. Of several calls the first
   * counts; one that failed can be repeated.
   */
  async complete(outcome: "completed" | "failed" | "cancelled" = "completed"): Promise<EndedTask> {
    if (this.#finishing === undefined) {
      if (this.#state !== "ending") this.#demandOpen(true);
      this.#rest("ending");
      this.#leaving = outcome;
      this.#finishing = this.#finish(outcome).catch((error: unknown) => {
        this.#finishing = undefined;
        throw error;
      });
    }
    return await this.#finishing;
  }

  /** Ends what is live, and issues nothing until `broker.resume()`, in this process or another. */
  async suspend(): Promise<TaskHandle> {
    await this.#call({ method: "POST", path: `${this.#path}/suspend` });
    this.#rest("suspended");
    return Object.freeze({ v: 1, broker: this.#surroundings.address, task: this.id });
  }

  /** Opens a task of one's own for a part of this one. */
  async delegate(options: DelegateOptions & { readonly agent?: undefined }): Promise<Task>;
  /** Hands a part on to another agent. Without a `heartbeat` it needs none, because nobody knows when it is taken up. */
  async delegate(options: DelegateOptions & { readonly agent: string }): Promise<Handover>;
  async delegate(options: DelegateOptions): Promise<Task | Handover>;
  async delegate(options: DelegateOptions): Promise<Task | Handover> {
    const { agent, signal } = demandOptions(options);
    const scope = parseScope(options.scope);
    for (const access of scope) demandWithin(this.scope, access);
    const heartbeat = options.heartbeat === undefined && agent !== undefined ? null : options.heartbeat;
    const json = { ...openingOf({ ...options, heartbeat }, scope), ...(agent === undefined ? {} : { agent }) };
    const opening = this.#call({ method: "POST", path: `${this.#path}/tasks`, json, idempotencyKey: randomUUID() });
    if (agent !== undefined) return new Handover(this.#surroundings, readTask(await opening));
    return await adopt(opening, signal, (answer, cancel) => new Task(this.#surroundings, answer, cancel, this.signal));
  }

  /** Opens a task of one's own for a part of this one, and runs `body` in it. */
  async withTask<T>(options: Omit<DelegateOptions, "agent">, body: (task: Task) => T | Promise<T>): Promise<T> {
    return await (await this.delegate({ ...options, agent: undefined })).run(body);
  }

  /**
   * Ends it as `completed` at the end of an `await using` block. A block does not say whether it was left by an
   * exception; where that matters take {@link run}, or `complete("failed")`.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.leave("completed");
  }

  /** Its id and how it stands. */
  toString(): string {
    return `Task ${this.id} (${this.state})`;
  }

  /** What is known about it. */
  toJSON(): Record<string, unknown> {
    const { id, agent, purpose, state, outcome, parent } = this;
    return { id, agent, purpose, scope: this.scope.map(formatAccess), state, outcome, parent, deadline: this.deadline.toISOString() };
  }

  /** Whether it is one of this broker. @internal */
  belongsTo(surroundings: Surroundings): boolean {
    return this.#surroundings === surroundings;
  }

  get #path(): string {
    return pathOf(this.id);
  }

  async #credential(access: ParsedAccess, options: CredentialOptions): Promise<Credential> {
    this.#demandOpen();
    demandWithin(this.scope, access);
    const minting = this.#minting(access, options.ttl);
    const { instead, signal } = options;
    if (options.cache === false) return await orAborted(minting.issue(), signal);
    if (instead === undefined) return await orAborted(this.#cache.get(keyOf(access), minting), signal);
    const credential = await orAborted(this.#cache.replace(keyOf(access), instead, minting), signal);
    // What the tool refuses is of no use, and would count as live until it expires.
    if (credential.leaseId !== instead.leaseId && !this.#givenBack.has(instead)) void this.#giveBack(instead, "the tool refused it");
    return credential;
  }

  #minting(access: ParsedAccess, ttl: Duration | undefined): Minting {
    const life = ttl === undefined ? {} : { ttl };
    return {
      issue: async () => {
        const json = { ...access, ...life };
        const path = `${this.#path}/credentials`;
        const answer = await this.#call({ method: "POST", path, json, idempotencyKey: randomUUID() });
        return this.#usable(Credential.from(answer));
      },
      renew: async (credential) => {
        try {
          const path = `/v1/leases/${encodeURIComponent(credential.leaseId)}/renew`;
          const answer = await this.#surroundings.transport.call({ method: "POST", path, json: life });
          const renewed = this.#usable(Credential.from(answer, credential));
          return renewed.expiresAt < credential.expiresAt ? undefined : renewed;
        } catch (error) {
          const over = error instanceof NotFound || (error instanceof DayflyError && AGAIN_BY_ISSUE.has(error.slug ?? ""));
          if (over) return undefined;
          throw error;
        }
      },
    };
  }

  /** The credential, unless the task ended or was suspended while it was on its way: then it is dead. */
  #usable(credential: Credential): Credential {
    this.#demandOpen();
    return credential;
  }

  async #giveBack(credential: Credential, reason: string): Promise<void> {
    this.#givenBack.add(credential);
    const path = `/v1/leases/${encodeURIComponent(credential.leaseId)}/revoke`;
    const json = { reason };
    // It ends with the task in any case.
    await this.#surroundings.transport.call({ method: "POST", path, json, retry: false }).catch(() => undefined);
  }

  async #call(call: Call): Promise<unknown> {
    this.#demandOpen();
    try {
      return await this.#surroundings.transport.call(call);
    } catch (error) {
      throw await this.#judge(error);
    }
  }

  #demandOpen(suspendedToo = false): void {
    if (this.#state === "open" || (this.#state === "suspended" && suspendedToo)) return;
    if (this.#state === "suspended") throw new TaskSuspended();
    throw new TaskEnded(this.#outcome);
  }

  /** What an error of a call on this task means for it. */
  async #judge(error: unknown): Promise<unknown> {
    if (!(error instanceof DayflyError)) return error;
    const gone = error instanceof NotFound;
    if (!gone && error.slug !== "task-not-open") return error;
    const { status, slug, requestId } = error;
    const context = { status, slug, requestId };
    let answer: TaskAnswer | undefined;
    if (!gone) {
      try {
        answer = readTask(await this.#surroundings.transport.call({ method: "GET", path: this.#path }));
      } catch (other) {
        // It is not open; how it stands cannot be asked now.
        if (!(other instanceof NotFound)) return error;
      }
    }
    if (answer?.state === "open") return error;
    if (answer?.state === "suspended") {
      this.#rest("suspended");
      return new TaskSuspended(context);
    }
    const outcome = answer?.outcome ?? undefined;
    this.#end(outcome);
    return new TaskEnded(outcome, context);
  }

  /** Says whether it was heard: an answer that comes after the next beat is due is of no use. */
  async #beat(interval: number): Promise<boolean> {
    try {
      // A time-out takes whole milliseconds.
      const signal = AbortSignal.timeout(Math.ceil(Math.max(interval, SHORTEST_BEAT)));
      const path = `${this.#path}/heartbeat`;
      // Evidence of a source that heeds no signal is not waited for longer either.
      await orAborted(this.#surroundings.transport.call({ method: "POST", path, retry: false, signal }), signal);
      return true;
    } catch (error) {
      if (!(error instanceof DayflyError) || error.status === undefined || error.retryable) return false;
      await this.#judge(error);
      return true;
    }
  }

  /** What has passed its deadline has ended; the broker's clock decides, as long as it can be asked. */
  #watchDeadline(): void {
    const remaining = this.deadline.getTime() - Date.now();
    const timer = setTimeout(
      () => {
        if (Date.now() < this.deadline.getTime()) this.#watchDeadline();
        else void this.#afterDeadline();
      },
      Math.min(LONGEST_TIMER, Math.max(0, remaining)),
    );
    timer.unref();
    this.#cleanUp.push(() => { clearTimeout(timer); });
  }

  async #afterDeadline(): Promise<void> {
    let answer: TaskAnswer | undefined;
    try {
      answer = readTask(await this.#surroundings.transport.call({ method: "GET", path: this.#path, retry: false }));
    } catch {
      answer = undefined;
    }
    if (this.state !== "open") return;
    if (answer === undefined || answer.state === "ended") {
      this.#end(answer?.outcome ?? "expired");
      return;
    }
    // The clock here is ahead.
    const timer = setTimeout(() => void this.#afterDeadline(), 1_000);
    timer.unref();
    this.#cleanUp.push(() => { clearTimeout(timer); });
  }

  async #finish(outcome: "completed" | "failed" | "cancelled"): Promise<EndedTask> {
    try {
      const ended = await finish(this.#surroundings.transport, this.id, outcome);
      this.#end(ended.outcome ?? outcome);
      return ended;
    } catch (error) {
      throw await this.#judge(error);
    }
  }

  /** The end of a block: as {@link complete}, unless it ended or was suspended in it. @internal */
  async leave(outcome: "completed" | "failed" | "cancelled"): Promise<void> {
    if (this.#finishing === undefined && this.#state !== "open" && this.#state !== "ending") return;
    try {
      // An end that was not heard of is reported again as what it was.
      await this.complete(this.#leaving ?? outcome);
    } catch (error) {
      if (error instanceof TaskEnded) return;
      // Its heartbeats have stopped, so the broker ends it soon by itself: no reason to lose what the body made.
      if (this.heartbeat === undefined || !(error instanceof BrokerUnavailable)) throw error;
      process.emitWarning(
        `the end of task ${this.id} could not be reported; it ends within ${this.heartbeat} s as \`lost\``,
        "DayflyWarning",
      );
    }
  }

  /** No more credentials and heartbeats from here. */
  #rest(state: "ending" | "suspended" | "ended"): void {
    this.#state = state;
    this.#cache.clear();
    if (this.#beating !== undefined) this.#surroundings.heart.remove(this.#beating);
    for (const undo of this.#cleanUp.splice(0)) undo();
  }

  #end(outcome: Outcome | undefined): void {
    if (this.#state === "ended") return;
    this.#outcome = outcome;
    this.#rest("ended");
    this.#controller.abort(new TaskEnded(outcome));
  }

  /** Once, when the signal aborts, as long as this is open. */
  #when(signal: AbortSignal | undefined, what: () => void): void {
    if (signal === undefined) return;
    if (signal.aborted) {
      what();
      return;
    }
    signal.addEventListener("abort", what, { once: true });
    this.#cleanUp.push(() => { signal.removeEventListener("abort", what); });
  }
}

/** Problems of a renewal after which a new credential can be asked for. */
const AGAIN_BY_ISSUE = new Set(["not-renewable", "lease-not-open"]);

/** The options of a task, where they are such. Throws {@link InvalidRequest} where they are not. @internal */
export function demandOptions<O extends TaskOptions>(options: O): O {
  const given: unknown = options;
  const { purpose, scope } = (given ?? {}) as { readonly purpose?: unknown; readonly scope?: unknown };
  if (typeof purpose !== "string" || purpose.trim() === "") {
    throw new InvalidRequest('say why, in 1 to 512 characters: { purpose: "answer ticket 4711", scope: "crm:read" }', "/purpose");
  }
  if (scope === undefined || scope === null) {
    throw new InvalidRequest('say what for at most: { purpose: "answer ticket 4711", scope: "crm:read" }', "/scope");
  }
  return options;
}

/** The body that opens a task. @internal */
export function openingOf(options: Omit<TaskOptions, "scope">, scope: readonly ParsedAccess[]): Record<string, unknown> {
  const heartbeat = options.heartbeat === undefined ? "30s" : options.heartbeat;
  return {
    purpose: options.purpose,
    scope,
    ...(options.onBehalfOf === undefined ? {} : { on_behalf_of: options.onBehalfOf }),
    ...(options.ttl === undefined ? {} : { ttl: options.ttl }),
    ...(heartbeat === null ? {} : { heartbeat }),
  };
}

/**
 * A task out of an answer that is on its way. Where the signal aborts first, the caller hears so at once; the task
 * that may have been opened all the same is cancelled when the answer comes. @internal
 */
export async function adopt(
  opening: Promise<unknown>,
  signal: AbortSignal | undefined,
  make: (answer: TaskAnswer, cancel: AbortSignal | undefined) => Task,
): Promise<Task> {
  const task = opening.then((answer) => make(readTask(answer), signal));
  return await orAborted(task, signal);
}

/** The path of a task in the API. @internal */
export function pathOf(id: string): string {
  if (!/^tsk_[0-9a-z]{26}$/.test(id)) throw new InvalidRequest("this is no id of a task: it reads tsk_…");
  return `/v1/tasks/${id}`;
}

async function finish(transport: Transport, id: string, outcome: Outcome): Promise<EndedTask> {
  const path = `${pathOf(id)}/complete?wait=${PROOFS}s`;
  const answer = readEnded(await transport.call({ method: "POST", path, json: { outcome }, timeout: EXIT }));
  return { outcome: answer.task.outcome ?? undefined, settled: answer.settled, leases: answer.leases.map(endedLease) };
}

function endedLease(lease: LeaseAnswer): EndedLease {
  const { id, tool, actions, resources } = lease;
  return {
    leaseId: id,
    tool,
    actions,
    resources,
    cause: lease.cause ?? undefined,
    proof: lease.proof ?? undefined,
    provenAt: lease.proven_at == null ? undefined : new Date(lease.proven_at),
    receipt: lease.receipt ?? undefined,
  };
}

function keyOf(access: ParsedAccess): string {
  return formatAccess(access);
}

function isList(value: unknown): value is readonly string[] {
  return Array.isArray(value);
}

function list(value: string | readonly string[]): readonly string[] {
  return typeof value === "string" ? [value] : value;
}
