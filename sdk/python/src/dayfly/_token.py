"""What a Dayfly access token says (RFC 9068), and what has to be true of it before anything is believed.

The rules and their order are those of the guide `verify-tokens`. What is not understood is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ._access import covers, is_path
from ._errors import DayflyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TYP = "at+jwt"
LONGEST = 8 << 10
MARKS = "https://dayfly.dev/claims"
_DIGITS = {digit: value for value, digit in enumerate("0123456789abcdefghjkmnpqrstvwxyz")}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_ALGORITHMS = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
    "RS256": ("RSA", None),
}


class Refused(DayflyError):
    """A request is refused. ``status`` is what to answer with, and ``challenge`` the ``WWW-Authenticate`` header."""

    status: int
    error: str | None = "invalid_token"
    """The ``error`` of RFC 6750 §3.1; none where the token is not at fault."""
    _status = 401

    def __init__(self, detail: str, **known: Any) -> None:
        super().__init__(detail, **{"status": self._status, **known})

    @property
    def challenge(self) -> str:
        """The value of the ``WWW-Authenticate`` header."""
        return f'Bearer error="{self.error}"' if self.error else "Bearer"

    def __str__(self) -> str:
        return self.detail


class InvalidToken(Refused):
    """It is no token of this broker for this tool, its time is up, or it was revoked. 401."""


class MissingToken(Refused):
    """There is no token. 401."""

    error = None


class NotPermitted(Refused):
    """The token is valid and does not permit this. 403."""

    error = "insufficient_scope"
    _status = 403


class Stale(Refused):
    """Revocations were not read lately enough, so that nobody here knows what was revoked. 503."""

    error = None
    _status = 503
    _retryable = True


class UnknownKey(InvalidToken):
    """A key signed it that is not known here."""


@dataclass(frozen=True)
class Claims:
    """What a token says that was accepted just now."""

    issuer: str
    audience: str
    subject: str
    """For whom the agent acts: a user, or the agent itself."""
    user: str | None
    """The user, where it acts for one."""
    agent: str
    actors: tuple[str, ...]
    """The agent, and whoever handed the work on to it, nearest first; empty where it acts for itself alone."""
    tool: str
    task: str
    lease: str
    environment: str
    decision: str
    """The record of why the token exists."""
    expires_at: datetime
    raw: Mapping[str, Any] = field(repr=False)
    """All claims, as they are."""
    _selectors: tuple[tuple[str, str], ...] = field(repr=False)
    _made_at: int = field(repr=False)
    _permitted: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = field(repr=False)

    def permits(self, action: str, resource: str | None = None) -> bool:
        """Whether it permits this action on this resource, or, without one, on the tool as a whole.

        What is no path of a resource, such as ``customers/42/../7``, is never permitted.
        """
        if resource is not None and not (isinstance(resource, str) and is_path(resource)):
            return False
        return any(
            action in actions
            and (
                not resources or (resource is not None and any(covers(mine, resource) for mine in resources))
            )
            for actions, resources in self._permitted
        )

    def demand(self, action: str, resource: str | None = None) -> None:
        """Raise :class:`NotPermitted` unless it permits this."""
        if not self.permits(action, resource):
            raise NotPermitted(f"the token does not permit `{action}` there")


class Keys:
    """The published keys of a broker, each with the one way in which it signs."""

    def __init__(self, answer: Any) -> None:
        import jwt

        self._known: dict[tuple[str, str], jwt.PyJWK] = {}
        for each in _listed(answer, "keys"):
            if not isinstance(each, dict):
                continue
            if "d" in each or "k" in each:
                raise ValueError("somebody published a private key")
            ops = each.get("key_ops")
            if each.get("use", "sig") != "sig" or (isinstance(ops, list) and "verify" not in ops):
                continue
            for algorithm, (kty, crv) in _ALGORITHMS.items():
                fits = (
                    each.get("kty") == kty
                    and each.get("crv") == crv
                    and each.get("alg", algorithm) == algorithm
                )
                kid = each.get("kid")
                if not fits or not isinstance(kid, str):
                    continue
                try:
                    key = jwt.PyJWK(each, algorithm=algorithm)
                except jwt.PyJWTError:
                    continue
                if kty == "RSA" and not 2048 <= key.key.key_size <= 8192:
                    continue
                self._known[kid, algorithm] = key

    def check(self, kid: str, algorithm: str, signed: bytes, signature: bytes) -> None:
        """Raise unless this key signed this in this way."""
        key = self._known.get((kid, algorithm))
        if key is None:
            if any(known == kid for known, _ in self._known):
                raise InvalidToken(f"the key of the token does not sign with {algorithm}")
            raise UnknownKey("a key signed the token that is not known here")
        if not key.Algorithm.verify(signed, key.key, signature):
            raise InvalidToken("the signature of the token is wrong")


def read(
    token: str, keys: Keys, *, issuer: str, audience: str, at: float, leeway: float, longest_life: float
) -> Claims:
    """Read a token that is for this tool, from this broker, and for now; rules 2 to 11."""
    payload = _verified(token, keys)
    claims = _claims(payload)
    if claims is None:
        raise InvalidToken("the claims of the token are not those of a Dayfly access token")
    if claims.issuer != issuer:
        raise InvalidToken("another issuer issued the token")
    if claims.audience != audience:
        raise InvalidToken("the token is for another audience")
    if payload.get("cnf") is not None:
        raise InvalidToken("the token is bound to a key (`cnf`), which is not supported here")
    if at >= payload["exp"]:
        raise InvalidToken("the token has expired")
    if max(payload["nbf"], payload["iat"]) > at + leeway:
        raise InvalidToken("the token is not valid yet: compare the clocks")
    if payload["exp"] - payload["iat"] > longest_life:
        raise InvalidToken("the token lives longer than is accepted here")
    return claims


def _verified(token: str, keys: Keys) -> dict[str, Any]:
    if len(token) > LONGEST:
        raise InvalidToken("the token is too long")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise InvalidToken("this is no token")
    header, payload, signature = (_part(part) for part in parts)
    said = _object(header)
    typ = said.get("typ")
    if "crit" in said:
        raise InvalidToken("the header of the token demands what is not understood here")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != TYP:
        raise InvalidToken(f"the token is no access token: its `typ` is not `{TYP}`")
    algorithm, kid = said.get("alg"), said.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise InvalidToken("the algorithm of the token is not accepted here")
    if not isinstance(kid, str):
        raise InvalidToken("the header of the token names no key")
    claims = _object(payload)
    keys.check(kid, algorithm, token.rpartition(".")[0].encode(), signature)
    return claims


def _part(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if _BASE64URL.fullmatch(text) else b""
    except (ValueError, binascii.Error):
        raw = b""
    # One way to write it: what decodes and is written differently was changed by somebody.
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise InvalidToken("this is no token")
    return raw


def _object(raw: bytes) -> dict[str, Any]:
    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(members)
        if len(read) != len(members):
            raise ValueError("a member comes twice")
        return read

    try:
        value = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidToken("the token cannot be read")
    return value


def _claims(payload: dict[str, Any]) -> Claims | None:
    """Read the claims, each of its kind; nothing where one is not."""
    try:
        marks = _mapping(payload[MARKS])
        profile = payload["sub_profile"]
        if profile not in ("user", "ai_agent"):
            return None
        subject = _text(payload["sub"])
        user = subject if profile == "user" else None
        lease, task = _text(payload["jti"]), _text(payload["txn"])
        for instant in ("iat", "nbf", "exp"):
            if type(payload[instant]) is not int or payload[instant] < 0:
                return None
        if _text(marks["lease"]) != lease or _text(marks["task"]) != task:
            return None
        audience = _text(payload["aud"])
        actors = tuple(_actors(payload.get("act")))
        agent = _text(marks["agent"])
        parents = [_text(each) for each in _listed(marks, "parents", needed=False)]
        domains = [_text(each) for each in _listed(marks, "parent_trust_domains", needed=False)]
        domain = marks.get("trust_domain")
        selectors = [
            ("lease", lease),
            ("task", task),
            ("agent", agent),
            ("tool", _text(marks["tool"])),
            ("environment", _text(marks["environment"])),
            ("all", ""),
            *(("user", each) for each in (user,) if each is not None),
            *(("trust_domain", _text(each)) for each in (domain, *domains) if each is not None),
            *(("task", each) for each in parents),
            *(("agent", each) for each in actors if each != agent),
        ]
        return Claims(
            issuer=_text(payload["iss"]),
            audience=audience,
            subject=subject,
            user=user,
            agent=agent,
            actors=actors,
            tool=marks["tool"],
            task=task,
            lease=lease,
            environment=marks["environment"],
            decision=_text(marks["decision"]),
            expires_at=datetime.fromtimestamp(min(payload["exp"], 253_402_300_799), timezone.utc),
            raw=payload,
            _selectors=tuple(selectors),
            _made_at=made_at(lease),
            _permitted=tuple(_permitted(payload["authorization_details"], audience)),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _permitted(details: Any, audience: str) -> Iterator[tuple[frozenset[str], tuple[str, ...]]]:
    if not isinstance(details, list):
        raise TypeError
    for each in details:
        detail = _mapping(each)
        # A member that is not known could narrow it.
        if set(detail) - {"type", "locations", "actions", "resources"} or detail["type"] != "dayfly_access":
            raise ValueError
        actions = frozenset(_text(action) for action in _listed(detail, "actions"))
        resources = tuple(_text(path) for path in _listed(detail, "resources", needed=False))
        if not all(is_path(path) for path in resources):
            raise ValueError
        if audience in [_text(location) for location in _listed(detail, "locations")]:
            yield actions, resources


def _actors(act: Any) -> Iterator[str]:
    while act is not None:
        actor = _mapping(act)
        _text(actor["iss"])
        yield _text(actor["sub"])
        act = actor.get("act")


def made_at(identifier: str) -> int:
    """Read when a lease was made, in milliseconds since 1970: the first 48 bits of the UUIDv7 in its id."""
    prefix, _, digits = identifier.partition("_")
    if prefix != "lse" or len(digits) != 26:
        raise ValueError
    number = 0
    for digit in digits:
        number = number << 5 | _DIGITS[digit]
    if number >> 128:
        raise ValueError
    return number >> 80


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _listed(within: Any, name: str, *, needed: bool = True) -> Iterable[Any]:
    value = _mapping(within)[name] if needed else _mapping(within).get(name, [])
    if not isinstance(value, list):
        raise TypeError
    return value
