/**
 * LangChain and LangGraph: a task around each run of an agent, a credential around each tool call.
 *
 * The middleware gives tools what they are granted. It does not open the task, because nothing in an agent is run
 * whatever happens: the task is around `invoke`. A tool that somebody has to approve interrupts the graph.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { withoutAmbient } from "../ambient.js";
import type { Broker } from "../broker.js";
import { ApprovalPending } from "../errors.js";
import type { Task, TaskHandle } from "../task.js";
import { formatAccess, parseAccess } from "../access.js";
import { eitherSignal } from "../wire.js";
import { accessOf, callTool, endRun, openRun, refusalOf, type RunOptions } from "./grants.js";

export type { RunOptions, SubagentGrant, ToolGrant } from "./grants.js";

/** What is taken from LangChain, so that it is the one that the agent is of. */
export interface LangChain {
  /** Of `@langchain/core/messages`, or `langchain`. */
  readonly ToolMessage: new (fields: { content: string; name: string; tool_call_id: string; status: "error" }) => object;
  /** Of `@langchain/langgraph`. Without it an approval that is missing is told to the model. */
  readonly interrupt?: ((value: never) => unknown) | undefined;
}

/** As much of a request as is used. */
interface ToolCallRequestLike {
  readonly toolCall: { readonly name: string; readonly args: Record<string, unknown>; readonly id?: string };
  readonly runtime?: unknown;
}

/** The middleware, for `createAgent({ middleware: [dayfly.middleware] })`. */
export interface DayflyMiddleware {
  /** Names it in LangChain. */
  readonly name: string;
  /** LangChain calls it around each tool call. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- what a tool gives is LangChain's
  wrapToolCall(request: any, handler: any): Promise<any>;
}

/** As much of an agent or graph as is used. */
export interface RunnableLike {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- input and state are LangChain's
  invoke(input: any, config?: any): Promise<any>;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- as above
  stream?(input: any, config?: any): Promise<AsyncIterable<any>>;
}

/** What a run takes besides LangChain's own configuration. */
export interface RunExtras {
  /** Goes on with the task of a run that was interrupted. */
  readonly resume?: TaskHandle | undefined;
}

/** What an interrupt for an approval says to whoever handles it. No secret is in it. */
export interface ApprovalRequest {
  readonly type: "dayfly_approval";
  /** The name of the tool call. */
  readonly tool: string;
  /** The id of the tool call. */
  readonly call: string | undefined;
  /** What is asked for, such as `crm:export@customers`. */
  readonly access: string;
  /** The role of whoever may approve. */
  readonly approval: string | undefined;
  readonly reason: string;
  readonly decision: string | undefined;
}

/** Runs agents in tasks. */
export interface Dayfly {
  readonly middleware: DayflyMiddleware;
  /** `agent.invoke(input, config)` in a task that ends with it; one that is interrupted is suspended. */
  invoke<A extends RunnableLike>(agent: A, input: Parameters<A["invoke"]>[0], config?: Parameters<A["invoke"]>[1], extras?: RunExtras): Promise<Awaited<ReturnType<A["invoke"]>>>;
  /** `agent.stream(input, config)` in a task that ends when the stream does, or when it is left. */
  stream<A extends RunnableLike & Required<Pick<RunnableLike, "stream">>>(agent: A, input: Parameters<A["stream"]>[0], config?: Parameters<A["stream"]>[1], extras?: RunExtras): AsyncGenerator<unknown, void, undefined>;
  /**
   * The task of a run that was interrupted, by what `invoke` gave; or, once the stream is over, by the chunk of it that has
   * the interrupt. It holds no secret.
   */
  handleOf(result: object): TaskHandle | undefined;
}

/** Tasks for the agents that have its middleware. */
export function dayfly(broker: Broker, langchain: LangChain, options: RunOptions): Dayfly {
  const interrupt = langchain.interrupt as ((value: ApprovalRequest) => unknown) | undefined;
  const handles = new WeakMap<object, TaskHandle>();
  // The task of the run that is under way. A sub-agent with a middleware of its own has one of its own.
  const running = new AsyncLocalStorage<Task>();

  const open = async (given: unknown, extras: RunExtras): Promise<{ task: Task; config: object; done: () => void }> => {
    const config = (given ?? {}) as { readonly signal?: AbortSignal };
    const task = await openRun(broker, options, { signal: config.signal, resume: extras.resume });
    const { signal, done } = eitherSignal(task.signal, config.signal);
    return { task, config: { ...config, signal }, done };
  };

  const middleware: DayflyMiddleware & Record<symbol, true> = {
    // What LangChain knows middleware by.
    [Symbol.for("AgentMiddleware")]: true,
    name: "Dayfly",
    async wrapToolCall(request: ToolCallRequestLike, handler: (request: ToolCallRequestLike) => unknown): Promise<unknown> {
      const { name, args, id } = request.toolCall;
      const task = running.getStore();
      const call = async (): Promise<unknown> => await handler(request);
      // Run by itself, or by an agent whose task is not for it.
      if (task === undefined) return await withoutAmbient(call);
      const attempt = async (): Promise<unknown> => await callTool(task, options, name, args, async () => await running.exit(call));
      // A refusal is the answer of the tool, so that the model knows; everything else fails the run.
      const answer = (content: string): object => new langchain.ToolMessage({ content, name, tool_call_id: id ?? "", status: "error" });
      const told = (error: unknown): object => {
        const content = refusalOf(error);
        if (content === undefined) throw error;
        return answer(content);
      };
      const refused = interrupt === undefined ? undefined : await refusedBefore(request, interrupt);
      if (refused !== undefined) return answer(`not done: somebody refused it, and ${refused.reason}`);
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof ApprovalPending) || interrupt === undefined) return told(error);
        const access = accessOf(options, name, args);
        const { approval, reason, decision } = error;
        // Throws the first time. Once the graph is resumed it returns, and the broker is asked again.
        const said = interrupt({
          type: "dayfly_approval",
          tool: name,
          call: id,
          access: access === undefined ? name : formatAccess(parseAccess(access)),
          approval,
          reason,
          decision,
        });
        return said === false ? answer(`not done: somebody refused it, and ${reason}`) : await attempt().catch(told);
      }
    },
  };

  return {
    middleware,
    handleOf: (result) => handles.get(result),
    async invoke(agent, input, config, extras = {}) {
      const run = await open(config, extras);
      try {
        return await run.task.run(async (task) => {
          const result: unknown = await withoutAmbient(async () => await running.run(task, async (): Promise<unknown> => await agent.invoke(input, run.config)));
          if (isInterrupted(result) && task.state === "open") handles.set(result, await task.suspend());
          return result as never;
        });
      } finally {
        run.done();
      }
    },
    async *stream(agent, input, config, extras = {}) {
      const run = await open(config, extras);
      const { task } = run;
      let outcome: "completed" | "failed" | "cancelled" = "cancelled";
      const interrupted: object[] = [];
      const inside = async <T>(step: () => Promise<T>): Promise<T> => await withoutAmbient(async () => await running.run(task, step));
      try {
        const chunks = (await inside(async (): Promise<AsyncIterable<unknown>> => await agent.stream(input, run.config)))[Symbol.asyncIterator]();
        try {
          for (;;) {
            const step = await inside(async () => await chunks.next());
            if (step.done === true) break;
            if (isInterrupted(step.value)) interrupted.push(step.value);
            yield step.value;
          }
          outcome = "completed";
        } finally {
          if (outcome !== "completed") await chunks.return?.();
        }
      } catch (error) {
        outcome = error instanceof Error && error.name === "AbortError" ? "cancelled" : "failed";
        throw error;
      } finally {
        run.done();
        if (interrupted.length > 0 && outcome === "completed" && task.state === "open") {
          const handle = await task.suspend();
          for (const chunk of interrupted) handles.set(chunk, handle);
        } else {
          await endRun(task, outcome);
        }
      }
    },
  };
}

