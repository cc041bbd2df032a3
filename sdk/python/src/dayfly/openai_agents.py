"""OpenAI Agents SDK (the package `agents`): a task for each run. Takes ``dayfly[openai-agents]``.

@function_tool
@broker.requires("crm:read", resource=lambda customer: f"customers/{customer}")
async def show(customer: int, credential: Credential) -> str: ...

run = await dayfly.openai_agents.run(broker, agent, "show me customer 42", purpose="answer a ticket", scope="crm:read")
print(run.final_output)
"""

from __future__ import annotations

import copy
import types
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agents import Agent, FunctionTool, Handoff, RunHooks, Runner

from ._access import Access
from ._core import Core, ambient, current
from ._errors import TaskEnded
from ._requires import narrowed_by
from ._task import HEARTBEAT, AsyncTask, Default, TaskContext, TaskHandle, _Held
from ._worker import wait_async, worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from concurrent.futures import Future

    from agents import RunResult

    from ._access import Duration, ScopeLike
    from ._broker import Broker

__all__ = ["Run", "TaskHooks", "bound", "needs_approval", "run"]


@dataclass(frozen=True)
class Run:
    """What came of a run."""

    result: RunResult
    task_id: str
    handle: TaskHandle | None
    """The suspended task of a run that waits for somebody; keep it beside ``result.to_state()``."""

    @property
    def final_output(self) -> Any:
        """What the agent said in the end."""
        return self.result.final_output


async def run(
    broker: Broker,
    agent: Agent[Any],
    input: Any,  # noqa: A002 - as the runner calls it
    *,
    purpose: str = "",
    scope: ScopeLike = (),
    parts: Mapping[str, ScopeLike] | None = None,
    handle: TaskHandle | str | None = None,
    on_behalf_of: str | None = None,
    ttl: Duration | None = None,
    heartbeat: Duration | Default | None = "default",
    hooks: RunHooks[Any] | None = None,
    **options: Any,
) -> Run:
    """Do ``Runner.run`` in a task of its own, which ends with the run, whatever becomes of it.

    Tools get credentials by ``@broker.requires`` of the same broker. When the run waits for approvals
    (``result.interruptions``) the task is suspended: go on with ``run(broker, agent, state, handle=run.handle)``.
    `parts` is as for :func:`bound`; `options` are those of ``Runner.run``; the rest is as for :meth:`dayfly.Broker.task`.
    Where the task is ended by somebody else, the run stops with :class:`~dayfly.TaskEnded`.
    """
    opened: TaskContext
    if handle is not None:
        opened = broker.resume(handle)
    else:
        opened = broker.task(purpose, scope, on_behalf_of=on_behalf_of, ttl=ttl, heartbeat=heartbeat)
    async with opened as task:
        try:
            result = await Runner.run(bound(agent, parts), input, hooks=TaskHooks(task, hooks), **options)
        except Exception as error:
            # The runner wraps what tools and hooks raise.
            if task.ended.is_set() and not isinstance(error, TaskEnded):
                raise TaskEnded(f"the task {task.id} was ended", outcome=task.outcome) from error
            raise
        waits = await task.suspend() if result.interruptions else None
    return Run(result, task.id, waits)


def bound(agent: Agent[Any], parts: Mapping[str, ScopeLike] | None = None) -> Agent[Any]:
    """Give a copy of an agent whose sub-agents get a part of the task around the run, or nothing.

    An agent that is handed to, or that is a tool of another, gets the part that `parts` has for its name: a sub-task of
    that scope. For an agent that is not named there is no task. For ``Runner.run_streamed`` and runs in a task of one's
    own: ``async with broker.task(…): Runner.run_streamed(bound(agent), …)``.
    """
    return _Bound(parts or {}).agent(agent, first=True)


class _Bound:
    def __init__(self, parts: Mapping[str, ScopeLike]) -> None:
        self._parts = parts
        self._made: dict[int, Agent[Any]] = {}

    def agent(self, agent: Agent[Any], *, first: bool = False) -> Agent[Any]:
        if getattr(agent, "_dayfly", False):
            return agent
        if id(agent) in self._made:
            return self._made[id(agent)]
        made = self._made[id(agent)] = replace(agent)
        made._dayfly = True
        made.tools = [self._tool(tool, None if first else agent.name) for tool in agent.tools]
        made.handoffs = [self._handoff(each) for each in agent.handoffs]
        return made

    def _inner(self, agent: Agent[Any]) -> Agent[Any]:
        """Give the copy of an agent that is a tool: its own tools are in the block of its part, and need no other."""
        return _Bound(self._parts).agent(agent, first=True)

    def _handoff(self, target: Any) -> Any:
        if isinstance(target, Agent):
            return self.agent(target)
        if not isinstance(target, Handoff):
            return target
        original = target.on_invoke_handoff

        async def invoke(context: Any, arguments: str) -> Any:
            received = await original(context, arguments)
            return self.agent(received) if isinstance(received, Agent) else received

        made = copy.copy(target)
        made.on_invoke_handoff = invoke
        return made

    def _tool(self, tool: Any, owner: str | None) -> Any:
        """Wrap a tool that is an agent, or that belongs to an agent which is not the first."""
        if not isinstance(tool, FunctionTool):
            return tool
        inner = getattr(tool, "_agent_instance", None) if getattr(tool, "_is_agent_tool", False) else None
        if inner is None and owner is None:
            return tool
        original = tool.on_invoke_tool
        part: Callable[..., Awaitable[Any]] | None = None

        async def invoke(context: Any, arguments: str) -> Any:
            nonlocal part
            above = ambient()
            mine = above if owner is None or above is None else await self._part(above, owner)
            if inner is None:
                return await _within(mine, original, context, arguments)
            scope = self._parts.get(inner.name)
            if mine is None or scope is None:
                return await _within(None, original, context, arguments)
            part = part or _running(original, inner, self._inner(inner))
            if part is None:
                return await _within(None, original, context, arguments)
            async with AsyncTask(mine).delegate(purpose=f"{mine.purpose}: {inner.name}"[:512], scope=scope):
                return await part(context, arguments)

        made = copy.copy(tool)
        made.on_invoke_tool = invoke
        return made

    async def _part(self, above: Core, name: str) -> Core | None:
        """Give the part of an agent that was handed to: one for the whole run, and another where that one is gone."""
        scope = self._parts.get(name)
        if scope is None:
            return None
        held = _handed.setdefault(above, {})
        opening = held.get(name)
        if opening is None or _is_gone(opening):
            part = _Held(above)._delegation(f"{above.purpose}: {name}"[:512], scope, None, HEARTBEAT)
            opening = held[name] = worker().submit(part._begin())
        return await wait_async(opening)


