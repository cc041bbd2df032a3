/** The task that is ambient: the one whose block the running code is in, across `await`s; and in a tool its credential. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { Credential } from "./credential.js";
import { InvalidRequest } from "./errors.js";
import type { FetchLike } from "./fetch.js";
import type { FetchOptions, Task } from "./task.js";

interface Ambience {
  readonly task: Task;
  readonly credential?: Credential;
}

const storage = new AsyncLocalStorage<Ambience | undefined>();

/** The task of the `withTask` or `run` that is being run; undefined outside of them. */
export function currentTask(): Task | undefined {
  return storage.getStore()?.task;
}

/** The credential that an adapter got for the tool that is being called. Throws {@link InvalidRequest} outside of one. */
export function currentCredential(): Credential {
  return tool().credential;
}

/** A `fetch` for the access of the tool that is being called, as {@link Task.fetch} gives. */
export function currentFetch(options?: FetchOptions): FetchLike {
  const { task, credential } = tool();
  const { tool: name, actions, resources } = credential;
  return task.fetch({ tool: name, actions, resources }, options);
}

/** Runs `body` with this task as the ambient one, and, in a tool, with its credential. @internal */
export function withAmbient<T>(task: Task, body: () => T, credential?: Credential): T {
  return storage.run(credential === undefined ? { task } : { task, credential }, body);
}

/** Runs `body` with no ambient task, whatever it was called in. @internal */
export function withoutAmbient<T>(body: () => T): T {
  return storage.run(undefined, body);
}

function tool(): Required<Ambience> {
  const ambience = storage.getStore();
  if (ambience?.credential === undefined) {
    throw new InvalidRequest("there is no credential here: this is no tool that an adapter was told to give one to");
  }
  return { task: ambience.task, credential: ambience.credential };
}
