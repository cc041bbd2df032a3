"""Tasks as callers hold them: `Task` for threads, `AsyncTask` for coroutines, and the block that opens and ends one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import anyio

from ._access import Access, AccessLike, Duration, ScopeLike, access_of, scope_of
from ._auth import AsyncTokens, Auth, SyncTokens
from ._core import Completion, Core, Outcome, current
from ._credential import instant
from ._ended import AsyncEnded, Ended
from ._errors import InvalidRequest
from ._transport import new_key
from ._worker import wait, wait_async, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from concurrent.futures import Future
    from contextvars import Token
    from datetime import datetime
    from types import TracebackType

    from ._credential import Credential

HEARTBEAT = 30
"""Seconds without a sign of life after which the broker ends a task, unless the caller says otherwise."""

Default = Literal["default"]


@dataclass(frozen=True)
class TaskHandle:
    """A suspended task, to be resumed later, by this process or another. It holds no secret.

    Resuming takes the evidence of the same agent.
    """

    broker: str
    task: str

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps({"v": 1, "broker": self.broker, "task": self.task})

    @classmethod
    def from_json(cls, text: str | bytes) -> TaskHandle:
        """Read it. Raises :class:`~dayfly.InvalidRequest` for what is no handle."""
        try:
            members = json.loads(text)
            if members["v"] == 1 and isinstance(members["broker"], str) and isinstance(members["task"], str):
                return cls(members["broker"], members["task"])
        except (ValueError, KeyError, TypeError):
            pass
        raise InvalidRequest("this is no handle of a task, or one of a later version")


@dataclass(frozen=True)
class Handover:
    """A sub-task that another agent is to work on. Tell it the `task_id`: it calls ``broker.join(task_id)``."""

    task_id: str
    agent: str
    deadline: datetime
    broker: str

    def env(self) -> dict[str, str]:
        """Give the variables by which ``Broker().join()`` in a child process finds the task. They hold no secret."""
        return {"DAYFLY_BROKER": self.broker, "DAYFLY_TASK": self.task_id}


class _Held:
    """What both kinds of tasks have in common."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def id(self) -> str:
        """Names it at the broker, such as ``tsk_…``."""
        return self._core.id

    @property
    def purpose(self) -> str:
        """Why it exists."""
        return self._core.purpose

    @property
    def agent(self) -> str:
        """Whose it is: this agent's name in the registry."""
        return self._core.agent

    @property
    def scope(self) -> tuple[Access, ...]:
        """What it may ask for at most."""
        return self._core.scope

    @property
    def deadline(self) -> datetime:
        """When it ends at the latest (UTC)."""
        return self._core.deadline

    @property
    def state(self) -> str:
        """``open``, ``suspended`` or ``ended``, as far as this process knows."""
        return "open" if self._core.state == "leaving" else self._core.state

    @property
    def outcome(self) -> str | None:
        """How it ended, where that is known."""
        return self._core.outcome

    @property
    def completion(self) -> Completion | None:
        """What became of its leases, once it was completed here."""
        return self._core.completion

    @property
    def handle(self) -> TaskHandle:
        """What to keep of it while it is suspended."""
        return TaskHandle(self._core.transport.address, self._core.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, purpose={self.purpose!r}, state={self.state!r})"

    def _asked(
        self, tool: AccessLike, actions: str | Iterable[str] | None, resources: str | Iterable[str]
    ) -> Access:
        access = access_of(tool, actions, resources)
        self._core.check_open()
        self._core.check_scope((access,))
        return access

    def _delegation(
        self, purpose: str, scope: ScopeLike, ttl: Duration | None, heartbeat: Duration | None
    ) -> TaskContext:
        accesses, key = scope_of(scope), new_key()
        self._core.check_scope(accesses)

        async def begin() -> Core:
            answer = await self._core.delegate(None, purpose, accesses, ttl, heartbeat, key)
            return Core(self._core.transport, answer)

        return TaskContext(begin)

    async def _handover(
        self, agent: str, purpose: str, scope: ScopeLike, ttl: Duration | None, heartbeat: Duration | None
    ) -> Handover:
        answer = await self._core.delegate(agent, purpose, scope_of(scope), ttl, heartbeat, new_key())
        return Handover(
            answer["id"], answer["agent"], instant(answer["deadline"]), self._core.transport.address
        )