def _running(invoke: Any, agent: Agent[Any], instead: Agent[Any]) -> Callable[..., Awaitable[Any]] | None:
    """Give what ``agent.as_tool`` made, for another agent; nothing where it is not made as it is known here.

    It runs the agent that it was made of, and takes no other. Whoever is a tool of that one would find its part around
    itself: the copy keeps it from them.
    """
    made = copy.copy(invoke)
    body = getattr(made, "_invoke_tool_impl", None)
    if not isinstance(body, types.FunctionType):
        return None
    cells = dict(zip(body.__code__.co_freevars, body.__closure__ or (), strict=False))
    if "self" not in cells or cells["self"].cell_contents is not agent:
        return None
    cells["self"] = types.CellType(instead)
    own = types.FunctionType(
        body.__code__, body.__globals__, body.__name__, body.__defaults__, tuple(cells.values())
    )
    own.__kwdefaults__ = body.__kwdefaults__
    own.__dict__.update(body.__dict__)
    made._invoke_tool_impl = own
    return made  # type: ignore[no-any-return]


def _is_gone(opening: Future[Core]) -> bool:
    """Whether it never opened, or is over; what somebody revoked is not opened again."""
    if not opening.done():
        return False
    if opening.cancelled() or opening.exception() is not None:
        return True
    core = opening.result()
    return core.state != "open" and core.outcome != "revoked"


_handed: weakref.WeakKeyDictionary[Core, dict[str, Future[Core]]] = weakref.WeakKeyDictionary()


async def _within(
    core: Core | None, call: Callable[..., Awaitable[Any]], context: Any, arguments: str
) -> Any:
    token = current.set(core)
    try:
        return await call(context, arguments)
    finally:
        current.reset(token)


def needs_approval(
    broker: Broker,
    access: str | Access,
    *,
    resource: str | Iterable[str] | Callable[..., str | Iterable[str]] | None = None,
) -> Callable[[Any, dict[str, Any], str], Awaitable[bool]]:
    """Give the ``needs_approval`` of a function tool that asks policy: ``function_tool(needs_approval=needs_approval(…))``.

    The run is interrupted before the tool is called where policy demands an approval. `access` and `resource` are as
    for ``@broker.requires``; a function is given the arguments of the call. What somebody approves in the run is no
    approval for the broker, which decides when the credential is asked for.
    """
    wanted = Access.of(access)

    async def ask(_context: Any, arguments: dict[str, Any], _call_id: str) -> bool:
        core = ambient()
        purpose = core.purpose if core is not None else "call a tool"
        asked = narrowed_by(wanted, resource, arguments)
        (verdict,) = await broker.adecide(
            purpose, asked, on_behalf_of=core.on_behalf_of if core is not None else None
        )
        return verdict.approval is not None

    return ask


class TaskHooks(RunHooks[Any]):
    """Stops a run whose task was ended by somebody else, before the next call of the model or of a tool.

    `inner` are hooks of your own, which are called as well.
    """

    def __init__(self, task: AsyncTask, inner: RunHooks[Any] | None = None) -> None:
        self._core = task._core
        self._inner: RunHooks[Any] = inner or RunHooks()

    async def on_llm_start(self, *args: Any, **more: Any) -> None:
        """Stop, or go on."""
        self._core.check_open()
        await self._inner.on_llm_start(*args, **more)

    async def on_tool_start(self, *args: Any, **more: Any) -> None:
        """Stop, or go on."""
        self._core.check_open()
        await self._inner.on_tool_start(*args, **more)

    async def on_llm_end(self, *args: Any, **more: Any) -> None:
        """Tell the hooks of your own."""
        await self._inner.on_llm_end(*args, **more)

    async def on_tool_end(self, *args: Any, **more: Any) -> None:
        """Tell the hooks of your own."""
        await self._inner.on_tool_end(*args, **more)

    async def on_agent_start(self, *args: Any, **more: Any) -> None:
        """Tell the hooks of your own."""
        await self._inner.on_agent_start(*args, **more)

    async def on_agent_end(self, *args: Any, **more: Any) -> None:
        """Tell the hooks of your own."""
        await self._inner.on_agent_end(*args, **more)

    async def on_handoff(self, *args: Any, **more: Any) -> None:
        """Tell the hooks of your own."""
        await self._inner.on_handoff(*args, **more)
