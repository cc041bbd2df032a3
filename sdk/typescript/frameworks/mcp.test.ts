/** The MCP SDK, version 1 and version 2, client and server, over streamable HTTP. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { after, before, beforeEach, describe, it } from "node:test";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { InvalidTokenError } from "@modelcontextprotocol/sdk/server/auth/errors.js";
import { requireBearerAuth as requireV1 } from "@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js";
import { McpServer as ServerV1 } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport as ServerTransportV1 } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { createMcpHandler, McpServer as ServerV2, OAuthError, OAuthErrorCode, requireBearerAuth as requireV2 } from "@modelcontextprotocol/server";
import { OriginRefused, type Broker } from "@dayfly/client";
import { mcpAuth, mcpDemand, mcpFetch, mcpTokenVerifier } from "@dayfly/client/mcp";
import { Verifier, type Claims } from "@dayfly/client/resource";
import express from "express";
import { z } from "zod";
import { until, World } from "../test/world.js";

const ACCESS = "crm:read,comment@customers/42";

let world: World;
let broker: Broker;
let verifier: Verifier;
let v1: Server;
let v2: Server;
/** The `Authorization` of each request that a server got. */
let seen: (string | undefined)[] = [];

function at(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** What both servers do: a customer for whoever may read them. */
function read(claims: Claims, id: number): { content: { type: "text"; text: string }[] } {
  return { content: [{ type: "text", text: `customer ${id} for ${claims.agent}` }] };
}

before(async () => {
  world = await World.start();
  broker = world.as("support-bot");
  verifier = new Verifier({ issuer: world.broker, audience: "https://crm.example.org", evidence: world.evidence("crm-server") });
  await verifier.ready();

  const app = express();
  app.use(express.json(), (request, _, next) => {
    seen.push(request.headers.authorization);
    next();
  });
  app.post("/mcp", requireV1({ verifier: mcpTokenVerifier(verifier, (message) => new InvalidTokenError(message)) }), (request, response, next) => {
    const server = new ServerV1({ name: "crm", version: "1" });
    server.registerTool("read", { inputSchema: { id: z.number() } }, ({ id }, extra) => read(mcpDemand(extra.authInfo, "read", `customers/${id}`), id));
    const transport = new ServerTransportV1({ enableJsonResponse: true });
    server
      .connect(transport as Parameters<typeof server.connect>[0])
      .then(() => transport.handleRequest(request, response, request.body))
      .catch(next);
  });
  v1 = app.listen(0, "127.0.0.1");

  const gate = requireV2({ verifier: mcpTokenVerifier(verifier, (message) => new OAuthError(OAuthErrorCode.InvalidToken, message)) });
  const handler = createMcpHandler(() => {
    const server = new ServerV2({ name: "crm", version: "2" });
    server.registerTool("read", { inputSchema: z.object({ id: z.number() }) }, ({ id }, context) => read(mcpDemand(context.http?.authInfo, "read", `customers/${id}`), id));
    return server;
  });
  v2 = createServer((incoming, outgoing) => {
    seen.push(incoming.headers.authorization);
    const body = incoming.method === "GET" ? null : (Readable.toWeb(incoming) as ReadableStream);
    const headers = new Headers(Object.entries(incoming.headers).map(([name, value]) => [name, String(value)] as [string, string]));
    const request = new Request(`http://127.0.0.1${incoming.url ?? "/"}`, { method: incoming.method ?? "GET", headers, body, duplex: "half" });
    void (async () => {
      const auth = await gate(request);
      const answer = auth instanceof Response ? auth : await handler.fetch(request, { authInfo: auth });
      outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
      outgoing.end(Buffer.from(await answer.arrayBuffer()));
    })();
  }).listen(0, "127.0.0.1");
  await Promise.all([once(v1, "listening"), once(v2, "listening")]);
  await world.origins("crm", at(v1), at(v2));
});

beforeEach(() => {
  seen = [];
});

after(async () => {
  verifier.close();
  broker.close();
  for (const server of [v1, v2]) {
    server.closeAllConnections();
    server.close();
  }
  await world.stop();
});

interface Caller {
  read(id: number): Promise<string>;
  close(): Promise<void>;
}

function textOf(result: unknown): string {
  return JSON.stringify((result as { content: unknown }).content);
}

async function connectV1(fetch: ReturnType<typeof mcpFetch>): Promise<Caller> {
  const client = new ClientV1({ name: "test", version: "1" });
  await client.connect(new TransportV1(new URL(`${at(v1)}/mcp`), { fetch }));
  return {
    read: async (id) => textOf(await client.callTool({ name: "read", arguments: { id } })),
    close: async () => { await client.close(); },
  };
}

async function connectV2(options: ConstructorParameters<typeof TransportV2>[1]): Promise<Caller> {
  const client = new ClientV2({ name: "test", version: "2" });
  await client.connect(new TransportV2(new URL(`${at(v2)}/mcp`), options));
  return {
    read: async (id) => textOf(await client.callTool({ name: "read", arguments: { id } })),
    close: async () => { await client.close(); },
  };
}

const CLIENTS: [string, () => Promise<Caller>][] = [
  ["version 1", async () => await connectV1(mcpFetch(ACCESS))],
  ["version 2", async () => await connectV2({ fetch: mcpFetch(ACCESS) })],
];

for (const [name, connect] of CLIENTS) {
  describe(`an MCP client of ${name}`, () => {
    it("has the credential of the ambient task on each request, and nothing outside of one", async () => {
      let first: Caller | undefined;
      const tasks = new Set<string | undefined>();
      for (const purpose of ["one", "two"]) {
        await broker.withTask({ purpose, scope: ACCESS }, async (task) => {
          first ??= await connect();
          assert.match(await first.read(42), /customer 42 for support-bot/);
          assert.equal(seen.at(-1), `Bearer ${(await task.credential(ACCESS)).token.reveal()}`);
          tasks.add(seen.at(-1));
        });
      }
      assert.equal(tasks.size, 2, "one connection, a credential for each task");
      await assert.rejects(first?.read(42) ?? Promise.resolve(), /within broker.withTask/);
      await first?.close();
    });

    it("is told what the token does not permit", async () => {
      await broker.withTask({ purpose: "too much", scope: ACCESS }, async () => {
        const client = await connect();
        assert.match(await client.read(43), /does not permit `read` there/);
        await client.close();
      });
    });

    it("gets another token where the server refuses the one that was ended", async () => {
      await broker.withTask({ purpose: "be refused", scope: ACCESS }, async (task) => {
        const client = await connect();
        assert.match(await client.read(42), /support-bot/);
        const { leaseId, token } = await task.credential(ACCESS);
        await world.api("support-bot", "POST", `/v1/leases/${leaseId}/revoke`, {});
        await until(async () => await verifier.verify(token.reveal()).then(() => false, () => true));
        assert.match(await client.read(42), /support-bot/);
        assert.notEqual(seen.at(-1), `Bearer ${token.reveal()}`);
        await client.close();
      });
    });

    it("has nothing that works once the task is over", async () => {
      const task = await broker.openTask({ purpose: "end", scope: ACCESS });
      const { token } = await task.credential(ACCESS);
      await task.complete();
      await until(async () => await verifier.verify(token.reveal()).then(() => false, () => true));
      const server = name === "version 1" ? v1 : v2;
      const answer = await fetch(`${at(server)}/mcp`, { method: "POST", headers: { authorization: `Bearer ${token.reveal()}`, "content-type": "application/json" }, body: "{}" });
      assert.equal(answer.status, 401);
      assert.match(answer.headers.get("www-authenticate") ?? "", /invalid_token/);
      assert.ok(!(await answer.text()).includes(token.reveal()));
    });
  });
}

describe("an auth provider of version 2", () => {
  it("gives a token for each request, and another after a 401", async () => {
    await broker.withTask({ purpose: "provide", scope: ACCESS }, async (task) => {
      const client = await connectV2({ authProvider: mcpAuth(at(v2), ACCESS) });
      assert.match(await client.read(42), /support-bot/);
      const { leaseId, token } = await task.credential(ACCESS);
      await world.api("support-bot", "POST", `/v1/leases/${leaseId}/revoke`, {});
      await until(async () => await verifier.verify(token.reveal()).then(() => false, () => true));
      assert.match(await client.read(42), /support-bot/);
      await client.close();
    });
  });

  it("gives back what was refused, and not what another task has on the same connection", async () => {
    const provider = mcpAuth(at(v2), ACCESS);
    const [one, two] = await Promise.all(["one", "two"].map(async (purpose) => await broker.openTask({ purpose, scope: ACCESS })));
    assert.ok(one !== undefined && two !== undefined);
    let [refused, good]: (string | undefined)[] = [];
    let go = (): void => undefined;
    const given = new Promise<void>((resolve) => (go = resolve));
    await Promise.all([
      one.run(async (task) => {
        refused = await provider.token();
        const before = await task.credential(ACCESS);
        await given;
        await provider.onUnauthorized();
        await until(async () => (await world.live(task.id)).every(({ id }) => id !== before.leaseId));
        assert.notEqual(await provider.token(), refused);
      }),
      two.run(async (task) => {
        good = await provider.token();
        const before = await task.credential(ACCESS);
        go();
        await one.ended;
        assert.deepEqual((await world.live(task.id)).map(({ id }) => id), [before.leaseId]);
        assert.equal(await provider.token(), good);
      }),
    ]);
  });

  it("gives no token for a server that is not the tool's", async () => {
    await broker.withTask({ purpose: "stray", scope: ACCESS }, async () => {
      await assert.rejects(mcpAuth("https://mcp.example.net/mcp", ACCESS).token(), OriginRefused);
      await assert.rejects(mcpAuth(at(v2), ACCESS, { origins: [at(v1)] }).token(), OriginRefused);
      await assert.rejects(mcpFetch(ACCESS)("https://mcp.example.net/mcp"), OriginRefused);
    });
  });
});

describe("an MCP server", () => {
  it("refuses what nobody verified, and knows nothing when it is stale", async () => {
    assert.throws(() => mcpDemand(undefined, "read"), { name: "InvalidToken" });
    assert.throws(() => mcpDemand({ extra: {} }, "read"), { name: "InvalidToken" });
    const closed = new Verifier({ issuer: world.broker, audience: "https://crm.example.org", evidence: world.evidence("crm-server") });
    closed.close();
    const stale = mcpTokenVerifier(closed, (message) => new InvalidTokenError(message));
    await assert.rejects(stale.verifyAccessToken("x.y.z"), { name: "Stale" });
  });
});
