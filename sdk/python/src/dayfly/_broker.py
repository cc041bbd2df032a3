"""The broker as an agent sees it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._access import Access, Duration, ScopeLike, scope_of
from ._core import Core, checked, opening
from ._errors import BrokerUnavailable, DayflyError, InvalidRequest
from ._requires import requires
from ._secret import Secret
from ._task import HEARTBEAT, Default, TaskContext, TaskHandle, _or
from ._transport import Request, Transport, new_key
from ._worker import wait, wait_async, worker
from .evidence import EvidenceLike, source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

R = TypeVar("R")

DEFAULT_ADDRESS = "http://127.0.0.1:8440"


@dataclass(frozen=True)
class Verdict:
    """What policy would say to one access."""

    access: Access
    permitted: bool
    reason: str | None
    """Why nothing would be granted."""
    approval: str | None
    """The role that would have to approve."""
    granted: int | None
    """The life that would be granted, in seconds."""
    decision: str
    """The record of it."""


class Broker:
    """A Dayfly broker, for this agent.

    `address` is the argument, or ``DAYFLY_BROKER``, or ``http://127.0.0.1:8440``. `evidence` is a source, the path
    of a file or a function (see :mod:`dayfly.evidence`); without it, it is found. `verify` is an ``ssl.SSLContext`` or
    the path of a file with certificates to trust in place of the usual ones. Evidence goes over plain HTTP to
    loopback only, unless `allow_plain_http` is true, and never after a redirect.

    One broker serves threads and coroutines alike, for as long as the process lives: ``with broker.task(…)`` or
    ``async with broker.task(…)``. Nothing is asked before the first call.
    """

    def __init__(
        self,
        address: str | None = None,
        evidence: EvidenceLike | None = None,
        *,
        verify: ssl.SSLContext | str | os.PathLike[str] | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        written = (address or os.environ.get("DAYFLY_BROKER") or DEFAULT_ADDRESS).rstrip("/")
        context = verify if isinstance(verify, ssl.SSLContext) or verify is None else _trusting(verify)
        self._transport = Transport(
            written, source_of(evidence, written), verify=context, plain_http=allow_plain_http
        )

    @property
    def address(self) -> str:
        """Where it is, without a slash at the end."""
        return self._transport.address

    def task(
        self,
        purpose: str,
        scope: ScopeLike,
        *,
        on_behalf_of: str | None = None,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> TaskContext:
        """Open a task for a block: ``with broker.task("answer ticket 4711", "crm:read@customers/42") as task``.

        `scope` is the most that the task may ask for, and gives nothing by itself. `on_behalf_of` is the stable id of a
        user. `ttl` is its longest life, the broker's default without. `heartbeat` is how long the broker waits for a
        sign of life before it ends the task, 30 seconds by default; the signs are given in the background. ``None``
        takes the broker's default.
        """
        accesses, key = scope_of(scope), new_key()
        body = opening(purpose, accesses, ttl, _or(heartbeat, HEARTBEAT))
        if on_behalf_of is not None:
            body["on_behalf_of"] = on_behalf_of
        return self._begin(Request("POST", "/v1/tasks", json=body, key=key))

    def resume(self, handle: TaskHandle | str) -> TaskContext:
        """Open a suspended task again, here or in another process: a block like ``broker.task``.

        Takes the handle or its JSON. Raises :class:`~dayfly.InvalidRequest` for a handle of another broker.
        """
        handle = TaskHandle.from_json(handle) if isinstance(handle, str) else handle
        if handle.broker != self.address:
            raise InvalidRequest(f"the task is at {handle.broker!r}, and this broker is {self.address!r}")
        path = f"/v1/tasks/{_id(handle.task)}"
        return self._begin(Request("POST", path + "/resume"), Request("GET", path))

    def join(self, task_id: str | None = None) -> TaskContext:
        """Work on a task that another agent handed on to this one: a block like ``broker.task``.

        Without an id it is the one that ``DAYFLY_TASK`` names.
        """
        named = task_id or os.environ.get("DAYFLY_TASK")
        if not named:
            raise InvalidRequest("name the task to join, or set DAYFLY_TASK")
        return self._begin(Request("GET", f"/v1/tasks/{_id(named)}"))

    def _begin(self, request: Request, otherwise: Request | None = None) -> TaskContext:
        """Open a task by a request. Where it is not open, `otherwise` says how it stands."""
        transport = self._transport

        async def begin() -> Core:
            try:
                answer = await transport.call(request)
            except DayflyError as error:
                if error.slug != "task-not-open" or otherwise is None:
                    raise
                answer = await transport.call(otherwise)
            core = Core(transport, checked(answer))
            core.check_open()
            return core

        return TaskContext(begin)

    def decide(
        self,
        purpose: str,
        scope: ScopeLike,
        *,
        on_behalf_of: str | None = None,
        ttl: Duration | None = None,
    ) -> list[Verdict]:
        """Ask what would be permitted, in the order of the scope. Nothing is issued; the question is on record."""
        return wait(worker().submit(ask_decisions(self._transport, purpose, scope, on_behalf_of, ttl)))

    async def adecide(
        self,
        purpose: str,
        scope: ScopeLike,
        *,
        on_behalf_of: str | None = None,
        ttl: Duration | None = None,
    ) -> list[Verdict]:
        """Ask what would be permitted; see :meth:`decide`."""
        return await wait_async(
            worker().submit(ask_decisions(self._transport, purpose, scope, on_behalf_of, ttl))
        )

    def revoke_token(self, token: Secret | str) -> None:
        """End a token of this agent before its expiry (RFC 7009). One that has ended already is no error."""
        wait(worker().submit(self._revoke_token(_secret(token))))

    async def arevoke_token(self, token: Secret | str) -> None:
        """End a token before its expiry; see :meth:`revoke_token`."""
        await wait_async(worker().submit(self._revoke_token(_secret(token))))

    async def _revoke_token(self, token: Secret) -> None:
        await self._transport.call(Request("POST", "/oauth2/revoke", form={"token": token}))

    def requires(
        self,
        access: str | Access,
        *,
        into: str = "credential",
        resource: str | Iterable[str] | Callable[..., str | Iterable[str]] | None = None,
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Give a function a credential of the task around it, as the argument `into`: ``@broker.requires("crm:read")``.

        The argument is gone from the function's signature and annotations, so that no schema that is made of them shows
        it. `resource` is a path, several, or a function of the call's arguments (by name) that gives them. Works for
        functions and coroutine functions. Outside of the block of a task the call raises
        :class:`~dayfly.InvalidRequest`.
        """
        return requires(self._transport, access, into, resource)

    def close(self) -> None:
        """Close the connections. It can still be used, and opens new ones."""
        wait(worker().submit(self._transport.close()))

    async def aclose(self) -> None:
        """Close the connections; see :meth:`close`."""
        await wait_async(worker().submit(self._transport.close()))

    def __repr__(self) -> str:
        return f"Broker({self.address!r}, evidence={self._transport.evidence!r})"


