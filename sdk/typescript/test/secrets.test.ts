/** No secret shows where nobody asked for it. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, it } from "node:test";
import { format, inspect } from "node:util";
import { deserialize, serialize } from "node:v8";
import { AttestationFailed, Broker, DayflyError, InvalidRequest, OriginRefused, Secret } from "@dayfly/client";
// Other kinds than the broker mints here are made of what it would answer.
import { Credential } from "#dist/credential.js";
import type { CredentialAnswer, IssuedAnswer } from "#dist/api.js";
import { findEvidence } from "#dist/evidence.js";
import { Gate, World } from "./world.js";

const ACCESS = "crm:read@customers/42";

let world: World;

before(async () => {
  world = await World.start();
});

after(async () => {
  await world.stop();
});

/** Everything that a log, a checkpoint or a copy could make of a value. */
function shown(value: unknown): string[] {
  const attempt = (how: () => unknown): string => {
    try {
      return String(how());
    } catch (error) {
      return inspect(error, { depth: Infinity, showHidden: true });
    }
  };
  return [
    attempt(() => String(value)),
    attempt(() => ["", value].join("")),
    attempt(() => format("%s %o %O %j %d", value, value, value, value, value)),
    attempt(() => inspect(value, { depth: Infinity, showHidden: true, getters: true })),
    attempt(() => inspect(value, { depth: Infinity, showHidden: true, customInspect: false })),
    attempt(() => JSON.stringify(value)),
    attempt(() => JSON.stringify({ ...(value as object) })),
    attempt(() => inspect(structuredClone(value), { showHidden: true, depth: Infinity })),
    attempt(() => inspect(deserialize(serialize(value)), { showHidden: true, depth: Infinity })),
    attempt(() => inspect(Object.getOwnPropertyDescriptors(value as object), { depth: Infinity, showHidden: true })),
  ];
}

function assertHidden(value: unknown, ...secrets: string[]): void {
  for (const text of shown(value)) {
    for (const secret of secrets) assert.ok(!text.includes(secret), `a secret shows: ${text.slice(0, 200)}`);
  }
}

describe("a secret", () => {
  const secret = new Secret("correct-horse-battery");

  it("shows itself to whoever asks, and nowhere else", () => {
    assert.equal(secret.reveal(), "correct-horse-battery");
    assertHidden(secret, "correct-horse");
    assert.equal(String(secret), "<redacted>");
    assert.equal(inspect(secret), "<redacted>");
    assert.equal(inspect({ deep: { secret } }, { depth: 0 }).includes("horse"), false);
    assert.throws(() => JSON.stringify({ secret }), /reveal\(\)/);
  });

  it("is equal to its like", () => {
    assert.ok(secret.equals(new Secret("correct-horse-battery")));
    assert.ok(secret.equals("correct-horse-battery"));
    assert.ok(!secret.equals("correct-horse-batterz"));
    assert.ok(!secret.equals(""));
  });
});

