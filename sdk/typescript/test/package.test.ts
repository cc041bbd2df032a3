/** The package as its users get it: installed from its folder, and the programs that its pages show. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { PACKAGE, World } from "./world.js";

const run = promisify(execFile);

let world: World;
let folder: string;

before(async () => {
  world = await World.start();
  folder = await mkdtemp(join(tmpdir(), "dayfly-ts-package-"));
});

after(async () => {
  await world.stop();
  await rm(folder, { recursive: true, force: true });
});

/** The package as it is in a clean clone, with what it is developed with where `tools` says so. */
async function clone(name: string, tools: boolean): Promise<string> {
  const place = join(folder, name);
  const skipped = ["dist", "build", ...(tools ? [] : ["node_modules"])].map((part) => join(PACKAGE, part));
  await cp(PACKAGE, place, { recursive: true, filter: (path) => !skipped.includes(path) });
  return place;
}

async function install(name: string, ...options: string[]): Promise<string> {
  const place = join(folder, name);
  await mkdir(place);
  await writeFile(join(place, "package.json"), JSON.stringify({ name, private: true }));
  // What npm tells the scripts that it runs is not meant for this one.
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("npm_")));
  await run("npm", ["install", "--no-audit", "--no-fund", ...options], { cwd: place, env });
  return place;
}

async function importIt(place: string): Promise<string> {
  const script = `
    import { Broker } from "@dayfly/client";
    import { Verifier } from "@dayfly/client/resource";
    console.log(typeof Broker, typeof Verifier);`;
  await writeFile(join(place, "import.mjs"), script);
  return (await run(process.execPath, ["import.mjs"], { cwd: place })).stdout.trim();
}

describe("the package", () => {
  it("is built when it is installed from a folder, with the compiler and without", async () => {
    const place = await install("linked", await clone("clone-a", true));
    assert.equal(await importIt(place), "function function");
    assert.equal(await importIt(await install("packed", "--install-links", await clone("clone-b", false))), "function function");
  });

  it("runs the agent of the README as it is printed", async () => {
    const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
    const [, program = ""] = /```js agent\.mjs\n(.*?)```/s.exec(readme) ?? [];
    const [, output = ""] = /```text\n(.*?)```/s.exec(readme) ?? [];
    assert.ok(program.split("\n").length <= 11);
    const place = join(folder, "readme");
    await mkdir(join(place, "node_modules", "@dayfly"), { recursive: true });
    await cp(join(PACKAGE, "dist"), join(place, "node_modules/@dayfly/client/dist"), { recursive: true });
    await cp(join(PACKAGE, "package.json"), join(place, "node_modules/@dayfly/client/package.json"));
    await writeFile(join(place, "agent.mjs"), program);
    const env = { ...process.env, DAYFLY_BROKER: world.broker, DAYFLY_AGENT: "support-bot", DAYFLY_DEV_FOLDER: world.folder };
    const { stdout, stderr } = await run(process.execPath, ["agent.mjs"], { cwd: place, env });
    assert.equal(stdout, output);
    assert.equal(stderr, "");
  });

  it("runs its example of a tool", async () => {
    const env = { ...process.env, ISSUER: world.broker, PORT: "0", DAYFLY_EVIDENCE_FILE: world.evidence("crm-server") };
    const child = spawn(process.execPath, [join(PACKAGE, "build/examples/tool.js")], { env, stdio: ["ignore", "pipe", "inherit"] });
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    assert.equal(said.toString().trim(), "ready");
    child.kill("SIGTERM");
    const [code] = (await once(child, "exit")) as [number];
    assert.equal(code, 0);
  });

  it("runs its example of an agent", async () => {
    const env = { ...process.env, DAYFLY_BROKER: world.broker, DAYFLY_EVIDENCE_FILE: world.evidence("support-bot") };
    const { stdout } = await run(process.execPath, [join(PACKAGE, "build/examples/agent.js")], { env });
    assert.match(stdout, /read {.*Harbour Books/);
    const [, handle = ""] = /waits for data-steward; go on with: (.*)/.exec(stdout) ?? [];
    assert.equal((JSON.parse(handle) as { v: number }).v, 1);
    const again = await run(process.execPath, [join(PACKAGE, "build/examples/agent.js"), handle], { env });
    assert.match(again.stdout, /waits for data-steward/);
  });
});
