"""Claude Agent SDK: policy before each tool, and a task around each run. Takes ``dayfly[claude]``.

    async with broker.task("answer a ticket", "crm:read") as task:
        options = bound(task, ClaudeAgentOptions(mcp_servers={"crm": crm}), rules={"mcp__crm__show": "crm:read"})
        async for message in query(prompt="Show me customer 42", options=options):
            ...

Tools of in-process servers (``create_sdk_mcp_server``) get credentials by ``@broker.requires`` beneath ``@tool``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from claude_agent_sdk import ClaudeAgentOptions, HookMatcher, ResultMessage, query

from ._access import Access, AccessLike
from ._broker import ask_decisions
from ._errors import DayflyError, ScopeWidening, TaskEnded
from ._worker import wait_async, worker

if TYPE_CHECKING:
    from ._access import Duration, ScopeLike
    from ._broker import Broker
    from ._core import Core
    from ._task import AsyncTask, Default, TaskHandle

__all__ = ["Rules", "Run", "bound", "run"]

Rules: TypeAlias = Mapping[str, AccessLike | Callable[[dict[str, Any]], AccessLike | None]]
"""Which access a tool takes: by the tool's name, in which ``*`` stands for anything, an access, or a function of the
tool's input that gives one, or ``None`` where the call takes none."""

OnApproval: TypeAlias = Literal["defer", "deny", "ask"]


def bound(
    task: AsyncTask,
    options: ClaudeAgentOptions | None = None,
    *,
    rules: Rules | None = None,
    on_approval: OnApproval = "defer",
) -> ClaudeAgentOptions:
    """Give a copy of the options with a hook before each tool.

    A tool that a rule names is denied where the access is outside of the task's scope or policy does not permit it;
    otherwise the hook has no opinion, and Claude's own permissions go on. Where an approval is demanded, `on_approval`
    says what happens: ``defer`` suspends the task and ends the run (``ResultMessage.deferred_tool_use``), ``ask`` asks
    the user, who decides nothing for the broker, and ``deny`` denies. When the task has ended, the run stops.

    Sub-agents get nothing of the task: tools with a rule and those of in-process servers are denied to them. What fails
    denies.
    """
    given = options or ClaudeAgentOptions()
    servers = given.mcp_servers if isinstance(given.mcp_servers, dict) else {}
    own = tuple(f"mcp__{name}__" for name, server in servers.items() if _is_in_process(server))
    guard = _Guard(task, rules or {}, own, on_approval)
    hooks = {event: list(matchers) for event, matchers in (given.hooks or {}).items()}
    # What the hook raises, or does not answer in time, blocks the tool.
    matcher = HookMatcher(hooks=[guard.before], on_failure="block")
    hooks["PreToolUse"] = [matcher, *hooks.get("PreToolUse", [])]
    return replace(given, hooks=hooks)


@dataclass(frozen=True)
class Run:
    """What came of a run."""

    messages: tuple[Any, ...]
    result: ResultMessage | None
    """The last message, which says how it went."""
    task_id: str
    handle: TaskHandle | None
    """The suspended task of a run that was deferred; keep it beside ``result.session_id``."""


async def run(
    broker: Broker,
    prompt: Any,
    options: ClaudeAgentOptions | None = None,
    *,
    purpose: str = "",
    scope: ScopeLike = (),
    rules: Rules | None = None,
    on_approval: OnApproval = "defer",
    handle: TaskHandle | str | None = None,
    on_behalf_of: str | None = None,
    ttl: Duration | None = None,
    heartbeat: Duration | Default | None = "default",
    transport: Any = None,
) -> Run:
    """Do ``query`` in a task of its own, which ends with the run, whatever becomes of it.

    A run that was deferred goes on with ``run(…, handle=run.handle)`` and options with ``resume=session_id``.
    """
    if handle is not None:
        opened = broker.resume(handle)
    else:
        opened = broker.task(purpose, scope, on_behalf_of=on_behalf_of, ttl=ttl, heartbeat=heartbeat)
    messages: list[Any] = []
    async with opened as task:
        given = bound(task, options, rules=rules, on_approval=on_approval)
        stream: Any = query(prompt=prompt, options=given, transport=transport)
        async with aclosing(stream):
            async for message in stream:
                messages.append(message)  # noqa: PERF401 - what came before an exception counts
    results = [message for message in messages if isinstance(message, ResultMessage)]
    suspended = task.handle if task.state == "suspended" else None
    return Run(tuple(messages), results[-1] if results else None, task.id, suspended)


class _Guard:
    """The hook before each tool."""

    def __init__(self, task: AsyncTask, rules: Rules, own: tuple[str, ...], on_approval: OnApproval) -> None:
        self._task = task
        self._core: Core = task._core
        self._rules = rules
        self._own = own
        self._on_approval = on_approval

    async def before(self, call: Any, tool_use_id: str | None, context: Any) -> Any:
        """Say whether a tool may be called."""
        name, arguments = call["tool_name"], call["tool_input"]
        try:
            asked = self._asked(name, arguments)
            if call.get("agent_id") and (asked is not None or name.startswith(self._own)):
                return _decision("deny", "a sub-agent gets nothing of this task")
            self._core.check_open()
            if asked is None:
                return {}
            self._core.check_scope((asked,))
            body = (self._core.purpose, asked, self._core.on_behalf_of, None)
            (verdict,) = await wait_async(worker().submit(ask_decisions(self._core.transport, *body)))
        except ScopeWidening as wider:
            return _decision("deny", wider.detail)
        except TaskEnded as ended:
            return {"continue_": False, "stopReason": ended.detail, **_decision("deny", ended.detail)}
        except DayflyError as error:
            return _decision("deny", error.detail)
        if verdict.permitted:
            return {}
        if verdict.approval is None or self._on_approval == "deny":
            return _decision("deny", verdict.reason or "policy does not permit this")
        if self._on_approval == "defer":
            await self._task.suspend()
        return _decision(self._on_approval, f"this takes the approval of `{verdict.approval}`")

    def _asked(self, name: str, arguments: dict[str, Any]) -> Access | None:
        for pattern, rule in self._rules.items():
            if fnmatchcase(name, pattern):
                access = rule(arguments) if callable(rule) else rule
                return None if access is None else Access.of(access)
        return None


def _decision(decision: str, reason: str) -> dict[str, Any]:
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": decision,
            "permissionDecisionReason": reason,
        }
    }


def _is_in_process(server: Any) -> bool:
    return isinstance(server, Mapping) and server.get("type") == "sdk"