describe("a credential", () => {
  it("shows what is known about it, and not itself", async () => {
    const broker = world.as("support-bot");
    const task = await broker.openTask({ purpose: "look", scope: ACCESS });
    const credential = await task.credential(ACCESS);
    const token = credential.token.reveal();
    assert.equal(token.split(".").length, 3);
    for (const value of [credential, task, broker, { credential, task }, [credential.token]]) {
      assertHidden(value, token, token.split(".")[2] ?? "");
    }
    assert.equal(String(credential), `Credential ${ACCESS} (${credential.leaseId})`);
    assert.equal(String(task), `Task ${task.id} (open)`);
    assert.match(String(broker), /^Broker { address: 'http/);
    assert.match(inspect(credential), /Credential {.*tool: 'crm'.*<redacted>/s);
    assert.equal((JSON.parse(JSON.stringify(credential)) as { tool: string }).tool, "crm");
    assert.equal((JSON.parse(JSON.stringify(task)) as { id: string }).id, task.id);
    await task.complete();
    broker.close();
  });

  it("is hidden in every kind, and has the parts of its kind alone", () => {
    const word = "p@ss/word-hidden";
    const of = (credential: CredentialAnswer): Credential =>
      Credential.from({
        credential,
        lease: { id: "lse_1", tool: "db", actions: ["read"], resources: [], state: "active" },
        requested: 60,
        granted: 60,
        bounded_by: "requested",
        revocation: "immediate",
        expires_at: "2030-01-01T00:00:00Z",
        decision: "dec_1",
      } satisfies IssuedAnswer);
    const login = of({ type: "database_login", host: "db.example.org", port: 5432, database: "orders", username: "u", password: word });
    assert.equal(login.dsn().reveal(), "postgresql://u:p%40ss%2Fword-hidden@db.example.org:5432/orders");
    assert.equal(login.password.reveal(), word);
    assert.deepEqual([login.host, login.port, login.database, login.username], ["db.example.org", 5432, "orders", "u"]);
    assert.throws(() => login.token, InvalidRequest);
    const aws = of({ type: "aws_session", access_key_id: "AKIA-hidden", secret_access_key: word, session_token: `${word}2`, region: null });
    assert.equal(aws.secretAccessKey.reveal(), word);
    assert.equal(aws.accessKeyId.reveal(), "AKIA-hidden");
    assert.equal(aws.sessionToken.reveal(), `${word}2`);
    assert.equal(aws.region, undefined);
    const fields = of({ type: "fields", fields: { api_key: word } });
    assert.equal(fields.fields["api_key"]?.reveal(), word);
    assert.throws(() => fields.fields["other"]?.reveal.call(undefined) ?? fields.host, InvalidRequest);
    for (const credential of [login, aws, fields]) assertHidden(credential, word, "AKIA-hidden", "p%40ss");
    assert.throws(() => of({ type: "hologram" } as unknown as CredentialAnswer), DayflyError);
  });
});

describe("an error", () => {
  it("holds neither evidence nor credential, in its stack and its causes too", async () => {
    const gate = await Gate.before(world.broker);
    const evidence = (await readFile(world.evidence("support-bot"), "utf8")).trim();
    const mark = evidence.split(".")[2] ?? "";
    const broker = world.as("support-bot", { address: gate.address });
    const errors: unknown[] = [];
    const collect = async (promise: Promise<unknown>): Promise<void> => {
      errors.push(await promise.then(() => assert.fail("it worked"), (error: unknown) => error));
    };
    const open = { purpose: "fail", scope: [ACCESS, "crm:delete"] };
    const task = await broker.openTask(open);
    const token = (await task.credential(ACCESS)).token.reveal();
    await collect(task.credential("crm:delete"));
    await collect(task.fetch(ACCESS)("http://127.0.0.1:9/"));
    // An echo of the request in the body of an answer is what a broken proxy would do.
    for (const fault of ["cut", { status: 500, body: `{"detail": 7, "echo": "${evidence}"}` }, { status: 200, body: evidence }, { status: 302, headers: { location: `http://x/?t=${mark}` } }] as const) {
      gate.next = [fault, fault, fault, fault];
      await collect(broker.openTask(open));
    }
    gate.next = [];
    gate.always = "hold";
    await collect(world.as("support-bot", { address: gate.address, timeout: 0.1 }).openTask({ ...open, signal: AbortSignal.timeout(300) }));
    gate.always = "pass";
    const bad = `${evidence}\u0000${evidence}`;
    await collect(new Broker({ address: world.broker, evidence: () => bad }).openTask(open));
    await collect(new Broker({ address: world.broker, evidence: () => Promise.reject(new Error(bad)) }).openTask(open));
    await collect(new Broker({ address: world.broker, evidence: () => `${evidence}x` }).openTask(open));
    await world.origins("crm", "http://127.0.0.1:9");
    const other = await broker.openTask(open);
    const sent = (await other.credential(ACCESS)).token.reveal();
    // Nobody listens there: the error is the platform's own, with its cause.
    await collect(other.fetch(ACCESS)("http://127.0.0.1:9/"));
    await task.complete();
    await collect(task.credential(ACCESS));
    assert.ok(errors.some((error) => error instanceof OriginRefused));
    assert.equal(errors.filter((error) => error instanceof AttestationFailed).length, 3);
    const whole = `${evidence}\n`;
    assert.throws(() => new Broker({ address: world.broker, evidence: whole }), (error) => errors.push(error) > 0 && error instanceof InvalidRequest);
    assert.throws(() => findEvidence({ env: { DAYFLY_EVIDENCE_FILE: evidence }, broker: new URL(world.broker) }), (error) => errors.push(error) > 0 && error instanceof AttestationFailed);
    for (const error of errors) {
      assert.ok(error instanceof Error);
      assertHidden(error, mark, token, sent);
      assert.ok(!(error.stack ?? "").includes(mark));
    }
    await gate.stop();
    broker.close();
  });
});
