/**
 * What tests run against: the real broker with a trust domain and a CRM, as `dayfly dev` makes them, in a folder
 * of its own and on ports of its own; and a proxy in front of it that can be told to fail.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, request as httpRequest, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTcpServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Broker, type BrokerOptions } from "@dayfly/client";

/** The repository: this file is at sdk/typescript/build/test/. */
export const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));
export const PACKAGE = fileURLToPath(new URL("../..", import.meta.url));

export const BINARY =
  process.env["DAYFLY_BIN"] ?? resolve(ROOT, process.env["CARGO_TARGET_DIR"] ?? "target", "debug", "dayfly");

/** One of the workloads that `dayfly dev` vouches for. */
export type Agent = "support-bot" | "report-bot" | "ops-console" | "crm-server";

/** An answer of the broker, to a request that a test makes by itself. */
export interface Plain {
  readonly status: number;
  readonly json: Record<string, unknown>;
}

/** Brokers that run. None is left behind, also where the runner ends a file whose time is up. */
const children = new Set<ChildProcess>();
process.once("exit", () => { for (const child of children) child.kill("SIGKILL"); });
for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => process.exit(1));

export class World {
  readonly folder: string;
  readonly broker: string;
  readonly crm: string;
  #process: ChildProcess | undefined;

  private constructor(folder: string, broker: string, crm: string) {
    this.folder = folder;
    this.broker = broker;
    this.crm = crm;
  }

  static async start(): Promise<World> {
    if (!existsSync(BINARY)) throw new Error(`there is no ${BINARY}: build it, or set DAYFLY_BIN`);
    const folder = await mkdtemp(join(tmpdir(), "dayfly-ts-"));
    const [broker, crm] = await freePorts(2);
    const world = new World(folder, `http://127.0.0.1:${broker}`, `http://127.0.0.1:${crm}`);
    await world.run();
    return world;
  }

