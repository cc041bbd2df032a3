"""The broker is down, slow, or on its way back."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from conftest import World, until
from dayfly import (
    AttestationFailed,
    Broker,
    BrokerUnavailable,
    Budget,
    DayflyError,
    Denied,
    NotAdmitted,
    NotFound,
    ProviderFailed,
    Revoked,
    Secret,
    _core,
    _heart,
)
from dayfly import _transport as transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from gate import Gate

READ = "crm:read@customers/42"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of these tests are short; what they are made of is tested by itself."""
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.01)


def test_a_broker_that_is_down_is_tried_four_times(world: World, gate: Gate) -> None:
    gate.set("refuse")
    with pytest.raises(BrokerUnavailable) as down, world.broker(address=gate.url).task("look", READ):
        pass
    assert gate.requests == 4
    assert down.value.retryable
    assert down.value.status is None
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match="nobody listens"):
            world.broker(address=nobody).decide("look", READ)


def test_an_answer_that_is_lost_opens_no_second_task(world: World, gate: Gate) -> None:
    broker = world.broker(address=gate.url)
    gate.set("swallow", times=2)
    with broker.task("once", READ) as task:
        assert gate.requests == 3
        gate.set("swallow", times=1)
        task.credential(READ)
        assert gate.requests == 2
        assert [lease["state"] for lease in world.leases(task.id, "active")] == ["active"]
        gate.set("swallow", times=1)
    assert world.task(task.id)["outcome"] == "completed"
    same = [each for each in world.ask("/v1/leases", limit="500")["leases"] if each["task"] == task.id]
    assert all(each["state"] == "ended" for each in same)


@pytest.mark.parametrize(
    ("status", "slug", "error", "tries"),
    [
        (503, "unavailable", BrokerUnavailable, 4),
        (503, "busy", BrokerUnavailable, 4),
        (504, "timed-out", BrokerUnavailable, 4),
        (502, "provider-refused", ProviderFailed, 4),
        (409, "conflict", BrokerUnavailable, 4),
        (403, "revoked", Revoked, 1),
        (403, "not-admitted", NotAdmitted, 1),
        (500, "internal", DayflyError, 1),
        (302, "none", DayflyError, 1),
        # Newer than this package.
        (429, "made-up", Budget, 4),
        (503, "made-up", BrokerUnavailable, 4),
        (403, "made-up", Denied, 1),
        (404, "made-up", NotFound, 1),
        (409, "made-up", DayflyError, 1),
    ],
)
def test_what_is_tried_again(
    world: World, gate: Gate, status: int, slug: str, error: type[DayflyError], tries: int
) -> None:
    gate.problem(status, slug)
    with pytest.raises(error) as failed:
        world.broker(address=gate.url).decide("look", READ)
    assert type(failed.value) is error
    assert (failed.value.status, failed.value.slug) == (status, slug)
    assert gate.requests == tries


def test_a_fault_that_passes_is_not_seen(world: World, gate: Gate) -> None:
    gate.problem(503, "unavailable", times=3, more=',"retry_after":0')
    assert world.broker(address=gate.url).decide("look", READ)[0].permitted
    assert gate.requests == 4


def test_what_the_broker_asks_to_wait_is_waited(world: World, gate: Gate) -> None:
    gate.problem(503, "unavailable", times=1, more=',"retry_after":1')
    began = time.monotonic()
    assert world.broker(address=gate.url).decide("look", READ)[0].permitted
    assert time.monotonic() - began >= 1


def test_pauses_grow_are_spread_and_end() -> None:
    error = BrokerUnavailable("down")
    for tries, most in ((1, 0.01), (2, 0.02), (3, 0.04)):
        drawn = [transport._pause(error, tries, 10.0) for _ in range(200)]
        assert all(pause is not None and 0 <= pause <= most for pause in drawn)
        assert len(set(drawn)) > 100
    assert transport._pause(error, 4, 10.0) is None
    assert transport._pause(BrokerUnavailable("down", retry_after=3.0), 1, 2.0) is None
    assert transport._pause(BrokerUnavailable("down", retry_after=3.0), 1, 4.0) == 3.0
    assert transport._pause(DayflyError("no"), 1, 10.0) is None


