/** Evidence: where it is found, how long it is kept, and what becomes of it when it is refused. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer as createHttpServer, type Server } from "node:http";
import { constants, createServer, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { AttestationFailed, Broker, evidence } from "@dayfly/client";
import { findEvidence, obtain } from "#dist/evidence.js";
import { field, find, frame } from "#dist/workload-api.js";
import { Gate, World } from "./world.js";

const TASK = { purpose: "prove", scope: "crm:read@customers/42" } as const;
const LOOPBACK = new URL("http://127.0.0.1:8440");

let world: World;
let folder: string;

before(async () => {
  world = await World.start();
  folder = await mkdtemp(join(tmpdir(), "dayfly-ts-evidence-"));
});

after(async () => {
  await world.stop();
  await rm(folder, { recursive: true, force: true });
});

/** An unsigned token with these times; sources only look at them. */
function token(iat: number, exp: number, mark = "x"): string {
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ iat, exp, mark })}.${mark}`;
}

/** A Workload API that answers with what `give` makes of the audience. */
async function workloadApi(
  listen: { path: string } | { port: number; host: string },
  give: (audience: string, headers: Record<string, unknown>) => string | { grpc: number },
): Promise<{ server: Http2Server; asked: string[] }> {
  const asked: string[] = [];
  const server = createServer();
  server.on("stream", (stream, headers) => {
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      const message = Buffer.concat(chunks).subarray(5);
      const audience = find(message, 1)?.toString() ?? "";
      asked.push(audience);
      const gives = headers["workload.spiffe.io"] === "true" ? give(audience, headers) : { grpc: 3 };
      if (typeof gives === "object") {
        stream.respond({ ":status": 200, "content-type": "application/grpc", "grpc-status": String(gives.grpc) }, { endStream: true });
        return;
      }
      assert.equal(headers[":path"], "/SpiffeWorkloadAPI/FetchJWTSVID");
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => { stream.sendTrailers({ "grpc-status": "0" }); });
      // A field that came later stands before the one that is wanted.
      const svid = Buffer.concat([field(1, Buffer.from("spiffe://example.org/agents/support-bot")), field(9, Buffer.alloc(300)), field(2, Buffer.from(gives)), field(3, Buffer.from("hint"))]);
      const answer = frame(field(1, svid));
      // In pieces, as the network may bring it.
      stream.write(answer.subarray(0, 3));
      stream.end(answer.subarray(3));
    });
  });
  server.listen(listen);
  await once(server, "listening");
  return { server, asked };
}

describe("evidence", () => {
  it("is found in the order that the reference gives", async () => {
    const agent = "support-bot";
    const dev = join(folder, "dev");
    await mkdir(join(dev, "evidence"), { recursive: true });
    const env: Record<string, string> = { DAYFLY_AGENT: agent, DAYFLY_DEV_FOLDER: dev };
    const found = (): string => findEvidence({ env, broker: LOOPBACK }).name;
    assert.equal(found(), join(dev, "evidence", "support-bot.jwt"));
    assert.equal(findEvidence({ env: { DAYFLY_AGENT: agent }, broker: LOOPBACK }).name, ".dayfly/evidence/support-bot.jwt");
    env["ACTIONS_ID_TOKEN_REQUEST_URL"] = "https://actions.example.org/token?x=1";
    assert.equal(found(), join(dev, "evidence", "support-bot.jwt"), "half of it is nothing");
    env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "bearer";
    assert.equal(found(), "GitHub Actions");
    env["SPIFFE_ENDPOINT_SOCKET"] = "unix:///run/spire/agent.sock";
    assert.equal(found(), "the SPIFFE Workload API at unix:///run/spire/agent.sock");
    env["DAYFLY_EVIDENCE"] = "a.b.c";
    assert.equal(found(), "DAYFLY_EVIDENCE");
    env["DAYFLY_EVIDENCE_FILE"] = "/run/evidence.jwt";
    assert.equal(found(), "/run/evidence.jwt");
  });

  it("that is nowhere is an error that names every place", () => {
    for (const [env, broker] of [[{}, LOOPBACK], [{ DAYFLY_AGENT: "support-bot" }, new URL("https://dayfly.example.org")]] as const) {
      assert.throws(
        () => findEvidence({ env, broker }),
        (error) => {
          assert.ok(error instanceof AttestationFailed);
          for (const place of ["DAYFLY_EVIDENCE_FILE", "DAYFLY_EVIDENCE ", "SPIFFE_ENDPOINT_SOCKET", "/var/run/secrets/dayfly/token", "ACTIONS_ID_TOKEN_REQUEST_URL", "DAYFLY_AGENT"]) {
            assert.ok(error.message.includes(place), place);
          }
          return true;
        },
      );
    }
    assert.throws(() => findEvidence({ env: { DAYFLY_AGENT: "../../etc/passwd" }, broker: LOOPBACK }), AttestationFailed);
  });

  it("in a file is read anew for each request", async () => {
    const path = join(folder, "rotated.jwt");
    await copyFile(world.evidence("support-bot"), path);
    const broker = new Broker({ address: world.broker, evidence: path });
    assert.equal((await broker.openTask(TASK)).agent, "support-bot");
    await copyFile(world.evidence("report-bot"), path);
    assert.equal((await broker.openTask(TASK)).agent, "report-bot");
    await rm(path);
    await assert.rejects(broker.openTask(TASK), (error) => error instanceof AttestationFailed && error.message.includes("ENOENT"));
    broker.close();
  });

  it("may come from a function, and from the environment, once", async () => {
    const read = async (): Promise<string> => await readFile(world.evidence("report-bot"), "utf8");
    const broker = new Broker({ address: world.broker, evidence: read });
    assert.equal((await broker.openTask(TASK)).agent, "report-bot");
    process.env["DAYFLY_EVIDENCE"] = await readFile(world.evidence("support-bot"), "utf8");
    const other = new Broker(world.broker);
    process.env["DAYFLY_EVIDENCE"] = "changed";
    assert.equal((await other.openTask(TASK)).agent, "support-bot");
    delete process.env["DAYFLY_EVIDENCE"];
    broker.close();
    other.close();
  });

  it("that is refused is fetched anew once, and the request repeated once", async () => {
    const gate = await Gate.before(world.broker);
    const asked: boolean[] = [];
    const good = await readFile(world.evidence("support-bot"), "utf8");
    const source = (tokens: string[]): { name: string; token: (request: { fresh: boolean }) => string } => ({
      name: "a test",
      token: ({ fresh }) => {
        asked.push(fresh);
        return tokens.shift() ?? "spent";
      },
    });
    const broker = new Broker({ address: gate.address, evidence: source(["stale", good, good]) });
    const task = await broker.openTask(TASK);
    assert.deepEqual(asked, [false, true]);
    assert.equal(gate.count("/v1/tasks"), 2);
    await task.complete();
    const hopeless = new Broker({ address: gate.address, evidence: source([]) });
    gate.seen.length = 0;
    await assert.rejects(hopeless.openTask(TASK), (error) => error instanceof AttestationFailed && error.slug === "unidentified" && error.status === 401);
    assert.equal(gate.count("/v1/tasks"), 2);
    broker.close();
    hopeless.close();
    await gate.stop();
  });
});

describe("the SPIFFE Workload API", () => {
  it("gives evidence that the broker takes, over a socket, kept until half of its life is over", async () => {
    const path = join(folder, "agent.sock");
    const svid = (await readFile(world.evidence("support-bot"), "utf8")).trim();
    const { server, asked } = await workloadApi({ path }, () => svid);
    const broker = new Broker({ address: world.broker, evidence: evidence.spiffe(`unix://${path}`) });
    const task = await broker.openTask(TASK);
    await task.credential("crm:read@customers/42");
    await task.complete();
    assert.equal(task.agent, "support-bot");
    assert.deepEqual(asked, [world.broker], "once, for the broker as it was written");
    broker.close();
    server.close();
  });

  it("is asked again after half of the life, when it was refused, and once for many", async () => {
    const now = Math.floor(Date.now() / 1000);
    const tokens = [token(now - 100, now + 60, "old"), token(now - 10, now + 60, "young"), token(now, now + 60, "fresh")];
    const { server, asked } = await workloadApi({ port: 0, host: "127.0.0.1" }, () => tokens[Math.min(asked.length, 3) - 1] ?? "");
    const source = evidence.spiffe(`tcp://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const get = async (fresh = false): Promise<string | undefined> => (await obtain(source, { audience: "a", fresh })).reveal().split(".")[2];
    assert.equal(await get(), "old");
    assert.deepEqual(await Promise.all([get(), get(), get()]), ["young", "young", "young"]);
    assert.equal(await get(), "young");
    assert.equal(asked.length, 2);
    assert.equal(await get(true), "fresh");
    assert.equal(asked.length, 3);
    server.close();
  });

  it("that refuses, is not there or is no such thing is an AttestationFailed", async () => {
    const path = join(folder, "refusing.sock");
    const { server } = await workloadApi({ path }, () => ({ grpc: 7 }));
    const plain: Server = createHttpServer((_, response) => response.end("hello"));
    plain.listen(0, "127.0.0.1");
    await once(plain, "listening");
    const at = `tcp://127.0.0.1:${(plain.address() as AddressInfo).port}`;
    for (const socket of [`unix://${path}`, "unix:///nowhere.sock", at, "https://x", "nonsense"]) {
      const request = { audience: "a", fresh: false };
      await assert.rejects(obtain(evidence.spiffe(socket), request), AttestationFailed, socket);
    }
    await assert.rejects(obtain(evidence.spiffe(`unix://${path}`), { audience: "a", fresh: false }), /no identity is registered/);
    server.close();
    plain.close();
  });

  it("reads protobuf of any size, and nothing else", () => {
    const long = Buffer.alloc(20_000, "y");
    assert.deepEqual(find(Buffer.concat([field(4, Buffer.from("x")), field(2, long)]), 2), long);
    // A varint, a fixed64 and a fixed32 before it are skipped.
    const before = Buffer.from([0x28, 0xff, 0x01, 0x31, 1, 2, 3, 4, 5, 6, 7, 8, 0x3d, 1, 2, 3, 4]);
    assert.deepEqual(find(Buffer.concat([before, field(2, Buffer.from("v"))]), 2), Buffer.from("v"));
    for (const broken of [[0x12], [0x12, 5, 1], [0x13], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]]) {
      assert.equal(find(Buffer.from(broken), 2), undefined, String(broken));
    }
    assert.equal(constants.HTTP2_HEADER_PATH, ":path");
  });
});