  /** Starts it, again where it was stopped. */
  async run(): Promise<void> {
    const listen = ["--listen", new URL(this.broker).host, "--tool", new URL(this.crm).host];
    const child = spawn(BINARY, ["dev", ...listen, "--folder", this.folder], { stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    children.add(child);
    child.once("exit", () => children.delete(child));
    let said = "";
    await new Promise<void>((ready, failed) => {
      const listenTo = (chunk: Buffer): void => {
        said += chunk.toString();
        if (said.includes("stop with Ctrl-C")) ready();
      };
      child.stdout.on("data", listenTo);
      child.stderr.on("data", listenTo);
      child.once("exit", (code) => {
        failed(new Error(`dayfly dev ended with ${String(code)}: ${said}`));
      });
    });
  }

  /** Stops it and keeps its folder. */
  async halt(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child?.exitCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    await gone;
  }

  async stop(): Promise<void> {
    await Gate.stopAll();
    await this.halt();
    await rm(this.folder, { recursive: true, force: true });
  }

  evidence(agent: Agent): string {
    return join(this.folder, "evidence", `${agent}.jwt`);
  }

  /** A client as this agent. */
  as(agent: Agent, options: BrokerOptions = {}): Broker {
    return new Broker({ address: this.broker, evidence: this.evidence(agent), ...options });
  }

  /** A request without the library. */
  async api(agent: Agent, method: string, path: string, body?: unknown): Promise<Plain> {
    const evidence = await readFile(this.evidence(agent), "utf8");
    const response = await fetch(this.broker + path, {
      method,
      headers: { authorization: `Bearer ${evidence.trim()}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, json: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>) };
  }

  /** The leases of a task that are live. */
  async live(task: string): Promise<{ id: string }[]> {
    const { json } = await this.api("ops-console", "GET", `/v1/leases?agent=*&task=${task}`);
    return (json["leases"] as { id: string; state: string }[]).filter((lease) => lease.state === "active");
  }

  /** How a task stands. */
  async task(id: string): Promise<{ state: string; outcome?: string }> {
    const { json } = await this.api("ops-console", "GET", `/v1/tasks/${id}`);
    return json as { state: string; outcome?: string };
  }

  /** Says in the catalogue where a tool is. */
  async origins(tool: string, ...origins: string[]): Promise<void> {
    const line = `origins = ${JSON.stringify(origins)}\n`;
    await this.rule(`tools/${tool}.toml`, (text) => text.replace(/^origins = .*\n/m, "").replace(/^provider/m, `${line}provider`));
  }

  /** Changes a file of the rules, and puts them in force. */
  async rule(path: string, change: (text: string) => string): Promise<void> {
    const file = join(this.folder, path);
    const text = existsSync(file) ? await readFile(file, "utf8") : "";
    await writeFile(file, change(text));
    const { status, json } = await this.api("ops-console", "POST", "/v1/rules/reload", { accept_blast_radius: 1000 });
    if (status !== 200) throw new Error(`reload: ${status} ${JSON.stringify(json)}`);
  }
}

/** Appends to a file, for what children report. */
export async function note(path: string, line: string): Promise<void> {
  await appendFile(path, `${line}\n`);
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createTcpServer();
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))));
  return ports;
}

/** What a proxy does with a request: let it through, hold it, cut its connection, or answer it. */
export type Fault = "pass" | "hold" | "cut" | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: string };

/** A request as the proxy saw it. */
export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly at: number;
}

/** A proxy in front of a broker. */
export class Gate {
  static readonly #open = new Set<Gate>();
  readonly seen: Seen[] = [];
  /** What happens to the next requests, and to all others. */
  next: Fault[] = [];
  always: Fault = "pass";
  /** What happens to some requests, before all of that. */
  answer: (seen: Seen) => Fault | undefined = () => undefined;
  readonly #server: Server;
  readonly #to: URL;
  #waiting: { test: (seen: Seen) => boolean; found: (seen: Seen) => void }[] = [];

  private constructor(to: string) {
    this.#to = new URL(to);
    this.#server = createServer((incoming, outgoing) => {
      this.#take(incoming, outgoing);
    });
  }

  static async before(to: string): Promise<Gate> {
    const gate = new Gate(to);
    gate.#server.listen(0, "127.0.0.1");
    await once(gate.#server, "listening");
    Gate.#open.add(gate);
    return gate;
  }

  /** Stops those that a test which failed left open. */
  static async stopAll(): Promise<void> {
    await Promise.all([...Gate.#open].map((gate) => gate.stop()));
  }

  get address(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** The requests so far whose path ends with this. */
  count(end: string): number {
    return this.seen.filter(({ path }) => path.split("?")[0]?.endsWith(end)).length;
  }

  /** The next request that fits. */
  async request(test: (seen: Seen) => boolean): Promise<Seen> {
    return await new Promise((found) => this.#waiting.push({ test, found }));
  }

  async stop(): Promise<void> {
    if (!Gate.#open.delete(this)) return;
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }

  #take(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const { method = "", url = "", headers } = incoming;
    const seen = { method, path: url, headers, at: performance.now() };
    this.seen.push(seen);
    const fault = this.answer(seen) ?? this.next.shift() ?? this.always;
    if (fault === "cut") {
      incoming.socket.destroy();
    } else if (typeof fault === "object") {
      incoming.resume();
      outgoing.writeHead(fault.status, fault.headers).end(fault.body);
    } else if (fault === "pass") {
      const onward = httpRequest(new URL(url, this.#to), { method, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(outgoing);
      });
      onward.on("error", () => incoming.socket.destroy());
      incoming.pipe(onward);
    }
    this.#waiting = this.#waiting.filter(({ test, found }) => {
      if (!test(seen)) return true;
      found(seen);
      return false;
    });
  }
}

/** Waits until something holds, looking again every few milliseconds; for what no event tells. */
export async function until(holds: () => boolean | Promise<boolean>, seconds = 10): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`it did not come to hold within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
