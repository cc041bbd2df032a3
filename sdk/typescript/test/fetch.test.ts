/** The authorised fetch: the token goes to the tool, and to nobody else. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, beforeEach, describe, it } from "node:test";
import { InvalidRequest, OriginRefused, type Broker, type Task } from "@dayfly/client";
import { until, World } from "./world.js";

const ACCESS = "crm:read,comment@customers/42";

interface Request {
  readonly authorization: string | undefined;
  readonly cookie: string | undefined;
  readonly method: string | undefined;
  readonly path: string | undefined;
  readonly body: string;
}

/** A tool that a test writes, and what it was sent. */
class Tool {
  readonly seen: Request[] = [];
  readonly #server: Server;
  answer: RequestListener = (_, response) => response.end("{}");

  constructor() {
    this.#server = createServer((request, response) => {
      void bodyOf(request).then((body) => {
        const { authorization, cookie } = request.headers;
        this.seen.push({ authorization, cookie, method: request.method, path: request.url, body });
        this.answer(request, response);
      });
    });
  }

  async start(): Promise<this> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }
}

let world: World;
let broker: Broker;
let task: Task;
let tool: Tool;
let stranger: Tool;

before(async () => {
  world = await World.start();
  broker = world.as("support-bot");
  [tool, stranger] = await Promise.all([new Tool().start(), new Tool().start()]);
  // The catalogue says where tools are; of `payments` it says nothing.
  await world.origins("crm", world.crm, tool.origin);
  await world.origins("payments");
});

beforeEach(async () => {
  task = await broker.openTask({ purpose: "call tools", scope: [ACCESS, "payments:read"] });
  for (const { seen } of [tool, stranger]) seen.length = 0;
  tool.answer = stranger.answer = (_, response) => response.end("{}");
});

after(async () => {
  broker.close();
  await Promise.all([tool.stop(), stranger.stop(), world.stop()]);
});

