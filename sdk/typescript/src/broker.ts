/** A broker, as an agent sees it: where tasks come from. */
import "./dispose.js";
import { randomUUID } from "node:crypto";
import { inspect } from "node:util";
import { formatAccess, parseScope, type Access, type AccessLike } from "./access.js";
import { currentTask } from "./ambient.js";
import { readTask, readVerdicts, type BoundedBy, type Duration } from "./api.js";
import type { Credential } from "./credential.js";
import { InvalidRequest, TaskEnded, TaskSuspended } from "./errors.js";
import { evidenceSource, findEvidence, type EvidenceLike } from "./evidence.js";
import { Heart } from "./heart.js";
import { Secret } from "./secret.js";
import { adopt, demandOptions, openingOf, pathOf, Task, type Surroundings, type TaskHandle, type TaskOptions } from "./task.js";
import { parseAddress, Transport } from "./transport.js";

/** How a broker is reached. Nothing is needed where the environment says it. */
export interface BrokerOptions {
  /** Where it is; `DAYFLY_BROKER`, or `http://127.0.0.1:8440`, if absent. */
  readonly address?: string | undefined;
  /** What this workload proves itself with: a source, a path, or a function; found in the environment if absent. */
  readonly evidence?: EvidenceLike | undefined;
  /** The `aud` to ask evidence for; `DAYFLY_AUDIENCE`, or the address as it was written, if absent. */
  readonly audience?: string | undefined;
  /** Permits plain HTTP to other machines than this one: evidence crosses the network in clear. */
  readonly allowPlainHttp?: boolean | undefined;
  /** How long one request may take, in seconds: 30 if absent. */
  readonly timeout?: number | undefined;
  /** How long connecting may take, in seconds: 5 if absent. */
  readonly connectTimeout?: number | undefined;
}

/** What policy would say to one access. */
export interface Verdict {
  readonly access: Access;
  /** Whether it would be issued. */
  readonly permitted: boolean;
  /** The life that would be granted, in seconds. */
  readonly granted: number | undefined;
  /** What would make that no longer. */
  readonly boundedBy: BoundedBy | undefined;
  /** Why nothing would be granted. */
  readonly reason: string | undefined;
  /** It would be permitted once somebody in this role approved. */
  readonly approval: string | undefined;
  /** The record of it. */
  readonly decision: string;
}

/** What is asked about beforehand. */
export interface DecideOptions {
  /** On whose behalf. */
  readonly onBehalfOf?: string | undefined;
  /** How long the credentials should live. */
  readonly ttl?: Duration | undefined;
  /** Gives up waiting. */
  readonly signal?: AbortSignal | undefined;
}

/** A broker. One for a process is enough: it keeps connections, evidence, and the heartbeats of its tasks. */
export class Broker {
  readonly #surroundings: Surroundings;
  /** Where it is, as it was written, without a trailing slash. */
  readonly address: string;

  /** Takes the options, or the address alone. Nothing is sent yet. */
  constructor(options: BrokerOptions | string = {}) {
    const given = typeof options === "string" ? { address: options } : options;
    const { env } = process;
    const written = given.address ?? nonEmpty(env["DAYFLY_BROKER"]) ?? "http://127.0.0.1:8440";
    this.address = written.trim().replace(/\/+$/, "");
    const address = parseAddress(this.address, given.allowPlainHttp ?? false);
    // A token in the environment is taken from there once; whether there is any is said at the first request.
    const surroundings = { env: { ...env }, broker: address };
    const source = given.evidence === undefined ? undefined : evidenceSource(given.evidence);
    const transport = new Transport({
      address,
      audience: given.audience ?? nonEmpty(env["DAYFLY_AUDIENCE"]) ?? this.address,
      evidence: () => source ?? findEvidence(surroundings),
      timeout: milliseconds(given.timeout ?? 30, "timeout"),
      connectTimeout: milliseconds(given.connectTimeout ?? 5, "connectTimeout"),
    });
    this.#surroundings = { transport, heart: new Heart(), address: this.address };
  }

  /**
   * Opens a task, runs `body` in it, and ends it as the body ends: `completed`, `failed` when it throws, `cancelled`
   * for an `AbortError` or when `signal` aborts. What was issued in it is dead afterwards.
   */
  async withTask<T>(options: TaskOptions, body: (task: Task) => T | Promise<T>): Promise<T> {
    return await (await this.openTask(options)).run(body);
  }

