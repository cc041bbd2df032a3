/** LangChain and LangGraph with a model that says what a test wrote. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { ToolMessage } from "@langchain/core/messages";
import { Command, interrupt, MemorySaver } from "@langchain/langgraph";
import { currentCredential, currentFetch, currentTask, type Broker } from "@dayfly/client";
import { dayfly, type ApprovalRequest, type RunOptions } from "@dayfly/client/langchain";
import { createAgent, FakeToolCallingModel, tool, type ReactAgent } from "langchain";
import { z } from "zod";
import { until, World } from "../test/world.js";

let world: World;
let broker: Broker;
const LANGCHAIN = { ToolMessage, interrupt };
const OPTIONS: RunOptions = {
  purpose: "answer ticket 4711",
  scope: ["crm:read@customers", "crm:export@customers"],
  tools: {
    read_customer: ({ id }) => `crm:read@customers/${String(id)}`,
    export_customers: "crm:export@customers",
    delete_customer: "crm:delete@customers/42",
  },
  subagents: { researcher: { scope: "crm:read@customers/42", purpose: "look something up" } },
};

before(async () => {
  world = await World.start();
  broker = world.as("support-bot");
});

after(async () => {
  broker.close();
  await world.stop();
});

interface Witness {
  task: string;
  token: string;
  outside: unknown[];
}

type Call = [name: string, args: Record<string, unknown>];

/** A model that calls one tool after the other, and then answers. */
function scripted(...calls: Call[]): FakeToolCallingModel {
  return new FakeToolCallingModel({ toolCalls: [...calls.map(([name, args], place) => [{ name, args, id: `call_${place}` }]), []] });
}

const nothing = z.object({});

 
function toolsFor(witness: Witness) {
  return [
    tool(
      async ({ id }: { id: number }) => {
        witness.task = currentTask()?.id ?? "";
        witness.token = currentCredential().token.reveal();
        return await (await currentFetch()(`/customers/${id}`)).text();
      },
      { name: "read_customer", description: "Reads a customer", schema: z.object({ id: z.number() }) },
    ),
    tool(
      () => {
        witness.outside.push(currentTask());
        return "plain";
      },
      { name: "plain", description: "Is granted nothing", schema: nothing },
    ),
    tool(() => `export with ${currentCredential().tool}`, { name: "export_customers", description: "Exports", schema: nothing }),
    tool(() => `delete with ${currentCredential().tool}`, { name: "delete_customer", description: "Deletes", schema: nothing }),
  ];
}

async function crm(token: string): Promise<number> {
  return (await fetch(`${world.crm}/customers/42`, { headers: { authorization: `Bearer ${token}` } })).status;
}

const input = { messages: [{ role: "user" as const, content: "who is 42?" }] };

/** What tools told the model. */
function told(result: { messages: { getType(): string; content: unknown }[] }): string {
  return JSON.stringify(result.messages.filter((message) => message.getType() === "tool").map((message) => message.content));
}

