// Makes `dist`, whenever npm packs or links this folder: `npm install <path>` does not install what this
// package is developed with, so where the compiler is missing it is fetched first, as the lock file has it.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));

const newest = (path) =>
  readdirSync(join(folder, path), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((time, entry) => Math.max(time, statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs), 0);

const compiler = () => {
  try {
    return createRequire(join(folder, "package.json")).resolve("typescript/package.json");
  } catch {
    return undefined;
  }
};

const built = existsSync(join(folder, "dist", "index.js"));
if (!existsSync(join(folder, "src"))) {
  // An unpacked package: it was built before it was packed.
  process.exit(built ? 0 : 1);
}
if (built && newest("dist") >= newest("src")) process.exit(0);

if (compiler() === undefined) {
  // Whatever the outer npm was told, such as to leave out what is for development, is not meant for this.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(config_(global|omit|production|dry_run|prefix|package_lock|save|workspace|include_workspace_root|location|local_prefix|install_links|ignore_scripts)|command|lifecycle)/i.test(name)),
  );
  const npm = process.env.npm_execpath;
  const [command, first] = npm === undefined ? ["npm", []] : [process.execPath, [npm]];
  const options = ["--include=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"];
  execFileSync(command, [...first, "ci", ...options], { cwd: folder, env: { ...env, NODE_ENV: "development" }, stdio: "inherit" });
}
rmSync(join(folder, "dist"), { recursive: true, force: true });
execFileSync(process.execPath, [join(compiler(), "..", "bin", "tsc")], { cwd: folder, stdio: "inherit" });