describe("an authorised fetch", () => {
  it("calls the real tool with a token of the access", async () => {
    const crm = task.fetch("crm:read@customers/42", { origins: [world.crm] });
    const response = await crm(`${world.crm}/customers/42`);
    assert.deepEqual(await response.json(), { customer: "42", name: "Harbour Books" });
    assert.equal((await crm("/customers/43")).status, 403, "a path is one at the tool");
    await task.complete();
    await assert.rejects(crm("/customers/42"), { name: "TaskEnded" });
  });

  it("refuses an origin that is not the tool's, before anything is sent", async () => {
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    for (const url of [stranger.origin, `${stranger.origin}/x`, tool.origin.replace("127.0.0.1", "localhost"), tool.origin.replace("http:", "https:")]) {
      await assert.rejects(call(url), (error) => error instanceof OriginRefused && error.origin === new URL(url).origin);
    }
    await assert.rejects(call(`http://user@${new URL(stranger.origin).host}`), OriginRefused);
    await assert.rejects(call("//127.0.0.1:1/"), TypeError);
    assert.equal(stranger.seen.length + tool.seen.length, 0);
  });

  it("takes origins and nothing else for origins", () => {
    assert.throws(() => task.fetch(ACCESS, { origins: ["crm.example.org"] }), InvalidRequest);
    assert.throws(() => task.fetch(ACCESS, { origins: ["ftp://crm.example.org"] }), InvalidRequest);
  });

  it("leaves the token off when it is redirected to another origin, and does not put it on again", async () => {
    tool.answer = (request, response) =>
      request.url === "/away" ? response.writeHead(302, { location: `${stranger.origin}/hop` }).end() : response.end("{}");
    stranger.answer = (_, response) => response.writeHead(302, { location: `${tool.origin}/back` }).end();
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    const response = await call(`${tool.origin}/away`, { headers: { cookie: "session=1" } });
    assert.equal(response.status, 200);
    assert.match(tool.seen[0]?.authorization ?? "", /^Bearer eyJ/);
    assert.deepEqual([stranger.seen[0]?.authorization, stranger.seen[0]?.cookie], [undefined, undefined]);
    assert.equal(tool.seen[1]?.path, "/back");
    assert.equal(tool.seen[1].authorization, undefined);
  });

  it("keeps the token on a redirect within the tool", async () => {
    tool.answer = (request, response) =>
      request.url === "/old" ? response.writeHead(307, { location: "/new" }).end() : response.end("{}");
    await task.fetch(ACCESS, { origins: [tool.origin] })("/old", { method: "POST", body: "hello" });
    assert.deepEqual(tool.seen.map(({ method, path, body }) => [method, path, body]), [
      ["POST", "/old", "hello"],
      ["POST", "/new", "hello"],
    ]);
    assert.equal(tool.seen[1]?.authorization, tool.seen[0]?.authorization);
  });

  it("follows as fetch does: 303 gets, manual hands over, error throws, and not for ever", async () => {
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    tool.answer = (request, response) =>
      request.url === "/form" ? response.writeHead(303, { location: "/done" }).end() : response.end("{}");
    await call("/form", { method: "POST", body: "a=1", headers: { "content-type": "text/plain" } });
    assert.deepEqual([tool.seen[1]?.method, tool.seen[1]?.body], ["GET", ""]);
    assert.equal((await call("/form", { redirect: "manual" })).status, 303);
    await assert.rejects(call("/form", { redirect: "error" }), TypeError);
    tool.answer = (_, response) => response.writeHead(302, { location: "/form" }).end();
    await assert.rejects(call("/form"), TypeError);
  });

  it("gets a new token once when the tool refuses, and gives the refused one back", async () => {
    tool.answer = (_, response) => response.writeHead(tool.seen.length === 1 ? 401 : 200).end("{}");
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    assert.equal((await call("/", { method: "POST", body: "again" })).status, 200);
    const [first, second] = tool.seen;
    assert.notEqual(first?.authorization, second?.authorization);
    assert.deepEqual([first?.body, second?.body], ["again", "again"]);
    assert.equal((await call("/")).status, 200);
    assert.equal(tool.seen[2]?.authorization, second?.authorization, "the new one is kept");
    await until(async () => (await world.live(task.id)).length === 1);
  });

  it("says 401 when the new token is refused too, or the body cannot be sent again", async () => {
    tool.answer = (_, response) => response.writeHead(401).end();
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    assert.equal((await call("/")).status, 401);
    assert.equal(tool.seen.length, 2);
    const stream = new Blob(["once"]).stream();
    assert.equal((await call("/", { method: "POST", body: stream })).status, 401);
    assert.equal(tool.seen.length, 3);
    assert.equal(tool.seen[2]?.body, "once");
  });

  it("mints one new token for twenty requests that are refused together", async () => {
    const { token: old } = await task.credential(ACCESS);
    tool.answer = (request, response) =>
      response.writeHead(request.headers.authorization === `Bearer ${old.reveal()}` ? 401 : 200).end("{}");
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    const answers = await Promise.all(Array.from({ length: 20 }, () => call("/")));
    assert.ok(answers.every(({ status }) => status === 200));
    assert.equal(new Set(tool.seen.map(({ authorization }) => authorization)).size, 2);
  });

  it("takes a Request, and its own headers and signal count", async () => {
    const call = task.fetch(ACCESS, { origins: [tool.origin] });
    const request = new Request(`${tool.origin}/x`, { method: "PUT", body: "text", headers: { authorization: "Basic mine" } });
    assert.equal((await call(request)).status, 200);
    assert.equal(tool.seen[0]?.method, "PUT");
    assert.equal(tool.seen[0].body, "text");
    assert.match(tool.seen[0].authorization ?? "", /^Bearer /);
    tool.answer = () => undefined;
    const controller = new AbortController();
    const hanging = call("/hang", { signal: controller.signal });
    setTimeout(() => { controller.abort(); }, 50);
    await assert.rejects(hanging, { name: "AbortError" });
  });

  it("goes where the broker says, and the caller can only narrow that", async () => {
    assert.deepEqual((await task.credential(ACCESS)).origins, [world.crm, tool.origin]);
    const call = task.fetch(ACCESS);
    assert.equal((await call(`${world.crm}/customers/42`)).status, 200);
    assert.equal((await call(tool.origin)).status, 200);
    await assert.rejects(call(stranger.origin), OriginRefused);
    await assert.rejects(call("/customers/42"), TypeError, "there are two places that this could be at");
    await assert.rejects(task.fetch(ACCESS, { origins: [stranger.origin] })(stranger.origin), OriginRefused);
  });

  it("sends no new token to where the tool no longer is", async () => {
    const credential = await task.credential(ACCESS);
    tool.answer = (_, response) => {
      // The tool moves while its old place refuses.
      void world.origins("crm", world.crm).then(() => response.writeHead(401).end());
    };
    try {
      await assert.rejects(task.fetch(ACCESS)(tool.origin), (error) => error instanceof OriginRefused && error.origin === tool.origin);
      assert.deepEqual(tool.seen.map(({ authorization }) => authorization), [`Bearer ${credential.token.reveal()}`]);
      await until(async () => (await world.live(task.id)).length === 0);
      assert.equal((await task.fetch(ACCESS)("/customers/42")).status, 200, "what was ended is given to nobody");
    } finally {
      await world.origins("crm", world.crm, tool.origin);
    }
  });

  it("goes nowhere where the caller names an empty list", async () => {
    for (const access of [ACCESS, "payments:read"]) {
      const call = task.fetch(access, { origins: [] });
      await assert.rejects(call(tool.origin), OriginRefused);
      await assert.rejects(call("/customers/42"), TypeError);
    }
    assert.equal(tool.seen.length, 0);
  });

  it("goes where the caller says, where the broker names no place, and nowhere else", async () => {
    await assert.rejects(task.fetch("payments:read")(tool.origin), OriginRefused);
    assert.equal(tool.seen.length, 0);
    assert.equal((await task.fetch("payments:read", { origins: [tool.origin] })(tool.origin)).status, 200);
  });
});

async function bodyOf(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request) body += String(chunk);
  return body;
}
