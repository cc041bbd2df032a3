/** The task that is ambient: the one whose block the running code is in, across `await`s. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { Task } from "./task.js";

const storage = new AsyncLocalStorage<Task>();

/** The task of the `withTask` or `run` that is being run; undefined outside of them. */
export function currentTask(): Task | undefined {
  return storage.getStore();
}

/** Runs `body` with this task as the ambient one. */
export function withAmbient<T>(task: Task, body: () => T): T {
  return storage.run(task, body);
}
