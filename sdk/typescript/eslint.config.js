import { existsSync } from "node:fs";
import tseslint from "typescript-eslint";

// The tests of the adapters are of types that come with the frameworks.
const there = (path) => existsSync(new URL(path, import.meta.url));
const installed = there("frameworks/node_modules") && there("node_modules/@dayfly/client");
const frameworks = installed ? ["frameworks/node_modules", "frameworks/build"] : ["frameworks"];

export default tseslint.config(
  { ignores: ["dist", "build", "node_modules", ...frameworks] },
  ...tseslint.configs.strictTypeChecked,
  ...tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ["eslint.config.js", "scripts/*.mjs"] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      // Numbers and hosts belong into messages.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
    },
  },
  {
    files: ["src/**/*.ts"],
    // A library writes to nobody's terminal.
    rules: { "no-console": "error" },
  },
  {
    files: ["test/**/*.ts", "frameworks/*.ts"],
    // `describe` and `it` of node:test give promises that nobody has to wait for.
    rules: {
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: ["describe", "it", "test"], package: "node:test" }] },
      ],
    },
  },
  { files: ["**/*.{js,mjs}"], ...tseslint.configs.disableTypeChecked },
);
