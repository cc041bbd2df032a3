"""A real MCP server and a real client, over HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvicorn
from mcp import Client
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from dayfly import DayflyError, OriginRefused, Secret
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
