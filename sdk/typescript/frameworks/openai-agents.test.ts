/** The OpenAI Agents SDK with a model that says what a test wrote. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { currentCredential, currentFetch, currentTask, InvalidRequest, type Broker } from "@dayfly/client";
import { dayfly, type RunOptions } from "@dayfly/client/openai-agents";
import { Agent, run, setTracingDisabled, tool, Usage, type Model, type ModelRequest, type ModelResponse, type StreamEvent } from "@openai/agents";
import { z } from "zod";
import { World } from "../test/world.js";

setTracingDisabled(true);

/** What the model answers, one after the other: calls of tools, or a text. */
type Turn = string | { readonly tool: string; readonly args: Record<string, unknown> };

type Done = Extract<StreamEvent, { type: "response_done" }>;

class Scripted implements Model {
  readonly #turns: Turn[];
  readonly seen: ModelRequest[] = [];

  constructor(...turns: Turn[]) {
    this.#turns = turns;
  }

  getResponse(request: ModelRequest): Promise<ModelResponse> {
    this.seen.push(request);
    request.signal?.throwIfAborted();
    const turn = this.#turns.shift() ?? "done";
    const output: ModelResponse["output"] =
      typeof turn === "string"
        ? [{ type: "message", role: "assistant", status: "completed", content: [{ type: "output_text", text: turn }] }]
        : [{ type: "function_call", callId: `call_${this.seen.length}`, name: turn.tool, status: "completed", arguments: JSON.stringify(turn.args) }];
    return Promise.resolve({ usage: new Usage(), output });
  }

  async *getStreamedResponse(request: ModelRequest): AsyncIterable<StreamEvent> {
    const { output } = await this.getResponse(request);
    const usage = { inputTokens: 0, outputTokens: 0, totalTokens: 0 };
    yield { type: "response_done", response: { id: "r", usage, output: output as Done["response"]["output"] } };
  }

  /** The last thing that a tool told it. */
  told(): string {
    return JSON.stringify(this.seen.at(-1)?.input);
  }
}

let world: World;
let broker: Broker;
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

/** What was seen from within tools. */
interface Witness {
  task: string;
  token: string;
  outside: unknown[];
}

function toolsFor(witness: Witness): ReturnType<typeof tool>[] {
  const read = tool({
    name: "read_customer",
    description: "Reads a customer",
    parameters: z.object({ id: z.number() }),
    errorFunction: null,
    async execute({ id }) {
      witness.task = currentTask()?.id ?? "";
      witness.token = currentCredential().token.reveal();
      return await (await currentFetch()(`/customers/${id}`)).text();
    },
  });
  const plain = tool({
    name: "plain",
    description: "Is granted nothing",
    parameters: z.object({}),
    execute() {
      witness.outside.push(currentTask());
      return "plain";
    },
  });
  const named = (name: string): ReturnType<typeof tool> =>
    tool({ name, description: name, parameters: z.object({}), execute: () => `${name} with ${currentCredential().tool}` }) as ReturnType<typeof tool>;
  return [read as ReturnType<typeof tool>, plain as ReturnType<typeof tool>, named("export_customers"), named("delete_customer")];
}

async function crm(token: string): Promise<number> {
  return (await fetch(`${world.crm}/customers/42`, { headers: { authorization: `Bearer ${token}` } })).status;
}

