/** The Claude Agent SDK and the program that it runs, with an API that says what a test wrote. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { createSdkMcpServer, query, tool, type McpSdkServerConfigWithInstance, type Options } from "@anthropic-ai/claude-agent-sdk";
import { currentCredential, currentFetch, currentTask, type Broker } from "@dayfly/client";
import { dayfly, type Dayfly, type RunOptions } from "@dayfly/client/claude";
import { z } from "zod";
import { Gate, World } from "../test/world.js";

/** What the model answers to one request: a call of a tool, or a text. */
type Turn = string | { readonly tool: string; readonly input: Record<string, unknown> };

interface ApiRequest {
  readonly system?: unknown;
  readonly messages: { readonly role: string; readonly content: unknown }[];
  readonly tools?: { readonly name: string }[];
}

/** The Messages API, as far as the program asks it. */
class Api {
  readonly #server: Server;
  readonly seen: ApiRequest[] = [];
  #scripts: { readonly mark: string; readonly turns: Turn[] }[] = [];

  constructor() {
    this.#server = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        if (request.method !== "POST" || !(request.url ?? "").startsWith("/v1/messages?") || body === "") {
          response.writeHead(404, { "content-type": "application/json" }).end('{"type":"error","error":{"type":"not_found_error","message":"no"}}');
          return;
        }
        const asked = JSON.parse(body) as ApiRequest;
        response.writeHead(200, { "content-type": "text/event-stream" });
        for (const event of this.#answer(asked)) response.write(`event: ${event["type"] as string}\ndata: ${JSON.stringify(event)}\n\n`);
        response.end();
      });
    });
  }

  async start(): Promise<this> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  get address(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** What is said to conversations that hold `mark`; the first that fits counts. */
  script(...scripts: { readonly mark: string; readonly turns: Turn[] }[]): void {
    this.#scripts = scripts;
    this.seen.length = 0;
  }

  /** Everything that tools told the model. */
  told(): string {
    return JSON.stringify(this.seen.map(({ messages }) => messages.filter(({ role }) => role === "user")));
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  #answer(asked: ApiRequest): Record<string, unknown>[] {
    const usage = { input_tokens: 1, output_tokens: 1 };
    let turn: Turn = "ok";
    // Without tools it is something of the program's own, such as a title.
    if ((asked.tools?.length ?? 0) > 0) {
      this.seen.push(asked);
      const text = JSON.stringify(asked);
      turn = this.#scripts.find(({ mark }) => text.includes(mark))?.turns.shift() ?? "done";
    }
    const id = `toolu_${Math.random().toString(36).slice(2)}`;
    const block = typeof turn === "string" ? { type: "text", text: "" } : { type: "tool_use", id, name: turn.tool, input: {} };
    const delta = typeof turn === "string" ? { type: "text_delta", text: turn } : { type: "input_json_delta", partial_json: JSON.stringify(turn.input) };
    return [
      { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "claude-sonnet-4-5", content: [], stop_reason: null, stop_sequence: null, usage } },
      { type: "content_block_start", index: 0, content_block: block },
      { type: "content_block_delta", index: 0, delta },
      { type: "content_block_stop", index: 0 },
      { type: "message_delta", delta: { stop_reason: typeof turn === "string" ? "end_turn" : "tool_use", stop_sequence: null }, usage },
      { type: "message_stop" },
    ];
  }
}

let world: World;
let broker: Broker;
let api: Api;
let home: string;

const READ = "mcp__crm__read_customer";
const OPTIONS: RunOptions = {
  purpose: "answer ticket 4711",
  scope: ["crm:read@customers", "crm:export@customers"],
  tools: {
    [READ]: ({ id }) => `crm:read@customers/${String(id)}`,
    mcp__crm__export_customers: "crm:export@customers",
    mcp__crm__delete_customer: "crm:delete@customers/42",
  },
  subagents: { researcher: { scope: "crm:read@customers/42", purpose: "look something up" } },
};

before(async () => {
  world = await World.start();
  broker = world.as("support-bot");
  api = await new Api().start();
  home = await mkdtemp(join(tmpdir(), "dayfly-ts-claude-"));
});

after(async () => {
  broker.close();
  api.stop();
  await world.stop();
  await rm(home, { recursive: true, force: true });
});

interface Witness {
  tasks: (string | undefined)[];
  parents: (string | undefined)[];
  tokens: string[];
}

function serverFor(guard: Dayfly<typeof query>, witness: Witness, during: () => void | Promise<void> = () => undefined): McpSdkServerConfigWithInstance {
  const said = (text: string): { content: { type: "text"; text: string }[] } => ({ content: [{ type: "text", text }] });
  const note = (): void => {
    witness.tasks.push(currentTask()?.id);
    witness.parents.push(currentTask()?.parent);
  };
  const read = tool("read_customer", "Reads a customer", { id: z.number() }, guard.handler(async ({ id }: { id: number }) => {
    note();
    witness.tokens.push(currentCredential().token.reveal());
    await during();
    return said(await (await currentFetch()(`/customers/${id}`)).text());
  }));
  const plain = tool("plain", "Is granted nothing", {}, guard.handler(() => {
    note();
    return Promise.resolve(said(`plain ${currentTask()?.id ?? "undefined"}`));
  }));
  const named = (name: string): typeof plain => tool(name, name, {}, guard.handler(() => Promise.resolve(said(`${name} with ${currentCredential().tool}`))));
  // The program begins when the tools are there: one that goes on with a call would find none otherwise.
  return createSdkMcpServer({ name: "crm", version: "1", tools: [read, plain, named("export_customers"), named("delete_customer")], alwaysLoad: true });
}

