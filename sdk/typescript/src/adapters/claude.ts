/**
 * Claude Agent SDK: a task around each query, a credential around each call of a tool that runs in this process.
 *
 * A hook before each tool call asks the broker, and denies or defers the call as it says. A sub-agent is told by its id,
 * and gets a task of its own, for a part of the scope, or nothing. Tools are called by the SDK from wherever it reads
 * its input, so what a call is to have is found by the id of the call.
 */
import { withAmbient, withoutAmbient } from "../ambient.js";
import type { Broker } from "../broker.js";
import type { Credential } from "../credential.js";
import { ApprovalPending } from "../errors.js";
import type { Task, TaskHandle } from "../task.js";
import { eitherSignal } from "../wire.js";
import { accessOf, endRun, openRun, openSubagent, refusalOf, subagentOf, type RunOptions } from "./grants.js";

export type { RunOptions, SubagentGrant, ToolGrant } from "./grants.js";

/** As much of a hook's input as is used. */
interface HookInputLike {
  readonly hook_event_name: string;
  readonly tool_name?: string;
  readonly tool_input?: unknown;
  readonly tool_use_id?: string;
  readonly agent_id?: string;
  readonly agent_type?: string;
}

/** `query` of `@anthropic-ai/claude-agent-sdk`. */
export type QueryLike = (params: { prompt: never; options?: never }) => AsyncIterable<unknown>;

/** As much of the options of a query as is used. */
export interface QueryOptionsLike {
  readonly abortController?: AbortController;
  readonly hooks?: object;
}

/** What a query takes besides the SDK's own options. */
export interface QueryExtras {
  /** Goes on with the task of a query that was deferred. */
  readonly resume?: TaskHandle | undefined;
}

/** Runs queries in tasks. */
export interface Dayfly<Q extends QueryLike> {
  /** As the SDK's `query`, as a stream of its messages. The task ends with it, also where the stream is left early; one that was deferred is suspended. */
  query(params: Parameters<Q>[0], extras?: QueryExtras): AsyncGenerator<MessageOf<Q>, void, undefined>;
  /** The handler of a tool of `createSdkMcpServer`: while it runs, `currentTask()`, `currentCredential()` and `currentFetch()` are those of the call. */
  handler<A, R>(handle: (args: A, extra: unknown) => Promise<R>): (args: A, extra: unknown) => Promise<R>;
  /** The task of the last query that was deferred for an approval. It holds no secret. */
  readonly handle: TaskHandle | undefined;
}

/** What a query's stream is of. */
export type MessageOf<Q extends QueryLike> = ReturnType<Q> extends AsyncIterable<infer M> ? M : unknown;