def test_a_broker_that_does_not_answer_is_given_up(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = world.broker(address=gate.url)
    gate.set("hang")
    monkeypatch.setattr(transport.Request.__init__, "__defaults__", (None, None, None, None, True, 0.3))
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="in time"):
        broker.decide("look", READ)
    assert time.monotonic() - began < 3


def test_the_end_of_a_block_hides_nothing_and_reports_what_could_not_be_done(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError), world.broker(address=gate.url).task("look", READ) as task:
        gate.set("refuse")
        _ = 1 / 0
    assert "ends by itself" in caplog.text
    assert task.state == "ended"
    gate.set("pass")
    # The broker was not told, and its heartbeats are over.
    world.order(f"/v1/tasks/{task.id}/revoke", {"reason": "the test is over"})


@pytest.mark.anyio
async def test_a_task_without_heartbeats_that_could_not_be_completed_is_not_left_in_silence(
    world: World, gate: Gate
) -> None:
    broker, tasks = world.broker(address=gate.url), []
    with pytest.raises(BrokerUnavailable), broker.task("look", READ, heartbeat=None) as task:
        tasks.append(task.id)
        gate.set("refuse")
    gate.set("pass")
    with pytest.raises(BrokerUnavailable):
        async with broker.task("look", READ, heartbeat=None) as other:
            tasks.append(other.id)
            gate.set("refuse")
    gate.set("pass")
    with pytest.raises(ZeroDivisionError), broker.task("look", READ, heartbeat=None) as task:
        tasks.append(task.id)
        gate.set("refuse")
        _ = 1 / 0
    gate.set("pass")
    for each in tasks:
        assert world.task(each)["state"] == "open"
        world.order(f"/v1/tasks/{each}/revoke", {"reason": "the test is over"})


@pytest.mark.parametrize("answer", ["text", "null", "list", "other"])
def test_an_answer_that_is_no_completion_hides_nothing(world: World, gate: Gate, answer: str) -> None:
    kind = "text/html" if answer == "text" else "application/json"
    body = {"text": "<p>", "null": "null", "list": '{"task":[],"leases":[]}', "other": '{"leases":{"a":1}}'}[
        answer
    ]
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    with pytest.raises(ZeroDivisionError), world.broker(address=gate.url).task("look", READ):
        gate.set("answer", answer=(head + body).encode())
        _ = 1 / 0
    with pytest.raises(BrokerUnavailable, match="no completion"):
        gate.set("pass")
        with world.broker(address=gate.url).task("look", READ) as task:
            gate.set("answer", answer=(head + body).encode())
            task.complete()


@pytest.mark.parametrize(
    "body", ["null", "[]", '"ok"', "{}", '{"verdicts":[{}]}', '{"id":"tsk_1","scope":7}']
)
def test_an_answer_that_is_something_else_is_said_to_be_that(world: World, gate: Gate, body: str) -> None:
    broker = world.broker(address=gate.url)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    answer = (head + body).encode()
    task = broker.task("look", READ, heartbeat=None).open()
    calls: list[Callable[[], Any]] = [
        lambda: broker.task("look", READ).open(),
        lambda: broker.join(task.id).open(),
        lambda: broker.resume(task.handle).open(),
        lambda: task.credential(READ),
        lambda: task.delegate(purpose="part", scope=READ).open(),
        lambda: task.delegate("report-bot", purpose="part", scope=READ),
        lambda: broker.decide("look", READ),
        task.suspend,
        task.complete,
    ]
    for call in calls:
        gate.set("answer", answer=answer)
        with pytest.raises(BrokerUnavailable, match="compare the versions") as failed:
            call()
        assert not failed.value.retryable
        assert gate.requests == 1
    gate.set("pass")
    task.complete()


