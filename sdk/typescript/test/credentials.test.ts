/** The cache: one request for many, renewal in time, nothing kept that is dead. */
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it, mock } from "node:test";
import { TaskEnded, type Broker } from "@dayfly/client";
import { Gate, World, until, type Seen } from "./world.js";

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
});

after(async () => {
  broker.close();
  await gate.stop();
  await world.stop();
});

describe("credentials", () => {
  it("are one for fifty who ask for the same at once, however they write it", async () => {
    await broker.withTask({ purpose: "many", scope: "crm:read,comment@customers" }, async (task) => {
      const asked = Array.from({ length: 50 }, (_, place) =>
        place % 2 === 0 ? task.credential("crm:read,comment@customers/42") : task.credential("crm", ["comment", "read"], ["customers/42"]),
      );
      const credentials = await Promise.all(asked);
      assert.equal(new Set(credentials).size, 1);
      assert.equal(gate.count("/credentials"), 1);
      await task.credential(ACCESS);
      assert.equal(gate.count("/credentials"), 2, "another access is another credential");
      const own = await task.credential(ACCESS, { cache: false });
      assert.notEqual(own.leaseId, (await task.credential(ACCESS)).leaseId);
      assert.equal(gate.count("/credentials"), 3);
    });
  });

  it("come to the others when one of them gives up waiting", async () => {
    await broker.withTask({ purpose: "give up", scope: ACCESS }, async (task) => {
      const controller = new AbortController();
      const given = task.credential(ACCESS, { signal: controller.signal });
      const kept = task.credential(ACCESS);
      controller.abort();
      await assert.rejects(given, { name: "AbortError" });
      assert.equal((await kept).tool, "crm");
      assert.equal(gate.count("/credentials"), 1);
    });
  });

  it("are asked for again after a failure", async () => {
    await broker.withTask({ purpose: "fail once", scope: ACCESS }, async (task) => {
      gate.next = [{ status: 500 }];
      await assert.rejects(task.credential(ACCESS), { status: 500 });
      assert.equal((await task.credential(ACCESS)).tool, "crm");
    });
  });

  it("are renewed two thirds through their life, while the old one is given out", async () => {
    await broker.withTask({ purpose: "renew", scope: ACCESS }, async (task) => {
      const first = await task.credential(ACCESS);
      mock.timers.enable({ apis: ["Date"], now: Date.now() });
      try {
        mock.timers.tick(first.granted * 1000 * 0.58);
        assert.equal(await task.credential(ACCESS), first);
        assert.equal(gate.count("/renew"), 0, "not before six tenths");
        mock.timers.tick(first.granted * 1000 * 0.17);
        const renewed = gate.request(({ path }) => path.endsWith("/renew"));
        const during = await Promise.all(Array.from({ length: 20 }, () => task.credential(ACCESS)));
        assert.ok(during.every((credential) => credential === first), "nobody waits for it");
        await renewed;
        await until(async () => (await task.credential(ACCESS)) !== first);
        const second = await task.credential(ACCESS);
        assert.equal(second.leaseId, first.leaseId);
        assert.ok(!second.token.equals(first.token));
        assert.equal(gate.count("/renew"), 1);
        assert.equal(gate.count("/credentials"), 1);
      } finally {
        mock.timers.reset();
      }
    });
  });

  it("are issued anew where their lease cannot be renewed", async () => {
    await broker.withTask({ purpose: "renew", scope: ACCESS }, async (task) => {
      const first = await task.credential(ACCESS);
      await world.api("support-bot", "POST", `/v1/leases/${first.leaseId}/revoke`, {});
      mock.timers.enable({ apis: ["Date"], now: Date.now() });
      try {
        mock.timers.tick(first.granted * 1000 * 0.75);
        assert.equal(await task.credential(ACCESS), first);
        await until(async () => (await task.credential(ACCESS)).leaseId !== first.leaseId);
      } finally {
        mock.timers.reset();
      }
    });
  });

  it("that fail to be renewed are given out until they end, and asked for then", async () => {
    await broker.withTask({ purpose: "renew", scope: ACCESS, heartbeat: null }, async (task) => {
      const first = await task.credential(ACCESS);
      mock.timers.enable({ apis: ["Date"], now: Date.now() });
      try {
        gate.always = { status: 500 };
        mock.timers.tick(first.granted * 1000 * 0.75);
        const renewed = gate.request(({ path }) => path.endsWith("/renew"));
        assert.equal(await task.credential(ACCESS), first);
        await renewed;
        assert.equal(await task.credential(ACCESS), first);
        mock.timers.tick(first.granted * 1000 * 0.25);
        await assert.rejects(async () => {
          // Whoever joins the failed renewal hears of it too.
          await task.credential(ACCESS);
          await task.credential(ACCESS);
        }, { status: 500 });
        gate.always = "pass";
        assert.notEqual((await task.credential(ACCESS)).leaseId, first.leaseId);
      } finally {
        gate.always = "pass";
        mock.timers.reset();
      }
    });
  });

  it("that the tool refused are not brought back by a renewal that was under way", async () => {
    await broker.withTask({ purpose: "refuse", scope: ACCESS }, async (task) => {
      const first = await task.credential(ACCESS);
      mock.timers.enable({ apis: ["Date"], now: Date.now() });
      try {
        mock.timers.tick(first.granted * 1000 * 0.75);
        const renewing = gate.request(({ path }) => path.endsWith("/renew"));
        await task.credential(ACCESS);
        await renewing;
        const others = await Promise.all(Array.from({ length: 5 }, () => task.credential(ACCESS, { instead: first })));
        assert.equal(new Set(others).size, 1);
        assert.notEqual(others[0]?.leaseId, first.leaseId);
        await until(async () => (await world.live(task.id)).length === 1);
        assert.equal((await task.credential(ACCESS)).leaseId, others[0]?.leaseId);
      } finally {
        mock.timers.reset();
      }
    });
  });

  it("that come after the task has ended are given to nobody", async () => {
    const task = await broker.openTask({ purpose: "too late", scope: ACCESS });
    const asked = gate.request(({ path }) => path.endsWith("/credentials"));
    const credential = task.credential(ACCESS);
    await asked;
    const done = task.complete();
    await assert.rejects(credential, TaskEnded);
    await done;
    assert.deepEqual(await world.live(task.id), []);
  });

  it("are kept alive by a heartbeat whose third is no whole number of milliseconds", async () => {
    const task = await broker.openTask({ purpose: "beat", scope: ACCESS, heartbeat: "10s" });
    const beat = ({ path }: Seen): boolean => path === `/v1/tasks/${task.id}/heartbeat`;
    const { at } = await gate.request(beat);
    assert.ok(at > 0);
    assert.equal((await task.complete()).outcome, "completed");
  });

  it("are kept alive by heartbeats, one timer for all tasks", async () => {
    const tasks = await Promise.all(
      ["one", "two", "three"].map((purpose) => broker.openTask({ purpose, scope: ACCESS, heartbeat: 1 })),
    );
    // Several heartbeats' worth of time: whoever missed one would be lost.
    for (let beats = 0; beats < 6; beats += 1) await gate.request(({ path }) => path === `/v1/tasks/${tasks[0]?.id ?? ""}/heartbeat`);
    for (const task of tasks) {
      assert.equal((await world.task(task.id)).state, "open");
      await task.complete();
    }
    const count = gate.count("/heartbeat");
    assert.ok(count >= 15, String(count));
  });

  it("of a suspended task are not beaten for", async () => {
    const task = await broker.openTask({ purpose: "rest", scope: ACCESS, heartbeat: 1 });
    await gate.request(({ path }) => path.endsWith("/heartbeat"));
    const other = await broker.openTask({ purpose: "beat on", scope: ACCESS, heartbeat: 1 });
    await task.suspend();
    gate.seen.length = 0;
    for (let beats = 0; beats < 3; beats += 1) await gate.request(({ path }) => path === `/v1/tasks/${other.id}/heartbeat`);
    assert.equal(gate.count(`${task.id}/heartbeat`), 0);
    await task.complete("cancelled");
    await other.complete();
  });
});
