// Compiles and runs the tests: all, or those whose files are named, such as `npm test -- task`.
import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));
const tsc = join(folder, "node_modules", "typescript", "bin", "tsc");
for (const [out, project] of [["dist", "."], ["build", "test"]]) {
  rmSync(join(folder, out), { recursive: true, force: true });
  execFileSync(process.execPath, [tsc, "-p", project], { cwd: folder, stdio: "inherit" });
}
const wanted = process.argv.slice(2);
const files = readdirSync(join(folder, "build", "test"))
  .filter((name) => name.endsWith(".test.js"))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.startsWith(part)))
  .map((name) => join("build", "test", name));
const options = ["--enable-source-maps", "--test", "--test-reporter=spec", "--test-timeout=60000"];
const { status } = spawnSync(process.execPath, [...options, ...files], { cwd: folder, stdio: "inherit" });
process.exit(status ?? 1);
