/**
 * OpenAI Agents SDK: a task around each run, a credential around each tool call.
 *
 * The agent that is run is a copy whose tools are wrapped. Handed-off agents and sub-agents are not copies, so they have
 * nothing but what is granted to them by name. A tool that somebody has to approve interrupts the run, as the SDK's own
 * approvals do; the approval itself is the broker's.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { withoutAmbient } from "../ambient.js";
import type { Broker } from "../broker.js";
import { ApprovalPending } from "../errors.js";
import type { Task, TaskHandle } from "../task.js";
import { eitherSignal } from "../wire.js";
import { accessOf, callTool, openRun, refusalOf, type RunOptions } from "./grants.js";

export type { RunOptions, SubagentGrant, ToolGrant } from "./grants.js";

/** As much of a tool as is used. */
interface ToolLike {
  readonly type: string;
  readonly name: string;
}

interface FunctionToolLike extends ToolLike {
  readonly invoke: (context: unknown, input: string, details?: unknown) => Promise<unknown>;
  readonly needsApproval: (context: unknown, input: unknown, callId?: string) => Promise<boolean>;
}

/** As much of an agent as is used. */
export interface AgentLike {
  readonly tools: readonly ToolLike[];
}

/** As much of the SDK's own options as is used. */
interface OwnOptions {
  readonly signal?: AbortSignal;
  readonly stream?: boolean;
}

/** As much of a result as is used. */
export interface ResultLike {
  readonly interruptions?: readonly unknown[];
  /** Of a streamed run: settles when it is over. */
  readonly completed?: Promise<void>;
}

/** `run` of `@openai/agents`, or that of a `Runner`. */
export type RunLike = (agent: never, input: never, options?: never) => Promise<ResultLike>;

/** Runs agents in tasks. */
export interface DayflyRunner<R extends RunLike> {
  /** As the SDK's `run`. The task ends with the run; one that is interrupted for an approval is suspended. */
  readonly run: R;
  /** A `run` that goes on with the task of a run that was interrupted: `dayfly.resume(handle)(agent, state)`. */
  resume(handle: TaskHandle): R;
  /** The task of a run that was interrupted. It holds no secret. */
  handleOf(result: object): TaskHandle | undefined;
}

/** A `run` that gives tools what they are granted. `run` is that of `@openai/agents`; its types are kept. */
export function dayfly<R extends RunLike>(broker: Broker, run: R, options: RunOptions): DayflyRunner<R> {
  const handles = new WeakMap<object, TaskHandle>();
  // The task of the run that is under way. The state of a run that was interrupted holds the agents of before, so the
  // tools look for it here.
  const running = new AsyncLocalStorage<Task>();

  const start = async (agent: AgentLike, input: unknown, own: OwnOptions, resume?: TaskHandle): Promise<ResultLike> => {
    const task = await openRun(broker, options, { signal: own.signal, resume });
    const { signal, done } = eitherSignal(task.signal, own.signal);
    const go = run as unknown as (agent: unknown, input: unknown, options: unknown) => Promise<ResultLike>;
    const begin = async (): Promise<ResultLike> => await withoutAmbient(async () => await running.run(task, async () => await go(copyOf(agent), input, { ...own, signal })));
    const settle = async (result: ResultLike): Promise<void> => {
      if ((result.interruptions?.length ?? 0) > 0 && task.state === "open") handles.set(result, await task.suspend());
    };
    if (own.stream !== true) {
      try {
        return await task.run(async () => {
          const result = await begin();
          await settle(result);
          return result;
        });
      } finally {
        done();
      }
    }
    // The result comes before the run is over, and so the task stays open until then.
    return await new Promise<ResultLike>((resolve, reject) => {
      task
        .run(async () => {
          const result = await begin();
          resolve(result);
          await result.completed;
          await settle(result);
        })
        .catch(reject)
        .finally(done);
    });
  };

  /** The agent with its tools wrapped. */
  const copyOf = (agent: AgentLike): unknown => {
    const clone = (agent as { clone?: (config: { tools: ToolLike[] }) => unknown }).clone;
    if (typeof clone !== "function") throw new TypeError("this is no agent of @openai/agents");
    return clone.call(agent, { tools: agent.tools.map((tool) => (isFunctionTool(tool) ? wrap(tool) : tool)) });
  };

  const wrap = (tool: FunctionToolLike): FunctionToolLike => ({
    ...tool,
    needsApproval: async (context, input, callId) => {
      if (await tool.needsApproval(context, input, callId)) return true;
      const task = running.getStore();
      const access = accessOf(options, tool.name, input);
      if (task === undefined || access === undefined) return false;
      try {
        await task.credential(access);
      } catch (error) {
        // Everything else is said when the tool is called.
        return error instanceof ApprovalPending;
      }
      return false;
    },
    invoke: async (context, input, details) => {
      const task = running.getStore();
      // A sub-agent that is called in here has a task of its own, or none.
      const call = async (): Promise<unknown> => await running.exit(async () => await tool.invoke(context, input, details));
      if (task === undefined) return await withoutAmbient(call);
      try {
        return await callTool(task, options, tool.name, parsed(input), call);
      } catch (error) {
        const refusal = refusalOf(error);
        if (refusal === undefined) throw error;
        return refusal;
      }
    },
  });

  const bound = (resume: TaskHandle | undefined): R =>
    (async (agent: AgentLike, input: unknown, own: OwnOptions = {}) => await start(agent, input, own, resume)) as unknown as R;

  return {
    run: bound(undefined),
    resume: bound,
    handleOf: (result) => handles.get(result),
  };
}

function isFunctionTool(tool: ToolLike): tool is FunctionToolLike {
  return tool.type === "function";
}

/** The arguments of a call, which come as JSON. What is none is for the tool to refuse. */
function parsed(input: string): unknown {
  try {
    return JSON.parse(input);
  } catch {
    return undefined;
  }
}
