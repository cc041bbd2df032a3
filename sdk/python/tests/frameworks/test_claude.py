"""The real Claude Agent SDK, with its control protocol, and a scripted Claude Code at the other end of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from claude_agent_sdk import ClaudeAgentOptions, Transport, create_sdk_mcp_server, query, tool

from dayfly import Credential
from dayfly.claude import bound, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from conftest import World

READ = "crm:read@customers/42"


class ClaudeCode(Transport):
    """Calls tools as it is told to, after asking the hooks, as the real one does."""

    def __init__(self, *calls: tuple[str, dict[str, Any]], then: Callable[[], Any] | None = None) -> None:
        self._calls = calls
        self._then = then
        self._send, self._receive = anyio.create_memory_object_stream[dict[str, Any]](100)
        self._answers: dict[str, Any] = {}
        self._answered = anyio.Event()
        self._hooks: list[str] = []
        self.decisions: list[Any] = []
        self.outputs: list[str] = []

    async def connect(self) -> None:
        pass

    async def write(self, data: str) -> None:
        message = json.loads(data)
        if message["type"] == "control_request":
            request = message["request"]
            if request["subtype"] == "initialize":
                for matcher in (request["hooks"] or {}).get("PreToolUse", []):
                    assert matcher.get("matcher") is None
                    self._hooks += matcher["hookCallbackIds"]
            answer = {"subtype": "success", "request_id": message["request_id"]}
            answer["response"] = {"hook_on_failure_supported": True}  # type: ignore[assignment]
            await self._send.send({"type": "control_response", "response": answer})
        elif message["type"] == "control_response":
            self._answers[message["response"]["request_id"]] = message["response"]
            self._answered.set()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        yield await self._receive.receive()  # the answer to `initialize`
        for number, (name, arguments) in enumerate(self._calls):
            by = {"agent_id": "a1", "agent_type": "helper"} if arguments.pop("by_sub_agent", False) else {}
            given = {"hook_event_name": "PreToolUse", "tool_name": name, "tool_input": arguments, **by}
            allowed = True
            for hook in self._hooks:
                request = {
                    "subtype": "hook_callback",
                    "callback_id": hook,
                    "input": given,
                    "tool_use_id": "t",
                }
                yield {"type": "control_request", "request_id": f"hook{number}{hook}", "request": request}
                answer = (await self._answer(f"hook{number}{hook}"))["response"]
                self.decisions.append(answer.get("hookSpecificOutput", {}).get("permissionDecision"))
                if answer.get("continue") is False or self.decisions[-1] == "defer":
                    yield result(deferred=self.decisions[-1] == "defer", arguments=arguments)
                    return
                allowed = allowed and self.decisions[-1] is None
            if not allowed or not name.startswith("mcp__"):
                continue
            _, server, tool_name = name.split("__")
            steps: list[dict[str, Any]] = [
                {"id": number, "method": "tools/call", "params": {"name": tool_name, "arguments": arguments}}
            ]
            if not self.outputs:
                about = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {},
                    "clientInfo": {"name": "c", "version": "1"},
                }
                steps.insert(0, {"id": "first", "method": "initialize", "params": about})
                steps.insert(1, {"method": "notifications/initialized"})
            for step, rpc in enumerate(steps):
                message = {"jsonrpc": "2.0", **rpc}
                request = {"subtype": "mcp_message", "server_name": server, "message": message}
                yield {"type": "control_request", "request_id": f"mcp{number}.{step}", "request": request}
                answer = await self._answer(f"mcp{number}.{step}")
            self.outputs.append(json.dumps(answer))
            if self._then is not None:
                await self._then()
        yield result()

    async def _answer(self, number: str) -> Any:
        while number not in self._answers:
            await self._answered.wait()
            self._answered = anyio.Event()
        return self._answers[number]

    async def close(self) -> None:
        self._send.close()
        self._receive.close()

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None:
        pass


def result(*, deferred: bool = False, arguments: Any = None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "type": "result",
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": False,
        "num_turns": 1,
        "session_id": "s1",
        "total_cost_usd": 0,
        "result": "done",
    }
    if deferred:
        message["deferred_tool_use"] = {"id": "t", "name": "export", "input": arguments}
    return message


class Crm:
    """A broker, an in-process server, and what its tool got."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = world.broker()
        self.got: list[Credential] = []

        @tool("show", "Show a customer.", {"customer": int})
        @self.broker.requires("crm:read", resource=lambda given: f"customers/{given['customer']}")
        async def show(given: dict[str, Any], credential: Credential) -> dict[str, Any]:
            self.got.append(credential)
            answer = world.get(f"/customers/{given['customer']}", credential.token.reveal())
            return {"content": [{"type": "text", "text": answer.text}]}

        self.options = ClaudeAgentOptions(mcp_servers={"crm": create_sdk_mcp_server("crm", tools=[show])})

    def task(self) -> dict[str, Any]:
        lease = self.world.ask(f"/v1/leases/{self.got[0].lease_id}")
        return self.world.task(lease["task"])

    def dead(self) -> bool:
        return all(
            self.world.get("/customers/42", each.token.reveal()).status_code == 401 for each in self.got
        )