class Task(_Held):
    """An open task, for threads."""

    @property
    def ended(self) -> Ended:
        """Is set once the task is over, whoever ended it, so that an agent can stop."""
        return Ended(self._core.ended)

    def credential(
        self,
        tool: AccessLike,
        actions: str | Iterable[str] | None = None,
        resources: str | Iterable[str] = (),
        *,
        ttl: Duration | None = None,
        cache: bool = True,
    ) -> Credential:
        """Give a credential for a tool: ``credential("crm:read@customers/42")``, or its members one by one.

        It is kept in memory, given again while it is good, and renewed behind the caller's back from two thirds of
        its life on. With ``cache=False`` it is a new one that is not kept. `ttl` is the life to ask for when one is
        minted; the broker may give less. Raises what the broker says (:class:`~dayfly.Denied`,
        :class:`~dayfly.ApprovalPending`, :class:`~dayfly.TaskEnded` …), and :class:`~dayfly.ScopeWidening` without
        asking.
        """
        access = self._asked(tool, actions, resources)
        kept = self._core.cached(access) if cache else None
        if kept is not None:
            return kept
        return wait(worker().submit(self._core.credential(access, ttl, cache=cache)))

    def auth(
        self,
        tool: AccessLike,
        actions: str | Iterable[str] | None = None,
        resources: str | Iterable[str] = (),
        *,
        origins: Iterable[str] | None = None,
    ) -> Auth:
        """Give an ``httpx.Auth`` that puts a token on each request, minted anew once when the tool answers 401.

        The token goes only to the origins that the broker registers the tool with, and to none after a redirect
        elsewhere; the first request to another raises :class:`~dayfly.OriginRefused`. `origins` narrows them, and
        names them where the broker has none.
        """
        return Auth(SyncTokens(self._core), self._asked(tool, actions, resources), origins)

    def suspend(self) -> TaskHandle:
        """End what is live and stop the heartbeats, until ``broker.resume(handle)``."""
        wait(worker().submit(self._core.suspend()))
        return self.handle

    @overload
    def delegate(
        self,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> TaskContext: ...

    @overload
    def delegate(
        self,
        agent: str,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> Handover: ...

    def delegate(
        self,
        agent: str | None = None,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> TaskContext | Handover:
        """Open a sub-task, which can only narrow, and ends with this one.

        Without an agent it is one's own, a block like ``broker.task``. With one it is that agent's, which joins it by
        its id; it has no heartbeat then unless you say one. Raises :class:`~dayfly.ScopeWidening` without asking.
        """
        if agent is None:
            return self._delegation(purpose, scope, ttl, _or(heartbeat, HEARTBEAT))
        return wait(worker().submit(self._handover(agent, purpose, scope, ttl, _or(heartbeat, None))))

    def complete(self, outcome: Outcome = "completed") -> Completion:
        """End it now, and wait up to 5 seconds for the proofs. The end of its block does it otherwise."""
        return wait(worker().submit(self._core.complete(outcome), last=True))


class AsyncTask(_Held):
    """An open task, for coroutines of asyncio and trio."""

    @property
    def ended(self) -> AsyncEnded:
        """Is set once the task is over, whoever ended it, so that an agent can stop."""
        return AsyncEnded(self._core.ended)

    async def credential(
        self,
        tool: AccessLike,
        actions: str | Iterable[str] | None = None,
        resources: str | Iterable[str] = (),
        *,
        ttl: Duration | None = None,
        cache: bool = True,
    ) -> Credential:
        """Give a credential for a tool; see :meth:`Task.credential`."""
        access = self._asked(tool, actions, resources)
        kept = self._core.cached(access) if cache else None
        if kept is not None:
            return kept
        return await wait_async(worker().submit(self._core.credential(access, ttl, cache=cache)))

    def auth(
        self,
        tool: AccessLike,
        actions: str | Iterable[str] | None = None,
        resources: str | Iterable[str] = (),
        *,
        origins: Iterable[str] | None = None,
    ) -> Auth:
        """Give an ``httpx.Auth``; see :meth:`Task.auth`."""
        return Auth(AsyncTokens(self._core), self._asked(tool, actions, resources), origins)

    async def suspend(self) -> TaskHandle:
        """End what is live and stop the heartbeats, until ``broker.resume(handle)``."""
        await wait_async(worker().submit(self._core.suspend()))
        return self.handle

    @overload
    def delegate(
        self,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> TaskContext: ...

    @overload
    def delegate(
        self,
        agent: str,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> Coroutine[Any, Any, Handover]: ...

    def delegate(
        self,
        agent: str | None = None,
        *,
        purpose: str,
        scope: ScopeLike,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> TaskContext | Coroutine[Any, Any, Handover]:
        """Open a sub-task; see :meth:`Task.delegate`. Without an agent it is a block, with one it is awaited."""
        if agent is None:
            return self._delegation(purpose, scope, ttl, _or(heartbeat, HEARTBEAT))
        return wait_async(worker().submit(self._handover(agent, purpose, scope, ttl, _or(heartbeat, None))))

    async def complete(self, outcome: Outcome = "completed") -> Completion:
        """End it now, and wait up to 5 seconds for the proofs. The end of its block does it otherwise."""
        return await wait_async(worker().submit(self._core.complete(outcome), last=True))


class TaskContext:
    """A task that is opened by ``with`` or ``async with``, and ends with the block.

    It ends as ``completed``; with an exception as ``failed``; when it is cancelled or interrupted as ``cancelled``.
    The end waits up to 5 seconds for the proofs, and never hides the exception of the block. Where the broker cannot
    be told, a task without heartbeats would stay open to its deadline: that is raised where the block raised nothing.
    A task that was suspended in the block stays so.
    """

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, Core]]) -> None:
        self._begin = begin
        self._used = False
        self._core: Core | None = None
        self._token: Token[Any] | None = None

    def open(self) -> Task:
        """Open it without a block. Complete it yourself."""
        future = self._opening()
        try:
            return Task(wait(future))
        except BaseException:
            future.add_done_callback(self._abandon)
            raise

    async def aopen(self) -> AsyncTask:
        """Open it without a block. Complete it yourself."""
        future = self._opening()
        try:
            return AsyncTask(await wait_async(future))
        except BaseException:
            future.add_done_callback(self._abandon)
            raise

    def _opening(self) -> Future[Core]:
        # Its idempotency key stands for one task, so a second opening would be given the first, or what became of it.
        if self._used:
            raise RuntimeError("this task was opened already: call `broker.task(…)` for another")
        self._used = True
        return worker().submit(self._begin(), last=True)

    def _abandon(self, opening: Future[Core]) -> None:
        """End a task that whoever wanted it was interrupted before it was open. One that failed may be tried again."""
        if opening.exception() is None:
            worker().submit(opening.result().leave("cancelled"), last=True)
        else:
            self._used = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            there = hasattr(AsyncTask, name) and not name.startswith("_")
            hint = ": a task is open within its block, `with broker.task(…) as task`" if there else ""
            raise AttributeError(f"a TaskContext has no `{name}`{hint}")

    def _enter(self, core: Core) -> None:
        self._core = core
        self._token = current.set(core)

    def _exit(self, error: BaseException | None) -> tuple[Core, Outcome]:
        core, token = self._core, self._token
        self._core = self._token = None
        if core is None:
            raise RuntimeError("the block was not entered")
        if token is not None:
            try:
                current.reset(token)
            except ValueError:
                current.set(None)  # entered in another context, as generators of test frameworks do it
        return core, outcome_of(error)

    def __enter__(self) -> Task:
        task = self.open()
        self._enter(task._core)
        return task

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, outcome = self._exit(error)
        wait(worker().submit(core.leave(outcome, hides=error is not None), last=True))

    async def __aenter__(self) -> AsyncTask:
        task = await self.aopen()
        self._enter(task._core)
        return task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, outcome = self._exit(error)
        future = worker().submit(core.leave(outcome, hides=error is not None), last=True)
        # A scope of anyio or trio that was cancelled would not let anything here be awaited.
        with anyio.CancelScope(shield=True):
            await wait_async(future)


def outcome_of(error: BaseException | None) -> Outcome:
    """Say how a block ended, by the exception that left it."""
    if error is None or (isinstance(error, SystemExit) and error.code in (0, None)):
        return "completed"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "failed" if isinstance(error, Exception | SystemExit) else "cancelled"


def _or(heartbeat: Duration | Default | None, default: Duration | None) -> Duration | None:
    return default if heartbeat == "default" else heartbeat
