"""Tokens on requests: to the tool and to nobody else."""

from __future__ import annotations

import dataclasses
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import pytest

from dayfly import InvalidRequest, OriginRefused, ScopeWidening, _credential
from dayfly._auth import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import World

READ = "crm:read@customers/42"


class Tool:
    """A tool that does what it is told, and remembers what it got."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[str | None] = []
        self.asked: list[str] = []
        tool = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                tool.got.append(self.headers.get("authorization"))
                tool.asked.append(f"{self.command} {self.path}")
                status, headers = tool.answers.pop(0) if tool.answers else (200, {})
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def tool() -> Iterator[Tool]:
    tool = Tool()
    yield tool
    tool.server.shutdown()
    tool.server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Tool]:
    tool = Tool()
    yield tool
    tool.server.shutdown()
    tool.server.server_close()


@pytest.fixture
def origins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the broker says about where the tool is; empty where it says nothing."""
    listed: list[str] = []
    read = _credential.read

    def reading(answer: Any, before: Any = None) -> Any:
        credential = read(answer, before)
        assert credential is not None
        return dataclasses.replace(credential, origins=tuple(listed))

    monkeypatch.setattr(_credential, "read", reading)
    return listed


def test_a_token_reaches_the_tool_and_opens_it(world: World) -> None:
    with (
        world.broker().task("look", READ) as task,
        httpx.Client(auth=task.auth(READ), trust_env=False) as client,
    ):
        assert client.get(world.crm + "/customers/42").json()["name"] == "Harbour Books"
        assert client.get(world.crm + "/customers/43").status_code == 403
        assert len(world.leases(task.id)) == 1


@pytest.mark.anyio
async def test_a_token_reaches_the_tool_from_a_coroutine(world: World, elsewhere: Tool) -> None:
    async with (
        world.broker().task("look", READ) as task,
        httpx.AsyncClient(auth=task.auth("crm", "read", "customers/42"), trust_env=False) as client,
    ):
        assert (await client.get(world.crm + "/customers/42")).status_code == 200
        assert (await task.credential(READ)).origins == (world.crm,)
        with pytest.raises(OriginRefused):
            await client.get(elsewhere.url)
        assert elsewhere.got == []


def test_the_first_request_elsewhere_is_refused(world: World, origins: list[str], elsewhere: Tool) -> None:
    origins.append("https://crm.example.org")
    with world.broker().task("look", READ) as task:
        for url in (
            elsewhere.url,
            "http://crm.example.org/",
            "https://crm.example.org:444",
            "https://example.org",
        ):
            with pytest.raises(OriginRefused) as refused:
                httpx.get(url, auth=task.auth(READ), trust_env=False)
            assert refused.value.origin == origin_of(url)
        with pytest.raises(OriginRefused):
            httpx.get(elsewhere.url, auth=task.auth(READ, origins=[elsewhere.url]), trust_env=False)
    assert elsewhere.got == []


def test_where_the_broker_names_no_origins_the_caller_has_to(
    world: World, origins: list[str], tool: Tool, elsewhere: Tool
) -> None:
    assert origins == []
    with world.broker().task("look", READ) as task:
        with pytest.raises(OriginRefused, match="origins="):
            httpx.get(tool.url, auth=task.auth(READ), trust_env=False)
        with pytest.raises(OriginRefused):
            httpx.get(tool.url, auth=task.auth(READ, origins=[elsewhere.url]), trust_env=False)
        assert httpx.get(tool.url, auth=task.auth(READ, origins=[tool.url + "/"]), trust_env=False).is_success
        with pytest.raises(InvalidRequest):
            task.auth(READ, origins=["crm.example.org"])
        with pytest.raises(ScopeWidening):
            task.auth("crm:comment")
    assert len(tool.got) == 1


def test_a_redirect_elsewhere_goes_there_without_a_token(
    world: World, origins: list[str], tool: Tool, elsewhere: Tool
) -> None:
    origins.append(tool.url)
    tool.answers.append((302, {"location": elsewhere.url + "/x"}))
    with world.broker().task("look", READ) as task:
        answer = httpx.get(tool.url, auth=task.auth(READ), follow_redirects=True, trust_env=False)
        assert answer.status_code == 200
        assert elsewhere.got == [None]
        assert tool.got[0] is not None
        # A refusal from there is not one of the token, which it never saw.
        tool.answers.append((302, {"location": elsewhere.url + "/x"}))
        elsewhere.answers.append((401, {}))
        assert (
            httpx.get(tool.url, auth=task.auth(READ), follow_redirects=True, trust_env=False).status_code
            == 401
        )
        assert elsewhere.got == [None, None]
        assert len(world.leases(task.id)) == 1


class Wires(httpcore.SyncBackend):
    """Leads the usual ports of every host to those of this machine, and takes TLS for done."""

    def __init__(self, **ports: int) -> None:
        self.ports = {80: ports["http"], 443: ports["https"]}

    def connect_tcp(self, host: str, port: int, *args: Any, **more: Any) -> Any:
        stream = super().connect_tcp("127.0.0.1", self.ports[port], *args, **more)
        stream.start_tls = lambda *_, **__: stream  # type: ignore[method-assign]
        return stream


