"""Real LangChain agents with a scripted model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from dayfly import Credential, InvalidRequest
from dayfly.langchain import DayflyMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import World

READ = "crm:read@customers/42"


class Model(GenericFakeChatModel):
    """Says what it was told to say, in that order."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def model(*steps: list[dict[str, Any]] | str) -> Model:
    said = [
        AIMessage(step) if isinstance(step, str) else AIMessage("", tool_calls=step)  # type: ignore[arg-type]
        for step in steps
    ]
    return Model(messages=iter(said))


def call(name: str, number: int = 1, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": f"call_{number}"}


ASK: dict[str, Any] = {"messages": [HumanMessage("show me customer 42")]}


class Crm:
    """Tools of an agent, and what they got."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = world.broker()
        self.got: list[Credential] = []

    def tool(self, access: str = "crm:read", then: Callable[[], Any] | None = None) -> Any:
        @self.broker.requires(access, resource=lambda customer: f"customers/{customer}")
        def show(customer: int, credential: Credential) -> str:
            """Show a customer."""
            self.got.append(credential)
            if then is not None:
                then()
            answer = self.world.get(f"/customers/{customer}", credential.token.reveal())
            return answer.text

        return show

    def middleware(self, scope: Any = "crm:read,export@customers/42", **more: Any) -> DayflyMiddleware:
        return DayflyMiddleware(self.broker, "answer a ticket", scope, **more)

    def dead(self) -> bool:
        return all(
            self.world.get("/customers/42", each.token.reveal()).status_code == 401 for each in self.got
        )

    def outcome(self) -> str:
        lease = self.world.ask(f"/v1/leases/{self.got[0].lease_id}")
        return str(self.world.task(lease["task"]).get("outcome"))


@pytest.fixture
def crm(world: World) -> Crm:
    return Crm(world)


def test_a_tool_of_a_run_gets_a_credential_which_is_dead_when_the_run_ends(crm: Crm) -> None:
    agent = create_agent(
        model([call("show", customer=42)], "done"), tools=[crm.tool()], middleware=[crm.middleware()]
    )
    result = agent.invoke(ASK)
    tool = next(each for each in result["messages"] if isinstance(each, ToolMessage))
    assert "Harbour Books" in str(tool.content)
    assert "dayfly" not in str(result.keys())
    assert crm.dead()
    assert crm.outcome() == "completed"


def test_the_same_in_coroutines_with_calls_side_by_side(crm: Crm) -> None:
    seen: list[Any] = []
    broker = crm.broker

    @broker.requires("crm:read@customers/42")
    async def show(customer: int, credential: Credential) -> str:
        """Show a customer."""
        crm.got.append(credential)
        await asyncio.sleep(0.05)
        return crm.world.get(f"/customers/{customer}", credential.token.reveal()).text

    class Watch(Model):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            seen.extend(tools)
            return self

    steps = [
        AIMessage("", tool_calls=[call("show", 1, customer=42), call("show", 2, customer=42)]),
        AIMessage("ok"),
    ]  # type: ignore[list-item]
    agent = create_agent(Watch(messages=iter(steps)), tools=[show], middleware=[crm.middleware()])
    result = asyncio.run(agent.ainvoke(ASK))
    tools = [each for each in result["messages"] if isinstance(each, ToolMessage)]
    assert ["Harbour Books" in str(each.content) for each in tools] == [True, True]
    assert len({each.lease_id for each in crm.got}) == 1
    assert set(seen[0].args) == {"customer"}, "no schema shows the credential"
    assert crm.dead()
    assert crm.outcome() == "completed"


@pytest.mark.parametrize("where", ["tool", "model"])
@pytest.mark.parametrize("how", ["thread", "coroutine"])
def test_a_run_that_raises_ends_its_task(crm: Crm, where: str, how: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError("grief")

    steps = model([call("show", customer=42)])  # and nothing more to say: the second call of the model raises
    tool = crm.tool(then=fail if where == "tool" else None)
    agent = create_agent(steps, tools=[tool], middleware=[crm.middleware()])
    with pytest.raises((ZeroDivisionError, RuntimeError, StopIteration, StopAsyncIteration)):
        _ = agent.invoke(ASK) if how == "thread" else asyncio.run(agent.ainvoke(ASK))
    assert crm.outcome() == "failed"
    assert crm.dead()


def test_a_run_that_is_cancelled_ends_its_task(crm: Crm) -> None:
    reached = threading.Event()

    @crm.broker.requires("crm:read@customers/42")
    async def show(customer: int, credential: Credential) -> str:
        """Show a customer."""
        crm.got.append(credential)
        reached.set()
        await asyncio.sleep(3600)
        return ""

    agent = create_agent(model([call("show", customer=42)]), tools=[show], middleware=[crm.middleware()])

    async def main() -> None:
        running = asyncio.create_task(agent.ainvoke(ASK))
        await asyncio.to_thread(reached.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert crm.outcome() == "cancelled"
    assert crm.dead()


def test_a_run_that_nobody_ends_loses_its_heartbeats(crm: Crm) -> None:
    middleware = crm.middleware(heartbeat=2)
    steps = model(*[[call("show", number, customer=42)] for number in range(9)])
    agent = create_agent(steps, tools=[crm.tool()], middleware=[middleware])
    with pytest.raises(RecursionError):
        agent.invoke(ASK, {"recursion_limit": 6})
    gc.collect()
    until = time.monotonic() + 10
    while crm.outcome() != "lost":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_takes_an_approval_interrupts_the_run_and_suspends_the_task(crm: Crm) -> None:
    saver = InMemorySaver()
    show, export = crm.tool(), crm.tool("crm:export")
    export.__name__ = "export"
    steps = model([call("show", 1, customer=42)], [call("export", 2, customer=42)], "it was refused")
    agent = create_agent(steps, tools=[show, export], middleware=[crm.middleware()], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    result = agent.invoke(ASK, config)
    (asked,) = result["__interrupt__"]
    assert asked.value["dayfly"] == "approval"
    assert (asked.value["approval"], asked.value["tool"]) == ("data-steward", "export")
    lease = crm.world.ask(f"/v1/leases/{crm.got[0].lease_id}")
    assert crm.world.task(lease["task"])["state"] == "suspended"
    assert crm.dead()
    written = repr(list(saver.list(config))) + repr(dict(saver.blobs)) + repr(dict(saver.writes))
    assert lease["task"] in written
    assert crm.got[0].token.reveal() not in written
    # Nobody has approved it yet: the same question once more.
    again = agent.invoke(Command(resume=True), config)
    assert again["__interrupt__"][0].value["approval"] == "data-steward"
    assert crm.world.task(lease["task"])["state"] == "suspended"
    # Another process, which has nothing but what was written down.
    other = create_agent(
        model("it was refused"), tools=[show, export], middleware=[crm.middleware()], checkpointer=saver
    )
    result = other.invoke(Command(resume=False), config)
    refusal = next(
        each for each in result["messages"] if isinstance(each, ToolMessage) and each.status == "error"
    )
    assert "refused" in str(refusal.content)
    assert result["messages"][-1].content == "it was refused"
    assert crm.world.task(lease["task"])["outcome"] == "completed"


@pytest.fixture
def approved(world: World) -> Iterator[Callable[[], None]]:
    """A way for policy to permit exports without anybody's approval."""
    files = {file: file.read_text() for file in (world.folder / "policies").glob("*.cedar")}

    def approve() -> None:
        for file, before in files.items():
            file.write_text(before.replace('@approval("data-steward")\n', ""))
        world.order("/v1/rules/reload", {})

    yield approve
    for file, before in files.items():
        file.write_text(before)
    world.order("/v1/rules/reload", {})


@pytest.mark.parametrize("how", ["thread", "coroutine"])
@pytest.mark.parametrize("tried", [False, True])
def test_what_somebody_refused_is_not_done_though_policy_permits_it_by_then(
    crm: Crm, approved: Callable[[], None], how: str, tried: bool
) -> None:
    export = crm.tool("crm:export")
    middleware = [crm.middleware()]
    steps = model([call("show", 1, customer=42)], "it was refused")
    agent = create_agent(steps, tools=[export], middleware=middleware, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    def go(given: Any) -> Any:
        return agent.invoke(given, config) if how == "thread" else asyncio.run(agent.ainvoke(given, config))

    (asked,) = go(ASK)["__interrupt__"]
    assert asked.value["call"] == "call_1"
    if tried:
        (asked,) = go(Command(resume=True))["__interrupt__"]
    approved()
    result = go(Command(resume={asked.id: False}) if tried else Command(resume=False))
    assert crm.got == []
    refusal = next(each for each in result["messages"] if isinstance(each, ToolMessage))
    assert (refusal.status, "refused" in str(refusal.content)) == ("error", True)
    assert result["messages"][-1].content == "it was refused"


def test_what_is_approved_by_then_is_done(crm: Crm, approved: Callable[[], None]) -> None:
    export = crm.tool("crm:export")
    steps = model([call("show", 1, customer=42)], "done")
    agent = create_agent(steps, tools=[export], middleware=[crm.middleware()], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(ASK, config)
    approved()
    assert agent.invoke(Command(resume=True), config)["messages"][-1].content == "done"
    assert len(crm.got) == 1
    assert crm.dead()


def test_a_no_to_a_question_of_the_tool_is_the_tools(crm: Crm) -> None:
    said: list[Any] = []
    show = crm.tool(then=lambda: said.append(interrupt("are you sure?")))
    steps = model([call("show", 1, customer=42)], "done")
    agent = create_agent(steps, tools=[show], middleware=[crm.middleware()], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    assert agent.invoke(ASK, config)["__interrupt__"][0].value == "are you sure?"
    assert agent.invoke(Command(resume=False), config)["messages"][-1].content == "done"
    assert said == [False]


def test_an_agent_inside_of_a_tool_gets_a_part_of_the_task_or_nothing(crm: Crm) -> None:
    refused: list[Exception] = []
    inner = crm.tool()

    def bare(customer: int) -> str:
        """Ask an agent that was given nothing."""
        agent = create_agent(model([call("show", customer=customer)], "ok"), tools=[inner])
        try:
            agent.invoke(ASK)
        except InvalidRequest as error:
            refused.append(error)
        return "tried"

    def part(customer: int) -> str:
        """Ask an agent that gets a part."""
        agent = create_agent(
            model([call("show", customer=customer)], "ok"), tools=[inner], middleware=[crm.middleware(READ)]
        )
        agent.invoke(ASK)
        return "asked"

    steps = model(
        [call("show", 1, customer=42)], [call("bare", 2, customer=42)], [call("part", 3, customer=42)], "ok"
    )
    agent = create_agent(steps, tools=[inner, bare, part], middleware=[crm.middleware()])
    agent.invoke(ASK)
    assert "no task of this broker" in str(refused[0])
    first, second = (crm.world.ask(f"/v1/leases/{each.lease_id}")["task"] for each in crm.got)
    assert crm.world.task(second)["parent"] == first
    assert crm.world.task(second)["outcome"] == "completed"
    assert crm.dead()


def test_a_new_question_calls_off_what_the_last_one_waits_for(crm: Crm) -> None:
    saver = InMemorySaver()
    export = crm.tool("crm:export")
    steps = model([call("show", 1, customer=42)], "never mind")
    agent = create_agent(steps, tools=[export], middleware=[crm.middleware()], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(ASK, config)
    handle = agent.get_state(config).values["dayfly_handle"]
    task = handle.split('"task": "')[1].split('"')[0]
    assert crm.world.task(task)["state"] == "suspended"
    agent.invoke({"messages": [HumanMessage("something else")]}, config)
    until = time.monotonic() + 10
    while crm.world.task(task).get("outcome") != "cancelled":
        assert time.monotonic() < until
        time.sleep(0.05)
