"""What a task does for an agent, against the real broker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from conftest import until
from dayfly import (
    Access,
    ApprovalPending,
    AsyncTask,
    Broker,
    BrokerUnavailable,
    Budget,
    Denied,
    InvalidRequest,
    NotAdmitted,
    NotFound,
    ScopeWidening,
    Secret,
    Task,
    TaskEnded,
    TaskHandle,
    TaskSuspended,
)

if TYPE_CHECKING:
    from conftest import World

READ = "crm:read@customers/42"


def test_a_block_opens_a_task_and_its_end_kills_the_credential(world: World) -> None:
    with world.broker().task(
        "answer ticket 4711", "crm:read,comment@customers/42", on_behalf_of="user:7"
    ) as task:
        assert world.task(task.id)["state"] == "open"
        assert world.task(task.id)["on_behalf_of"] == "user:7"
        assert world.task(task.id)["heartbeat"] == 30
        credential = task.credential("crm", "read", "customers/42")
        assert isinstance(credential.token, Secret)
        assert credential.kind == "bearer_token"
        assert (credential.tool, credential.actions, credential.resources) == (
            "crm",
            ("read",),
            ("customers/42",),
        )
        assert (credential.granted, credential.revocation) == (300, "deny_listed")
        assert credential.lease_id.startswith("lse_")
        assert credential.decision.startswith("dec_")
        assert world.get("/customers/42", credential.token.reveal()).status_code == 200
        with pytest.raises(AttributeError, match="has no `password`; its parts: token"):
            _ = credential.password
    assert (task.state, task.outcome) == ("ended", "completed")
    assert task.completion is not None
    assert task.completion.settled
    assert [lease.proof for lease in task.completion.leases] == ["denied_at"]
    assert [(lease.receipt or "").count(".") for lease in task.completion.leases] == [2]
    assert "receipt" not in repr(task.completion)
    assert task.ended.is_set()
    assert world.get("/customers/42", credential.token.reveal()).status_code == 401
    with pytest.raises(TaskEnded):
        task.credential(READ)


@pytest.mark.anyio
async def test_the_same_in_coroutines(world: World) -> None:
    async with world.broker().task("answer ticket 4711", READ) as task:
        credential = await task.credential(READ)
        assert world.get("/customers/42", credential.token.reveal()).status_code == 200
    assert (task.state, task.outcome) == ("ended", "completed")
    assert world.get("/customers/42", credential.token.reveal()).status_code == 401
    await task.ended.wait()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RuntimeError("no"), "failed"),
        (SystemExit(1), "failed"),
        (SystemExit(0), "completed"),
        (KeyboardInterrupt(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
)
def test_what_leaves_a_block_says_how_it_ended(world: World, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)) as caught, world.broker().task("try", READ) as task:
        raise error
    assert caught.value is error
    assert world.task(task.id)["outcome"] == outcome


@pytest.mark.anyio
async def test_a_cancelled_scope_cancels_the_task_and_still_waits_for_proofs(world: World) -> None:
    with anyio.CancelScope() as scope:
        async with world.broker().task("wait", READ) as task:
            await task.credential(READ)
            scope.cancel()
            await anyio.sleep_forever()
    assert task.completion is not None
    assert task.completion.settled
    assert world.task(task.id)["outcome"] == "cancelled"


def test_two_cancellations_do_not_keep_a_task_alive(world: World) -> None:
    tasks: list[AsyncTask] = []

    async def work() -> None:
        async with world.broker().task("wait", READ) as task:
            tasks.append(task)
            await asyncio.sleep(3600)

    async def main() -> None:
        working = asyncio.create_task(work())
        await asyncio.to_thread(until, lambda: tasks)
        working.cancel()
        await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(main())
    assert tasks[0]._core.ended.event.wait(10)
    assert world.task(tasks[0].id)["outcome"] == "cancelled"


def test_what_is_denied_says_why_and_where_it_is_on_record(world: World) -> None:
    with world.broker().task("delete", "crm:delete,export@customers/42") as task:
        with pytest.raises(Denied) as denied:
            task.credential("crm:delete@customers/42")
        assert denied.value.slug == "denied"
        assert denied.value.status == 403
        assert denied.value.decision is not None
        assert denied.value.decision.startswith("dec_")
        assert denied.value.request_id is not None
        assert not denied.value.retryable
        with pytest.raises(ApprovalPending) as pending:
            task.credential("crm:export@customers/42")
        assert pending.value.approval == "data-steward"
        assert pending.value.slug == "approval-required"
        assert not isinstance(pending.value, Denied)
    assert world.task(task.id)["outcome"] == "completed"


def test_what_is_outside_of_the_scope_is_not_even_asked_for(world: World, gate: Any) -> None:
    with world.broker(address=gate.url).task("look", READ) as task:
        asked = gate.requests
        for access in ("crm:read", "crm:comment@customers/42", "crm:read@customers/4", "payments:read"):
            with pytest.raises(ScopeWidening):
                task.credential(access)
            with pytest.raises(ScopeWidening):
                task.delegate(purpose="look", scope=access)
            with pytest.raises(ScopeWidening):
                task.auth(access)
        assert gate.requests == asked
        assert task.credential("crm:read@customers/42/notes").resources == ("customers/42/notes",)


def test_a_task_that_somebody_ends_tells_its_agent(world: World) -> None:
    with world.broker().task("work", READ, heartbeat=3) as task:
        task.credential(READ)
        world.order(f"/v1/tasks/{task.id}/revoke", {"reason": "it does what nobody asked for"})
        assert task.ended.wait(5)
        with pytest.raises(TaskEnded) as ended:
            task.credential(READ)
        assert (ended.value.state, ended.value.outcome) == ("ended", "revoked")
        assert task.outcome == "revoked"


@pytest.mark.anyio
async def test_a_call_learns_of_the_end_before_a_heartbeat_does(world: World) -> None:
    async with world.broker().task("work", READ) as task:
        world.order(f"/v1/tasks/{task.id}/revoke", {"reason": "it does what nobody asked for"})
        with pytest.raises(TaskEnded) as ended:
            await task.credential(READ)
        assert ended.value.outcome == "revoked"
        await task.ended.wait()


def test_heartbeats_keep_a_task_alive_and_stop_when_nobody_holds_it(world: World) -> None:
    broker = world.broker()
    held = broker.task("work", READ, heartbeat=2).open()
    dropped = broker.task("be forgotten", READ, heartbeat=2).open().id
    watch = broker.join(dropped).open()
    watch._core.heartbeat = None  # only to look: it does not beat
    until(lambda: world.task(dropped)["state"] == "ended")
    assert world.task(dropped)["outcome"] == "lost"
    assert world.task(held.id)["state"] == "open"
    assert held.complete("cancelled").outcome == "cancelled"


def test_a_suspended_task_is_resumed_in_another_process(world: World) -> None:
    with world.broker().task("wait for somebody", READ) as task:
        before = task.credential(READ)
        handle = task.suspend()
        with pytest.raises(TaskSuspended):
            task.credential(READ)
    assert world.task(task.id)["state"] == "suspended"
    assert world.get("/customers/42", before.token.reveal()).status_code == 401
    text = handle.to_json()
    assert TaskHandle.from_json(text) == handle
    assert before.token.reveal() not in text
    code = (
        "import sys; from dayfly import Broker\n"
        "with Broker().resume(sys.argv[1]) as task:\n"
        "    print(task.id, task.purpose, task.credential('crm:read@customers/42').lease_id)\n"
    )
    env = {**os.environ, "DAYFLY_BROKER": world.url, "DAYFLY_EVIDENCE_FILE": str(world.evidence())}
    out = subprocess.run(
        [sys.executable, "-c", code, text], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.startswith(f"{task.id} wait for somebody lse_")
    assert world.task(task.id)["outcome"] == "completed"
    with pytest.raises(TaskEnded), world.broker().resume(handle):
        pass


def test_a_handle_of_another_broker_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest):
        world.broker().resume(TaskHandle("https://elsewhere.example.org", "tsk_1"))
    for text in ("", "[]", '{"v": 2, "broker": "http://127.0.0.1:8440", "task": "tsk_1"}'):
        with pytest.raises(InvalidRequest):
            TaskHandle.from_json(text)


@pytest.mark.anyio
async def test_a_part_of_a_task_for_oneself_ends_with_its_block(world: World) -> None:
    async with world.broker().task("quarter", "crm:read") as task:
        async with task.delegate(purpose="one customer", scope=READ, ttl="5m") as part:
            credential = await part.credential(READ)
        assert world.get("/customers/42", credential.token.reveal()).status_code == 401
        assert world.task(part.id)["parent"] == task.id
        assert world.task(task.id)["state"] == "open"


def test_work_is_handed_to_another_agent_which_joins_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.broker().task("quarter", "crm:read") as task:
        handover = task.delegate("report-bot", purpose="one customer", scope=READ, ttl="5m")
        assert handover.agent == "report-bot"
        with pytest.raises(NotFound), world.broker("ops-console").join("tsk_" + "0" * 26):
            pass
        for name, value in handover.env().items():
            monkeypatch.setenv(name, value)
        with Broker(evidence=world.evidence("report-bot")).join() as part:
            assert part.id == handover.task_id
            credential = part.credential(READ)
            assert world.get("/customers/42", credential.token.reveal()).status_code == 200
        assert world.get("/customers/42", credential.token.reveal()).status_code == 401
        other = task.delegate("report-bot", purpose="another", scope=READ)
    assert world.task(other.task_id)["outcome"] == "parent_ended"


@pytest.mark.anyio
async def test_work_is_handed_on_from_a_coroutine(world: World) -> None:
    async with world.broker().task("quarter", "crm:read") as task:
        handover = await task.delegate("report-bot", purpose="one customer", scope=READ)
        async with world.broker("report-bot").join(handover.task_id) as part:
            assert (await part.credential(READ)).tool == "crm"


def test_whether_something_would_be_permitted_can_be_asked(world: World) -> None:
    verdicts = world.broker().decide("look", [READ, "crm:delete", {"tool": "crm", "actions": ["export"]}])
    assert [verdict.permitted for verdict in verdicts] == [True, False, False]
    assert verdicts[0].access == Access("crm", ("read",), ("customers/42",))
    assert verdicts[0].granted == 300
    assert verdicts[1].reason
    # Only within customers, and then with an approval.
    assert world.broker().decide("look", "crm:export@customers/42")[0].approval == "data-steward"


@pytest.mark.anyio
async def test_a_token_is_ended_by_itself(world: World) -> None:
    broker = world.broker()
    assert (await broker.adecide("look", READ))[0].permitted
    async with broker.task("look", READ) as task:
        one, other = await task.credential(READ, cache=False), await task.credential(READ, cache=False)
        await broker.arevoke_token(one.token)
        broker.revoke_token(one.token.reveal())
        leases = {lease["id"]: lease["state"] for lease in world.leases(task.id)}
        assert leases[one.lease_id] != "active"
        assert leases[other.lease_id] == "active"
    await broker.aclose()


def test_a_field_that_is_wrong_is_named(world: World) -> None:
    with pytest.raises(InvalidRequest) as wrong, world.broker().task("look", READ, ttl="366d"):
        pass
    assert wrong.value.pointer == "/ttl"
    assert wrong.value.status == 422
    assert isinstance(wrong.value, ValueError)
    wrong_ones: list[Any] = ["crm", "crm:", "CRM:read", "crm:read@a//b", "crm:read@", [], {"tool": "crm"}]
    for scope in wrong_ones:
        with pytest.raises(InvalidRequest):
            world.broker().task("look", scope)


def test_a_budget_says_whose(world: World, gate: Any) -> None:
    with world.broker(address=gate.url).task("look", READ) as task:
        gate.problem(429, "budget", more=',"budget":"task","retry_after":60')
        with pytest.raises(Budget) as budget:
            task.credential(READ)
        assert (budget.value.budget, budget.value.retry_after) == ("task", 60.0)
        assert budget.value.retryable
        assert gate.requests == 1, "a minute is more than the time for all tries"
        gate.set("pass")


def test_a_fork_gets_a_worker_of_its_own(world: World) -> None:
    broker = world.broker()
    with broker.task("before", READ) as task:
        code = 0
        child = os.fork()
        if child == 0:
            try:
                with broker.task("in the child", READ) as own:
                    code = 7 if own.credential(READ).tool == "crm" else 1
            except BaseException:  # noqa: BLE001
                code = 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert task.credential(READ).tool == "crm"


def test_a_broker_can_be_closed_and_used_again(world: World) -> None:
    broker = world.broker()
    assert broker.decide("look", READ)
    broker.close()
    assert broker.decide("look", READ)
    broker.close()
    assert isinstance(broker.task("look", READ).open(), Task)
    assert BrokerUnavailable("x").retryable


def test_a_block_is_for_one_task(world: World, gate: Any) -> None:
    block = world.broker(address=gate.url).task("once", READ)
    gate.problem(403, "not-admitted")
    with pytest.raises(NotAdmitted), block:
        pass
    gate.set("pass")
    with block as task:
        with pytest.raises(RuntimeError, match="opened already"), block:
            pass
        assert world.task(task.id)["state"] == "open"
    for again in (block.__enter__, block.open):
        with pytest.raises(RuntimeError, match="opened already"):
            again()
    assert world.task(task.id)["outcome"] == "completed"


def test_who_forgets_the_block_is_told(world: World) -> None:
    forgotten: Any = world.broker().task("look", READ)
    with pytest.raises(AttributeError, match="within its block, `with"):
        forgotten.credential(READ)
    with pytest.raises(AttributeError, match=r"has no `credentials`$"):
        _ = forgotten.credentials


def test_the_end_of_the_process_completes_a_task_at_a_broker_with_a_name(world: World) -> None:
    code = (
        "import atexit, sys; from dayfly import Broker\n"
        "broker = Broker(sys.argv[1])\n"
        "block = broker.task('leave', 'crm:read', heartbeat=None)\n"
        "print(block.__enter__().id)\n"
        "broker.close()\n"  # so that the name is looked up once more
        "atexit.register(block.__exit__, None, None, None)\n"
    )
    env = {**os.environ, "DAYFLY_EVIDENCE_FILE": str(world.evidence())}
    url = world.url.replace("127.0.0.1", "localhost")
    out = subprocess.run(
        [sys.executable, "-c", code, url], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stderr == ""
    assert world.task(out.stdout.strip())["outcome"] == "completed"


def test_what_somebody_wants_called_at_the_end_may_raise(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []
    with world.broker().task("look", READ) as task:
        task.ended.call(lambda: called.append(1))
        task.ended.call(lambda: sys.exit(f"{1 / 0}"))
        task.ended.call(lambda: sys.exit(1))
        task.ended.call(lambda: called.append(2))
    assert called == [1, 2]
    assert task.completion is not None
    assert world.task(task.id)["outcome"] == "completed"
    assert "raised a ZeroDivisionError" in caplog.text
    assert "raised a SystemExit" in caplog.text
    task.ended.call(lambda: called.append(int("no")))
    task.ended.call(lambda: called.append(3))
    assert called == [1, 2, 3]


def test_a_late_answer_to_a_heartbeat_does_not_wake_a_suspended_task(world: World) -> None:
    with world.broker().task("wait", READ) as task:
        late = world.task(task.id)
        assert late["state"] == "open"
        task.suspend()
        task._core._take(late)
        assert task.state == "suspended"
    assert world.task(task.id)["state"] == "suspended", "its block did not complete it"
    with world.broker().resume(task.handle):
        pass