/** Whether a result or a chunk has an interrupt; with several stream modes a chunk is a list that ends with it. */
function isInterrupted(value: unknown): value is object {
  const state: unknown = Array.isArray(value) ? value.at(-1) : value;
  return typeof state === "object" && state !== null && "__interrupt__" in state;
}

/** As much of what LangGraph knows about a step as is used. */
interface Step {
  readonly thread_id?: unknown;
  readonly checkpoint_ns?: string;
  readonly checkpoint_map?: Readonly<Record<string, string>>;
  readonly __pregel_task_id?: string;
  readonly __pregel_scratchpad?: { readonly resume: readonly unknown[]; readonly nullResume?: unknown };
  readonly __pregel_checkpointer?: {
    getTuple(config: object): Promise<{ readonly pendingWrites?: readonly (readonly [task: string, channel: string, value: unknown])[] } | undefined>;
  };
}

/**
 * Our own question about this call, where somebody answered it with a no. A step that was interrupted begins from its top,
 * and the tool must not be called to find out what the question was: policy may permit it by now. What was asked is in
 * the checkpoint.
 */
async function refusedBefore(request: ToolCallRequestLike, interrupt: (value: ApprovalRequest) => unknown): Promise<ApprovalRequest | undefined> {
  const { configurable } = (request.runtime ?? {}) as { readonly configurable?: Step };
  const { __pregel_scratchpad: pad, __pregel_checkpointer: saver, __pregel_task_id: step } = configurable ?? {};
  if (pad === undefined || saver === undefined || ![...pad.resume, pad.nullResume].includes(false)) return undefined;
  const place = configurable?.checkpoint_ns?.split("|").slice(0, -1).join("|") ?? "";
  const written = configurable?.checkpoint_map?.[place];
  const where = { thread_id: configurable?.thread_id, checkpoint_ns: place, ...(written === undefined ? {} : { checkpoint_id: written }) };
  const ours = ((await saver.getTuple({ configurable: where }))?.pendingWrites ?? []).filter(([task]) => task === step);
  const ofChannel = (name: string): unknown[] => ours.filter(([, channel]) => channel === name).flatMap(([, , value]) => value);
  // So many questions of this step had an answer when the last one was asked.
  const before = ofChannel("__resume__").length;
  if ((before < pad.resume.length ? pad.resume[before] : pad.nullResume) !== false) return undefined;
  for (const each of ofChannel("__interrupt__")) {
    const question = (each as { readonly value?: Partial<ApprovalRequest> } | undefined)?.value;
    if (question?.type !== "dayfly_approval" || question.call !== request.toolCall.id) continue;
    // Uses the answers up.
    for (let asked = 0; asked <= before; asked += 1) interrupt(question as ApprovalRequest);
    return question as ApprovalRequest;
  }
  return undefined;
}
