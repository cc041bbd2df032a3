/** The claims of an access token (RFC 9068), as Dayfly writes them. What is of another form is no such token. */
import { coversPath, isResourcePath } from "../access.js";
import { InsufficientScope, InvalidToken } from "./refusal.js";

/** The claim that Dayfly knows a token by. */
const MARKS = "https://dayfly.dev/claims";
/** The most actors that are followed. */
const DEEPEST = 16;
const DETAIL = new Set(["type", "locations", "actions", "resources"]);
const CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz";

interface Detail {
  readonly locations: readonly string[];
  readonly actions: readonly string[];
  readonly resources: readonly string[];
}

/** What a token that was accepted says. */
export class Claims {
  readonly #details: readonly Detail[];
  /** Who issued it. */
  readonly issuer: string;
  /** The one tool that it is for. */
  readonly audience: string;
  /** For whom the agent acts: a user, or itself. */
  readonly subject: string;
  /** The user on whose behalf it acts, where there is one. */
  readonly user: string | undefined;
  /** The agent. */
  readonly agent: string;
  /** The agents that handed the work on, nearest first. */
  readonly delegatedBy: readonly string[];
  /** The tool, by its name in the catalogue. */
  readonly tool: string;
  /** The environment of the agent. */
  readonly environment: string;
  /** The trust domain that vouched for the agent. */
  readonly trustDomain: string | undefined;
  /** The other trust domains that vouched for whoever handed the work on, nearest first. */
  readonly parentTrustDomains: readonly string[];
  /** The task. */
  readonly task: string;
  /** The tasks that it is part of, nearest first. */
  readonly parents: readonly string[];
  /** The lease. */
  readonly leaseId: string;
  /** The record of why it exists. */
  readonly decision: string;
  /** When it was issued, and when it ends. */
  readonly issuedAt: Date;
  readonly expiresAt: Date;
  /** What it permits as words, for logs. Decide by {@link permits}. */
  readonly scope: string;
  /** @internal */
  readonly times: { readonly iat: number; readonly nbf: number; readonly exp: number };
  /** @internal */
  readonly bound: boolean;
  /** When the lease was made, in milliseconds since 1970. @internal */
  readonly madeAt: number;

  /** @internal */
  constructor(claims: Record<string, unknown>) {
    const marks = object(claims[MARKS], MARKS);
    this.issuer = text(claims["iss"], "iss");
    this.audience = text(claims["aud"], "aud");
    this.subject = text(claims["sub"], "sub");
    const profile = text(claims["sub_profile"], "sub_profile");
    if (profile !== "user" && profile !== "ai_agent") throw malformed("sub_profile");
    this.user = profile === "user" ? this.subject : undefined;
    this.agent = text(marks["agent"], "agent");
    this.delegatedBy = actors(claims["act"]).filter((agent) => agent !== this.agent);
    this.tool = text(marks["tool"], "tool");
    this.environment = text(marks["environment"], "environment");
    this.trustDomain = marks["trust_domain"] === undefined ? undefined : text(marks["trust_domain"], "trust_domain");
    this.parentTrustDomains = optionalTexts(marks["parent_trust_domains"], "parent_trust_domains");
    this.task = text(claims["txn"], "txn");
    this.parents = optionalTexts(marks["parents"], "parents");
    this.leaseId = text(claims["jti"], "jti");
    if (marks["task"] !== this.task || marks["lease"] !== this.leaseId) throw malformed(MARKS);
    this.decision = text(marks["decision"], "decision");
    this.times = { iat: seconds(claims["iat"], "iat"), nbf: seconds(claims["nbf"], "nbf"), exp: seconds(claims["exp"], "exp") };
    this.issuedAt = new Date(this.times.iat * 1000);
    this.expiresAt = new Date(this.times.exp * 1000);
    this.scope = text(claims["scope"], "scope");
    this.bound = claims["cnf"] !== undefined;
    this.madeAt = madeAt(this.leaseId);
    const details = claims["authorization_details"];
    if (!Array.isArray(details)) throw malformed("authorization_details");
    this.#details = details.map(readDetail);
  }

