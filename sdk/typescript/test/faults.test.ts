/** A broker that is down, slow, busy or restarting. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, beforeEach, describe, it } from "node:test";
import { Broker, BrokerUnavailable, DayflyError, InvalidRequest, NotFound, type EvidenceRequest, type Task } from "@dayfly/client";
import { Gate, World, type Seen } from "./world.js";

const TASK = { purpose: "get through", scope: "crm:read@customers/42" } as const;
const ACCESS = "crm:read@customers/42";

let world: World;
let gate: Gate;
let broker: Broker;

before(async () => {
  world = await World.start();
  gate = await Gate.before(world.broker);
  broker = world.as("support-bot", { address: gate.address });
});

beforeEach(() => {
  gate.seen.length = 0;
  gate.next = [];
  gate.always = "pass";
});

after(async () => {
  broker.close();
  await gate.stop();
  await world.stop();
});

describe("a broker", () => {
  it("that is down is BrokerUnavailable after four tries", async () => {
    const down = world.as("support-bot", { address: "http://127.0.0.1:9" });
    const error = await failure(down.openTask(TASK));
    assert.ok(error instanceof BrokerUnavailable);
    assert.equal(error.retryable, true);
    assert.match(error.message, /ECONNREFUSED/);
    gate.always = "cut";
    assert.ok((await failure(broker.openTask(TASK))) instanceof BrokerUnavailable);
    assert.equal(gate.seen.length, 4);
  });

  it("that fails for a moment is asked again, with the same idempotency key", async () => {
    const problem = { status: 503, body: JSON.stringify({ type: "https://dayfly.dev/problems/busy", detail: "busy" }) };
    const conflict = { status: 409, body: JSON.stringify({ type: "https://dayfly.dev/problems/conflict", detail: "elsewhere" }) };
    gate.next = ["cut", problem, conflict];
    const task = await broker.openTask(TASK);
    const keys = gate.seen.map(({ headers }) => headers["idempotency-key"]);
    assert.equal(keys.length, 4);
    assert.equal(new Set(keys).size, 1);
    assert.notEqual(keys[0], undefined);
    gate.next = [{ status: 504 }];
    await task.credential(ACCESS);
    const issued = gate.seen.filter(({ path }) => path.endsWith("/credentials")).map(({ headers }) => headers["idempotency-key"]);
    assert.equal(issued.length, 2);
    assert.equal(new Set(issued).size, 1);
    await task.complete();
  });

  it("that says when to come again is heard", async () => {
    gate.next = [{ status: 503, headers: { "retry-after": "1" } }];
    await (await broker.openTask(TASK)).complete();
    const [first, second] = gate.seen;
    assert.ok((second?.at ?? 0) - (first?.at ?? 0) >= 990);
    gate.next = [{ status: 503, headers: { "retry-after": "60" } }];
    gate.seen.length = 0;
    const error = await failure(broker.openTask(TASK));
    assert.ok(error instanceof BrokerUnavailable && error.retryAfter === 60);
    assert.equal(gate.seen.length, 1, "a minute is longer than anybody waits here");
  });

  it("that refuses is not asked again", async () => {
    for (const status of [400, 403, 404, 409, 422, 500]) {
      gate.seen.length = 0;
      gate.next = [{ status, body: "<html>no</html>" }];
      const error = await failure(broker.openTask(TASK));
      assert.ok(error instanceof DayflyError && error.status === status);
      assert.ok(!error.message.includes("html"), "nothing foreign is quoted");
      assert.equal(gate.seen.length, 1);
    }
    gate.next = [{ status: 404 }];
    assert.ok((await failure(broker.openTask(TASK))) instanceof NotFound);
  });

  it("that is slow is given up after the time-out, or when its caller goes away", async () => {
    const impatient = world.as("support-bot", { address: gate.address, timeout: 0.2 });
    gate.next = ["hold"];
    gate.always = { status: 500 };
    const error = await failure(impatient.openTask(TASK));
    // A try that was not answered is repeated: its idempotency key makes that safe.
    assert.ok(error instanceof DayflyError && error.status === 500);
    gate.always = "hold";
    const controller = new AbortController();
    const opening = broker.openTask({ ...TASK, signal: controller.signal });
    setTimeout(() => { controller.abort(); }, 50);
    await assert.rejects(opening, { name: "AbortError" });
    impatient.close();
  });

  it("that opened a task for a caller who went away has it cancelled", async () => {
    const controller = new AbortController();
    const done = gate.request(({ path }) => path.includes("/complete"));
    const asked = gate.request(({ path }) => path === "/v1/tasks");
    const opening = broker.openTask({ ...TASK, signal: controller.signal });
    opening.catch(() => undefined);
    await asked;
    controller.abort();
    await assert.rejects(opening, { name: "AbortError" });
    const { path } = await done;
    const id = path.split("/")[3] ?? "";
    const { until } = await import("./world.js");
    await until(async () => (await world.task(id)).outcome === "cancelled");
  });

  it("that redirects is not followed, so that evidence goes to nobody else", async () => {
    const elsewhere = await Gate.before(world.broker);
    for (const status of [301, 302, 307, 308]) {
      gate.next = [{ status, headers: { location: `${elsewhere.address}/v1/tasks` } }];
      const error = await failure(broker.openTask(TASK));
      assert.ok(error instanceof DayflyError && error.status === status);
    }
    assert.equal(elsewhere.seen.length, 0);
    await elsewhere.stop();
  });

  it("that cannot be told of the end loses no result, where the end comes by itself", async () => {
    const warned = new Promise<Error>((resolve) => process.once("warning", resolve));
    const result = await broker.withTask({ ...TASK, heartbeat: 1 }, async (task) => {
      await task.credential(ACCESS);
      gate.always = "cut";
      return task.id;
    });
    const warning = await warned;
    assert.equal(warning.name, "DayflyWarning");
    assert.match(warning.message, /lost/);
    const { until } = await import("./world.js");
    await until(async () => (await world.task(result)).outcome === "lost");
    assert.deepEqual(await world.live(result), []);
  });

  it("that cannot be told of the end is an error, where nothing else ends it soon", async () => {
    const running = broker.withTask({ ...TASK, heartbeat: null, ttl: 5 }, () => {
      gate.always = "cut";
    });
    await assert.rejects(running, BrokerUnavailable);
  });

  it("that cannot be told of the end hides no error of the body", async () => {
    const thrown = new Error("the real reason");
    const running = broker.withTask({ ...TASK, heartbeat: null, ttl: 5 }, () => {
      gate.always = "cut";
      throw thrown;
    });
    await assert.rejects(running, (error) => error === thrown);
  });

  it("that did not hear of the end is told again by whoever ends it again", async () => {
    const task = await broker.openTask({ ...TASK, heartbeat: null });
    await task.credential(ACCESS);
    gate.always = "cut";
    await assert.rejects(task.complete("failed"), BrokerUnavailable);
    assert.equal(task.state, "ended");
    await assert.rejects(task.credential(ACCESS), { name: "TaskEnded" });
    gate.always = "pass";
    assert.equal((await task.complete("failed")).outcome, "failed");
    assert.equal((await world.task(task.id)).outcome, "failed");
    assert.deepEqual(await world.live(task.id), []);
  });

  it("that did not hear of the end is told again at the end of the block", async () => {
    let open: Task;
    {
      await using task = await broker.openTask({ ...TASK, heartbeat: null });
      open = task;
      gate.always = "cut";
      await assert.rejects(task.complete("failed"), BrokerUnavailable);
      gate.always = "pass";
    }
    assert.equal((await world.task(open.id)).outcome, "failed", "as what it was meant to be");
  });

  it("that is away while a signal aborts is told at the end of the block that it was cancelled", async () => {
    const controller = new AbortController();
    const id = await broker.withTask({ ...TASK, heartbeat: null, signal: controller.signal }, async (task) => {
      gate.always = "cut";
      controller.abort();
      assert.equal((await task.ended).outcome, undefined, "nobody could say");
      assert.equal(task.signal.aborted, true);
      gate.always = "pass";
      return task.id;
    });
    assert.equal((await world.task(id)).outcome, "cancelled");
  });

  it("that stays away after a signal aborted is an error, where nothing else ends the task soon", async () => {
    const controller = new AbortController();
    const running = broker.withTask({ ...TASK, heartbeat: null, ttl: 20, signal: controller.signal }, async (task) => {
      gate.always = "cut";
      controller.abort();
      await task.ended;
    });
    await assert.rejects(running, BrokerUnavailable);
  });

  it("that leaves a heartbeat without an answer gets the next in time, and the task goes on", async () => {
    const task = await broker.openTask({ ...TASK, heartbeat: 6 });
    const beat = ({ path }: Seen): boolean => path.endsWith("/heartbeat");
    let held = 0;
    gate.answer = (seen) => (beat(seen) && (held += 1) === 1 ? "hold" : undefined);
    const first = await gate.request(beat);
    const second = await gate.request(beat);
    assert.ok(second.at - first.at < 4_000, "it waits no longer than until the next is due");
    gate.answer = (seen) => (beat(seen) && (held += 1) === 3 ? "cut" : undefined);
    const third = await gate.request(beat);
    const fourth = await gate.request(beat);
    assert.ok(third.at - second.at > 1_500, "what was heard is not repeated");
    const pause = fourth.at - third.at;
    assert.ok(pause > 500 && pause < 1_800, `what was not heard is, soon: ${pause} ms`);
    gate.answer = () => undefined;
    assert.equal((await world.task(task.id)).state, "open");
    await task.complete();
  });

  it("is not waited for at the end of a block longer than an exit takes, where evidence hangs", async () => {
    const good = await readFile(world.evidence("support-bot"), "utf8");
    let hangs = false;
    const signals: (AbortSignal | undefined)[] = [];
    const source = {
      name: "a test",
      token: async ({ signal }: EvidenceRequest): Promise<string> => {
        if (!hangs) return good;
        signals.push(signal);
        return await new Promise<string>(() => undefined);
      },
    };
    const slow = world.as("support-bot", { evidence: source, timeout: 1 });
    const thrown = new Error("the real reason");
    const began = performance.now();
    const running = slow.withTask({ ...TASK, heartbeat: null, ttl: 5 }, () => {
      hangs = true;
      throw thrown;
    });
    await assert.rejects(running, (error) => error === thrown);
    assert.ok(performance.now() - began < 8_000);
    assert.ok(signals.length > 0 && signals.every((signal) => signal?.aborted === true), "a source that heeds it is called off");
    await assert.rejects(slow.decide("look", ACCESS), { name: "AttestationFailed", message: /gave no evidence within 1 s/ });
    slow.close();
  });

  it("that answers something else with 200 is BrokerUnavailable, and is not asked again", async () => {
    const answers = ["null", "[]", '"ok"', "{}", '{"id":"tsk_1","scope":[{}]}', '{"lease":{"id":1},"credential":{"type":"bearer_token"}}', '{"verdicts":[{}]}'];
    for (const body of answers) {
      const task = await broker.openTask({ ...TASK, heartbeat: null });
      const part = { purpose: "part", scope: ACCESS } as const;
      const calls: [string, () => Promise<unknown>][] = [
        ["open", async () => await broker.openTask(TASK)],
        ["join", async () => await broker.join(task.id)],
        ["resume", async () => await broker.resume({ v: 1, broker: broker.address, task: task.id })],
        ["credential", async () => await task.credential(ACCESS, { cache: false })],
        ["delegate", async () => await task.delegate(part)],
        ["hand over", async () => await task.delegate({ ...part, agent: "report-bot" })],
        ["decide", async () => await broker.decide("look", ACCESS)],
        ["complete", async () => await task.complete()],
      ];
      for (const [name, call] of calls) {
        gate.seen.length = 0;
        gate.always = { status: 200, headers: { "content-type": "application/json" }, body };
        const error = await failure(call());
        gate.always = "pass";
        assert.ok(error instanceof BrokerUnavailable, `${name} with ${body}: ${String(error)}`);
        assert.equal(error.retryable, false);
        assert.equal(gate.seen.length, 1);
      }
      await task.complete();
    }
  });

  it("that restarts is found again, and the task goes on", async () => {
    const task = await broker.openTask({ ...TASK, heartbeat: 60 });
    const first = await task.credential(ACCESS, { cache: false });
    await world.halt();
    const error = await failure(task.credential(ACCESS, { cache: false }));
    assert.ok(error instanceof BrokerUnavailable);
    assert.equal(task.state, "open");
    await world.run();
    const second = await task.credential(ACCESS, { cache: false });
    assert.notEqual(second.leaseId, first.leaseId);
    await task.complete();
    assert.equal((await world.task(task.id)).outcome, "completed");
  });

  it("is not sent evidence in clear but on this machine, or where somebody says so", () => {
    for (const address of ["http://dayfly.example.org", "http://10.0.0.1:8440", "http://127.0.0.1.example.org", "http://localhost.example.org"]) {
      assert.throws(() => new Broker(address), InvalidRequest, address);
      assert.equal(new Broker({ address, allowPlainHttp: true }).address, address);
    }
    for (const address of ["http://127.0.0.1:8440/", "http://localhost:8440", "http://[::1]:8440", "https://dayfly.example.org"]) {
      assert.equal(new Broker(address).address, address.replace(/\/$/, ""));
    }
    for (const address of ["dayfly", "ftp://dayfly", "https://user:word@dayfly.example.org", "https://dayfly.example.org/?x=1"]) {
      assert.throws(() => new Broker(address), InvalidRequest, address);
    }
    assert.throws(() => new Broker({ timeout: 0 }), InvalidRequest);
  });
});

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => assert.fail("it worked"),
    (error: unknown) => error,
  );
}
