"""What a tool knows of revocations: the cutoffs of the broker's feed, read by a coroutine of the worker's.

What was read counts as of the moment of asking, not of the answer, so waiting makes nothing look fresher than it is.
An answer that does not fit is a failure: nothing is fresh until one does.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import DayflyError
from ._token import Claims, InvalidToken, Keys
from ._transport import Request, Transport

if TYPE_CHECKING:
    import weakref

log = logging.getLogger("dayfly")

WAIT = 20
"""Seconds for which the broker may let us wait when there is nothing new."""
PATIENCE = 10.0
"""Seconds that an answer may take beyond that at most. Less where that would make everything stale."""
PAUSE = 1.0
KEYS_AGE = 300.0
LONGEST_BACKOFF = 15.0

KINDS = frozenset(("lease", "task", "agent", "tool", "user", "environment", "trust_domain", "all"))


class _Cut(NamedTuple):
    up_to: int
    cause: str
    until: int


class DenyList:
    """The cutoffs that still matter, by what they select. Looking is a few look-ups, however many there are."""

    def __init__(self, keep: float, most: int) -> None:
        self._keep = int(keep * 1000)
        self._most = most
        self._cuts: dict[tuple[str, str], _Cut] = {}
        self._due: list[tuple[int, tuple[str, str]]] = []

    def apply(self, cutoff: Any, at: int) -> None:
        """Take a cutoff in. Twice is as once, and an older one undoes nothing. Raises ``ValueError`` where it cannot."""
        selector = cutoff["selector"]
        kind, name = selector["kind"], selector.get("id") or ""
        if kind not in KINDS or not isinstance(name, str) or (kind == "all") == bool(name):
            raise ValueError(f"a cutoff of the kind {kind!r} is not understood here")
        up_to, until = _millis(cutoff["up_to"]), _millis(cutoff["at"]) + self._keep
        if until <= at:
            return
        key = (kind, name)
        before = self._cuts.get(key)
        if before is None and len(self._cuts) >= self._most:
            raise ValueError(f"the deny list is full: it holds {self._most} cutoffs")
        if before is None or until > before.until:
            heapq.heappush(self._due, (until, key))
        if before is None:
            self._cuts[key] = _Cut(up_to, str(cutoff["cause"]), until)
        else:
            later, cause = max(
                (before.up_to, before.cause), (up_to, str(cutoff["cause"])), key=lambda cut: cut[0]
            )
            self._cuts[key] = _Cut(later, cause, max(before.until, until))

    def forget(self, at: int) -> None:
        """Forget what no living token can match."""
        while self._due and self._due[0][0] <= at:
            _, key = heapq.heappop(self._due)
            cut = self._cuts.get(key)
            if cut is not None and cut.until <= at:
                del self._cuts[key]

    def check(self, claims: Claims) -> None:
        """Raise where a cutoff ended the token. Any thread may ask."""
        for selector in claims._selectors:
            cut = self._cuts.get(selector)
            if cut is not None and claims._made_at <= cut.up_to:
                raise InvalidToken(f"the token was revoked ({cut.cause})")

    def __len__(self) -> int:
        return len(self._cuts)


class Follower:
    """The keys and cutoffs of a broker, and how fresh they are."""

    def __init__(
        self, transport: Transport, denied: DenyList, *, max_staleness: float, between_key_fetches: float
    ) -> None:
        self.transport = transport
        self.denied = denied
        self.keys: Keys | None = None
        self.closed = False
        self.first: Future[bool] = Future()
        self._max_staleness = max_staleness
        self._between = between_key_fetches
        self._as_of: tuple[float, float] | None = None
        self._keys_asked: float | None = None
        self._asking = asyncio.Lock()
        self._cursor: str | None = None

    def as_of(self) -> float | None:
        """As of when revocations are known, in seconds since 1970."""
        return None if self._as_of is None else self._as_of[1]

    def is_fresh(self) -> bool:
        """Whether that is lately enough. Both clocks have to say so: one stops in suspension, one can be set."""
        if self._as_of is None or self.closed:
            return False
        age = max(time.monotonic() - self._as_of[0], time.time() - self._as_of[1])
        return age <= self._max_staleness

    def may_ask_for_keys(self) -> bool:
        """Whether it is time: what keys tokens name is up to whoever sends them."""
        return self._keys_asked is None or time.monotonic() - self._keys_asked >= self._between

    async def look_for_keys(self) -> None:
        """Read the keys anew because a token names one that is not known, unless that was done a moment ago."""
        async with self._asking:
            if self.may_ask_for_keys():
                try:
                    await self.read_keys()
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing is accepted because of it
                    log.warning("the broker's keys cannot be read: %s", _said(error))

    def patience(self) -> float:
        """How long an answer may take before it counts as lost. Who has heard nothing yet has nothing to lose."""
        return min(PATIENCE, self._max_staleness / 4) if self.first.done() else PATIENCE

    async def read_keys(self) -> None:
        """Read the keys. Nothing comes from the feed meanwhile."""
        self._keys_asked = time.monotonic()
        request = Request("GET", "/.well-known/jwks.json", authenticated=False, patience=self.patience())
        self.keys = Keys(await self.transport.call(request))

    async def read_feed(self) -> bool:
        """Ask the feed once. Answers whether to pause before the next question."""
        # The first question wants to know how things stand, not what comes next.
        first = self._cursor is None
        wait = 0 if first else max(1, int(min(WAIT, self._max_staleness / 4)))
        query = {"wait": str(wait)} if self._cursor is None else {"wait": str(wait), "cursor": self._cursor}
        asked, asked_at = time.monotonic(), time.time()
        request = Request("GET", "/v1/revocations", query=query, patience=wait + self.patience())
        try:
            answer = await self.transport.call(request)
        except DayflyError as error:
            if error.status in (400, 410) and not first:
                # The ledger behind the feed is not the one of before: its cursors mean nothing now.
                self._cursor = None
                return True
            raise
        self.denied.forget(int(asked_at * 1000))
        for cutoff in answer["cutoffs"]:
            self.denied.apply(cutoff, int(asked_at * 1000))
        self._cursor = answer["cursor"]
        if not isinstance(self._cursor, str) or answer["more"] not in (True, False):
            raise ValueError("the answer of the feed is not understood here")
        if not answer["more"]:
            self._as_of = (asked, asked_at)
            if not self.first.done():
                self.first.set_result(True)
        quiet = not answer["more"] and not answer["cutoffs"]
        return not first and quiet and time.monotonic() - asked < PAUSE


async def follow(weak: weakref.ref[Follower]) -> None:
    """Keep a follower up to date for as long as somebody holds it."""
    keys_read: float | None = None
    failures = 0
    while True:
        follower = weak()
        if follower is None or follower.closed:
            return
        pause = 0.0
        try:
            # Keys first: without them nothing can be accepted, and a feed that was read would claim otherwise.
            if keys_read is None or time.monotonic() - keys_read >= KEYS_AGE:
                try:
                    await follower.read_keys()
                    keys_read = time.monotonic()
                except DayflyError as error:
                    if keys_read is None:
                        raise
                    log.warning("the broker's keys cannot be read: %s", error)
            if await follower.read_feed():
                pause = PAUSE
            failures = 0
        except Exception as error:  # noqa: BLE001 - who stops here never hears of a revocation again
            most = min(0.25 * 2.0**failures, LONGEST_BACKOFF)
            pause = random.uniform(most / 2, most)  # noqa: S311 - spreads load, guards nothing
            failures = min(failures + 1, 16)
            log.warning("the broker's keys and revocations cannot be read: %s", _said(error))
        del follower
        await asyncio.sleep(pause)


def _said(error: Exception) -> str:
    """Say what went wrong, in our own words, or by its kind alone."""
    return str(error) if isinstance(error, DayflyError | ValueError) else type(error).__name__


def _millis(text: str) -> int:
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int(at.timestamp()) * 1000 + at.microsecond // 1000
