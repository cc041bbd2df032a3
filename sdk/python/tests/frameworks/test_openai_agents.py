"""Real runs of the OpenAI Agents SDK with a scripted model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from agents import Agent, RunConfig, Runner, function_tool, handoff
from agents.run import RunState
from agents.testing import ScriptedModel, assistant_message, function_call

from dayfly import Credential, TaskEnded
from dayfly._core import ambient
from dayfly._worker import wait_async, worker
from dayfly.openai_agents import bound, needs_approval, run

if TYPE_CHECKING:
    from conftest import World
    from gate import Gate

READ = "crm:read@customers/42"
QUIET = RunConfig(tracing_disabled=True)


def script(*steps: Any) -> ScriptedModel:
    return ScriptedModel([[assistant_message(each)] if isinstance(each, str) else [each] for each in steps])


def call(name: str, number: int = 1, **arguments: Any) -> Any:
    return function_call(name, arguments, call_id=f"call_{number}")


class Crm:
    """A broker, a tool, and what it got."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = world.broker()
        self.got: list[Credential] = []
        self.then: Any = None

        @function_tool(failure_error_function=None)
        @self.broker.requires("crm:read", resource=lambda customer: f"customers/{customer}")
        async def show(customer: int, credential: Credential) -> str:
            """Show a customer."""
            self.got.append(credential)
            if self.then is not None:
                await self.then()
            return world.get(f"/customers/{customer}", credential.token.reveal()).text

        self.show = show

    async def run(self, agent: Agent[Any], **more: Any) -> Any:
        options: dict[str, Any] = {"purpose": "answer a ticket", "scope": "crm:read,export@customers", **more}
        return await run(self.broker, agent, options.pop("input", "show me 42"), run_config=QUIET, **options)

    def task_of(self, number: int) -> dict[str, Any]:
        lease = self.world.ask(f"/v1/leases/{self.got[number].lease_id}")
        return self.world.task(lease["task"])

    def dead(self) -> bool:
        return all(
            self.world.get("/customers/42", each.token.reveal()).status_code == 401 for each in self.got
        )


@pytest.fixture
def crm(world: World) -> Crm:
    return Crm(world)


def test_a_tool_of_a_run_gets_a_credential_which_is_dead_when_the_run_ends(crm: Crm) -> None:
    model = script(call("show", customer=42), "done")
    done = asyncio.run(crm.run(Agent(name="support", model=model, tools=[crm.show])))
    assert done.final_output == "done"
    assert done.handle is None
    assert "Harbour Books" in str(done.result.new_items[1].output)
    assert set(crm.show.params_json_schema["properties"]) == {"customer"}
    assert crm.task_of(0)["id"] == done.task_id
    assert crm.task_of(0)["outcome"] == "completed"
    assert crm.dead()


@pytest.mark.parametrize("how", ["raises", "cancelled", "turns"])
def test_a_run_that_comes_to_grief_ends_its_task(crm: Crm, how: str) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def grief() -> None:
            reached.set()
            if how == "raises":
                raise ZeroDivisionError
            if how == "cancelled":
                await asyncio.sleep(3600)

        crm.then = grief
        model = script(call("show", 1, customer=42), call("show", 2, customer=42), "done")
        working = asyncio.create_task(
            crm.run(
                Agent(name="support", model=model, tools=[crm.show]), max_turns=1 if how == "turns" else 9
            )
        )
        await reached.wait()
        if how == "cancelled":
            working.cancel()
        await working

    with pytest.raises(BaseException):
        asyncio.run(main())
    assert crm.task_of(0)["outcome"] == ("cancelled" if how == "cancelled" else "failed")
    assert crm.dead()