describe("OpenAI Agents", () => {
  it("runs in a task: a tool gets a credential, which is dead after the run", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const model = new Scripted({ tool: "read_customer", args: { id: 42 } }, { tool: "plain", args: {} }, "Harbour Books");
    const agent = new Agent({ name: "support", model, tools: toolsFor(witness) });
    const result = await dayfly(broker, run, OPTIONS).run(agent, "who is 42?");
    assert.equal(result.finalOutput, "Harbour Books");
    assert.match(model.told(), /Harbour Books/);
    assert.deepEqual(witness.outside, [undefined], "a tool that is not named has nothing");
    assert.equal((await world.task(witness.task)).outcome, "completed");
    assert.equal(await crm(witness.token), 401);
    assert.deepEqual(await world.live(witness.task), []);
    assert.ok(!JSON.stringify([model.seen, result.history]).includes(witness.token), "no secret is in the state");
  });

  it("ends the task of a streamed run when the stream is over", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const model = new Scripted({ tool: "read_customer", args: { id: 42 } }, "done");
    const agent = new Agent({ name: "support", model, tools: toolsFor(witness) });
    const result = await dayfly(broker, run, OPTIONS).run(agent, "who is 42?", { stream: true });
    for await (const event of result) assert.notEqual(event, undefined);
    await result.completed;
    const { until } = await import("../test/world.js");
    await until(async () => (await world.task(witness.task)).outcome === "completed");
    assert.equal(await crm(witness.token), 401);
  });

  it("ends the task when the run fails, and when it is aborted", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const failing = new Scripted({ tool: "read_customer", args: { id: 42 } });
    failing.getResponse = (original => async (request: ModelRequest) => {
      if (failing.seen.length > 0) throw new Error("the model is ill");
      return await original.call(failing, request);
    })(failing.getResponse.bind(failing));
    const agent = new Agent({ name: "support", model: failing, tools: toolsFor(witness) });
    await assert.rejects(dayfly(broker, run, OPTIONS).run(agent, "x"), /ill/);
    assert.equal((await world.task(witness.task)).outcome, "failed");
    assert.equal(await crm(witness.token), 401);

    const controller = new AbortController();
    const aborting = new Scripted({ tool: "read_customer", args: { id: 42 } });
    const abort = tool({
      name: "read_customer",
      description: "Is aborted",
      parameters: z.object({}),
      errorFunction: null,
      async execute() {
        witness.task = currentTask()?.id ?? "";
        witness.token = currentCredential().token.reveal();
        controller.abort();
        await new Promise((resolve) => setTimeout(resolve, 10));
        return "too late";
      },
    });
    const other = new Agent({ name: "support", model: aborting, tools: [abort] });
    const options = { ...OPTIONS, tools: { read_customer: "crm:read@customers/42" } };
    await assert.rejects(dayfly(broker, run, options).run(other, "x", { signal: controller.signal }));
    assert.equal((await world.task(witness.task)).outcome, "cancelled");
    assert.equal(await crm(witness.token), 401);
  });

  it("stops when somebody ends the task", async () => {
    const model = new Scripted({ tool: "stop_me", args: {} }, { tool: "stop_me", args: {} });
    const stop = tool({
      name: "stop_me",
      description: "Has its task revoked",
      parameters: z.object({}),
      errorFunction: null,
      async execute() {
        const task = currentTask();
        await world.api("ops-console", "POST", `/v1/tasks/${task?.id ?? ""}/revoke`, { reason: "a test" });
        await task?.ended;
        return "ended";
      },
    });
    const agent = new Agent({ name: "support", model, tools: [stop] });
    const options = { ...OPTIONS, heartbeat: 3, tools: { stop_me: "crm:read@customers/42" } };
    await assert.rejects(dayfly(broker, run, options).run(agent, "x"));
    assert.equal(model.seen.length, 1);
  });

  it("tells the model what is not permitted", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const model = new Scripted({ tool: "delete_customer", args: {} }, { tool: "read_customer", args: { id: 7 } }, "done");
    const agent = new Agent({ name: "support", model, tools: toolsFor(witness) });
    await dayfly(broker, run, OPTIONS).run(agent, "x");
    assert.match(model.told(), /not permitted: crm:delete@customers\/42 is outside the scope/);
  });

  it("is interrupted where somebody has to approve, and goes on with the same task", async () => {
    const witness: Witness = { task: "", token: "", outside: [] };
    const model = new Scripted({ tool: "export_customers", args: {} }, "done");
    const agent = new Agent({ name: "support", model, tools: toolsFor(witness) });
    const runner = dayfly(broker, run, OPTIONS);
    const result = await runner.run(agent, "export them");
    assert.equal(result.interruptions.length, 1);
    const handle = runner.handleOf(result);
    assert.ok(handle !== undefined);
    assert.equal((await world.task(handle.task)).state, "suspended");
    // Whoever approves in the framework alone gets nothing by it: the broker still waits.
    for (const interruption of result.interruptions) result.state.approve(interruption);
    await runner.resume(handle)(agent, result.state);
    assert.match(model.told(), /not done: this needs the approval of/);
    assert.equal((await world.task(handle.task)).outcome, "completed");
    // And once policy permits it, it is done.
    const again = new Scripted({ tool: "export_customers", args: {} }, "done");
    const second = await runner.run(agent.clone({ model: again }), "export them");
    await world.rule("policies/20-grants.cedar", (text) => text.replace('@approval("data-steward")\n', ""));
    for (const interruption of second.interruptions) second.state.approve(interruption);
    const suspended = runner.handleOf(second);
    assert.ok(suspended !== undefined);
    const last = await runner.resume(suspended)(agent.clone({ model: again }), second.state);
    assert.equal(last.finalOutput, "done");
    assert.match(again.told(), /export_customers with crm/);
  });

  it("gives a sub-agent a part of the task, or nothing", async () => {
    const parts: (string | undefined)[] = [];
    const inner = (name: string): Agent => {
      const look = tool({
        name: "look",
        description: "Looks around",
        parameters: z.object({}),
        errorFunction: null,
        async execute() {
          const task = currentTask();
          parts.push(task?.parent);
          if (task === undefined) return "nothing";
          const wide = await task.credential("crm:read@customers/43").then(({ tool: name }) => name, (error: unknown) => (error as Error).name);
          return `${(await task.credential("crm:read@customers/42")).tool} ${wide}`;
        },
      });
      const model = new Scripted({ tool: "look", args: {} }, `${name} looked`);
      models.push(model);
      return new Agent({ name, model, tools: [look] });
    };
    const models: Scripted[] = [];
    const tools = ["researcher", "stranger"].map((name) => inner(name).asTool({ toolName: name, toolDescription: name }));
    const model = new Scripted({ tool: "researcher", args: { input: "look" } }, { tool: "stranger", args: { input: "look" } }, "done");
    const witness: Witness = { task: "", token: "", outside: [] };
    const agent = new Agent({ name: "support", model, tools: [...tools, ...toolsFor(witness)] });
    await dayfly(broker, run, OPTIONS).run(agent, "x");
    assert.match(models[0]?.told() ?? "", /crm ScopeWidening/);
    assert.match(models[1]?.told() ?? "", /nothing/);
    assert.match(parts[0] ?? "", /^tsk_/);
    assert.equal(parts[1], undefined);
    assert.equal((await world.task(parts[0] ?? "")).outcome, "completed");
  });

  it("gives nothing to an agent that is handed off to", async () => {
    const seen: unknown[] = [];
    const look = tool({
      name: "read_customer",
      description: "Has the name of a tool of the other",
      parameters: z.object({ id: z.number() }),
      errorFunction: null,
      execute() {
        seen.push(currentTask());
        assert.throws(() => currentCredential(), InvalidRequest);
        return "looked";
      },
    });
    const other = new Agent({ name: "other", model: new Scripted({ tool: "read_customer", args: { id: 42 } }, "bye"), tools: [look] });
    const agent = new Agent({ name: "support", model: new Scripted({ tool: "transfer_to_other", args: {} }), handoffs: [other] });
    const result = await dayfly(broker, run, OPTIONS).run(agent, "x");
    assert.equal(result.finalOutput, "bye");
    assert.deepEqual(seen, [undefined]);
  });
});