async def ask_decisions(
    transport: Transport, purpose: str, scope: ScopeLike, on_behalf_of: str | None, ttl: Duration | None
) -> list[Verdict]:
    """Ask what would be permitted."""
    body: dict[str, Any] = opening(purpose, scope_of(scope), ttl, None)
    if on_behalf_of is not None:
        body["on_behalf_of"] = on_behalf_of
    verdicts = _verdicts(await transport.call(Request("POST", "/v1/decisions", json=body)))
    if verdicts is None:
        raise BrokerUnavailable("the broker's answer is no verdict: compare the versions", retryable=False)
    return verdicts


def _verdicts(answer: Any) -> list[Verdict] | None:
    try:
        return [_verdict(each) for each in answer["verdicts"]]
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _verdict(each: Any) -> Verdict:
    return Verdict(
        Access.of(each["access"]),
        bool(each["permitted"]),
        each.get("reason"),
        each.get("approval"),
        each.get("granted"),
        each["decision"],
    )


def _trusting(path: str | os.PathLike[str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(Path(path)))


def _secret(token: Secret | str) -> Secret:
    return token if isinstance(token, Secret) else Secret(token)


def _id(given: str) -> str:
    if not given.replace("_", "").isalnum() or not given.isascii():
        raise InvalidRequest("this is no id of a task, such as `tsk_…`")
    return given