def test_a_run_stops_when_somebody_ends_its_task(crm: Crm) -> None:
    async def ended() -> None:
        task = crm.task_of(0)["id"]
        crm.world.order(f"/v1/tasks/{task}/revoke", {"reason": "it does what nobody asked for"})

    crm.then = ended
    model = script(call("show", 1, customer=42), call("show", 2, customer=43), "done")
    with pytest.raises(TaskEnded) as over:
        asyncio.run(crm.run(Agent(name="support", model=model, tools=[crm.show])))
    assert over.value.outcome == "revoked"


def test_a_run_that_waits_for_an_approval_is_suspended_and_goes_on(crm: Crm) -> None:
    def paths(customer: int) -> str:
        return f"customers/{customer}"

    @function_tool(needs_approval=needs_approval(crm.broker, "crm:export", resource=paths))
    @crm.broker.requires("crm:export", resource=paths)
    async def export(customer: int, credential: Credential) -> str:
        """Export a customer."""
        return "exported"

    steps = (call("show", 1, customer=42), call("export", 2, customer=42), "done")
    agent: Agent[Any] = Agent(name="support", model=script(*steps), tools=[crm.show, export])

    async def main() -> None:
        first = await crm.run(agent)
        assert first.result.interruptions[0].name == "export"
        assert first.handle is not None
        assert crm.world.task(first.task_id)["state"] == "suspended"
        assert crm.dead()
        text = first.result.to_state().to_string()
        assert crm.got[0].token.reveal() not in text
        state = await RunState.from_string(agent, text)
        state.approve(state.get_interruptions()[0])
        second = await crm.run(agent, input=state, handle=first.handle.to_json())
        assert second.task_id == first.task_id
        assert second.final_output == "done"
        # The broker is asked all the same, and says no.
        assert "approval" in str(second.result.new_items)
        assert crm.world.task(first.task_id)["outcome"] == "completed"

    asyncio.run(main())


@pytest.mark.parametrize("given", [True, False])
def test_an_agent_that_is_handed_to_gets_a_part_or_nothing(crm: Crm, given: bool) -> None:
    model = script(
        call("show", 1, customer=42), call("transfer_to_reader", 2), call("show", 3, customer=42), "done"
    )
    reader: Agent[Any] = Agent(name="reader", model=model, tools=[crm.show])
    for target in (reader, handoff(reader)):
        crm.got.clear()
        agent: Agent[Any] = Agent(name="support", model=model, tools=[crm.show], handoffs=[target])
        parts = {"reader": READ} if given else {}
        if given:
            asyncio.run(crm.run(agent, parts=parts))
            assert crm.task_of(1)["parent"] == crm.task_of(0)["id"]
            assert crm.task_of(1)["outcome"] == "parent_ended"
        else:
            with pytest.raises(Exception, match="no task of this broker"):
                asyncio.run(crm.run(agent, parts=parts))
            assert len(crm.got) == 1
        assert crm.dead()
        model = script(
            call("show", 1, customer=42), call("transfer_to_reader", 2), call("show", 3, customer=42), "done"
        )
        reader.model = model


@pytest.mark.parametrize("how", ["fails", "ends", "revoked"])
def test_a_part_that_is_gone_is_opened_again_unless_it_was_revoked(crm: Crm, gate: Gate, how: str) -> None:
    broker = crm.world.broker(address=gate.url)
    parts: list[str] = []

    @function_tool
    @broker.requires(READ)
    async def look(credential: Credential) -> str:
        """Look at a customer."""
        part = ambient()
        assert part is not None
        parts.append(part.id)
        if how == "ends" and len(parts) == 1:
            await wait_async(worker().submit(part.complete("completed")))
        if how == "revoked":
            crm.world.order(f"/v1/tasks/{part.id}/revoke", {"reason": "it does what nobody asked for"})
            await wait_async(worker().submit(part.look()))
        return "seen"

    reader: Agent[Any] = Agent(name="reader", tools=[look])
    agent: Agent[Any] = Agent(name="support", handoffs=[reader])

    async def main() -> None:
        async with broker.task("look", READ):
            if how == "fails":
                gate.problem(500, "internal", times=1)
                reader.model = agent.model = script(call("transfer_to_reader", 1), call("look", 2))
                with pytest.raises(Exception, match="not now"):
                    await Runner.run(bound(agent, {"reader": READ}), "look", run_config=QUIET)
            reader.model = agent.model = script(
                call("transfer_to_reader", 1), call("look", 2), call("look", 3), "done"
            )
            done = await Runner.run(bound(agent, {"reader": READ}), "look", run_config=QUIET)
        outputs = [str(each.output) for each in done.new_items if hasattr(each, "output")][-2:]
        assert ["seen" in each for each in outputs] == [True, how != "revoked"], outputs

    asyncio.run(main())
    assert (len(parts), len(set(parts))) == {"fails": (2, 1), "ends": (2, 2), "revoked": (1, 1)}[how]