  /** Whether it permits this action on this resource; without one, on the tool as a whole. */
  permits(action: string, resource?: string): boolean {
    if (resource !== undefined && !isResourcePath(resource)) return false;
    return this.#details.some(
      ({ locations, actions, resources }) =>
        locations.includes(this.audience) &&
        actions.includes(action) &&
        (resources.length === 0 || (resource !== undefined && resources.some((above) => coversPath(above, resource)))),
    );
  }

  /** Throws {@link InsufficientScope} unless it {@link permits} this. */
  demand(action: string, resource?: string): void {
    if (!this.permits(action, resource)) throw new InsufficientScope(action);
  }

  /** Every selector that matches it, as {@link selectorKey}s. @internal */
  selectors(): string[] {
    const { leaseId, task, parents, agent, delegatedBy, tool, environment, trustDomain, parentTrustDomains, user } = this;
    return [
      selectorKey("lease", leaseId),
      ...[task, ...parents].map((id) => selectorKey("task", id)),
      ...[agent, ...delegatedBy].map((id) => selectorKey("agent", id)),
      selectorKey("tool", tool),
      ...(user === undefined ? [] : [selectorKey("user", user)]),
      selectorKey("environment", environment),
      ...(trustDomain === undefined ? [] : [selectorKey("trust_domain", trustDomain)]),
      ...parentTrustDomains.map((id) => selectorKey("trust_domain", id)),
      selectorKey("all"),
    ];
  }
}

/** A selector as the key of a map. @internal */
export function selectorKey(kind: string, id = ""): string {
  return `${kind} ${id}`;
}

function readDetail(value: unknown): Detail {
  const name = "authorization_details";
  const detail = object(value, name);
  // A member that is not known here could narrow it.
  if (detail["type"] !== "dayfly_access" || Object.keys(detail).some((member) => !DETAIL.has(member))) throw malformed(name);
  const resources = optionalTexts(detail["resources"], name);
  if (!resources.every(isResourcePath)) throw malformed(name);
  return { locations: texts(detail["locations"], name), actions: texts(detail["actions"], name), resources };
}

/** Whoever acts, and whoever handed the work on to them (RFC 8693 §4.1). */
function actors(value: unknown): string[] {
  const found: string[] = [];
  for (let act = value; act !== undefined; act = (act as { act?: unknown }).act) {
    if (found.length === DEEPEST) throw malformed("act");
    found.push(text(object(act, "act")["sub"], "act"));
  }
  return found;
}

/** The first 48 bits of the UUIDv7 in an id: milliseconds since 1970. */
function madeAt(lease: string): number {
  if (!/^lse_[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}$/.test(lease)) throw malformed("jti");
  // 26 letters of 5 bits are 130: two zeros, and the 128 of the id. Ten letters hold the first 48 of those.
  return Array.from(lease.slice(4, 14)).reduce((bits, letter) => bits * 32 + CROCKFORD.indexOf(letter), 0);
}

function malformed(claim: string): InvalidToken {
  return new InvalidToken(`the claim \`${claim}\` of the token is missing or of another form`);
}

function object(value: unknown, claim: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed(claim);
  return value as Record<string, unknown>;
}

function text(value: unknown, claim: string): string {
  if (typeof value !== "string" || value === "") throw malformed(claim);
  return value;
}

function texts(value: unknown, claim: string): readonly string[] {
  if (!Array.isArray(value)) throw malformed(claim);
  return value.map((item) => text(item, claim));
}

function optionalTexts(value: unknown, claim: string): readonly string[] {
  return value === undefined ? [] : texts(value, claim);
}

function seconds(value: unknown, claim: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw malformed(claim);
  return value;
}
