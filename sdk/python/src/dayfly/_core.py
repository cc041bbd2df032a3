"""A task as this process knows it: its state, its credentials, and what it asks of the broker.

Coroutines here run on the worker's loop alone. What looks at a dictionary or sets a flag may run in any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from . import _credential
from ._access import Access, Duration, scope_of, wire_duration
from ._ended import Signal
from ._errors import (
    BrokerUnavailable,
    DayflyError,
    InvalidRequest,
    NotFound,
    ScopeWidening,
    TaskEnded,
    TaskSuspended,
)
from ._heart import heart
from ._transport import TIMEOUT, Request, Transport, new_key
from ._worker import worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ._credential import Credential

log = logging.getLogger("dayfly")

Outcome = Literal["completed", "failed", "cancelled"]

WAIT_FOR_PROOFS = 5
"""Seconds for which the end of a task waits for the proofs of its leases."""

now = time.monotonic

current: contextvars.ContextVar[Core | Callable[[], Core | None] | None] = contextvars.ContextVar(
    "dayfly_task", default=None
)
"""The task around the code that runs, or who knows which one it is, where that is not a matter of blocks alone."""


def ambient() -> Core | None:
    """Give the task around the caller."""
    held = current.get()
    return held() if callable(held) else held


@dataclass(frozen=True)
class EndedLease:
    """What became of one lease of a task."""

    id: str
    tool: str
    state: str
    """``ended``; or ``revoking`` or ``stuck`` where there is no proof yet."""
    proof: str | None
    """How its end is known, such as ``denied_at`` or ``verified_absent``."""
    receipt: str | None = field(repr=False)
    """What the broker states about the end, signed. It is long, and not shown."""


@dataclass(frozen=True)
class Completion:
    """What came of the end of a task."""

    outcome: str
    leases: tuple[EndedLease, ...]
    settled: bool
    """Whether the end of each of them is proven."""


@dataclass
class _Entry:
    credential: Credential
    good_until: float
    refresh_at: float


class Core:
    """One task."""

    def __init__(self, transport: Transport, answer: dict[str, Any]) -> None:
        self.transport = transport
        self.id: str = answer["id"]
        self.agent: str = answer["agent"]
        self.purpose: str = answer["purpose"]
        self.on_behalf_of: str | None = answer.get("on_behalf_of")
        self.scope = scope_of(answer["scope"])
        self.deadline: datetime = _credential.instant(answer["deadline"])
        self.heartbeat: int | None = answer.get("heartbeat")
        self.state: str = answer["state"]
        self.outcome: str | None = answer.get("outcome")
        self.ended = Signal()
        self.completion: Completion | None = None
        self._entries: dict[Access, _Entry] = {}
        self._flights: dict[Access, asyncio.Task[Credential | DayflyError]] = {}
        if self.state == "ended":
            self.ended.set()
        heart().tend(self)

    # What is known here.

    def check_open(self) -> None:
        """Raise unless something may be asked for."""
        if self.state == "suspended":
            raise TaskSuspended(f"the task {self.id} is suspended: resume it first")
        if self.state == "ended":
            how = f" ({self.outcome})" if self.outcome else ""
            raise TaskEnded(f"the task {self.id} is over{how}: open another", outcome=self.outcome)

    def check_scope(self, asked: Sequence[Access]) -> None:
        """Raise where something is outside of the task's scope."""
        for access in asked:
            if not any(mine.covers(access) for mine in self.scope):
                mine = "; ".join(str(each) for each in self.scope)
                raise ScopeWidening(
                    f"`{access}` is outside of the scope of the task {self.id}, which is: {mine}"
                )

    def is_over(self, outcome: str | None) -> None:
        """Take note that the task has ended."""
        if self.state != "ended":
            self.state, self.outcome = "ended", outcome
            self._entries.clear()
            self.ended.set()

    def _take(self, answer: Any) -> None:
        answer = checked(answer)
        self.deadline = _credential.instant(answer["deadline"])
        state = answer["state"]
        if state == "ended":
            self.is_over(answer.get("outcome"))
        elif state == "suspended" and self.state == "open":
            # Never the other way round: the answer to an older question may come after that of a newer one.
            self.state = state
            self._entries.clear()

    async def _ask(self, request: Request) -> Any:
        """Ask about this task. An answer that it is not open is looked into, and becomes the error that says why."""
        try:
            return await self.transport.call(request)
        except DayflyError as error:
            if error.slug != "task-not-open":
                raise
            refused = error
        await self.look()
        self.check_open()
        raise refused

    async def look(self) -> None:
        """Learn how the task stands."""
        try:
            self._take(await self.transport.call(Request("GET", f"/v1/tasks/{self.id}")))
        except NotFound:
            self.is_over(None)

    # Credentials.

    def cached(self, access: Access) -> Credential | None:
        """Give what is there and still good. Where it is time for a new one, that is begun behind the caller's back."""
        entry = self._entries.get(access)
        if entry is None:
            return None
        at = now()
        if at >= entry.good_until:
            return None
        if at >= entry.refresh_at:
            entry.refresh_at = entry.good_until
            worker().submit(self._refresh(access, entry))
        return entry.credential

    async def credential(
        self, access: Access, ttl: Duration | None, *, cache: bool, instead_of: Credential | None = None
    ) -> Credential:
        """Give a credential: from the cache, from a request that is under way, or by asking."""
        if not cache:
            return await self._issue(access, ttl, new_key())
        entry = self._entries.get(access)
        if instead_of is not None and entry is not None and entry.credential is instead_of:
            del self._entries[access]
            worker().spawn(self._revoke(instead_of))
        if (there := self.cached(access)) is not None:
            return there
        flight = self._flights.get(access)
        if flight is None:
            flight = asyncio.ensure_future(self._fly(access, ttl))
            self._flights[access] = flight
            flight.add_done_callback(lambda _: self._flights.pop(access, None))
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, DayflyError):
            raise copy.copy(outcome)
        return outcome

    async def _fly(self, access: Access, ttl: Duration | None) -> Credential | DayflyError:
        # An error is a value here: each of those who wait raises a copy, with a traceback of its own.
        asked_at = now()
        try:
            credential = await self._issue(access, ttl, new_key())
        except DayflyError as error:
            return error
        self._keep(access, credential, asked_at)
        return credential

    async def _issue(self, access: Access, ttl: Duration | None, key: str) -> Credential:
        self.check_open()
        body = access.to_json()
        if ttl is not None:
            body["ttl"] = wire_duration(ttl)
        # What shows the variables of a traceback shows no answer: no frame that raises holds it.
        request = Request("POST", f"/v1/tasks/{self.id}/credentials", json=body, key=key)
        credential = _credential.read(await self._ask(request))
        self.check_open()
        return _credential.demanded(credential)

    def _keep(self, access: Access, credential: Credential, asked_at: float) -> None:
        # Lengths by our own clock, from before the question: whatever the clocks of the two say, it is never later.
        life = float(credential.granted)
        entry = _Entry(credential, asked_at + life - min(5.0, life / 10), asked_at + life * _part())
        before = self._entries.get(access)
        if before is not None and entry.good_until < before.good_until + life / 10:
            entry.refresh_at = (
                entry.good_until
            )  # it got no longer, as at the deadline: asking more brings nothing
        if self.state == "open":
            self._entries[access] = entry

    async def _refresh(self, access: Access, entry: _Entry) -> None:
        """Put a longer life, or another credential, in place of one that is good for a while still."""
        if access in self._flights or self.state != "open":
            return
        before, asked_at = entry.credential, now()
        renewal = Request("POST", f"/v1/leases/{before.lease_id}/renew")
        try:
            try:
                credential = _credential.demanded(
                    _credential.read(await self.transport.call(renewal), before)
                )
            except DayflyError as error:
                if error.slug not in ("not-renewable", "lease-not-open", "not-found"):
                    raise
                credential = await self._issue(access, None, new_key())
        except DayflyError as error:
            log.info("a credential for %s cannot be renewed: %s", access, error)
            # It is good for a while. Try once more before it is not.
            entry.refresh_at = now() + max(1.0, (entry.good_until - now()) / 2)
            return
        if (
            self._entries.get(access) is entry
        ):  # and was not refused by its tool meanwhile, which ended its lease
            self._keep(access, credential, asked_at)

    async def _revoke(self, credential: Credential) -> None:
        try:
            body = {"reason": "its tool refuses it"}
            await self.transport.call(Request("POST", f"/v1/leases/{credential.lease_id}/revoke", json=body))
        except DayflyError as error:
            log.info("the lease %s was not ended early: %s", credential.lease_id, error)

    # The task itself.

    async def beat(self) -> None:
        """Say that the work goes on, and learn whether it may."""
        # One that is not answered, or gets no evidence, is over before the next is due, and keeps no other waiting.
        patience = min(TIMEOUT, max(1.0, (self.heartbeat or TIMEOUT) / 4))
        asking = self._ask(Request("POST", f"/v1/tasks/{self.id}/heartbeat", patience=patience))
        try:
            self._take(await asyncio.wait_for(asking, patience))
        except asyncio.TimeoutError:
            log.warning("a heartbeat of the task %s failed: the broker did not answer in time", self.id)
        except NotFound:
            self.is_over(None)
        except (TaskEnded, TaskSuspended):
            pass
        except DayflyError as error:
            log.warning("a heartbeat of the task %s failed: %s", self.id, error)

    async def suspend(self) -> None:
        """End what is live, and issue nothing until the task is resumed."""
        self.check_open()
        self._take(await self._ask(Request("POST", f"/v1/tasks/{self.id}/suspend")))

    async def complete(self, outcome: Outcome) -> Completion:
        """End it, and wait a little for the proofs."""
        if self.completion is not None:
            return self.completion
        self._entries.clear()
        request = Request(
            "POST",
            f"/v1/tasks/{self.id}/complete",
            json={"outcome": outcome},
            query={"wait": f"{WAIT_FOR_PROOFS}s"},
            patience=WAIT_FOR_PROOFS + 5,
        )
        answer = await self._ask(request)
        self.completion = _completion(answer)
        self.is_over(self.completion.outcome)
        return self.completion

    async def leave(self, outcome: Outcome, *, hides: bool = True) -> None:
        """End it at the end of its block. What goes wrong is logged: the broker ends it when heartbeats stop.

        A task without heartbeats stays open to its deadline: that is raised, unless it `hides` something else.
        """
        if self.state != "open":
            return
        self.state = "leaving"
        try:
            await self.complete(outcome)
        except (TaskEnded, TaskSuspended, NotFound):
            self.is_over(self.outcome)
        except Exception as error:
            self.is_over(None)
            if self.heartbeat is None and not hides:
                raise
            by = "when its heartbeats stop" if self.heartbeat is not None else f"at {self.deadline}"
            said = error if isinstance(error, DayflyError) else type(error).__name__
            log.warning("the task %s could not be completed, and ends by itself %s: %s", self.id, by, said)

    async def delegate(
        self,
        agent: str | None,
        purpose: str,
        scope: Sequence[Access],
        ttl: Duration | None,
        heartbeat: Duration | None,
        key: str,
    ) -> dict[str, Any]:
        """Open a sub-task."""
        self.check_open()
        self.check_scope(scope)
        body = opening(purpose, scope, ttl, heartbeat)
        if agent is not None:
            body["agent"] = agent
        request = Request("POST", f"/v1/tasks/{self.id}/tasks", json=body, key=key)
        return checked(await self._ask(request))


