"""Credentials are asked for once, kept in memory, and renewed before they are old."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dayfly import Access, Credential, Denied, TaskEnded, _core
from dayfly._worker import wait, worker

if TYPE_CHECKING:
    from conftest import World

READ = "crm:read@customers/42"


class Clock:
    """The time by which credentials age here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        monkeypatch.setattr(_core, "now", lambda: self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.anyio
async def test_fifty_coroutines_make_one_request(world: World) -> None:
    async with world.broker().task("look", "crm:read,comment@customers") as task:
        got: list[Credential] = []

        async def ask(actions: list[str]) -> None:
            got.append(await task.credential("crm", actions, "customers/42"))

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(ask, ["read", "comment"] if number % 2 else ["comment", "read"])
        assert len({id(credential) for credential in got}) == 1
        assert len(world.leases(task.id)) == 1
        assert await task.credential("crm:comment,read@customers/42") is got[0]
        assert await task.credential("crm:comment,read@customers/42", cache=False) is not got[0]
        assert await task.credential("crm:read@customers/42") is not got[0]
        assert len(world.leases(task.id)) == 3


def test_fifty_threads_make_one_request_and_fail_together(world: World) -> None:
    with world.broker().task("look", "crm:read,delete@customers") as task, ThreadPoolExecutor(50) as pool:
        barrier = threading.Barrier(50)

        def ask(access: str) -> Any:
            barrier.wait()
            try:
                return task.credential(access)
            except Denied as denied:
                return denied

        got = list(pool.map(ask, [READ] * 50))
        assert len({id(credential) for credential in got}) == 1
        assert len(world.leases(task.id)) == 1
        denied = list(pool.map(ask, ["crm:delete@customers/42"] * 50))
        assert all(isinstance(each, Denied) for each in denied)
        assert len({id(each) for each in denied}) == 50, "each has a traceback of its own"
        assert len({each.decision for each in denied}) < 10


def test_a_credential_is_renewed_behind_a_call_while_the_old_one_is_good(world: World, clock: Clock) -> None:
    with world.broker().task("look", READ) as task:
        first = task.credential(READ)
        clock.at += 0.59 * first.granted
        assert task.credential(READ) is first
        assert len(world.leases(task.id)) == 1
        clock.at += 0.15 * first.granted
        assert task.credential(READ) is first, "nobody waits for a renewal"
        second = first
        while second is first:
            second = task.credential(READ)
        assert second.lease_id == first.lease_id
        assert second.token != first.token
        assert world.get("/customers/42", second.token.reveal()).status_code == 200
        assert len(world.leases(task.id)) == 1, "it is the same lease"


def test_what_is_too_old_is_asked_for_anew(world: World, clock: Clock) -> None:
    with world.broker().task("look", READ) as task:
        first = task.credential(READ)
        clock.at += first.granted
        assert task.credential(READ).lease_id != first.lease_id


def test_a_lease_that_cannot_be_renewed_is_replaced(world: World, clock: Clock) -> None:
    with world.broker().task("look", READ) as task:
        first = task.credential(READ)
        world.order(f"/v1/leases/{first.lease_id}/revoke", {"reason": "to see"})
        clock.at += 0.75 * first.granted
        second = first
        while second is first:
            second = task.credential(READ)
        assert second.lease_id != first.lease_id


def test_a_renewal_that_fails_leaves_the_old_one_in_use(world: World, gate: Any, clock: Clock) -> None:
    with world.broker(address=gate.url).task("look", READ) as task:
        first = task.credential(READ)
        clock.at += 0.75 * first.granted
        gate.problem(403, "denied")
        assert task.credential(READ) is first
        assert gate.seen.wait(5)
        assert task.credential(READ) is first
        gate.set("pass")


def test_nothing_is_kept_of_a_task_that_is_suspended_or_over(world: World) -> None:
    with world.broker().task("look", READ) as task:
        task.credential(READ)
        assert task._core._entries
        task.suspend()
        assert not task._core._entries
    with world.broker().resume(task.handle) as task:
        task.credential(READ)
        task.complete("failed")
        assert not task._core._entries
        with pytest.raises(TaskEnded) as ended:
            task.credential(READ)
        assert ended.value.outcome == "failed"
    assert world.task(task.id)["outcome"] == "failed"


def test_a_caller_that_is_gone_takes_nobody_with_it(world: World, gate: Any) -> None:
    async def main() -> None:
        async with world.broker(address=gate.url).task("look", READ) as task:
            gate.set("hang", times=1)
            got: list[Credential] = []

            async def stay() -> None:
                got.append(await task.credential(READ))

            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(stay)
                    while not gate.seen.is_set():
                        await anyio.sleep(0.01)
                    scope.cancel()
                    await task.credential(READ)
                gate.set("pass")
            assert len(got) == 1

    anyio.run(main)


def test_a_renewal_that_comes_late_does_not_bring_back_what_its_tool_refused(
    world: World, gate: Any, clock: Clock
) -> None:
    with world.broker(address=gate.url).task("look", READ) as task:
        first = task.credential(READ)
        entry = task._core._entries[Access.parse(READ)]
        access = Access.parse(READ)
        renewing = worker().submit(task._core._refresh(access, entry))
        second = wait(worker().submit(task._core.credential(access, None, cache=True, instead_of=first)))
        wait(renewing)
        assert second.lease_id != first.lease_id
        assert task.credential(READ) is second
