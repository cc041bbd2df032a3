"""LangChain agents (`langchain.agents.create_agent`, LangGraph below it): a task for each run. Takes ``dayfly[langchain]``.

    @broker.requires("crm:read", resource=lambda customer: f"customers/{customer}")
    def show(customer: int, credential: Credential) -> str: ...

    agent = create_agent(model, tools=[show], middleware=[DayflyMiddleware(broker, "answer tickets", "crm:read")])

What is kept in the agent's state, and written down by a checkpointer, is the handle of the task, which is no secret.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Command, interrupt
from typing_extensions import NotRequired

from ._core import Core, Outcome, current
from ._errors import ApprovalPending, NotFound, TaskEnded
from ._task import HEARTBEAT, Default, Task, TaskContext, TaskHandle, _or, outcome_of
from ._worker import wait, wait_async, worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain.agents.middleware import ModelRequest, ModelResponse, ToolCallRequest
    from langgraph.runtime import Runtime

    from ._access import Duration, ScopeLike
    from ._broker import Broker

__all__ = ["DayflyMiddleware", "DayflyState"]


class DayflyState(AgentState[Any]):
    """What the middleware keeps in the state of an agent."""

    dayfly_task: NotRequired[Annotated[Any, UntrackedValue, PrivateStateAttr]]
    """The open task. It lives and dies with the run, and is never written down."""
    dayfly_handle: NotRequired[Annotated[str, PrivateStateAttr]]
    """The handle of a task that has not ended, by which a later run goes on with it."""


class _Binding:
    """The task of one tool call: for the tool itself, and not for what another agent does inside of it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._call = _step()

    def __call__(self) -> Core | None:
        return self.core if _step() == self._call else None


def _step() -> Any:
    """Say which step of which graph this is."""
    config: Any = var_child_runnable_config.get() or {}
    return config.get("configurable", {}).get("__pregel_task_id")


