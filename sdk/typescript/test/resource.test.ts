/** The side of tools: what is accepted, and what is not, with the real broker and its real feed. */
import assert from "node:assert/strict";
import { createHmac, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { after, afterEach, before, describe, it, mock } from "node:test";
import express from "express";
import { InvalidRequest, type Broker } from "@dayfly/client";
import {
  claimsOf,
  expressGuard,
  fetchGuard,
  InsufficientScope,
  InvalidToken,
  Refusal,
  Stale,
  TokenRevoked,
  Verifier,
  type VerifierOptions,
} from "@dayfly/client/resource";
import { Claims } from "#dist/resource/claims.js";
import { DenyList, readCutoff } from "#dist/resource/deny-list.js";
import { readKeys } from "#dist/resource/jose.js";
import { Gate, until, World } from "./world.js";

const AUDIENCE = "https://crm.example.org";
const ACCESS = "crm:read,comment@customers/42";

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

function follow(options: Partial<VerifierOptions> = {}): Verifier {
  return new Verifier({ issuer: world.broker, audience: AUDIENCE, evidence: world.evidence("crm-server"), ...options });
}

async function token(access = ACCESS): Promise<{ token: string; task: Awaited<ReturnType<Broker["openTask"]>> }> {
  const task = await broker.openTask({ purpose: "be verified", scope: access });
  return { token: (await task.credential(access)).token.reveal(), task };
}

/** Waits until the verifier has read the feed to its end in answer to a question that was asked from now on. */
async function caughtUp(verifier: Verifier): Promise<void> {
  const from = Date.now();
  await until(() => (verifier.asOf?.getTime() ?? 0) >= from);
}

describe("a verifier", () => {
  it("accepts a token for what it permits, and refuses it once it has ended", async () => {
    const { token: bearer, task } = await token();
    await using verifier = follow();
    await assert.rejects(verifier.verify(bearer), Stale, "before it knows anything");
    await verifier.ready();
    const claims = await verifier.verify(bearer);
    assert.equal(claims.agent, "support-bot");
    assert.equal(claims.tool, "crm");
    assert.equal(claims.task, task.id);
    assert.equal(claims.user, undefined);
    assert.equal(claims.trustDomain, "example.org");
    assert.ok(Math.abs(claims.madeAt - Date.now()) < 60_000, "the id says when");
    assert.ok(claims.permits("read", "customers/42"));
    assert.ok(claims.permits("comment", "customers/42/notes"));
    for (const [action, resource] of [["read", undefined], ["read", "customers"], ["read", "customers/421"], ["delete", "customers/42"], ["read", "customers/42/../43"], ["read", "customers/42/"]] as const) {
      assert.equal(claims.permits(action, resource), false, `${action} ${String(resource)}`);
      assert.throws(() => { claims.demand(action, resource); }, InsufficientScope);
    }
    await task.complete();
    const ended = performance.now();
    await until(async () => await verifier.verify(bearer).then(() => false, () => true));
    assert.ok(performance.now() - ended < 3_000);
    await assert.rejects(verifier.verify(bearer), (error) => error instanceof TokenRevoked && error.reason === "task_completed" && error.status === 401);
    assert.ok(verifier.cutoffs > 0);
  });

  it("knows whom a token names at any depth, and ends it with them", async () => {
    await world.rule("agents/support-bot.toml", (text) => text.replace('roles = ["support"]', 'roles = ["support", "delegator"]'));
    await using verifier = follow({ audience: "https://reports.example.org" });
    await verifier.ready();
    const reports = world.as("report-bot");
    const task = await broker.openTask({ purpose: "plan", scope: "reports:read", onBehalfOf: "user:7" });
    await world.rule("agents/report-bot.toml", (text) => `may_act_for = ["user:*"]\n${text}`);
    const { taskId } = await task.delegate({ agent: "report-bot", purpose: "a part", scope: "reports:read@q3" });
    const part = await reports.join(taskId);
    const bearer = (await part.credential("reports:read@q3")).token.reveal();
    const claims = await verifier.verify(bearer);
    assert.equal(claims.agent, "report-bot");
    assert.deepEqual(claims.delegatedBy, ["support-bot"]);
    assert.deepEqual(claims.parents, [task.id]);
    assert.equal(claims.user, "user:7");
    await task.complete();
    await until(async () => await verifier.verify(bearer).then(() => false, () => true));
    await assert.rejects(verifier.verify(bearer), TokenRevoked);
    reports.close();
  });

  it("refuses what is for somebody else, or by somebody else", async () => {
    const { token: bearer, task } = await token();
    await using other = follow({ audience: "https://payments.example.org" });
    await using stranger = follow({ issuer: "https://dayfly.example.org", address: world.broker });
    await Promise.all([other.ready(), stranger.ready()]);
    await assert.rejects(other.verify(bearer), /another audience/);
    await assert.rejects(stranger.verify(bearer), /another issuer/);
    await task.complete();
  });

  it("is stale when it hears nothing, and then accepts nothing", async () => {
    const gate = await Gate.before(world.broker);
    const { token: bearer, task } = await token();
    const failures: Error[] = [];
    await using verifier = follow({ address: gate.address, onError: (error) => failures.push(error) });
    await verifier.ready();
    gate.always = { status: 503 };
    await until(() => failures.length > 0);
    assert.equal((await verifier.verify(bearer)).agent, "support-bot", "for as long as it may");
    mock.timers.enable({ apis: ["Date"], now: Date.now() });
    try {
      mock.timers.tick(10_500);
      await assert.rejects(verifier.verify(bearer), (error) => error instanceof Stale && error.status === 503 && error.challenge === undefined);
    } finally {
      mock.timers.reset();
    }
    // Every failure closes it, however the answer looks.
    gate.answer = ({ path }) => (path.startsWith("/v1/revocations") ? { status: 200, body: unknownSelector() } : "pass");
    failures.length = 0;
    await until(() => failures.some((error) => error.message.includes("selector")));
    gate.answer = () => ({ status: 200, body: '{"cutoffs": 7}' });
    await until(() => failures.some((error) => error.message.includes("cannot be read")));
    gate.answer = () => "pass";
    await caughtUp(verifier);
    assert.equal((await verifier.verify(bearer)).agent, "support-bot");
    await task.complete();
    await gate.stop();
  });

  it("loses nothing to one poll that hangs", async () => {
    const gate = await Gate.before(world.broker);
    await using verifier = follow({ address: gate.address });
    await verifier.ready();
    const known = verifier.asOf?.getTime();
    let lost: number | undefined;
    gate.answer = ({ path, at }) => {
      if (lost !== undefined || !path.includes("cursor=")) return undefined;
      lost = at;
      return "hold";
    };
    await until(() => lost !== undefined && verifier.asOf?.getTime() !== known, 30);
    // The one of before was asked two seconds earlier, and the limit is ten.
    assert.ok(performance.now() - (lost ?? 0) < 8_000);
    await gate.stop();
  });

  it("begins anew when its cursor means nothing any more, and keeps what it held", async () => {
    const gate = await Gate.before(world.broker);
    const { token: bearer, task } = await token();
    await using verifier = follow({ address: gate.address });
    await verifier.ready();
    await task.complete();
    await until(async () => await verifier.verify(bearer).then(() => false, () => true));
    let told = false;
    gate.answer = ({ path }) => {
      if (told || !path.includes("cursor=")) return undefined;
      told = true;
      return { status: 400, body: "{}" };
    };
    const fresh = gate.request(({ path }) => path.startsWith("/v1/revocations?wait=0"));
    await fresh;
    await assert.rejects(verifier.verify(bearer), TokenRevoked);
    await gate.stop();
  });

  it("reads the keys soon again where they could not be read when they were due", async () => {
    const gate = await Gate.before(world.broker);
    const real = performance.now.bind(performance);
    let later = 0;
    mock.method(performance, "now", () => real() + later);
    try {
      await using verifier = follow({ address: gate.address, onError: () => undefined });
      await verifier.ready();
      let failed = 0;
      gate.answer = ({ path }) => (path.endsWith("jwks.json") && (failed += 1) === 1 ? { status: 500 } : undefined);
      later = 300_001;
      await until(() => failed >= 2);
    } finally {
      mock.restoreAll();
      await gate.stop();
    }
  });

  it("warns the process where nobody listens to its errors", async () => {
    const warned = new Promise<Error>((resolve) => process.once("warning", resolve));
    await using verifier = follow({ address: "http://127.0.0.1:9" });
    const warning = await warned;
    assert.equal(warning.name, "DayflyWarning");
    assert.match(warning.message, /cannot be read: ECONNREFUSED/);
    assert.equal(verifier.asOf, undefined);
  });

  it("says so when it may not read the feed, or is asked for nonsense", async () => {
    const failures: Error[] = [];
    const verifier = follow({ evidence: world.evidence("support-bot"), onError: (error) => failures.push(error) });
    await until(() => failures.length > 0);
    assert.equal(failures[0]?.name, "Denied");
    const ready = verifier.ready();
    verifier.close();
    await assert.rejects(ready, { name: "AbortError" });
    for (const options of [{ issuer: "" }, { maxStaleness: 4 }, { skew: 61 }, { issuer: "http://dayfly.example.org" }, { mostCutoffs: 0 }]) {
      assert.throws(() => follow(options), InvalidRequest);
    }
  });
});

describe("a token that nobody should accept", () => {
  const ours = generateKeyPairSync("ec", { namedCurve: "P-256" });
  let gate: Gate;
  let verifier: Verifier;
  let good: Record<string, unknown>;

  before(async () => {
    gate = await Gate.before(world.broker);
    const jwk = { ...ours.publicKey.export({ format: "jwk" }), kid: "ours", alg: "ES256", use: "sig" };
    gate.answer = ({ path }) => (path.endsWith("jwks.json") ? { status: 200, body: JSON.stringify({ keys: [jwk, { kty: "hologram" }] }) } : undefined);
    verifier = follow({ address: gate.address });
    await verifier.ready();
    const { token: bearer, task } = await token();
    good = JSON.parse(Buffer.from(bearer.split(".")[1] ?? "", "base64url").toString()) as Record<string, unknown>;
    await task.suspend();
    // Not the broker's own token, whose end the feed tells: one of a lease that nobody knows.
    const lease = `lse_${lastLetters(String(good["jti"]).slice(4))}`;
    const marks = { ...(good["https://dayfly.dev/claims"] as object), lease, task: `tsk_${"0".repeat(26)}` };
    good = { ...good, jti: lease, txn: `tsk_${"0".repeat(26)}`, "https://dayfly.dev/claims": marks };
  });

  after(async () => {
    verifier.close();
    await gate.stop();
  });

  afterEach(() => {
    mock.timers.reset();
  });

  function make(claims: Record<string, unknown> = {}, header: Record<string, unknown> = {}, key: KeyObject = ours.privateKey): string {
    const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const signed = `${part({ alg: "ES256", kid: "ours", typ: "at+jwt", ...header })}.${part({ ...good, ...claims })}`;
    return `${signed}.${sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
  }

  it("is every one but a good one", async () => {
    assert.equal((await verifier.verify(make())).agent, "support-bot");
    assert.equal((await verifier.verify(make({}, { typ: "application/AT+JWT" }))).agent, "support-bot");
    const now = Math.floor(Date.now() / 1000);
    const stranger = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
    const [head = "", body = "", tail = ""] = make().split(".");
    const none = `${Buffer.from('{"alg":"none","kid":"ours","typ":"at+jwt"}').toString("base64url")}.${body}.`;
    const hmacHead = Buffer.from('{"alg":"HS256","kid":"ours","typ":"at+jwt"}').toString("base64url");
    const hmacKey = ours.publicKey.export({ type: "spki", format: "pem" });
    const hmac = `${hmacHead}.${body}.${createHmac("sha256", hmacKey).update(`${hmacHead}.${body}`).digest("base64url")}`;
    const details = good["authorization_details"] as Record<string, unknown>[];
    const bad: Record<string, string> = {
      "another key": make({}, {}, stranger),
      "an unknown key": make({}, { kid: "theirs" }),
      "no key": make({}, { kid: undefined }),
      "no type": make({}, { typ: undefined }),
      "another type": make({}, { typ: "JWT" }),
      "something critical": make({}, { crit: ["exp"] }),
      "another algorithm": make({}, { alg: "ES384" }),
      "no algorithm": none,
      "a keyed hash": hmac,
      "changed claims": `${head}.${Buffer.from(JSON.stringify({ ...good, client_id: "x" })).toString("base64url")}.${tail}`,
      "no signature": `${head}.${body}.`,
      "half a signature": `${head}.${body}.${tail.slice(0, 40)}`,
      padding: `${head}.${body}.${tail}==`,
      "four parts": `${head}.${body}.${tail}.x`,
      nothing: "",
      "too much": "x".repeat(9000),
      "an issuer with a slash": make({ iss: `${world.broker}/` }),
      "a list of audiences": make({ aud: [AUDIENCE] }),
      "a key to prove": make({ cnf: { jkt: "x" } }),
      expired: make({ exp: now - 1 }),
      "from the future": make({ iat: now + 60, nbf: now + 60 }),
      "not yet": make({ nbf: now + 60 }),
      "living too long": make({ exp: now + 3700 }),
      "without an end": make({ exp: undefined }),
      "an end in words": make({ exp: String(now + 60) }),
      "without a lease": make({ jti: undefined }),
      "another lease than its own": make({ jti: `lse_${"0".repeat(26)}` }),
      "an unknown profile": make({ sub_profile: "robot" }),
      "a detail that could narrow it": make({ authorization_details: [{ ...details[0], times: "by day" }] }),
      "a detail of another type": make({ authorization_details: [{ ...details[0], type: "other" }] }),
      "no details": make({ authorization_details: undefined }),
    };
    for (const [name, text] of Object.entries(bad)) {
      await assert.rejects(verifier.verify(text), (error) => error instanceof InvalidToken && error.status === 401 && error.challenge === 'Bearer error="invalid_token"', name);
    }
    const elsewhere = make({ authorization_details: [{ ...details[0], locations: ["https://payments.example.org"] }] });
    assert.equal((await verifier.verify(elsewhere)).permits("read", "customers/42"), false);
    assert.equal(gate.count("jwks.json"), 1, "an unknown key does not make us ask again within ten seconds");
  });

  it("is what has expired, at that second", async () => {
    const bearer = make();
    const { times } = await verifier.verify(bearer);
    // Staleness is another matter: the feed is read anew after each step.
    const close = follow({ address: gate.address, maxStaleness: 3600 });
    await close.ready();
    mock.timers.enable({ apis: ["Date"], now: times.exp * 1000 - 1 });
    assert.equal(close.check(bearer).agent, "support-bot");
    mock.timers.tick(1);
    assert.throws(() => close.check(bearer), /expired/);
    mock.timers.reset();
    close.close();
  });

  /** Of a task that was handed on twice, for a user, by agents of three trust domains. */
  function handedOn(): string {
    const actor = (sub: string, act?: object): object => ({ sub, iss: world.broker, sub_profile: "ai_agent", ...(act === undefined ? {} : { act }) });
    const marks = {
      ...(good["https://dayfly.dev/claims"] as object),
      parents: [task("1"), task("2")],
      parent_trust_domains: ["partner.example", "above.example"],
    };
    return make({ sub: "user:7", sub_profile: "user", act: actor("support-bot", actor("planner", actor("director"))), "https://dayfly.dev/claims": marks });
  }

  function task(letter: string): string {
    return `tsk_${letter.repeat(26)}`;
  }

  it("is what a kill order of any kind covers, and nothing younger", async () => {
    const claims = await verifier.verify(handedOn());
    assert.deepEqual(claims.parentTrustDomains, ["partner.example", "above.example"]);
    const selectors = [
      { kind: "lease", id: claims.leaseId },
      ...["0", "1", "2"].map((letter) => ({ kind: "task", id: task(letter) })),
      ...["support-bot", "planner", "director"].map((id) => ({ kind: "agent", id })),
      { kind: "tool", id: "crm" },
      { kind: "user", id: "user:7" },
      { kind: "environment", id: claims.environment },
      ...["example.org", "partner.example", "above.example"].map((id) => ({ kind: "trust_domain", id })),
      { kind: "all" },
    ];
    for (const selector of selectors) {
      const name = JSON.stringify(selector);
      const list = new DenyList(3_660_000, 10);
      const cutoff = (upTo: number, at = Date.now()): ReturnType<typeof readCutoff> =>
        readCutoff({ selector, up_to: new Date(upTo).toISOString(), at: new Date(at).toISOString(), cause: "cutoff" });
      list.apply(cutoff(claims.madeAt - 1), Date.now());
      assert.equal(list.denies(claims), undefined, `${name}: made after it`);
      list.apply(cutoff(claims.madeAt), Date.now());
      assert.equal(list.denies(claims), "cutoff", name);
      list.apply(cutoff(claims.madeAt - 1), Date.now());
      assert.equal(list.denies(claims), "cutoff", `${name}: an older one undoes nothing`);
      assert.equal(list.size, 1);
      list.forget(Date.now() + 3_600_000);
      assert.equal(list.size, 1);
      list.forget(Date.now() + 3_700_000);
      assert.equal(list.size, 0);
    }
    for (const id of ["elsewhere.example", "user:7", "planner"]) {
      const list = new DenyList(3_660_000, 10);
      const now = new Date().toISOString();
      list.apply(readCutoff({ selector: { kind: "trust_domain", id }, up_to: now, at: now, cause: "cutoff" }), Date.now());
      assert.equal(list.denies(claims), undefined, `${id} is no trust domain of it`);
    }
  });

  it("is what was handed on by a trust domain that the broker ended", async () => {
    const bearer = handedOn();
    await verifier.verify(bearer);
    const order = { trust_domain: "above.example", reason: "a test" };
    const { status, json } = await world.api("ops-console", "POST", "/v1/revocations", order);
    assert.equal(status, 200, JSON.stringify(json));
    await until(async () => await verifier.verify(bearer).then(() => false, () => true));
    await assert.rejects(verifier.verify(bearer), TokenRevoked);
    await verifier.verify(make());
  });

  it("is one whose chain cannot be read", async () => {
    for (const domains of ["partner.example", [7], [""], null]) {
      const marks = { ...(good["https://dayfly.dev/claims"] as object), parent_trust_domains: domains };
      await assert.rejects(verifier.verify(make({ "https://dayfly.dev/claims": marks })), InvalidToken);
    }
  });
});

describe("the deny list", () => {
  it("says when it is full, and still prolongs what it has", () => {
    const cutoff = (id: string): ReturnType<typeof readCutoff> =>
      readCutoff({ selector: { kind: "agent", id }, up_to: "9999-12-31T23:59:59.999Z", at: new Date().toISOString(), cause: "revoked" });
    const list = new DenyList(60_000, 1);
    list.apply(cutoff("a"), Date.now());
    assert.throws(() => { list.apply(cutoff("b"), Date.now()); }, /full/);
    list.apply(cutoff("a"), Date.now());
    assert.equal(list.size, 1);
  });

  it("reads no cutoff that it does not understand", () => {
    const good = { selector: { kind: "agent", id: "a" }, up_to: "2026-01-01T00:00:00Z", at: "2026-01-01T00:00:00Z", cause: "revoked" };
    assert.equal(readCutoff(good).upTo, Date.UTC(2026, 0, 1));
    for (const bad of [{}, null, { ...good, selector: { kind: "planet", id: "earth" } }, { ...good, selector: { kind: "agent" } }, { ...good, selector: { kind: "agent", id: "" } }, { ...good, up_to: "soon" }, { ...good, at: 7 }, { ...good, cause: undefined }]) {
      assert.throws(() => readCutoff(bad));
    }
  });

  it("takes no keys from a set that shows a private one, and no weak ones", () => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const jwk = { ...publicKey.export({ format: "jwk" }), kid: "a" };
    assert.equal(readKeys(JSON.stringify({ keys: [jwk] })).length, 1);
    assert.throws(() => readKeys(JSON.stringify({ keys: [jwk, { ...privateKey.export({ format: "jwk" }), kid: "b" }] })), /private/);
    const weak = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey.export({ format: "jwk" });
    const strong = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ format: "jwk" });
    const edwards = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" });
    const keys = [{ ...weak, kid: "weak" }, { ...strong, kid: "rsa" }, { ...edwards, kid: "ed" }, { ...jwk, use: "enc" }, { ...jwk, alg: "ES384" }, { ...jwk, kid: 7 }, { ...jwk, key_ops: ["sign"] }];
    assert.deepEqual(readKeys(JSON.stringify({ keys })).map(({ kid, alg }) => [kid, alg]), [["rsa", "RS256"], ["ed", "EdDSA"]]);
    assert.throws(() => readKeys("{}"));
  });
});

describe("a guard", () => {
  it("stands before a handler of Express", async () => {
    await using verifier = follow();
    await verifier.ready();
    const app = express();
    const guard = expressGuard<express.Request>(verifier, { action: "read", resource: (request) => `customers/${String(request.params["id"])}` });
    app.get("/customers/:id", guard, (request, response) => {
      response.json({ agent: claimsOf(request).agent });
    });
    app.get("/open", (request, response) => {
      assert.throws(() => claimsOf(request), TypeError);
      response.end();
    });
    const server = app.listen(0, "127.0.0.1");
    await once(server, "listening");
    const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await attempt(async (path, headers) => await fetch(at + path, { headers }));
    assert.equal((await fetch(`${at}/open`)).status, 200);
    server.closeAllConnections();
    server.close();
  });

  it("stands before a handler of the Fetch API", async () => {
    await using verifier = follow();
    await verifier.ready();
    const resource = (request: Request): string => new URL(request.url).pathname.slice(1);
    const handler = fetchGuard(verifier, { action: () => "read", resource }, (_, claims, more: number) => Response.json({ agent: claims.agent, more }));
    await attempt(async (path, headers) => await handler(new Request(`https://crm.example.org${path}`, { headers }), 7));
    const open = fetchGuard(verifier, {}, (_, claims) => {
      assert.ok(claims instanceof Claims);
      claims.demand("delete");
      return new Response();
    });
    const { token: bearer, task } = await token();
    await assert.rejects(open(new Request("https://crm.example.org/", { headers: { authorization: `Bearer ${bearer}` } })), Refusal);
    await task.complete();
  });

  async function attempt(get: (path: string, headers: Record<string, string>) => Promise<Response>): Promise<void> {
    const { token: bearer, task } = await token();
    const good = await get("/customers/42", { authorization: `Bearer ${bearer}` });
    assert.equal(good.status, 200);
    assert.equal(((await good.json()) as { agent: string }).agent, "support-bot");
    const cases: [string, Record<string, string>, number, string | null][] = [
      ["/customers/43", { authorization: `bearer ${bearer}` }, 403, 'Bearer error="insufficient_scope"'],
      ["/customers/42", {}, 401, "Bearer"],
      ["/customers/42", { authorization: "Basic eDp5" }, 401, "Bearer"],
      ["/customers/42", { authorization: "Bearer" }, 401, 'Bearer error="invalid_token"'],
      ["/customers/42", { authorization: `Bearer ${bearer}, Bearer ${bearer}` }, 401, 'Bearer error="invalid_token"'],
      ["/customers/42", { authorization: `Bearer ${bearer}x` }, 401, 'Bearer error="invalid_token"'],
    ];
    for (const [path, headers, status, challenge] of cases) {
      const response = await get(path, headers);
      assert.deepEqual([response.status, response.headers.get("www-authenticate")], [status, challenge], JSON.stringify(headers).slice(0, 40));
      const text = await response.text();
      assert.ok(!text.includes(bearer));
      assert.equal(typeof (JSON.parse(text) as { detail: unknown }).detail, "string");
    }
    await task.complete();
  }
});

function unknownSelector(): string {
  const now = new Date().toISOString();
  return JSON.stringify({ cutoffs: [{ selector: { kind: "planet", id: "earth" }, up_to: now, at: now, cause: "revoked" }], cursor: "x", more: false });
}

/** The same instant, another id. */
function lastLetters(id: string): string {
  return `${id.slice(0, 20)}000000`;
}
