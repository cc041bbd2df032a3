"""For tools: accept Dayfly's access tokens, offline, and refuse those that have ended. Takes ``dayfly[resource]``.

    verifier = Verifier("https://dayfly.example.org", "https://crm.example.org")

    claims = verifier.verify(token)          # or: await verifier.averify(token)
    claims.demand("read", "customers/42")

It fails closed: a tool that has not heard from the broker's feed of revocations for longer than `max_staleness` knows
nothing about them, and refuses every token with :class:`Stale`.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from . import _token
from ._broker import _trusting
from ._errors import InvalidRequest
from ._feed import DenyList, Follower, follow
from ._token import Claims, InvalidToken, Keys, MissingToken, NotPermitted, Refused, Stale, UnknownKey
from ._transport import Transport
from ._worker import Worker, wait, wait_async, worker
from .evidence import EvidenceLike, source_of

if TYPE_CHECKING:
    import os

__all__ = [
    "Claims",
    "InvalidToken",
    "Middleware",
    "MissingToken",
    "NotPermitted",
    "Refused",
    "Stale",
    "Verifier",
]

_FIRST_READING = 5.0
"""Seconds for which the first tokens wait until keys and feed were read once."""


class Verifier:
    """Accepts or refuses access tokens of one broker for one tool. Threads and coroutines may share it.

    `issuer` is the URL of the broker, the ``iss`` of tokens; `audience` what the catalogue says for this tool, the
    ``aud``. Keys and revocations are read from the issuer, or from `broker` where that is reached elsewhere, in the
    background from the first token on, or from :meth:`start`. The feed takes `evidence` of an agent with a permit for
    ``dayfly:follow``; it is found as for a :class:`~dayfly.Broker`.

    Nothing is accepted once the feed was last read longer than `max_staleness` seconds ago (at least 5). `leeway` is
    how far, in seconds, the clock here may be behind the broker's (at most 60); it never prolongs a token.
    `longest_life` is the broker's ``tokens.max_ttl``, and bounds how long cutoffs are remembered; `most_cutoffs` bounds
    how many. The keys are fetched at most every `between_key_fetches` seconds, whatever keys tokens name.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        evidence: EvidenceLike | None = None,
        broker: str | None = None,
        max_staleness: float = 10.0,
        leeway: float = 30.0,
        longest_life: float = 3600.0,
        most_cutoffs: int = 200_000,
        between_key_fetches: float = 10.0,
        verify: ssl.SSLContext | str | os.PathLike[str] | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        if not issuer or not audience:
            raise InvalidRequest("a verifier takes an issuer and an audience")
        if not max_staleness >= 5 or not math.isfinite(max_staleness):
            raise InvalidRequest("`max_staleness` is at least 5 seconds")
        if not 0 <= leeway <= 60:
            raise InvalidRequest("`leeway` is at most 60 seconds")
        _needs_jwt()
        self.issuer = issuer
        self.audience = audience
        self._leeway = leeway
        self._longest_life = longest_life
        self._options = (max_staleness, between_key_fetches, longest_life + 2 * leeway, most_cutoffs)
        address = (broker or issuer).rstrip("/")
        context = verify if isinstance(verify, ssl.SSLContext) or verify is None else _trusting(verify)
        self._transport = Transport(
            address, source_of(evidence, address), verify=context, plain_http=allow_plain_http
        )
        self._lock = threading.Lock()
        self._running: tuple[Worker, Follower] | None = None

    def start(self) -> None:
        """Begin to read keys and revocations. The first token does that too."""
        self._follower()

    def _follower(self) -> Follower:
        with self._lock:
            current = worker()
            if self._running is None or self._running[0] is not current:
                staleness, between, keep, most = self._options
                follower = Follower(
                    self._transport,
                    DenyList(keep, most),
                    max_staleness=staleness,
                    between_key_fetches=between,
                )
                current.submit(follow(weakref.ref(follower)))
                self._running = (current, follower)
            return self._running[1]

    def check(self, token: str) -> Claims:
        """Accept a token, or raise :class:`Refused`, by what is known now. No I/O."""
        follower = self._follower()
        if not follower.is_fresh() or follower.keys is None:
            raise Stale("revocations were not read lately enough: try again later", retry_after=1.0)
        claims = _token.read(
            token,
            follower.keys,
            issuer=self.issuer,
            audience=self.audience,
            at=time.time(),
            leeway=self._leeway,
            longest_life=self._longest_life,
        )
        follower.denied.check(claims)
        return claims

    def verify(self, token: str) -> Claims:
        """Accept a token, or raise :class:`Refused`. Looks for new keys where the token names one that is not known."""
        follower = self._follower()
        if not follower.first.done():
            self.ready(_FIRST_READING)
        try:
            return self.check(token)
        except UnknownKey:
            if not follower.may_ask_for_keys():
                raise
        wait(worker().submit(follower.look_for_keys()))
        return self.check(token)

    async def averify(self, token: str) -> Claims:
        """Accept a token, or raise :class:`Refused`; see :meth:`verify`."""
        follower = self._follower()
        if not follower.first.done():
            with anyio.move_on_after(_FIRST_READING):
                await wait_async(follower.first)
        try:
            return self.check(token)
        except UnknownKey:
            if not follower.may_ask_for_keys():
                raise
        await wait_async(worker().submit(follower.look_for_keys()))
        return self.check(token)

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until keys and feed were read once. Answers whether they were."""
        try:
            return self._follower().first.result(timeout)
        except (TimeoutError, FutureTimeoutError):
            return False

    @property
    def as_of(self) -> datetime | None:
        """As of when revocations are known (UTC); ``None`` before the first reading. For a readiness check."""
        at = None if self._running is None else self._running[1].as_of()
        return None if at is None else datetime.fromtimestamp(at, timezone.utc)

    @property
    def cutoffs(self) -> int:
        """How many cutoffs are held. For a gauge."""
        return 0 if self._running is None else len(self._running[1].denied)

    def close(self) -> None:
        """Stop reading. Tokens are refused as stale until :meth:`start`, or the next token, begins anew."""
        with self._lock:
            if self._running is not None:
                self._running[1].closed = True
                self._running = None

    def __repr__(self) -> str:
        return f"Verifier({self.issuer!r}, {self.audience!r}, as_of={self.as_of!r})"


Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Needs: TypeAlias = Callable[[Mapping[str, Any]], "tuple[str, str | None] | None"]


class Middleware:
    """ASGI middleware: a request without a token that holds does not reach the application.

    The claims are in ``scope["dayfly"]``. `needs` is given the scope and says which action on which resource the
    request takes, such as ``("read", "customers/42")``; or ``None`` for a request that takes no token at all, such as
    a health check. Without `needs` every request takes a token, and the application demands the rest of the claims.
    """

    def __init__(self, app: App, verifier: Verifier, needs: Needs | None = None) -> None:
        self._app = app
        self._verifier = verifier
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        needed = None if self._needs is None else self._needs(scope)
        if self._needs is not None and needed is None:
            await self._app(scope, receive, send)
            return
        try:
            claims = await self._verifier.averify(_bearer(scope))
            if needed is not None:
                claims.demand(*needed)
        except Refused as refused:
            await _refuse(scope, send, refused)
            return
        await self._app({**scope, "dayfly": claims}, receive, send)


def _bearer(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer":
        raise MissingToken("send a Dayfly token")
    text: str = token.strip().decode("latin-1")
    return text


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refused.detail})
        return
    body = json.dumps({"detail": refused.detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refused.status == 503:
        headers.append((b"retry-after", b"1"))
    else:
        headers.append((b"www-authenticate", refused.challenge.encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _needs_jwt() -> None:
    try:
        Keys({"keys": []})
    except ImportError:
        raise ImportError("verifying tokens takes a package more: pip install 'dayfly[resource]'") from None