@pytest.mark.parametrize("given", [True, False])
def test_an_agent_that_is_a_tool_gets_a_part_or_nothing(crm: Crm, given: bool) -> None:
    inner: Agent[Any] = Agent(
        name="reader", model=script(call("show", 1, customer=42), "read"), tools=[crm.show]
    )
    tool = inner.as_tool("ask_reader", "Ask the reader.")
    model = script(
        call("show", 1, customer=42), call("ask_reader", 2, input="42?"), call("show", 3, customer=42), "done"
    )
    agent: Agent[Any] = Agent(name="support", model=model, tools=[crm.show, tool])
    done = asyncio.run(crm.run(agent, parts={"reader": READ} if given else None))
    assert done.final_output == "done"
    tasks = [crm.task_of(number) for number in range(len(crm.got))]
    if given:
        assert [task.get("parent") for task in tasks] == [None, done.task_id, None]
        assert tasks[1]["outcome"] == "completed"
    else:
        assert [task["id"] for task in tasks] == [done.task_id] * 2
    assert crm.dead()


@pytest.mark.parametrize("how", ["tool", "handoff", "named"])
def test_an_agent_below_an_agent_that_is_a_tool_gets_a_part_of_its_own_or_nothing(crm: Crm, how: str) -> None:
    below: Agent[Any] = Agent(
        name="below", model=script(call("show", 1, customer=42), "below"), tools=[crm.show]
    )
    if how == "handoff":
        inner_model = script(call("show", 1, customer=42), call("transfer_to_below", 2))
        inner: Agent[Any] = Agent(name="reader", model=inner_model, tools=[crm.show], handoffs=[below])
    else:
        steps = (call("ask_below", 1, input="42?"), call("show", 2, customer=42), "read")
        tools = [crm.show, below.as_tool("ask_below", "Ask below.")]
        inner = Agent(name="reader", model=script(*steps), tools=tools)
    model = script(call("ask_reader", 1, input="42?"), "done")
    agent: Agent[Any] = Agent(name="support", model=model, tools=[inner.as_tool("ask_reader", "Ask.")])
    parts = {"reader": READ} | ({"below": READ} if how == "named" else {})
    done = asyncio.run(crm.run(agent, parts=parts))
    tasks = [crm.task_of(number) for number in range(len(crm.got))]
    if how == "named":
        assert [task["parent"] for task in tasks] == [tasks[1]["id"], done.task_id]
    else:
        assert [task["parent"] for task in tasks] == [done.task_id], "what is not named got nothing"
    assert {task["outcome"] for task in tasks} <= {"completed", "failed"}
    assert crm.dead()


def test_a_streamed_run_in_a_task_of_ones_own(crm: Crm) -> None:
    model = script(call("show", customer=42), "done")
    agent: Agent[Any] = Agent(name="support", model=model, tools=[crm.show])

    async def main() -> None:
        async with crm.broker.task("answer", READ):
            streamed = Runner.run_streamed(bound(agent), "show me 42", run_config=QUIET)
            async for _ in streamed.stream_events():
                pass
            assert streamed.final_output == "done"

    asyncio.run(main())
    assert crm.dead()
