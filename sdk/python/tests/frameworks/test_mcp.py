"""A real MCP server and a real client, over HTTP."""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvicorn
from mcp import Client
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from dayfly import Credential, DayflyError, InvalidRequest, OriginRefused, Secret
from dayfly.mcp import TokenVerifier, auth, connect, demand
from dayfly.resource import MissingToken, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import World

READ = "crm:read@customers/42"


@pytest.fixture(scope="module")
def server(shared: World) -> Iterator[str]:
    """A CRM that speaks MCP."""
    verifier = Verifier(shared.url, "https://crm.example.org", evidence=shared.evidence("crm-server"))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = AuthSettings(
        issuer_url=shared.url, resource_server_url=url + "/mcp", validate_token_resource=False
    )  # type: ignore[arg-type]
    crm: MCPServer[Any] = MCPServer("CRM", token_verifier=TokenVerifier(verifier), auth=settings)

    @crm.tool()
    def show(customer: int) -> str:
        """Show a customer."""
        claims = demand("read", f"customers/{customer}")
        return f"{claims.agent} reads {customer}"

    serving = uvicorn.Server(uvicorn.Config(crm.streamable_http_app(), log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(serving.serve([listener])), daemon=True)
    thread.start()
    yield url
    serving.should_exit = True
    thread.join(10)
    verifier.close()


def text(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.anyio
async def test_each_request_of_a_client_bears_a_token_of_the_task(world: World, server: str) -> None:
    async with world.broker().task("look", READ) as task:
        assert isinstance((await task.credential(READ)).token, Secret)
        world.origins(server)
        async with (
            world.broker().task("look", READ) as own,
            Client(connect(server + "/mcp", own, READ)) as client,
        ):
            assert text(await client.call_tool("show", {"customer": 42})) == "support-bot reads 42"
            refused = await client.call_tool("show", {"customer": 43})
            assert refused.is_error
            # Another one in the middle of the connection, which goes on.
            before = (await own.credential(READ)).lease_id
            world.order(f"/v1/leases/{before}/revoke", {"reason": "to see"})
            with anyio.fail_after(10):
                while (await own.credential(READ)).lease_id == before:
                    answer = await client.call_tool("show", {"customer": 42})
                    assert text(answer) == "support-bot reads 42"
    assert {lease["state"] for lease in world.leases(own.id)} == {"ended"}


@pytest.mark.anyio
async def test_a_request_is_judged_by_its_own_token_and_not_by_that_which_opened_the_session(
    world: World, server: str
) -> None:
    import httpx

    async def post(token: Credential, session: str | None, **message: Any) -> httpx.Response:
        headers = {
            "authorization": f"Bearer {token.token.reveal()}",
            "accept": "application/json, text/event-stream",
        }
        if session is not None:
            headers |= {"mcp-session-id": session, "mcp-protocol-version": "2025-06-18"}
        body = {"jsonrpc": "2.0", **message}
        return await client.post(server + "/mcp", json=body, headers=headers)

    async def show(token: Credential, customer: int) -> str:
        params = {"name": "show", "arguments": {"customer": customer}}
        return (await post(token, session, id=customer, method="tools/call", params=params)).text

    async with (
        world.broker().task("look", "crm:read@customers") as task,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        first, second = await task.credential(READ), await task.credential("crm:read@customers/43")
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        opened = await post(first, None, id=1, method="initialize", params=hello)
        session = opened.headers["mcp-session-id"]
        await post(first, session, method="notifications/initialized")
        assert "support-bot reads 42" in await show(first, 42)
        assert "support-bot reads 43" in await show(second, 43)
        assert "support-bot reads" not in await show(second, 42)
        assert "support-bot reads" not in await show(first, 43)


def test_a_server_is_not_built_on_version_1(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(world.url, "https://crm.example.org", evidence=world.evidence("crm-server"))
    try:
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.30.0")
        with pytest.raises(InvalidRequest, match="version 2"):
            TokenVerifier(verifier)
        with pytest.raises(InvalidRequest, match="version 2"):
            demand("read")
    finally:
        verifier.close()


@pytest.mark.anyio
async def test_a_server_of_this_machine_is_reached_without_a_proxy(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.origins(server)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with (
        world.broker().task("look", READ) as task,
        Client(connect(server + "/mcp", task, READ)) as client,
    ):
        assert text(await client.call_tool("show", {"customer": 42})) == "support-bot reads 42"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["raises", "cancelled"])
async def test_nothing_is_left_of_a_client_that_comes_to_grief(world: World, server: str, how: str) -> None:
    world.origins(server)
    tasks: list[str] = []

    async def work() -> None:
        async with world.broker().task("look", READ) as task:
            tasks.append(task.id)
            async with Client(connect(server + "/mcp", task, READ)) as client:
                await client.call_tool("show", {"customer": 42})
                if how == "raises":
                    raise KeyError("grief")
                scope.cancel()
                await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        try:
            await work()
        except KeyError:
            pass
        except BaseException as group:
            # A group of tasks wraps what was raised in it.
            if not getattr(group, "exceptions", None):
                raise
    assert world.task(tasks[0])["outcome"] == {"raises": "failed", "cancelled": "cancelled"}[how]
    assert {lease["state"] for lease in world.leases(tasks[0])} == {"ended"}


@pytest.mark.anyio
async def test_a_server_elsewhere_gets_no_token(world: World, server: str) -> None:
    world.origins("https://crm.example.org")
    async with world.broker().task("look", READ) as task:
        with pytest.raises(BaseException) as failed:
            async with Client(connect(server + "/mcp", task, READ)) as client:
                await client.list_tools()
    assert any(isinstance(each, OriginRefused) for each in leaves(failed.value)), failed.value


def leaves(error: BaseException) -> list[BaseException]:
    inner = [each for part in getattr(error, "exceptions", ()) for each in leaves(part)]
    causes = [each for cause in (error.__cause__, error.__context__) if cause for each in leaves(cause)]
    return [error, *inner, *causes]


@pytest.mark.anyio
async def test_without_a_token_a_server_answers_401(world: World, server: str) -> None:
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(server + "/mcp", json={})).status_code == 401
        headers = {"authorization": "Bearer no.to.ken"}
        assert (await client.post(server + "/mcp", json={}, headers=headers)).status_code == 401
    with pytest.raises(MissingToken):
        demand("read")
    async with world.broker().task("look", READ) as task:
        assert "crm:read" in repr(auth(task, READ))
        assert issubclass(MissingToken, DayflyError)