/** Tasks for queries; `query` is that of the SDK. Tools are named as the SDK names them: `mcp__crm__read`; sub-agents by their type. */
export function dayfly<Q extends QueryLike>(broker: Broker, query: Q, options: RunOptions): Dayfly<Q> {
  const ask = query as unknown as (params: { prompt: unknown; options: object }) => AsyncIterable<MessageOf<Q>>;
  const calls = new Map<string, { task: Task; credential: Credential }>();
  let handle: TaskHandle | undefined;

  const hooksFor = (task: Task): { hooks: Record<string, unknown>; deferred: () => boolean; end: () => Promise<void> } => {
    const subtasks = new Map<string, Promise<Task>>();
    let deferred = false;
    const decide = (decision: "deny" | "defer", reason: string): object => ({
      hookSpecificOutput: { hookEventName: "PreToolUse", permissionDecision: decision, permissionDecisionReason: reason },
    });
    /** The task of whoever calls: of the agent itself, or of the sub-agent with this id. */
    const callerOf = async (id: string | undefined, type = ""): Promise<Task | undefined> => {
      if (id === undefined) return task;
      const grant = subagentOf(options, type);
      if (grant === undefined) return undefined;
      let subtask = subtasks.get(id);
      if (subtask === undefined) {
        const opening = (subtask = openSubagent(task, type, grant));
        subtasks.set(id, opening);
        // One that could not be opened is nothing to end, and the next call may try again.
        opening.catch(() => { if (subtasks.get(id) === opening) subtasks.delete(id); });
      }
      return await subtask;
    };
    const before = async (input: HookInputLike): Promise<object> => {
      const { tool_name: name = "", tool_use_id: use = "", agent_id: agent, agent_type: type } = input;
      const access = accessOf(options, name, input.tool_input);
      // Not ours: the SDK's own permissions decide.
      if (access === undefined) return {};
      try {
        const caller = await callerOf(agent, type);
        if (caller === undefined) return decide("deny", `not permitted: the sub-agent ${type ?? ""} was granted nothing`);
        calls.set(use, { task: caller, credential: await caller.credential(access) });
        return {};
      } catch (error) {
        if (error instanceof ApprovalPending && agent === undefined) {
          deferred = true;
          return decide("defer", error.reason);
        }
        return decide("deny", refusalOf(error) ?? "not permitted: the broker could not be asked");
      }
    };
    const after = (input: HookInputLike): Promise<object> => {
      calls.delete(input.tool_use_id ?? "");
      return Promise.resolve({});
    };
    const left = async (input: HookInputLike): Promise<object> => {
      const subtask = subtasks.get(input.agent_id ?? "");
      subtasks.delete(input.agent_id ?? "");
      await subtask?.then(async (open) => await open.complete()).catch(() => undefined);
      return {};
    };
    return {
      deferred: () => deferred,
      async end() {
        for (const [use, call] of calls) if (call.task === task || call.task.parent === task.id) calls.delete(use);
        await Promise.allSettled([...subtasks.values()].map(async (subtask) => await (await subtask).complete("cancelled")));
      },
      hooks: {
        // Whoever cannot ask may not go on.
        PreToolUse: [{ hooks: [before], onFailure: "block" }],
        PostToolUse: [{ hooks: [after] }],
        PostToolUseFailure: [{ hooks: [after] }],
        SubagentStop: [{ hooks: [left] }],
      },
    };
  };

  return {
    get handle() {
      return handle;
    },
    handler: (run) => async (args, extra) => {
      const call = calls.get(idOf(extra) ?? "");
      return call === undefined
        ? await withoutAmbient(async () => await run(args, extra))
        : await withAmbient(call.task, async () => await run(args, extra), call.credential);
    },
    async *query(params, extras = {}) {
      const { prompt, options: own = {} } = params as { readonly prompt: unknown; readonly options?: QueryOptionsLike };
      const task = await openRun(broker, options, { signal: own.abortController?.signal, resume: extras.resume });
      const { signal, done } = eitherSignal(task.signal, own.abortController?.signal);
      const abortController = new AbortController();
      const abort = (): void => { abortController.abort(signal.reason); };
      signal.addEventListener("abort", abort, { once: true });
      const { hooks, deferred, end } = hooksFor(task);
      handle = undefined;
      let outcome: "completed" | "failed" | "cancelled" = "cancelled";
      try {
        const messages = withoutAmbient(() => ask({ prompt, options: { ...own, abortController, hooks: merged(hooks, own.hooks) } }));
        let failed = false;
        for await (const message of messages) {
          // A query that goes on after a deferral can have several results: the last one counts.
          failed = isFailure(message) ?? failed;
          yield message;
        }
        outcome = failed ? "failed" : "completed";
      } catch (error) {
        outcome = (error instanceof Error && error.name === "AbortError") || signal.aborted ? "cancelled" : "failed";
        throw error;
      } finally {
        signal.removeEventListener("abort", abort);
        done();
        try {
          await end();
        } finally {
          if (deferred() && outcome === "completed" && task.state === "open") handle = await task.suspend();
          else await endRun(task, outcome);
        }
      }
    },
  };
}

/** Our hooks first, then those of the caller. */
function merged(ours: Record<string, unknown>, theirs: object | undefined): Record<string, unknown> {
  const all: Record<string, unknown> = { ...theirs };
  for (const [event, matchers] of Object.entries(ours)) all[event] = [...(matchers as unknown[]), ...((all[event] as unknown[] | undefined) ?? [])];
  return all;
}

/** The id of a tool call, which the SDK's process puts beside the arguments. */
function idOf(extra: unknown): string | undefined {
  const id = (extra as { _meta?: Record<string, unknown> } | undefined)?._meta?.["claudecode/toolUseId"];
  return typeof id === "string" ? id : undefined;
}

/** Whether a result says that the query failed; undefined for other messages. */
function isFailure(message: unknown): boolean | undefined {
  const { type, is_error: failed } = (message ?? {}) as { type?: unknown; is_error?: unknown };
  return type === "result" ? failed === true : undefined;
}
