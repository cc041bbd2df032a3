// Compiles and runs the tests: all, or those whose files are named, such as `npm test -- task`. With `--frameworks` those
// of the adapters, whose packages are installed by `npm ci` in `frameworks`.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));
const tsc = join(folder, "node_modules", "typescript", "bin", "tsc");
const wanted = process.argv.slice(2);
const frameworks = wanted[0] === "--frameworks" && wanted.shift() !== undefined;

const compile = (out, project) => {
  rmSync(join(folder, out), { recursive: true, force: true });
  execFileSync(process.execPath, [tsc, "-p", project], { cwd: folder, stdio: "inherit" });
};
compile("dist", ".");
if (frameworks) {
  if (!existsSync(join(folder, "frameworks", "node_modules"))) throw new Error("run `npm ci` in `frameworks` first");
  // They import this package by its name, from outside of it.
  const link = join(folder, "node_modules", "@dayfly", "client");
  mkdirSync(join(link, ".."), { recursive: true });
  if (!existsSync(link)) symlinkSync("../..", link);
}
const [out, project, tests] = frameworks
  ? ["frameworks/build", "frameworks", "frameworks/build/frameworks"]
  : ["build", "test", "build/test"];
compile(out, project);
const files = readdirSync(join(folder, tests))
  .filter((name) => name.endsWith(".test.js"))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.startsWith(part)))
  .map((name) => join(tests, name));
// The time is that of a file: one of them installs packages, which takes its time where others are at work.
const options = ["--enable-source-maps", "--test", "--test-reporter=spec", "--test-timeout=300000"];
const { status } = spawnSync(process.execPath, [...options, ...files], { cwd: folder, stdio: "inherit" });
process.exit(status ?? 1);