  /** Opens a task: `await using task = await broker.openTask({ … })`. */
  async openTask(options: TaskOptions): Promise<Task> {
    const { signal } = demandOptions(options);
    const json = openingOf(options, parseScope(options.scope));
    signal?.throwIfAborted();
    const { transport } = this.#surroundings;
    const opening = transport.call({ method: "POST", path: "/v1/tasks", json, idempotencyKey: randomUUID() });
    return await adopt(opening, signal, (answer, cancel) => new Task(this.#surroundings, answer, cancel));
  }

  /** Takes up a task that another agent handed on: the one with this id, or the one that `DAYFLY_TASK` names. */
  async join(taskId?: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Task> {
    const id = taskId ?? nonEmpty(process.env["DAYFLY_TASK"]);
    if (id === undefined) throw new InvalidRequest("name the task, or set DAYFLY_TASK");
    const path = pathOf(id);
    options.signal?.throwIfAborted();
    const answer = readTask(await this.#surroundings.transport.call({ method: "GET", path, signal: options.signal }));
    if (answer.state === "ended") throw new TaskEnded(answer.outcome ?? undefined);
    if (answer.state === "suspended") throw new TaskSuspended();
    return new Task(this.#surroundings, answer, options.signal);
  }

  /** Opens a suspended task again, in this process or another. Takes evidence of the same agent. */
  async resume(handle: TaskHandle | string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Task> {
    const { broker, task } = readHandle(handle);
    if (broker !== this.address) throw new InvalidRequest(`the task is one of the broker at ${broker}, not of ${this.address}`);
    const path = `${pathOf(task)}/resume`;
    try {
      const resuming = this.#surroundings.transport.call({ method: "POST", path });
      return await adopt(resuming, options.signal, (answer, cancel) => new Task(this.#surroundings, answer, cancel));
    } catch (error) {
      if ((error as { slug?: unknown }).slug !== "task-not-open") throw error;
      const answer = readTask(await this.#surroundings.transport.call({ method: "GET", path: pathOf(task) }));
      throw answer.state === "ended" ? new TaskEnded(answer.outcome ?? undefined) : error;
    }
  }

  /** What policy would say to these accesses. Nothing is issued, and the decisions are on record. */
  async decide(purpose: string, accesses: AccessLike | readonly AccessLike[], options: DecideOptions = {}): Promise<Verdict[]> {
    const json = openingOf({ purpose, heartbeat: null, onBehalfOf: options.onBehalfOf, ttl: options.ttl }, parseScope(accesses));
    const { transport } = this.#surroundings;
    const answer = readVerdicts(await transport.call({ method: "POST", path: "/v1/decisions", json, signal: options.signal }));
    return answer.verdicts.map((verdict) => ({
      access: verdict.access,
      permitted: verdict.permitted,
      granted: verdict.granted ?? undefined,
      boundedBy: verdict.bounded_by ?? undefined,
      reason: verdict.reason ?? undefined,
      approval: verdict.approval ?? undefined,
      decision: verdict.decision,
    }));
  }

  /** Ends a token at once, and with it every token of its lease (RFC 7009). */
  async revokeToken(token: Secret | string): Promise<void> {
    const form = { token: token instanceof Secret ? token.reveal() : token };
    await this.#surroundings.transport.call({ method: "POST", path: "/oauth2/revoke", form });
  }

  /**
   * A function that gets a credential of the ambient task as its first argument. Whoever calls it, and every schema
   * that is made of it, sees the other arguments alone. `access` may be made of them. Throws {@link InvalidRequest}
   * where there is no ambient task, or that is one of another broker.
   */
  requires<A extends unknown[], R>(
    access: AccessLike | ((...args: A) => AccessLike),
    fn: (credential: Credential, ...args: A) => R | Promise<R>,
  ): (...args: A) => Promise<R> {
    return async (...args) => {
      const wanted = typeof access === "function" ? access(...args) : access;
      const task = currentTask();
      if (task === undefined || !this.owns(task)) {
        const text = typeof wanted === "string" ? wanted : formatAccess(wanted);
        throw new InvalidRequest(`${text} is asked for outside of a task of this broker: call this within broker.withTask()`);
      }
      return await fn(await task.credential(wanted), ...args);
    };
  }

  /** Whether a task is one of this broker. @internal */
  owns(task: Task): boolean {
    return task.belongsTo(this.#surroundings);
  }

  /** Stops heartbeats and closes connections. Tasks that are open are not ended by it. */
  close(): void {
    this.#surroundings.heart.stop();
    this.#surroundings.transport.close();
  }

  /** As {@link close}. */
  // eslint-disable-next-line @typescript-eslint/require-await -- the protocol takes a promise
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** Its address. */
  toString(): string {
    return this[inspect.custom]();
  }

  /** Its address. */
  [inspect.custom](): string {
    return `Broker { address: ${inspect(this.address)} }`;
  }
}

function readHandle(handle: TaskHandle | string): TaskHandle {
  let read: unknown = handle;
  if (typeof handle === "string") {
    try {
      read = JSON.parse(handle);
    } catch {
      read = undefined;
    }
  }
  const { v, broker, task } = (read ?? {}) as Partial<Record<keyof TaskHandle, unknown>>;
  if (v !== 1 || typeof broker !== "string" || typeof task !== "string") {
    throw new InvalidRequest("this is no handle of a suspended task");
  }
  return { v, broker, task };
}

function milliseconds(seconds: number, name: string): number {
  if (!(seconds > 0 && seconds <= 3600)) throw new InvalidRequest(`${name} is more than 0 and at most 3600 seconds`);
  return seconds * 1000;
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text.trim() === "" ? undefined : text;
}
