/**
 * What a tool needs to accept Dayfly's tokens: offline verification, and the feed that ends tokens before their expiry.
 *
 * @packageDocumentation
 */
export { Claims } from "./claims.js";
export {
  claimsOf,
  expressGuard,
  fetchGuard,
  type Guarding,
  type RequestLike,
  type ResponseLike,
} from "./middleware.js";
export { InsufficientScope, InvalidToken, NoToken, Refusal, Stale, TokenRevoked } from "./refusal.js";
export { Verifier, type VerifierOptions } from "./verifier.js";