describe("LangChain", () => {
  it("runs in a task: a tool gets a credential, which is dead after the run", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    const model = scripted(["read_customer", { id: 42 }], ["plain", {}], ["delete_customer", {}]);
    const agent = createAgent({ model, tools: toolsFor(witness), middleware: [guard.middleware] });
    const result = await guard.invoke(agent, input);
    assert.match(told(result), /Harbour Books/);
    assert.match(told(result), /not permitted: crm:delete@customers\/42 is outside the scope/);
    assert.deepEqual(witness.outside, [undefined], "a tool that is not named has nothing");
    assert.equal((await world.task(witness.task)).outcome, "completed");
    assert.equal(await crm(witness.token), 401);
    assert.deepEqual(await world.live(witness.task), []);
    assert.ok(!JSON.stringify(result).includes(witness.token), "no secret is in the state");
  });

  it("ends the task of a stream when it is over, and when it is left", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    const make = (): ReactAgent => createAgent({ model: scripted(["read_customer", { id: 42 }], ["plain", {}]), tools: toolsFor(witness), middleware: [guard.middleware] });
    let steps = 0;
    for await (const chunk of guard.stream(make(), input)) steps += chunk === undefined ? 0 : 1;
    assert.ok(steps > 2);
    assert.equal((await world.task(witness.task)).outcome, "completed");
    witness.task = "";
    for await (const chunk of guard.stream(make(), input)) if (witness.task !== "" && chunk !== undefined) break;
    assert.equal((await world.task(witness.task)).outcome, "cancelled");
    assert.equal(await crm(witness.token), 401);
  });

  it("ends the task when the run fails, and when it is aborted", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const guard = dayfly(broker, LANGCHAIN, { ...OPTIONS, tools: { ill: "crm:read@customers/42" } });
    const look = (): void => {
      witness.task = currentTask()?.id ?? "";
      witness.token = currentCredential().token.reveal();
    };
    const ill = tool(() => { look(); throw new Error("the tool is ill"); }, { name: "ill", description: "Fails", schema: nothing });
    const failing = createAgent({ model: scripted(["ill", {}]), tools: [ill], middleware: [guard.middleware] });
    await assert.rejects(guard.invoke(failing, input), /ill/);
    assert.equal((await world.task(witness.task)).outcome, "failed");
    assert.equal(await crm(witness.token), 401);
    const controller = new AbortController();
    const slow = tool(
      async () => {
        look();
        controller.abort();
        await new Promise((resolve) => setTimeout(resolve, 10));
        return "too late";
      },
      { name: "ill", description: "Is aborted", schema: nothing },
    );
    const aborting = createAgent({ model: scripted(["ill", {}]), tools: [slow], middleware: [guard.middleware] });
    await assert.rejects(guard.invoke(aborting, input, { signal: controller.signal }));
    assert.equal((await world.task(witness.task)).outcome, "cancelled");
    assert.equal(await crm(witness.token), 401);
  });

  it("stops when somebody ends the task", async () => {
    let calls = 0;
    const guard = dayfly(broker, LANGCHAIN, { ...OPTIONS, heartbeat: 3, tools: { stop: "crm:read@customers/42" } });
    const stop = tool(
      async () => {
        calls += 1;
        const task = currentTask();
        await world.api("ops-console", "POST", `/v1/tasks/${task?.id ?? ""}/revoke`, { reason: "a test" });
        await task?.ended;
        return "ended";
      },
      { name: "stop", description: "Has its task revoked", schema: nothing },
    );
    const agent = createAgent({ model: scripted(["stop", {}], ["stop", {}]), tools: [stop], middleware: [guard.middleware] });
    await assert.rejects(guard.invoke(agent, input));
    assert.equal(calls, 1);
  });

  it("does not run a tool that somebody refused, whatever policy says by then", async () => {
    const rules = "policies/20-grants.cedar";
    const before = await readFile(join(world.folder, rules), "utf8");
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    let calls = 0;
    const asking = tool(() => `sure: ${String(interrupt("sure?"))}`, { name: "plain", description: "Asks by itself", schema: nothing });
    const exporting = tool(
      () => {
        calls += 1;
        return "exported";
      },
      { name: "export_customers", description: "Exports", schema: nothing },
    );
    const agent = createAgent({ model: scripted(["export_customers", {}], ["plain", {}]), tools: [exporting, asking], middleware: [guard.middleware], checkpointer: new MemorySaver() });
    const config = { configurable: { thread_id: "refused" } };
    const handle = guard.handleOf(await guard.invoke(agent, input, config));
    assert.ok(handle !== undefined);
    try {
      await world.rule(rules, (text) => text.replace('@approval("data-steward")\n', ""));
      const second = await guard.invoke(agent, new Command({ resume: false }), config, { resume: handle });
      assert.match(told(second), /not done: somebody refused it/);
      assert.equal(calls, 0);
      // A no to a question of the tool's own is the tool's.
      const third = await guard.invoke(agent, new Command({ resume: false }), config, { resume: guard.handleOf(second) });
      assert.match(told(third), /sure: false/);
      assert.equal((await world.task(handle.task)).outcome, "completed");
    } finally {
      await world.rule(rules, () => before);
    }
    // Where policy still waits, a no is heard as well.
    const again = { configurable: { thread_id: "refused again" } };
    const first = await guard.invoke(agent, input, again);
    const last = await guard.invoke(agent, new Command({ resume: false }), again, { resume: guard.handleOf(first) });
    assert.match(told(last), /not done: somebody refused it/);
    assert.equal(calls, 0);
  });

  it("gives the handle of a stream that was interrupted, by its chunk", async () => {
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    const agent = createAgent({ model: scripted(["export_customers", {}]), tools: toolsFor({ task: "", token: "", outside: [] }), middleware: [guard.middleware], checkpointer: new MemorySaver() });
    for (const streamMode of ["updates", ["updates", "messages"]] as const) {
      const config = { configurable: { thread_id: String(streamMode) }, streamMode } as object;
      const chunks: object[] = [];
      for await (const chunk of guard.stream(agent, input, config)) chunks.push(chunk as object);
      const [handle, ...more] = chunks.map((chunk) => guard.handleOf(chunk)).filter((each) => each !== undefined);
      assert.ok(handle !== undefined);
      assert.deepEqual(more, []);
      assert.equal((await world.task(handle.task)).state, "suspended");
      const result = await guard.invoke(agent, new Command({ resume: false }), { configurable: { thread_id: String(streamMode) } }, { resume: handle });
      assert.match(told(result), /refused it/);
    }
  });

  it("is interrupted where somebody has to approve, and goes on with the same task", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    const agent = createAgent({
      model: scripted(["export_customers", {}]),
      tools: toolsFor(witness),
      middleware: [guard.middleware],
      checkpointer: new MemorySaver(),
    });
    const config = { configurable: { thread_id: "1" } };
    const first = await guard.invoke(agent, input, config);
    const handle = guard.handleOf(first);
    assert.ok(handle !== undefined);
    assert.equal((await world.task(handle.task)).state, "suspended");
    const [asked] = (first as unknown as { __interrupt__: { value: ApprovalRequest }[] }).__interrupt__;
    assert.equal(asked?.value.approval, "data-steward");
    assert.equal(asked.value.access, "crm:export@customers");
    assert.equal(asked.value.type, "dayfly_approval");
    // Whoever resumes the graph alone gets nothing by it: the broker still waits.
    const second = await guard.invoke(agent, new Command({ resume: true }), config, { resume: handle });
    assert.match(told(second), /not done: this needs the approval of/);
    assert.equal((await world.task(handle.task)).outcome, "completed");
    // And once policy permits it, it is done.
    const again = { configurable: { thread_id: "2" } };
    const third = await guard.invoke(agent, input, again);
    const suspended = guard.handleOf(third);
    await world.rule("policies/20-grants.cedar", (text) => text.replace('@approval("data-steward")\n', ""));
    const last = await guard.invoke(agent, new Command({ resume: true }), again, { resume: suspended });
    assert.match(told(last), /export with crm/);
  });

  it("opens a task of its own within that of another broker", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const other = world.as("report-bot");
    const guard = dayfly(broker, LANGCHAIN, { ...OPTIONS, scope: "crm:read@customers/42" });
    await other.withTask({ purpose: "plan", scope: "crm:read@customers" }, async () => {
      const agent = createAgent({ model: scripted(["read_customer", { id: 42 }]), tools: toolsFor(witness), middleware: [guard.middleware] });
      await guard.invoke(agent, input);
    });
    const { json } = await world.api("support-bot", "GET", `/v1/tasks/${witness.task}`);
    assert.deepEqual([json["agent"], json["parent"] ?? undefined, json["outcome"]], ["support-bot", undefined, "completed"]);
    other.close();
  });

  it("gives a sub-agent a part of the task, or nothing", async () => {
    const parts: (string | undefined)[] = [];
    const heard: string[] = [];
    const look = tool(
      async () => {
        const task = currentTask();
        parts.push(task?.parent);
        if (task === undefined) return "nothing";
        const wide = await task.credential("crm:read@customers/43").then(({ tool: name }) => name, (error: unknown) => (error as Error).name);
        return `${(await task.credential("crm:read@customers/42")).tool} ${wide}`;
      },
      { name: "look", description: "Looks around", schema: nothing },
    );
    const guard = dayfly(broker, LANGCHAIN, OPTIONS);
    // One has no middleware, the other that of its caller: neither is the agent whose task it is.
    const inner = (middleware: typeof guard.middleware[]): ReturnType<typeof createAgent> => createAgent({ model: scripted(["look", {}]), tools: [look], middleware });
    const subagents = (["researcher", "stranger", "twin"] as const).map((name) =>
      tool(
        async () => {
          heard.push(told((await inner(name === "twin" ? [guard.middleware] : []).invoke(input)) as Parameters<typeof told>[0]));
          return name;
        },
        { name, description: name, schema: nothing },
      ),
    );
    const model = scripted(["researcher", {}], ["stranger", {}], ["twin", {}]);
    await guard.invoke(createAgent({ model, tools: subagents, middleware: [guard.middleware] }), input);
    assert.deepEqual(heard, ['["crm ScopeWidening"]', '["nothing"]', '["nothing"]']);
    assert.match(parts[0] ?? "", /^tsk_/);
    assert.deepEqual(parts.slice(1), [undefined, undefined]);
    await until(async () => (await world.task(parts[0] ?? "")).outcome === "completed");
  });

  it("opens a part of the task that it is called in", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const guard = dayfly(broker, LANGCHAIN, { ...OPTIONS, scope: "crm:read@customers/42" });
    await broker.withTask({ purpose: "plan", scope: "crm:read@customers" }, async (task) => {
      const agent = createAgent({ model: scripted(["read_customer", { id: 42 }]), tools: toolsFor(witness), middleware: [guard.middleware] });
      await guard.invoke(agent, input);
      assert.equal((await world.api("support-bot", "GET", `/v1/tasks/${witness.task}`)).json["parent"], task.id);
    });
  });
});
