/**
 * JWS in its compact form, and the keys of a JWK Set: as much of both as Dayfly uses, and no option to read a
 * token differently. The algorithm is the key's; the header may only agree with it.
 */
import { createPublicKey, verify, type JsonWebKey, type KeyObject } from "node:crypto";
import { InvalidToken } from "./refusal.js";

/** The longest token that is looked at, in bytes: it has to fit into a header. */
const LONGEST_TOKEN = 8 << 10;

/** What Dayfly signs with, by name: the digest, and how the signature is written. */
const ALGORITHMS: Readonly<Record<string, { readonly digest: string | null; readonly kty: string; readonly crv?: string }>> = {
  ES256: { digest: "sha256", kty: "EC", crv: "P-256" },
  ES384: { digest: "sha384", kty: "EC", crv: "P-384" },
  EdDSA: { digest: null, kty: "OKP", crv: "Ed25519" },
  RS256: { digest: "sha256", kty: "RSA" },
};

interface VerifyingKey {
  readonly kid: string;
  readonly alg: string;
  readonly key: KeyObject;
}

/** The keys of the broker. */
export type KeySet = readonly VerifyingKey[];

/** A token taken apart. Nothing of it is true before {@link Unverified.verify}. */
export interface Unverified {
  /** Whether one of these keys signed it; undefined where none has its name. */
  verify(keys: KeySet): boolean | undefined;
  readonly claims: Record<string, unknown>;
}

/** Takes a token apart, or throws {@link InvalidToken}. `typ` is what its header has to say. */
export function parse(token: string, typ: string): Unverified {
  if (token.length > LONGEST_TOKEN) throw new InvalidToken("the token is too long");
  const parts = token.split(".");
  const [head, body, tail] = parts;
  if (parts.length !== 3 || head === undefined || body === undefined || tail === undefined) {
    throw new InvalidToken("the token is no compact JWS");
  }
  const header = object(decode(head));
  const { alg, kid } = header;
  const said = typeof header["typ"] === "string" ? header["typ"].toLowerCase().replace(/^application\//, "") : undefined;
  if (said !== typ) throw new InvalidToken(`the token's \`typ\` is not \`${typ}\``);
  // What somebody wants to be understood and is not known here.
  if ("crit" in header) throw new InvalidToken("the token wants something of the header that is not known here");
  if (typeof alg !== "string" || !Object.hasOwn(ALGORITHMS, alg)) throw new InvalidToken("the token's algorithm is not accepted here");
  if (typeof kid !== "string") throw new InvalidToken("the token names no key");
  const signed = Buffer.from(`${head}.${body}`);
  const signature = decode(tail);
  return {
    claims: object(decode(body)),
    verify(keys) {
      const fitting = keys.filter((key) => key.kid === kid && key.alg === alg);
      if (fitting.length === 0) return undefined;
      const digest = ALGORITHMS[alg]?.digest ?? null;
      return fitting.some(({ key }) => verify(digest, signed, { key, dsaEncoding: "ieee-p1363" }, signature));
    },
  };
}

/**
 * Reads a JWK Set. What is not understood in it is left out (RFC 7517 §5); a set that shows a private key is good
 * for nothing, because anybody can sign.
 */
export function readKeys(text: string): KeySet {
  const { keys } = JSON.parse(text) as { keys?: unknown };
  if (!Array.isArray(keys)) throw new Error("it is no JWK Set");
  const read: VerifyingKey[] = [];
  for (const jwk of keys as Record<string, unknown>[]) {
    if (["d", "k", "p", "q"].some((member) => member in jwk)) throw new Error("it publishes a private key");
    const key = readKey(jwk);
    if (key !== undefined) read.push(key);
  }
  return read;
}

function readKey(jwk: Record<string, unknown>): VerifyingKey | undefined {
  const { kid, kty, crv, use, key_ops: operations } = jwk;
  if (typeof kid !== "string" || (use !== undefined && use !== "sig")) return undefined;
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes("verify"))) return undefined;
  const found = Object.entries(ALGORITHMS).find(([, shape]) => shape.kty === kty && (shape.crv === undefined || shape.crv === crv));
  if (found === undefined) return undefined;
  const [alg] = found;
  if (jwk["alg"] !== undefined && jwk["alg"] !== alg) return undefined;
  try {
    const key = createPublicKey({ key: jwk as JsonWebKey, format: "jwk" });
    const bits = key.asymmetricKeyDetails?.modulusLength;
    return bits !== undefined && bits < 2048 ? undefined : { kid, alg, key };
  } catch {
    return undefined;
  }
}

function decode(part: string): Buffer {
  if (!/^[A-Za-z0-9_-]+$/.test(part)) throw new InvalidToken("the token is no base64url");
  return Buffer.from(part, "base64url");
}

function object(bytes: Buffer): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch {
    value = undefined;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new InvalidToken("the token holds no JSON object");
  return value as Record<string, unknown>;
}