@pytest.fixture
def crm(world: World) -> Crm:
    return Crm(world)


SHOW: Any = ("mcp__crm__show", {"customer": 42})
RULES: dict[str, Any] = {
    "mcp__crm__*": lambda given: f"crm:read@customers/{given['customer']}",
    "Delete": "crm:delete@customers/42",
    "Export": "crm:export@customers/42",
    "Refund": "payments:refund",
}
SCOPE = "crm:read,delete,export@customers/42"


@pytest.mark.anyio
async def test_a_tool_of_a_run_gets_a_credential_which_is_dead_when_the_run_ends(crm: Crm) -> None:
    claude = ClaudeCode(SHOW, ("Read", {"file_path": "x"}))
    done = await run(
        crm.broker, "show 42", crm.options, purpose="look", scope=SCOPE, rules=RULES, transport=claude
    )
    assert "Harbour Books" in claude.outputs[0]
    assert claude.decisions == [None, None], "the hook has no opinion"
    assert done.result is not None
    assert done.handle is None
    assert crm.task()["id"] == done.task_id
    assert crm.task()["outcome"] == "completed"
    assert crm.dead()
    assert crm.options.hooks is None, "the options of the caller are left alone"


@pytest.mark.anyio
async def test_what_policy_or_the_scope_do_not_permit_is_denied_before_it_is_called(crm: Crm) -> None:
    other = ("mcp__crm__show", {"customer": 43})
    helper = ("mcp__crm__show", {"customer": 42, "by_sub_agent": True})
    claude = ClaudeCode(other, ("Delete", {}), ("Refund", {}), helper, ("Read", {"by_sub_agent": True}))
    await run(crm.broker, "x", crm.options, purpose="look", scope=SCOPE, rules=RULES, transport=claude)
    assert claude.decisions == ["deny", "deny", "deny", "deny", None]
    assert crm.got == []
    bare = ClaudeCode(("mcp__crm__show", {"customer": 42, "by_sub_agent": True}))
    await run(crm.broker, "x", crm.options, purpose="look", scope=SCOPE, transport=bare)
    assert bare.decisions == ["deny"], "also without a rule"


@pytest.mark.anyio
async def test_what_takes_an_approval_suspends_the_task_and_ends_the_run(crm: Crm) -> None:
    claude = ClaudeCode(SHOW, ("Export", {}), SHOW)
    done = await run(crm.broker, "x", crm.options, purpose="look", scope=SCOPE, rules=RULES, transport=claude)
    assert done.result is not None
    assert done.result.deferred_tool_use is not None
    assert claude.decisions == [None, "defer"]
    assert done.handle is not None
    assert crm.task()["state"] == "suspended"
    assert crm.dead()
    again = await run(
        crm.broker, "x", crm.options, rules=RULES, handle=done.handle, transport=ClaudeCode(SHOW)
    )
    assert again.task_id == done.task_id
    assert crm.task()["outcome"] == "completed"
    for how in ("deny", "ask"):
        claude = ClaudeCode(("Export", {}))
        await run(
            crm.broker,
            "x",
            purpose="look",
            scope=SCOPE,
            rules=RULES,
            on_approval=how,
            transport=claude,  # type: ignore[arg-type]
        )
        assert claude.decisions == [how]


@pytest.mark.anyio
async def test_a_run_stops_when_somebody_ends_its_task(crm: Crm) -> None:
    async def end() -> None:
        crm.world.order(f"/v1/tasks/{crm.task()['id']}/revoke", {"reason": "enough"})
        async with crm.broker.join(crm.task()["id"]):
            raise AssertionError("it is over")

    claude = ClaudeCode(SHOW, ("mcp__crm__show", {"customer": 42}), SHOW)

    async def ended() -> None:
        crm.world.order(f"/v1/tasks/{crm.task()['id']}/revoke", {"reason": "enough"})
        with anyio.fail_after(10):
            while not claude_task.ended.is_set():
                await anyio.sleep(0.02)

    claude._then = ended
    async with crm.broker.task("look", SCOPE, heartbeat=2) as claude_task:
        options = bound(claude_task, crm.options, rules=RULES)
        async for _ in query(prompt="x", options=options, transport=claude):
            pass
    assert claude.decisions == [None, "deny"]
    assert len(claude.outputs) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["raises", "cancelled"])
async def test_a_run_that_comes_to_grief_ends_its_task(crm: Crm, how: str) -> None:
    async def grief() -> None:
        if how == "raises":
            raise ZeroDivisionError
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        with pytest.raises(BaseException):
            await run(
                crm.broker,
                "x",
                crm.options,
                purpose="look",
                scope=SCOPE,
                transport=ClaudeCode(SHOW, then=grief),
            )
        await anyio.lowlevel.checkpoint()
    assert crm.task()["outcome"] == ("failed" if how == "raises" else "cancelled")
    assert crm.dead()