def test_a_source_of_evidence_that_raises_hides_nothing_and_says_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    good = world.evidence().read_text()
    broken = threading.Event()

    def source() -> str:
        if broken.is_set():
            raise RuntimeError(f"no good: {good}")
        return good

    with pytest.raises(ZeroDivisionError), world.broker(evidence=source).task("look", READ):
        broken.set()
        _ = 1 / 0
    with pytest.raises(AttestationFailed, match=r"failed \(RuntimeError\)") as failed:
        world.broker(evidence=source).decide("look", READ)
    assert failed.value.__cause__ is failed.value.__context__ is None
    assert good not in caplog.text
    assert "RuntimeError" in caplog.text


def test_an_interrupted_opening_leaves_no_task_behind(world: World, gate: Gate) -> None:
    before = {lease["task"] for lease in world.ask("/v1/leases", limit="500")["leases"]}
    context = world.broker(address=gate.url).task("interrupted", READ)
    gate.set("hang", times=1)
    begin, opened = context._begin, []

    async def watched():  # type: ignore[no-untyped-def]
        core = await begin()
        opened.append(core)
        return core

    context._begin = watched

    import anyio

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def interrupt() -> None:
                    await anyio.to_thread.run_sync(gate.seen.wait, 15)
                    scope.cancel()

                group.start_soon(interrupt)
                async with context:
                    raise AssertionError("it was not opened")

    anyio.run(main)
    gate.set("pass")
    until(lambda: opened and opened[0].ended.event.is_set())
    assert world.task(opened[0].id)["outcome"] == "cancelled"
    assert opened[0].id not in before


def test_a_broker_that_comes_back_is_used_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World(tmp_path_factory.mktemp("restart"))
    world.start()
    try:
        with world.broker().task("long work", READ, heartbeat=20) as task:
            first = task.credential(READ)
            world.stop()
            with pytest.raises(BrokerUnavailable):
                task.credential(READ, cache=False)
            assert task.credential(READ) is first
            world.start()
            second = task.credential(READ, cache=False)
            assert world.get("/customers/42", second.token.reveal()).status_code == 200
        assert world.task(task.id)["outcome"] == "completed"
    finally:
        world.stop()


def test_a_heartbeat_that_fails_is_made_again(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "dayfly"),
        world.broker(address=gate.url).task("work", READ, heartbeat=6) as task,
    ):
        gate.problem(500, "internal", times=1)
        assert gate.seen.wait(5)
        before = world.task(task.id)["beat_at"]
        until(lambda: world.task(task.id)["beat_at"] != before)
        assert not task.ended.is_set()
    assert "a heartbeat of the task" in caplog.text


