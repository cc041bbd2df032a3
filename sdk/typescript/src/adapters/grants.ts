/**
 * What all adapters have in common: which tools of an agent get what. A tool that is not named gets nothing, not even the
 * ambient task; a sub-agent gets a task of its own, for a part of the scope, or nothing.
 */
import { currentTask, withAmbient, withoutAmbient } from "../ambient.js";
import type { AccessLike } from "../access.js";
import type { Duration } from "../api.js";
import type { Broker } from "../broker.js";
import { ApprovalPending, Budget, Denied, NotAdmitted, ProviderFailed, Revoked, ScopeWidening } from "../errors.js";
import type { Task, TaskHandle, TaskOptions } from "../task.js";

/** The access that a tool needs, or what it is for the arguments of a call. */
export type ToolGrant = AccessLike | ((args: Readonly<Record<string, unknown>>) => AccessLike);

/** What a sub-agent may do: a part of the scope of the agent that calls it. */
export interface SubagentGrant {
  /** The most that it may ask for. */
  readonly scope: AccessLike | readonly AccessLike[];
  /** Why; the purpose of the agent and the name of the sub-agent, if absent. */
  readonly purpose?: string | undefined;
  /** How long it may take. */
  readonly ttl?: Duration | undefined;
}

/** The task of a run, and what its tools get. */
export interface RunOptions extends Omit<TaskOptions, "signal"> {
  /** By the names of tools. While one runs, `currentTask()`, `currentCredential()` and `currentFetch()` are its own. */
  readonly tools: Readonly<Record<string, ToolGrant>>;
  /** By the names of the tools that are sub-agents. */
  readonly subagents?: Readonly<Record<string, SubagentGrant>> | undefined;
}

/** The longest purpose. */
const LONGEST = 512;

/** The task of a run: the one that is resumed, a part of the ambient one of this broker, or one of its own. */
export async function openRun(
  broker: Broker,
  options: RunOptions,
  { signal, resume }: { readonly signal?: AbortSignal | undefined; readonly resume?: TaskHandle | undefined },
): Promise<Task> {
  if (resume !== undefined) return await broker.resume(resume, { signal });
  const { purpose, scope, ttl, heartbeat } = options;
  const above = currentTask();
  // One of another broker is none that this one knows.
  if (above !== undefined && broker.owns(above)) return await above.delegate({ purpose, scope, ttl, heartbeat, signal });
  return await broker.openTask({ ...options, signal });
}

/** The access of a tool for these arguments; undefined where it is not to get one. */
export function accessOf(options: RunOptions, name: string, args: unknown): AccessLike | undefined {
  const grant = Object.hasOwn(options.tools, name) ? options.tools[name] : undefined;
  if (typeof grant !== "function") return grant;
  return grant(typeof args === "object" && args !== null ? (args as Record<string, unknown>) : {});
}

/** What a sub-agent of this name may do; undefined where it is none. */
export function subagentOf(options: RunOptions, name: string): SubagentGrant | undefined {
  const { subagents = {} } = options;
  return Object.hasOwn(subagents, name) ? subagents[name] : undefined;
}

/** Opens the task of a sub-agent. */
export async function openSubagent(task: Task, name: string, grant: SubagentGrant, signal?: AbortSignal): Promise<Task> {
  const purpose = (grant.purpose ?? `${task.purpose}: ${name}`).slice(0, LONGEST);
  return await task.delegate({ purpose, scope: grant.scope, ttl: grant.ttl, signal });
}

/** Runs a tool call in what it is to have. */
export async function callTool<T>(task: Task, options: RunOptions, name: string, args: unknown, body: () => Promise<T>): Promise<T> {
  const access = accessOf(options, name, args);
  if (access !== undefined) {
    const credential = await task.credential(access);
    return await withAmbient(task, body, credential);
  }
  const grant = subagentOf(options, name);
  if (grant !== undefined) return await (await openSubagent(task, name, grant)).run(body);
  return await withoutAmbient(body);
}

/** Ends the task of a run that went so. Where the run failed, nothing hides why. */
export async function endRun(task: Task, outcome: "completed" | "failed" | "cancelled"): Promise<void> {
  const leaving = task.leave(outcome);
  await (outcome === "completed" ? leaving : leaving.catch(() => undefined));
}

/** What a model is told where a tool call is not permitted; undefined where the run should fail instead. */
export function refusalOf(error: unknown): string | undefined {
  if (error instanceof ApprovalPending) {
    return `not done: ${error.reason}`;
  }
  const said =
    error instanceof Denied ||
    error instanceof ScopeWidening ||
    error instanceof NotAdmitted ||
    error instanceof Revoked ||
    error instanceof Budget ||
    error instanceof ProviderFailed;
  return said ? `not permitted: ${error.detail}` : undefined;
}
