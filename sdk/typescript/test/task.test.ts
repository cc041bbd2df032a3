/** Tasks and credentials against the real broker. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import {
  ApprovalPending,
  Denied,
  InvalidRequest,
  NotFound,
  ScopeWidening,
  TaskEnded,
  TaskSuspended,
  Budget,
  currentTask,
  type Broker,
  type Task,
  type TaskOptions,
} from "@dayfly/client";
import { World } from "./world.js";

const SCOPE = "crm:read,comment@customers/42";

let world: World;
let broker: Broker;

before(async () => {
  world = await World.start();
  broker = world.as("support-bot");
});

after(async () => {
  broker.close();
  await world.stop();
});

async function crm(token: string, customer = 42): Promise<number> {
  const response = await fetch(`${world.crm}/customers/${customer}`, { headers: { authorization: `Bearer ${token}` } });
  await response.body?.cancel();
  return response.status;
}

describe("a task", () => {
  it("gives credentials that work, and that are dead when its block ends", async () => {
    let token = "";
    const id = await broker.withTask({ purpose: "answer ticket 4711", scope: SCOPE }, async (task) => {
      const credential = await task.credential("crm:read@customers/42");
      token = credential.token.reveal();
      assert.equal(await crm(token), 200);
      assert.equal(await crm(token, 43), 403);
      assert.equal(credential.kind, "bearer_token");
      assert.equal(credential.tool, "crm");
      assert.deepEqual(credential.actions, ["read"]);
      assert.deepEqual(credential.resources, ["customers/42"]);
      assert.equal(credential.granted, 300);
      assert.equal(credential.boundedBy, "default");
      assert.equal(credential.revocation, "deny_listed");
      assert.match(credential.decision, /^dec_/);
      assert.ok(credential.expiresAt.getTime() > Date.now() + 200_000);
      assert.equal(task.agent, "support-bot");
      assert.equal(task.heartbeat, 30);
      assert.ok(task.deadline.getTime() > Date.now());
      return task.id;
    });
    assert.equal(await crm(token), 401);
    assert.deepEqual(await world.live(id), []);
    const { state, outcome } = await world.task(id);
    assert.deepEqual([state, outcome], ["ended", "completed"]);
  });

  it("says what is wrong with its options before anything is asked", async () => {
    const wrong: unknown[] = [undefined, "answer a ticket", {}, { purpose: "", scope: SCOPE }, { purpose: "look" }, { purpose: 7, scope: SCOPE }];
    for (const options of wrong) {
      await assert.rejects(broker.openTask(options as TaskOptions), InvalidRequest);
      await assert.rejects(broker.withTask(options as TaskOptions, () => 1), InvalidRequest);
    }
  });

  it("ends as failed when its body throws, and throws what the body threw", async () => {
    const thrown = new Error("the ticket is in Latin");
    let task: Task | undefined;
    const running = broker.withTask({ purpose: "fail", scope: SCOPE }, async (open) => {
      task = open;
      await open.credential("crm:read@customers/42");
      throw thrown;
    });
    await assert.rejects(running, (error) => error === thrown);
    assert.ok(task !== undefined);
    assert.equal((await world.task(task.id)).outcome, "failed");
    assert.deepEqual(await world.live(task.id), []);
  });

  it("ends as cancelled at once when its signal aborts, whatever the body does", async () => {
    const controller = new AbortController();
    const options = { purpose: "cancel", scope: SCOPE, signal: controller.signal };
    const [id, outcome] = await broker.withTask(options, async (task) => {
      await task.credential("crm:read@customers/42");
      controller.abort();
      const ended = await task.ended;
      await assert.rejects(task.credential("crm:read@customers/42"), TaskEnded);
      assert.equal(task.signal.aborted, true);
      return [task.id, ended.outcome];
    });
    assert.equal(outcome, "cancelled");
    assert.equal((await world.task(id)).outcome, "cancelled");
  });

  it("ends as cancelled when the body throws because it was aborted", async () => {
    const controller = new AbortController();
    let id = "";
    const running = broker.withTask({ purpose: "cancel", scope: SCOPE }, async (task) => {
      id = task.id;
      controller.abort();
      await fetch(world.crm, { signal: controller.signal });
    });
    await assert.rejects(running, { name: "AbortError" });
    assert.equal((await world.task(id)).outcome, "cancelled");
  });

  it("is not opened for a signal that aborted before", async () => {
    const running = broker.withTask({ purpose: "late", scope: SCOPE, signal: AbortSignal.abort() }, () => {
      throw new Error("never");
    });
    await assert.rejects(running, { name: "AbortError" });
  });

  it("ends with its block where it is declared", async () => {
    let id: string;
    {
      await using task = await broker.openTask({ purpose: "block", scope: [SCOPE] });
      await task.credential("crm", "read", "customers/42");
      id = task.id;
    }
    assert.equal((await world.task(id)).outcome, "completed");
    assert.deepEqual(await world.live(id), []);
  });

  it("says how its credentials ended", async () => {
    const task = await broker.openTask({ purpose: "prove", scope: SCOPE });
    const { leaseId } = await task.credential("crm:read@customers/42");
    const ended = await task.complete();
    assert.equal(ended.settled, true);
    assert.equal(ended.outcome, "completed");
    assert.equal(ended.leases[0]?.leaseId, leaseId);
    assert.equal(ended.leases[0].cause, "task_completed");
    assert.equal(ended.leases[0].proof, "denied_at");
    assert.ok(ended.leases[0].provenAt instanceof Date);
    assert.match(ended.leases[0].receipt ?? "", /^eyJ/);
    assert.equal(await task.complete("failed"), ended, "the first counts");
    await assert.rejects(task.credential("crm:read@customers/42"), TaskEnded);
  });

  it("fires when somebody else ends it, and gives nothing more", async () => {
    const task = await broker.openTask({ purpose: "be stopped", scope: SCOPE, heartbeat: 3 });
    await world.api("ops-console", "POST", `/v1/tasks/${task.id}/revoke`, { reason: "a test" });
    // The next heartbeat, a second later, hears of it.
    const ended = await task.ended;
    assert.equal(ended.outcome, "revoked");
    assert.equal(task.state, "ended");
    assert.equal(task.signal.reason, ended);
    await assert.rejects(task.credential("crm:read@customers/42"), { name: "TaskEnded", outcome: "revoked", state: "ended" });
    await task[Symbol.asyncDispose]();
  });

  it("hears of its end from the answer to a request too", async () => {
    const task = await broker.openTask({ purpose: "be stopped", scope: SCOPE, heartbeat: null });
    assert.equal(task.heartbeat, undefined);
    await world.api("ops-console", "POST", `/v1/tasks/${task.id}/revoke`, { reason: "a test" });
    await assert.rejects(task.credential("crm:read@customers/42"), { name: "TaskEnded", outcome: "revoked", status: 409 });
    assert.equal((await task.ended).outcome, "revoked");
  });

  it("has ended at its deadline", async () => {
    const task = await broker.openTask({ purpose: "be late", scope: SCOPE, ttl: 1, heartbeat: null });
    const kept = setTimeout(() => undefined, 10_000);
    assert.equal((await task.ended).outcome, "expired");
    clearTimeout(kept);
  });

  it("is lost, and its credentials dead, when its process dies", async () => {
    const script = `
      import { Broker } from "@dayfly/client";
      const broker = new Broker(${JSON.stringify({ address: world.broker, evidence: world.evidence("support-bot") })});
      const task = await broker.openTask({ purpose: "crash", scope: ${JSON.stringify(SCOPE)}, heartbeat: 1 });
      await task.credential("crm:read@customers/42");
      console.log(task.id);
      process.exit(1);`;
    const child = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]).catch(
      (error: unknown) => error as { stdout: string },
    );
    const id = child.stdout.trim();
    assert.match(id, /^tsk_/);
    const { until } = await import("./world.js");
    await until(async () => (await world.task(id)).outcome === "lost");
    await until(async () => (await world.live(id)).length === 0);
  });

  it("keeps no process alive that has nothing else to do", async () => {
    const script = `
      import { Broker } from "@dayfly/client";
      const broker = new Broker(${JSON.stringify({ address: world.broker, evidence: world.evidence("support-bot") })});
      const task = await broker.openTask({ purpose: "forget", scope: ${JSON.stringify(SCOPE)}, heartbeat: 2 });
      console.log(task.id);`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { timeout: 10_000 });
    assert.match(stdout.trim(), /^tsk_/);
  });

  it("is ambient in its block, also after an await, and nowhere else", async () => {
    assert.equal(currentTask(), undefined);
    await broker.withTask({ purpose: "be there", scope: SCOPE }, async (task) => {
      await Promise.resolve();
      assert.equal(currentTask(), task);
      await Promise.all(
        ["one", "two"].map((purpose) =>
          broker.withTask({ purpose, scope: SCOPE }, async (inner) => {
            await Promise.resolve();
            assert.equal(currentTask(), inner);
          }),
        ),
      );
      assert.equal(currentTask(), task);
    });
    assert.equal(currentTask(), undefined);
  });
});

describe("a refusal", () => {
  it("is Denied with reason and decision where policy says no", async () => {
    await broker.withTask({ purpose: "delete", scope: "crm:delete@customers/42" }, async (task) => {
      const error = await failure(task.credential("crm:delete@customers/42"));
      assert.ok(error instanceof Denied);
      assert.equal(error.status, 403);
      assert.equal(error.slug, "denied");
      assert.match(error.decision ?? "", /^dec_/);
      assert.match(error.requestId ?? "", /^req_/);
      assert.notEqual(error.reason, "");
      assert.equal(error.retryable, false);
    });
  });

  it("is ApprovalPending, which is no Denied, where somebody has to approve", async () => {
    await broker.withTask({ purpose: "export", scope: "crm:export@customers" }, async (task) => {
      const error = await failure(task.credential("crm:export@customers"));
      assert.ok(error instanceof ApprovalPending);
      assert.ok(!(error instanceof Denied));
      assert.equal(error.approval, "data-steward");
      assert.equal(error.slug, "approval-required");
      assert.match(error.decision ?? "", /^dec_/);
    });
  });

  it("is ScopeWidening, without a request, outside of the task's scope", async () => {
    await broker.withTask({ purpose: "widen", scope: SCOPE }, async (task) => {
      for (const access of ["crm:delete@customers/42", "crm:read@customers/43", "crm:read@customers/4", "crm:read", "payments:read"]) {
        const error = await failure(task.credential(access));
        assert.ok(error instanceof ScopeWidening, access);
        assert.equal(error.status, undefined);
      }
      assert.throws(() => task.fetch("crm:read"), ScopeWidening);
    });
  });

  it("is InvalidRequest with a pointer where a field is wrong", async () => {
    const opening = broker.openTask({ purpose: "x".repeat(600), scope: SCOPE });
    const error = await failure(opening);
    assert.ok(error instanceof InvalidRequest);
    assert.equal(error.pointer, "/purpose");
    for (const access of ["crm", "crm:", "CRM:read", "crm:read@", "crm:read@/a", "crm:read@a//b", "crm:read@a/../b"]) {
      assert.ok((await failure(broker.openTask({ purpose: "x", scope: access }))) instanceof InvalidRequest, access);
    }
  });

  it("is Budget, and names whose, where there are as many tasks as there may be", async () => {
    await world.rule("agents/report-bot.toml", (text) => `${text}\n[ceilings]\nopen_tasks = 1\n`);
    const reports = world.as("report-bot");
    const task = await reports.openTask({ purpose: "one", scope: "reports:read" });
    const error = await failure(reports.openTask({ purpose: "two", scope: "reports:read" }));
    assert.ok(error instanceof Budget, String(error));
    assert.equal(error.budget, "open_tasks");
    assert.equal(error.retryable, true);
    await task.complete();
    reports.close();
  });

  it("says in advance what would be permitted", async () => {
    const verdicts = await broker.decide("look ahead", ["crm:read@customers/42", "crm:export@customers", "crm:delete"]);
    assert.deepEqual(verdicts.map((verdict) => verdict.permitted), [true, false, false]);
    assert.equal(verdicts[0]?.granted, 300);
    assert.equal(verdicts[1]?.approval, "data-steward");
    assert.notEqual(verdicts[2]?.reason, undefined);
    assert.match(verdicts[2]?.decision ?? "", /^dec_/);
  });
});

describe("a suspended task", () => {
  it("goes on in another process, with evidence and a handle without a secret", async () => {
    const task = await broker.openTask({ purpose: "wait for somebody", scope: SCOPE });
    const token = (await task.credential("crm:read@customers/42")).token.reveal();
    const handle = await task.suspend();
    assert.equal(await crm(token), 401);
    assert.equal(task.state, "suspended");
    await assert.rejects(task.credential("crm:read@customers/42"), TaskSuspended);
    const text = JSON.stringify(handle);
    assert.deepEqual(JSON.parse(text), { v: 1, broker: world.broker, task: task.id });
    const script = `
      import { Broker } from "@dayfly/client";
      const broker = new Broker(${JSON.stringify({ address: world.broker, evidence: world.evidence("support-bot") })});
      const task = await broker.resume(${JSON.stringify(text)});
      const customer = await task.run((task) => task.credential("crm:read@customers/42"));
      console.log(customer.tool);`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]);
    assert.equal(stdout.trim(), "crm");
    assert.equal((await world.task(task.id)).outcome, "completed");
    await assert.rejects(broker.resume(handle), TaskEnded);
  });

  it("is not ended by the end of its block", async () => {
    const handle = await broker.withTask({ purpose: "wait", scope: SCOPE }, (task) => task.suspend());
    assert.equal((await world.task(handle.task)).state, "suspended");
    const task = await broker.resume(handle);
    await task.complete("cancelled");
    assert.equal((await world.task(task.id)).outcome, "cancelled");
  });

  it("is known to be suspended where somebody else did it", async () => {
    const task = await broker.openTask({ purpose: "wait", scope: SCOPE });
    const other = await broker.join(task.id);
    await other.suspend();
    await assert.rejects(task.credential("crm:read@customers/42"), TaskSuspended);
    await assert.rejects(broker.join(task.id), TaskSuspended);
    assert.equal(task.signal.aborted, false);
    await task.complete("cancelled");
  });

  it("is resumed by nobody with a wrong handle or as another agent", async () => {
    for (const handle of ["", "{}", "null", '{"v":2}', JSON.stringify({ v: 1, broker: world.broker, task: "../x" })]) {
      await assert.rejects(broker.resume(handle), InvalidRequest);
    }
    const elsewhere = { v: 1, broker: "https://dayfly.example.org", task: `tsk_${"0".repeat(26)}` } as const;
    await assert.rejects(broker.resume(elsewhere), InvalidRequest);
    const handle = await broker.withTask({ purpose: "wait", scope: SCOPE }, (task) => task.suspend());
    const stranger = world.as("report-bot");
    await assert.rejects(stranger.resume(handle), NotFound);
    stranger.close();
  });
});

describe("work that is handed on", () => {
  before(async () => {
    await world.rule("agents/support-bot.toml", (text) => text.replace('roles = ["support"]', 'roles = ["support", "delegator"]'));
  });

  it("to oneself is a task that ends with its own block, and with the one above", async () => {
    await broker.withTask({ purpose: "plan", scope: SCOPE }, async (task) => {
      const depth = await task.withTask({ purpose: "a part", scope: "crm:read@customers/42" }, async (part) => {
        assert.equal(part.parent, task.id);
        assert.equal(currentTask(), part);
        await part.credential("crm:read@customers/42");
        return part.depth;
      });
      assert.equal(depth, 1);
    });
    const task = await broker.openTask({ purpose: "plan", scope: SCOPE });
    const part = await task.delegate({ purpose: "a part", scope: "crm:read@customers/42" });
    await task.complete();
    assert.equal((await part.ended).outcome, "parent_ended");
    await assert.rejects(part.credential("crm:read@customers/42"), TaskEnded);
    assert.equal((await world.task(part.id)).outcome, "parent_ended");
    await assert.rejects(task.delegate({ purpose: "too late", scope: SCOPE }), TaskEnded);
  });

  it("to another agent is taken up by its id, which is in the environment", async () => {
    const task = await broker.openTask({ purpose: "figures", scope: "reports:read" });
    const handover = await task.delegate({ agent: "report-bot", purpose: "third quarter", scope: "reports:read@2026/q3", ttl: "10m" });
    assert.deepEqual(handover.env(), { DAYFLY_BROKER: world.broker, DAYFLY_TASK: handover.taskId });
    const script = `
      import { Broker } from "@dayfly/client";
      const part = await new Broker().join();
      const credential = await part.run((part) => part.credential("reports:read@2026/q3"));
      console.log(part.agent, part.parent, credential.tool);`;
    const env = { ...process.env, ...handover.env(), DAYFLY_EVIDENCE_FILE: world.evidence("report-bot") };
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { env });
    assert.equal(stdout.trim(), `report-bot ${task.id} reports`);
    assert.equal((await world.task(handover.taskId)).outcome, "completed");
    const second = await task.delegate({ agent: "report-bot", purpose: "fourth quarter", scope: "reports:read@2026/q4" });
    assert.equal((await second.cancel()).outcome, "cancelled");
    await assert.rejects(task.delegate({ agent: "report-bot", purpose: "more", scope: "crm:read" }), ScopeWidening);
    await task.complete();
  });

  it("is a stranger's where nobody handed it on", async () => {
    const stranger = world.as("report-bot");
    const task = await broker.openTask({ purpose: "mine", scope: SCOPE });
    await assert.rejects(stranger.join(task.id), NotFound);
    await assert.rejects(stranger.join("nonsense"), InvalidRequest);
    await task.complete();
    stranger.close();
  });
});

describe("a function that requires a credential", () => {
  it("gets it from the ambient task, and is called without it", async () => {
    const read = broker.requires(
      (customer: number) => `crm:read@customers/${customer}`,
      async (credential, customer: number) => await crm(credential.token.reveal(), customer),
    );
    await broker.withTask({ purpose: "call", scope: "crm:read@customers" }, async () => {
      assert.equal(await read(42), 200);
      assert.equal(await read(43), 200);
    });
    await assert.rejects(read(42), InvalidRequest);
  });

  it("gets none from a task of another broker", async () => {
    const other = world.as("support-bot");
    const read = other.requires("crm:read@customers/42", (credential) => credential.tool);
    await broker.withTask({ purpose: "call", scope: SCOPE }, async () => {
      await assert.rejects(read(), InvalidRequest);
      assert.equal(await other.withTask({ purpose: "call", scope: SCOPE }, () => read()), "crm");
    });
    other.close();
  });
});

describe("a token", () => {
  it("is dead at once when it is revoked", async () => {
    await broker.withTask({ purpose: "revoke", scope: SCOPE }, async (task) => {
      const { token } = await task.credential("crm:read@customers/42");
      assert.equal(await crm(token.reveal()), 200);
      await broker.revokeToken(token);
      const { until } = await import("./world.js");
      await until(async () => (await crm(token.reveal())) === 401);
    });
  });
});

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => assert.fail("it worked"),
    (error: unknown) => error,
  );
}