class AsyncWires(httpcore.AnyIOBackend):
    """The same for coroutines."""

    def __init__(self, **ports: int) -> None:
        self.ports = {80: ports["http"], 443: ports["https"]}

    async def connect_tcp(self, host: str, port: int, *args: Any, **more: Any) -> Any:
        stream = await super().connect_tcp("127.0.0.1", self.ports[port], *args, **more)

        async def start_tls(*_: Any, **__: Any) -> Any:
            return stream

        stream.start_tls = start_tls  # type: ignore[method-assign]
        return stream


THERE = {"location": "https://crm.example.org/x"}


def test_a_redirect_to_https_of_the_same_host_goes_there_without_a_token(
    world: World, origins: list[str], tool: Tool, elsewhere: Tool
) -> None:
    origins.append("http://crm.example.org")
    events: list[str] = []
    with (
        world.broker().task("look", READ) as task,
        httpx.Client(trust_env=False, auth=task.auth(READ), follow_redirects=True) as client,
    ):
        wires = Wires(http=tool.server.server_port, https=elsewhere.server.server_port)
        client._transport._pool._network_backend = wires  # type: ignore[attr-defined]
        tool.answers.append((302, THERE))
        watched = {"trace": lambda event, _: events.append(event)}
        assert client.get("http://crm.example.org/", extensions=watched).status_code == 200
    assert (tool.got[0] is None, elsewhere.got) == (False, [None])
    assert events, "a trace of the caller's is told, too"


@pytest.mark.anyio
async def test_nor_does_that_of_a_coroutine_bear_one(
    world: World, origins: list[str], tool: Tool, elsewhere: Tool
) -> None:
    origins.append("http://crm.example.org")
    events: list[str] = []

    async def trace(event: str, _: Any) -> None:
        events.append(event)

    async with (
        world.broker().task("look", READ) as task,
        httpx.AsyncClient(trust_env=False, auth=task.auth(READ), follow_redirects=True) as client,
    ):
        wires = AsyncWires(http=tool.server.server_port, https=elsewhere.server.server_port)
        client._transport._pool._network_backend = wires  # type: ignore[attr-defined]
        tool.answers.append((302, THERE))
        assert (await client.get("http://crm.example.org/", extensions={"trace": trace})).status_code == 200
    assert (tool.got[0] is None, elsewhere.got) == (False, [None])
    assert events


def test_what_was_redirected_is_not_sent_again(world: World, origins: list[str], tool: Tool) -> None:
    origins.append(tool.url)
    with world.broker().task("look", READ) as task:
        tool.answers += [(303, {"location": "/comments/7"}), (401, {})]
        answer = httpx.post(
            tool.url + "/comments", auth=task.auth(READ), follow_redirects=True, trust_env=False
        )
        assert answer.status_code == 401
        assert tool.asked == ["POST /comments", "GET /comments/7"]
        assert len(world.leases(task.id)) == 1


@pytest.mark.anyio
async def test_a_refused_token_is_minted_anew_once(world: World, origins: list[str], tool: Tool) -> None:
    origins.append(tool.url)
    async with (
        world.broker().task("look", READ) as task,
        httpx.AsyncClient(auth=task.auth(READ), trust_env=False) as client,
    ):
        tool.answers.append((401, {}))
        assert (await client.post(tool.url, content=b"once more")).status_code == 200
        assert len(tool.got) == 2
        assert tool.got[0] != tool.got[1]
        tool.answers += [(401, {}), (401, {})]
        assert (await client.get(tool.url)).status_code == 401
        assert len(tool.got) == 4, "once, and not again"

        async def body() -> Any:
            yield b"only once"

        tool.answers.append((401, {}))
        assert (await client.post(tool.url, content=body())).status_code == 401
        assert len(tool.got) == 5, "this body cannot be sent again"
    assert len(world.leases(task.id, "ended")) == 3


def test_the_same_in_a_thread(world: World, origins: list[str], tool: Tool) -> None:
    origins.append(tool.url)
    with world.broker().task("look", READ) as task:
        tool.answers.append((401, {}))
        assert httpx.get(tool.url, auth=task.auth(READ), trust_env=False).status_code == 200
        assert tool.got[0] != tool.got[1]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://CRM.example.org/a?b", "https://crm.example.org"),
        ("https://crm.example.org:443", "https://crm.example.org"),
        ("http://crm.example.org:80/", "http://crm.example.org"),
        ("http://crm.example.org:443/", "http://crm.example.org:443"),
        ("http://[::1]:8441/x", "http://[::1]:8441"),
        ("https://a@crm.example.org", "https://crm.example.org"),
    ],
)
def test_an_origin_is_written_one_way(url: str, origin: str) -> None:
    assert origin_of(url) == origin