def test_a_heartbeat_that_is_not_answered_keeps_no_other_waiting(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = world.broker(address=gate.url)
    monkeypatch.setattr(_heart, "_AT_ONCE", 1)
    with broker.task("work", READ, heartbeat=6) as one, broker.task("work", READ, heartbeat=6) as two:
        before = {task.id: world.task(task.id)["beat_at"] for task in (one, two)}
        gate.set("hang", times=1)
        assert gate.seen.wait(5)

        def both_beat() -> bool:
            assert not one.ended.is_set()
            assert not two.ended.is_set()
            assert [world.task(each)["state"] for each in before] == ["open", "open"]
            return all(world.task(each)["beat_at"] != beat for each, beat in before.items())

        until(both_beat)


def test_evidence_that_hangs_takes_no_heartbeat_from_another_broker(world: World) -> None:
    good, hangs, release = world.evidence().read_text(), threading.Event(), threading.Event()
    calls: list[None] = []

    def source() -> str:
        if hangs.is_set():
            calls.append(None)
            release.wait(60)
        return good

    hanging = world.broker(evidence=source)
    try:
        with world.broker().task("work", READ, heartbeat=6) as other:
            # More than there are places and threads, so that none would be left.
            held = [hanging.task(f"hang {at}", READ, heartbeat=3).open() for at in range(40)]
            hangs.set()
            until(lambda: len(calls) >= 8)
            for _ in range(3):
                before = world.task(other.id)["beat_at"]

                def has_beaten(before: str = before) -> bool:
                    return bool(world.task(other.id)["beat_at"] != before)

                until(has_beaten, 6)
            assert not other.ended.is_set()
            assert other.credential(READ).tool == "crm"
            assert len(calls) <= 8, "what hangs is not asked again and again"
            until(lambda: all(world.task(task.id)["outcome"] == "lost" for task in held))
            # None of them beats on into the tests that follow.
            cores = [weakref.ref(task._core) for task in held]
            held.clear()
            until(lambda: gc.collect() >= 0 and not any(core() for core in cores))
    finally:
        release.set()


@pytest.mark.parametrize(
    "stop", [SystemExit(1), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("kind", ["function", "coroutine", "source"])
def test_a_source_of_evidence_that_stops_the_program_stops_nobody_else(
    world: World, stop: BaseException, kind: str
) -> None:
    good, broken = world.evidence().read_text(), threading.Event()

    def function() -> str:
        if broken.is_set():
            raise stop
        return good

    async def coroutine() -> str:
        if kind == "coroutine" and isinstance(stop, asyncio.CancelledError | StopIteration):
            return function() if not broken.is_set() else ""  # these have a meaning of their own there
        return function()

    class Source:
        async def get(self, *, fresh: bool = False) -> Secret:
            return Secret(await coroutine())

    source: Any = {"function": function, "coroutine": coroutine, "source": Source()}[kind]
    with (
        world.broker().task("other", READ) as other,
        world.broker(evidence=source).task("look", READ) as task,
    ):
        broken.set()
        if kind == "source" and isinstance(stop, asyncio.CancelledError):
            stop = RuntimeError()
        with pytest.raises(AttestationFailed):
            task.credential(READ)
        assert other.credential(READ).tool == "crm"
        assert [each.name for each in threading.enumerate()].count("dayfly") == 1
        broken.clear()


def test_the_end_of_a_block_waits_no_longer_than_it_says_where_evidence_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, hangs, release = world.evidence().read_text(), threading.Event(), threading.Event()

    def source() -> str:
        if hangs.is_set():
            release.wait(60)
        return good

    monkeypatch.setattr(_core, "WAIT_FOR_PROOFS", -4)  # and five seconds beyond
    try:
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError), world.broker(evidence=source).task("look", READ, ttl="5s"):
            hangs.set()
            _ = 1 / 0
        assert time.monotonic() - began < 8
    finally:
        release.set()


def test_evidence_that_is_refused_is_fetched_anew_once(world: World) -> None:
    good = world.evidence().read_text()
    given: list[str] = []

    def evidence() -> str:
        given.append("")
        return good if len(given) > 1 else good[:-8] + "AAAAAAAA"

    assert world.broker(evidence=evidence).decide("look", READ)[0].permitted
    assert len(given) == 2
    with pytest.raises(AttestationFailed) as failed:
        world.broker(evidence=lambda: "eyJ.eyJ.x").decide("look", READ)
    assert failed.value.status == 401


def test_evidence_does_not_go_over_plain_http_but_to_loopback() -> None:
    for address in ("http://dayfly.example.org", "http://10.0.0.1:8440", "http://127.0.0.1.example.org"):
        with pytest.raises(ValueError, match="allow_plain_http"):
            Broker(address)
        assert Broker(address, allow_plain_http=True).address == address
    for address in (
        "http://127.9.9.9:1",
        "http://[::1]:8440/",
        "http://localhost",
        "https://dayfly.example.org",
    ):
        assert Broker(address).address == address.rstrip("/")
    for address in (
        "dayfly.example.org",
        "ftp://127.0.0.1",
        "https://user:pw@dayfly.example.org",
        "https://a/?b",
    ):
        with pytest.raises(ValueError, match="address"):
            Broker(address)


def test_a_redirect_of_the_broker_is_not_followed(world: World, gate: Gate) -> None:
    location = f"HTTP/1.1 307 X\r\nlocation: {world.url}/v1/decisions\r\ncontent-length: 0\r\n\r\n"
    gate.set("answer", answer=location.encode())
    with pytest.raises(DayflyError, match="redirect"):
        world.broker(address=gate.url).decide("look", READ)
    assert gate.requests == 1