def opening(
    purpose: str, scope: Sequence[Access], ttl: Duration | None, heartbeat: Duration | None
) -> dict[str, Any]:
    """Give what the openings of tasks and sub-tasks have in common."""
    if not isinstance(purpose, str) or not purpose.strip():
        raise InvalidRequest("say why: a purpose has 1 to 512 characters", pointer="/purpose")
    body: dict[str, Any] = {"purpose": purpose, "scope": [access.to_json() for access in scope]}
    if ttl is not None:
        body["ttl"] = wire_duration(ttl)
    if heartbeat is not None:
        body["heartbeat"] = wire_duration(heartbeat)
    return body


def checked(answer: Any) -> dict[str, Any]:
    """Read an answer as a task."""
    if not _is_task(answer):
        raise BrokerUnavailable("the broker's answer is no task: compare the versions", retryable=False)
    assert isinstance(answer, dict)  # noqa: S101 - for the type checker
    return answer


def _is_task(answer: Any) -> bool:
    try:
        scope_of(answer["scope"])
        _credential.instant(answer["deadline"])
        texts = [answer[name] for name in ("id", "agent", "purpose", "state")]
        return all(isinstance(each, str) for each in texts) and isinstance(
            answer.get("heartbeat"), int | None
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return False


def _completion(answer: Any) -> Completion:
    try:
        leases = tuple(
            EndedLease(each["id"], each["tool"], each["state"], each.get("proof"), each.get("receipt"))
            for each in answer["leases"]
        )
        return Completion(answer["task"].get("outcome", "completed"), leases, bool(answer["settled"]))
    except (AttributeError, LookupError, TypeError):
        problem = "the broker's answer is no completion of a task: compare the versions"
    raise BrokerUnavailable(problem, retryable=False)


def _part() -> float:
    """After which part of its life a credential is renewed: two thirds, a tenth more or less."""
    return 2 / 3 * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