function optionsFor(server: McpSdkServerConfigWithInstance, more: Partial<Options> = {}): Options {
  return {
    mcpServers: { crm: server },
    permissionMode: "bypassPermissions",
    allowDangerouslySkipPermissions: true,
    settingSources: [],
    cwd: home,
    env: {
      PATH: process.env["PATH"],
      HOME: home,
      ANTHROPIC_BASE_URL: api.address,
      ANTHROPIC_API_KEY: "of-a-test",
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
      IS_SANDBOX: "1",
    },
    ...more,
  };
}

/** The program says a lot besides, so this shows nothing of it. */
function assertTold(text: string, message = "the model was not told"): void {
  assert.ok(api.told().includes(text), `${message}: ${text}`);
}

async function crm(token: string | undefined): Promise<number> {
  return (await fetch(`${world.crm}/customers/42`, { headers: { authorization: `Bearer ${token ?? ""}` } })).status;
}

describe("the Claude Agent SDK", () => {
  it("runs in a task: a tool gets a credential, which is dead after the query", async () => {
    api.script({ mark: "who is 42", turns: [{ tool: READ, input: { id: 42 } }, { tool: "mcp__crm__plain", input: {} }, { tool: "mcp__crm__delete_customer", input: {} }, "Harbour Books"] });
    const witness: Witness = { tasks: [], parents: [], tokens: [] };
    const guard = dayfly(broker, query, OPTIONS);
    let result = "";
    for await (const message of guard.query({ prompt: "who is 42?", options: optionsFor(serverFor(guard, witness)) })) {
      if (message.type === "result" && message.subtype === "success") result = message.result;
    }
    assert.equal(result, "Harbour Books");
    assertTold("Harbour Books");
    assertTold("plain undefined", "a tool that is not named has nothing");
    assertTold("not permitted: crm:delete@customers/42 is outside the scope");
    assert.match(witness.tasks[0] ?? "", /^tsk_/);
    assert.equal(witness.tasks[1], undefined);
    assert.equal((await world.task(witness.tasks[0] ?? "")).outcome, "completed");
    assert.equal(await crm(witness.tokens[0]), 401);
    assert.deepEqual(await world.live(witness.tasks[0] ?? ""), []);
    assert.ok(!JSON.stringify(api.seen).includes(witness.tokens[0] ?? "-"), "the model saw no token");
  });

  it("ends the task when the stream is left, when it is aborted, and when it fails", async () => {
    const guard = dayfly(broker, query, OPTIONS);
    const turns = (): Turn[] => [{ tool: READ, input: { id: 42 } }, { tool: READ, input: { id: 42 } }, "done"];
    const left: Witness = { tasks: [], parents: [], tokens: [] };
    api.script({ mark: "leave", turns: turns() });
    for await (const message of guard.query({ prompt: "leave", options: optionsFor(serverFor(guard, left)) })) {
      if (message.type === "user") break;
    }
    assert.equal((await world.task(left.tasks[0] ?? "")).outcome, "cancelled");
    assert.equal(await crm(left.tokens[0]), 401);

    const aborted: Witness = { tasks: [], parents: [], tokens: [] };
    const abortController = new AbortController();
    api.script({ mark: "abort", turns: turns() });
    const server = serverFor(guard, aborted, () => { abortController.abort(); });
    await assert.rejects(async () => {
      for await (const message of guard.query({ prompt: "abort", options: optionsFor(server, { abortController }) })) assert.notEqual(message, undefined);
    });
    assert.equal((await world.task(aborted.tasks[0] ?? "")).outcome, "cancelled");
    assert.equal(await crm(aborted.tokens[0]), 401);

    const failed: Witness = { tasks: [], parents: [], tokens: [] };
    api.script({ mark: "turns", turns: turns() });
    const few = optionsFor(serverFor(guard, failed), { maxTurns: 1 });
    const ends: string[] = [];
    await (async () => {
      for await (const message of guard.query({ prompt: "turns", options: few })) if (message.type === "result") ends.push(message.subtype);
    })().catch(() => undefined);
    assert.deepEqual(ends, ["error_max_turns"]);
    assert.equal((await world.task(failed.tasks[0] ?? "")).outcome, "failed");
    assert.equal(await crm(failed.tokens[0]), 401);
  });

  it("stops when somebody ends the task", async () => {
    const guard = dayfly(broker, query, { ...OPTIONS, heartbeat: 3 });
    const witness: Witness = { tasks: [], parents: [], tokens: [] };
    api.script({ mark: "revoke", turns: [{ tool: READ, input: { id: 42 } }, { tool: READ, input: { id: 42 } }, "done"] });
    const server = serverFor(guard, witness, async () => {
      const task = currentTask();
      await world.api("ops-console", "POST", `/v1/tasks/${task?.id ?? ""}/revoke`, { reason: "a test" });
      await task?.ended;
    });
    await assert.rejects(async () => {
      for await (const message of guard.query({ prompt: "revoke", options: optionsFor(server) })) assert.notEqual(message, undefined);
    });
    assert.equal(witness.tasks.length, 1);
  });

  it("is deferred where somebody has to approve, with the task suspended", async () => {
    const guard = dayfly(broker, query, OPTIONS);
    const witness: Witness = { tasks: [], parents: [], tokens: [] };
    api.script({ mark: "export them", turns: [{ tool: "mcp__crm__export_customers", input: {} }, "done"] });
    let session = "";
    let deferred: string | undefined;
    for await (const message of guard.query({ prompt: "export them", options: optionsFor(serverFor(guard, witness)) })) {
      session = message.session_id ?? session;
      if (message.type === "result" && message.subtype === "success") deferred = message.deferred_tool_use?.name;
    }
    assert.equal(deferred, "mcp__crm__export_customers");
    const { handle } = guard;
    assert.ok(handle !== undefined);
    assert.equal((await world.task(handle.task)).state, "suspended");
    await world.rule("policies/20-grants.cedar", (text) => text.replace('@approval("data-steward")\n', ""));
    // The program calls the tool again by itself.
    api.script({ mark: "export them", turns: ["done"] });
    for await (const message of guard.query({ prompt: "go on", options: optionsFor(serverFor(guard, witness), { resume: session }) }, { resume: handle })) assert.notEqual(message, undefined);
    assertTold("export_customers with crm");
    assert.equal(guard.handle, undefined);
    assert.equal((await world.task(handle.task)).outcome, "completed");
  });

  it("ends the task of a query whose sub-agent got none, because the broker failed", async () => {
    const gate = await Gate.before(world.broker);
    // It is never in one's own time that a broker fails.
    gate.answer = ({ path }) => (/^\/v1\/tasks\/[^/]+\/tasks$/.test(path) ? { status: 500, body: "{}" } : undefined);
    const far = world.as("support-bot", { address: gate.address });
    const guard = dayfly(far, query, OPTIONS);
    const witness: Witness = { tasks: [], parents: [], tokens: [] };
    const input = { description: "Is the researcher", subagent_type: "researcher", prompt: "look as the researcher" };
    api.script(
      { mark: "You are the researcher", turns: [{ tool: READ, input: { id: 42 } }, "looked"] },
      { mark: "ask one", turns: [{ tool: "Agent", input }, { tool: READ, input: { id: 42 } }, "done"] },
    );
    const agents = { researcher: { description: "researcher", prompt: "You are the researcher", tools: [READ] } };
    for await (const message of guard.query({ prompt: "ask one", options: optionsFor(serverFor(guard, witness), { agents }) })) assert.notEqual(message, undefined);
    assertTold("not permitted: the broker could not be asked");
    assert.equal(witness.tasks.length, 1);
    assert.equal((await world.task(witness.tasks[0] ?? "")).outcome, "completed");
    far.close();
    await gate.stop();
  });

  it("gives a sub-agent a part of the task, or nothing", async () => {
    const guard = dayfly(broker, query, OPTIONS);
    const witness: Witness = { tasks: [], parents: [], tokens: [] };
    const agent = (name: string): object => ({ description: `Is the ${name}`, subagent_type: name, prompt: `look as the ${name}` });
    api.script(
      { mark: "You are the researcher", turns: [{ tool: READ, input: { id: 42 } }, { tool: READ, input: { id: 43 } }, "looked"] },
      { mark: "You are the stranger", turns: [{ tool: READ, input: { id: 42 } }, "looked"] },
      {
        mark: "ask both",
        turns: [{ tool: "Agent", input: agent("researcher") as Record<string, unknown> }, { tool: "Agent", input: agent("stranger") as Record<string, unknown> }, { tool: READ, input: { id: 42 } }, "done"],
      },
    );
    const agents = Object.fromEntries(["researcher", "stranger"].map((name) => [name, { description: name, prompt: `You are the ${name}`, tools: [READ] }]));
    for await (const message of guard.query({ prompt: "ask both", options: optionsFor(serverFor(guard, witness), { agents }) })) assert.notEqual(message, undefined);
    assertTold("not permitted: the sub-agent stranger was granted nothing");
    assertTold("not permitted: crm:read@customers/43 is outside the scope");
    assert.equal(witness.tasks.length, 2, JSON.stringify(witness.tasks));
    const [part, whole] = witness.tasks;
    assert.equal(witness.parents[0], whole, "the researcher had a part of the task");
    assert.equal((await world.task(part ?? "")).outcome, "completed");
    assert.equal((await world.task(whole ?? "")).outcome, "completed");
    for (const token of witness.tokens) assert.equal(await crm(token), 401);
  });
});