class DayflyMiddleware(AgentMiddleware[DayflyState, Any, Any]):
    """Opens a task before an agent runs, gives it to its tools, and ends it when the run ends. Put it first.

    `purpose` is a text, or a function of the agent's state that gives one; the rest is as for
    :meth:`dayfly.Broker.task`. Tools get credentials by ``@broker.requires`` of the same broker.

    - A run that raises in a model or a tool ends the task as ``failed``, one that is cancelled as ``cancelled``. A run
      that ends in another way loses its heartbeats, and the broker ends the task.
    - Where policy demands an approval the run is interrupted (`langgraph.types.interrupt`) with a mapping that says
      ``dayfly: "approval"``, ``approval`` (by whom), ``reason``, ``decision``, ``tool`` and ``call`` (its id), and the
      task is suspended. ``Command(resume=True)`` tries again; ``Command(resume=False)`` answers the model that it was
      refused, and the tool is not called again, whatever policy says by then.
    - An agent inside of a tool of another gets a part of that one's task where it has this middleware, and nothing
      where it has not.
    """

    state_schema = DayflyState

    def __init__(
        self,
        broker: Broker,
        purpose: str | Callable[[Any], str],
        scope: ScopeLike,
        *,
        on_behalf_of: str | None = None,
        ttl: Duration | None = None,
        heartbeat: Duration | Default | None = "default",
    ) -> None:
        super().__init__()
        self._broker = broker
        self._purpose = purpose
        self._scope = scope
        self._on_behalf_of = on_behalf_of
        self._ttl = ttl
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._resumed: weakref.WeakValueDictionary[str, Core] = weakref.WeakValueDictionary()
        self._calls: dict[str, int] = {}
        self._to_suspend: set[str] = set()

    # A run begins.

    def _begin(self, state: Any) -> TaskContext:
        purpose = self._purpose if isinstance(self._purpose, str) else self._purpose(state)
        held = current.get()
        above = held.core if isinstance(held, _Binding) else held() if callable(held) else held
        if above is not None and above.transport is self._broker._transport:
            return Task(above)._delegation(purpose, self._scope, self._ttl, _or(self._heartbeat, HEARTBEAT))
        return self._broker.task(
            purpose, self._scope, on_behalf_of=self._on_behalf_of, ttl=self._ttl, heartbeat=self._heartbeat
        )

    @staticmethod
    def _kept(core: Core) -> dict[str, Any]:
        return {"dayfly_task": core, "dayfly_handle": Task(core).handle.to_json()}

    def before_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the task."""
        self._drop(state)
        return self._kept(self._begin(state).open()._core)

    async def abefore_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the task."""
        self._drop(state)
        return self._kept((await self._begin(state).aopen())._core)

    def _drop(self, state: Any) -> None:
        """End what an earlier run was waiting with, now that there is a new one in its place."""
        if handle := state.get("dayfly_handle"):
            worker().submit(self._call_off(handle), last=True)

    async def _call_off(self, handle: str) -> None:
        core = await self._broker.resume(handle)._begin()
        await core.leave("cancelled")

    # It goes on, perhaps in another process.

    def _there(self, state: Any) -> Core | None:
        core: Core | None = state.get("dayfly_task")
        if core is None:
            handle = state.get("dayfly_handle")
            core = self._resumed.get(TaskHandle.from_json(handle).task) if handle else None
        return core if core is not None and core.state == "open" else None

    async def _again(self, state: Any) -> Core:
        """Resume the task of the state; where it was lost meanwhile, open another."""
        try:
            core = await self._broker.resume(state["dayfly_handle"])._begin()
        except TaskEnded as ended:
            if ended.outcome != "lost":
                raise
            core = await self._begin(state)._begin()
        with self._lock:
            self._resumed[TaskHandle.from_json(state["dayfly_handle"]).task] = core
        return core

    def _core(self, state: Any) -> Core:
        there = self._there(state)
        return there if there is not None else wait(worker().submit(self._again(state)))

    async def _acore(self, state: Any) -> Core:
        there = self._there(state)
        return there if there is not None else await wait_async(worker().submit(self._again(state)))

    def before_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Hold the task for the rest of the run."""
        return None if state.get("dayfly_task") is not None else self._kept(self._core(state))

    async def abefore_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Hold the task for the rest of the run."""
        return None if state.get("dayfly_task") is not None else self._kept(await self._acore(state))

    # It ends.

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Complete the task."""
        _leave(self._core(state), "completed", hides=False)
        return {"dayfly_task": None, "dayfly_handle": ""}

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        """Complete the task."""
        await _aleave(await self._acore(state), "completed", hides=False)
        return {"dayfly_task": None, "dayfly_handle": ""}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> Any:
        """End the task where the model fails."""
        try:
            return handler(request)
        except GraphBubbleUp:
            raise
        except BaseException as error:
            if (core := self._there(request.state)) is not None:
                _leave(core, outcome_of(error))
            raise

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> Any:
        """End the task where the model fails."""
        try:
            return await handler(request)
        except GraphBubbleUp:
            raise
        except BaseException as error:
            if (core := self._there(request.state)) is not None:
                await _aleave(core, outcome_of(error))
            raise

    # A tool is called.

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Give the task to the tool."""
        asked = _asked(request) if _may_be_refused() else None
        if asked is not None:
            return _refusal(request, asked)
        while True:
            core = self._core(request.state)
            self._enter(core)
            try:
                with _bound(core):
                    return handler(request)
            except ApprovalPending as found:
                pending = found
                self._suspend_after(core)
            except GraphInterrupt:
                self._suspend_after(core)
                raise
            except GraphBubbleUp:
                raise
            except BaseException as error:
                _leave(core, outcome_of(error))
                raise
            finally:
                if self._is_last(core):
                    wait(worker().submit(_suspend(core)))
            question = _question(request, pending)
            if interrupt(question) is False:
                return _refusal(request, question)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Give the task to the tool."""
        asked = await _aasked(request) if _may_be_refused() else None
        if asked is not None:
            return _refusal(request, asked)
        while True:
            core = await self._acore(request.state)
            self._enter(core)
            try:
                with _bound(core):
                    return await handler(request)
            except ApprovalPending as found:
                pending = found
                self._suspend_after(core)
            except GraphInterrupt:
                self._suspend_after(core)
                raise
            except GraphBubbleUp:
                raise
            except BaseException as error:
                await _aleave(core, outcome_of(error))
                raise
            finally:
                if self._is_last(core):
                    await wait_async(worker().submit(_suspend(core)))
            question = _question(request, pending)
            if interrupt(question) is False:
                return _refusal(request, question)

    # Other tools of the same step may be at work still: the last one that is done suspends.

    def _enter(self, core: Core) -> None:
        with self._lock:
            self._calls[core.id] = self._calls.get(core.id, 0) + 1

    def _suspend_after(self, core: Core) -> None:
        with self._lock:
            self._to_suspend.add(core.id)

    def _is_last(self, core: Core) -> bool:
        with self._lock:
            self._calls[core.id] -= 1
            if self._calls[core.id]:
                return False
            del self._calls[core.id]
            wanted = core.id in self._to_suspend
            self._to_suspend.discard(core.id)
            return wanted


class _bound:  # noqa: N801 - a block
    def __init__(self, core: Core) -> None:
        self._binding = _Binding(core)

    def __enter__(self) -> None:
        self._token = current.set(self._binding)

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)


def _question(request: ToolCallRequest, pending: ApprovalPending) -> dict[str, Any]:
    return {
        "dayfly": "approval",
        "approval": pending.approval,
        "reason": pending.reason,
        "decision": pending.decision,
        "tool": request.tool_call["name"],
        "call": request.tool_call["id"],
    }


# A step that was interrupted begins from its top. Where somebody said no, the tool must not be called to find out what
# the question was: policy may permit it by now. What was asked is in the checkpoint.


def _may_be_refused() -> bool:
    """Whether a question of this step was answered with a no, whoever asked it."""
    pad = _answers()
    return pad is not None and any(each is False for each in (*pad.resume, pad.get_null_resume(False)))


def _answers() -> Any:
    config: Any = var_child_runnable_config.get() or {}
    return config.get("configurable", {}).get("__pregel_scratchpad")


def _asked(request: ToolCallRequest) -> dict[str, Any] | None:
    """Give what was asked last, where we asked it, for this call, and the answer was a no."""
    saver, config = _checkpoint()
    return _refused(request, saver.get_tuple(config)) if saver is not None else None


async def _aasked(request: ToolCallRequest) -> dict[str, Any] | None:
    saver, config = _checkpoint()
    return _refused(request, await saver.aget_tuple(config)) if saver is not None else None


def _checkpoint() -> tuple[Any, Any]:
    """Say where the graph of this step is written down."""
    config: Any = var_child_runnable_config.get() or {}
    known = config.get("configurable", {})
    graph = known.get("checkpoint_ns", "").rpartition("|")[0]
    place = {"thread_id": known.get("thread_id"), "checkpoint_ns": graph}
    if written := known.get("checkpoint_map", {}).get(graph):
        place["checkpoint_id"] = written
    return known.get("__pregel_checkpointer"), {"configurable": place}


def _refused(request: ToolCallRequest, checkpoint: Any) -> dict[str, Any] | None:
    pending = (checkpoint.pending_writes or ()) if checkpoint is not None else ()
    written = {channel: value for task, channel, value in pending if task == _step()}
    # So many questions of this step had an answer when the last one was asked.
    before = len(written.get("__resume__", ()))
    for each in written.get("__interrupt__", ()):
        question = each.value
        if not isinstance(question, dict) or question.get("dayfly") != "approval":
            continue
        if question.get("call") != request.tool_call["id"]:
            continue
        pad = _answers()
        answer = pad.resume[before] if before < len(pad.resume) else pad.get_null_resume(False)
        if answer is False:
            for _ in range(before + 1):  # uses the answers up
                interrupt(question)
            return question
    return None


def _refusal(request: ToolCallRequest, question: dict[str, Any]) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(
        f"this was refused: {question['reason']}",
        tool_call_id=call["id"] or "",
        name=call["name"],
        status="error",
    )


async def _suspend(core: Core) -> None:
    if core.state == "open":
        # Where it is over there is nothing to suspend.
        with contextlib.suppress(TaskEnded, NotFound):
            await core.suspend()


def _leave(core: Core, outcome: Outcome, *, hides: bool = True) -> None:
    wait(worker().submit(core.leave(outcome, hides=hides), last=True))


async def _aleave(core: Core, outcome: Outcome, *, hides: bool = True) -> None:
    future = worker().submit(core.leave(outcome, hides=hides), last=True)
    with anyio.CancelScope(shield=True):
        await wait_async(future)
