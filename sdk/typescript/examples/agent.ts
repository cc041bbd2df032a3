/**
 * An agent that answers a ticket: it calls a tool through `task.fetch`, and waits for an approval in between.
 *
 * usage: DAYFLY_BROKER=… DAYFLY_EVIDENCE_FILE=… node agent.js [handle]
 */
import { ApprovalPending, Broker, type Task } from "@dayfly/client";

const broker = new Broker();
const controller = new AbortController();
process.once("SIGINT", () => { controller.abort(); });

async function work(task: Task): Promise<void> {
  const crm = task.fetch("crm:read,comment@customers/42");
  const customer: unknown = await (await crm("/customers/42")).json();
  console.log("read", customer);
  // Whoever goes on does not say so twice.
  if (handle === undefined) await crm("/customers/42/comments", { method: "POST", body: "we are on it" });
  try {
    await task.credential("crm:export@customers");
    console.log("may export");
  } catch (error) {
    if (!(error instanceof ApprovalPending)) throw error;
    const handle = await task.suspend();
    console.log(`waits for ${error.approval ?? "somebody"}; go on with: ${JSON.stringify(handle)}`);
  }
}

const [handle] = process.argv.slice(2);
const scope = ["crm:read,comment@customers/42", "crm:export@customers"];
const task =
  handle === undefined
    ? await broker.openTask({ purpose: "answer ticket 4711", scope, signal: controller.signal })
    : await broker.resume(handle, { signal: controller.signal });
await task.run(work);
broker.close();