describe("GitHub Actions", () => {
  it("gives a token for the audience, kept until a minute before it expires", async () => {
    const now = Math.floor(Date.now() / 1000);
    const seen: { url: string | undefined; authorization: string | undefined }[] = [];
    const lives = [59, 600, 600];
    const server = createHttpServer((request, response) => {
      seen.push({ url: request.url, authorization: request.headers.authorization });
      response.end(JSON.stringify({ count: 1, value: token(now, now + (lives[seen.length - 1] ?? 0), String(seen.length)) }));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token?api-version=2`;
    const source = evidence.githubActions(url, "request-token");
    const get = async (): Promise<string | undefined> => (await obtain(source, { audience: "https://dayfly.example.org", fresh: false })).reveal().split(".")[2];
    assert.equal(await get(), "1");
    assert.equal(await get(), "2", "the first was as good as expired");
    assert.equal(await get(), "2");
    assert.equal(seen[0]?.url, "/token?api-version=2&audience=https%3A%2F%2Fdayfly.example.org");
    assert.equal(seen[0].authorization, "Bearer request-token");
    await assert.rejects(obtain(evidence.githubActions("http://actions.example.org/", "t"), { audience: "a", fresh: false }), /no https URL/);
    await writeFile(join(folder, "done"), dirname(url));
    server.close();
    server.closeAllConnections();
  });
});
