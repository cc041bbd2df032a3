/**
 * What is asked for: an access is one tool with some of its actions on some of its resources. Written as on the
 * command line, `crm:read,comment@customers/42`, or as an object. The rules are the broker's own, so that a
 * mistake is found before a request.
 */
import { InvalidRequest, ScopeWidening } from "./errors.js";

/** One tool, at least one of its actions, and resources; no resource means the tool as a whole. */
export interface Access {
  /** The tool, such as `crm`. */
  readonly tool: string;
  /** Between 1 and 16 of its actions, such as `read`. */
  readonly actions: readonly string[];
  /** At most 16 paths, such as `customers/42`. A path covers what lies below it. */
  readonly resources?: readonly string[] | undefined;
}

/** An access as text or as an object. */
export type AccessLike = string | Access;

/** An access with its parts in order, each once. */
export interface ParsedAccess extends Access {
  readonly resources: readonly string[];
}

const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const SEGMENT = /^[A-Za-z0-9\-._~@:+=,]+$/;
const MOST = 16;
const MOST_IN_SCOPE = 32;

/** Reads an access, or throws {@link InvalidRequest}. */
export function parseAccess(access: AccessLike): ParsedAccess {
  const { tool, actions, resources } = typeof access === "string" ? split(access) : access;
  name(tool, "tool");
  for (const action of actions) name(action, "action");
  const paths = resources ?? [];
  for (const path of paths) resource(path);
  if (actions.length === 0) throw new InvalidRequest(`name at least one action of \`${tool}\``, "/actions");
  const parsed = { tool, actions: unique(actions), resources: unique(paths) };
  for (const part of ["actions", "resources"] as const) {
    if (parsed[part].length > MOST) {
      throw new InvalidRequest(`an access names at most ${MOST} ${part}; split the rest into further accesses`, `/${part}`);
    }
  }
  return parsed;
}

/** Reads a scope: between 1 and 32 accesses. */
export function parseScope(scope: AccessLike | readonly AccessLike[]): readonly ParsedAccess[] {
  const accesses = isList(scope) ? scope : [scope];
  if (accesses.length === 0 || accesses.length > MOST_IN_SCOPE) {
    throw new InvalidRequest(`a scope holds between 1 and ${MOST_IN_SCOPE} accesses, not ${accesses.length}`, "/scope");
  }
  return accesses.map(parseAccess);
}

/** An access as text. */
export function formatAccess(access: Access): string {
  const resources = access.resources ?? [];
  const at = resources.length === 0 ? "" : `@${resources.join(",")}`;
  return `${access.tool}:${access.actions.join(",")}${at}`;
}

/** Throws {@link ScopeWidening} unless one access of `scope` covers the whole of `access`. */
export function demandWithin(scope: readonly Access[], access: ParsedAccess): void {
  if (!scope.some((mine) => covers(mine, access))) throw new ScopeWidening(formatAccess(access));
}

/** Whether everything that `other` asks for is within `mine`. */
export function covers(mine: Access, other: Access): boolean {
  const [ours, theirs] = [mine.resources ?? [], other.resources ?? []];
  return (
    mine.tool === other.tool &&
    other.actions.every((action) => mine.actions.includes(action)) &&
    (ours.length === 0 || (theirs.length > 0 && theirs.every((path) => ours.some((above) => coversPath(above, path)))))
  );
}

/** Whether `path` is `above` or lies below it; `customers/4` does not cover `customers/42`. */
export function coversPath(above: string, path: string): boolean {
  return path === above || path.startsWith(`${above}/`);
}

/** Whether a text is a resource path that the broker would take. */
export function isResourcePath(path: string): boolean {
  const segments = path.split("/");
  return (
    path.length <= 256 &&
    segments.length <= 16 &&
    segments.every((segment) => segment !== "." && segment !== ".." && SEGMENT.test(segment))
  );
}

function split(text: string): Access {
  const colon = text.indexOf(":");
  if (colon < 0) {
    throw new InvalidRequest(`\`${clip(text)}\` is no access: write \`tool:action\`, such as \`crm:read@customers/42\``);
  }
  const rest = text.slice(colon + 1);
  const at = rest.indexOf("@");
  return {
    tool: text.slice(0, colon),
    actions: (at < 0 ? rest : rest.slice(0, at)).split(","),
    resources: at < 0 ? [] : rest.slice(at + 1).split(","),
  };
}

function name(text: string, kind: string): void {
  if (!NAME.test(text)) {
    const rule = "use 1 to 63 lower-case letters, digits, `-`, `_` or `.`, starting with a letter or digit";
    throw new InvalidRequest(`\`${clip(text)}\` is not a valid ${kind}: ${rule}`);
  }
}

function resource(path: string): void {
  if (!isResourcePath(path)) {
    const rule = "use 1 to 16 segments of letters, digits and `-._~@:+=,`, joined by `/`, 256 bytes at most";
    throw new InvalidRequest(`\`${clip(path)}\` is not a valid resource path: ${rule}`);
  }
}

function isList<T extends AccessLike>(value: T | readonly T[]): value is readonly T[] {
  return Array.isArray(value);
}

function unique(values: readonly string[]): readonly string[] {
  return [...new Set(values)].sort();
}

function clip(text: string): string {
  return JSON.stringify(text.slice(0, 64)).slice(1, -1);
}
