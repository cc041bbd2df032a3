"""A client of the MCP SDK uses a server of the MCP SDK through `dayfly mcp connect`, with a real broker.

usage: check.py DAYFLY FOLDER
"""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

dayfly, folder = sys.argv[1], Path(sys.argv[2])
PATIENCE = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


broker = f"http://127.0.0.1:{free_port()}"
own = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def evidence(agent: str) -> str:
    return str(folder / "evidence" / f"{agent}.jwt")


def command(*arguments: str, by: str = "support-bot") -> str:
    remote = ["--broker", broker, "--evidence", evidence(by)]
    done = subprocess.run([dayfly, *arguments, *remote], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def process(*arguments: str, **options):
    running = subprocess.Popen(arguments, **options)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def await_broker(running: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        assert running.poll() is None, (folder / "log").read_text()
        try:
            own.open(f"{broker}/readyz").close()
            return
        except OSError:
            assert time.monotonic() < until, "the broker does not answer"
            time.sleep(0.05)


def place(url: str) -> None:
    """Say in the catalogue where the server is, and let its tokens be short-lived."""
    origin = url.removesuffix("/mcp")
    file = folder / "tools/crm.toml"
    text = re.sub(r"(?m)^origins = .*$", f'origins = ["{origin}"]', file.read_text())
    assert origin in text
    file.write_text(text.replace('default_ttl = "5m"', 'default_ttl = "4s"'))
    command("reload", by="ops-console")


def parameters(url: str, access: str = "crm:read@customers/42") -> StdioServerParameters:
    """As `dayfly mcp config` tells a client to start it."""
    about = ["--access", access, "--purpose", "answer ticket 4711", "--heartbeat", "3s"]
    config = json.loads(command("mcp", "config", url, *about))
    return StdioServerParameters(**config["mcpServers"]["crm"])


def text(result) -> str:
    return result.content[0].text


async def converse(url: str, mode: str) -> None:
    heard: list[str] = []
    progress: list[float] = []

    async def listen(message) -> None:
        heard.append(getattr(message, "method", type(message).__name__))

    async def see(done: float, of: float | None, what: str | None) -> None:
        progress.append(done)

    async with Client(parameters(url), mode=mode, message_handler=listen) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"show", "which", "learn"}, tools
        assert text(await client.call_tool("show", {"customer": 42})) == "support-bot reads 42"
        assert (await client.call_tool("show", {"customer": 43})).is_error, "the token says 42"

        assert text(await client.call_tool("learn", {}, progress_callback=see)) == "learnt"
        assert progress == [1], progress
        if mode == "legacy":
            # It comes on the stream beside, which is opened after the session begins.
            async with asyncio.timeout(PATIENCE):
                while "notifications/tools/list_changed" not in heard:
                    await asyncio.sleep(0.05)
                    await client.call_tool("learn", {})

        first, task = text(await client.call_tool("which", {})).split()
        async with asyncio.timeout(PATIENCE):
            while (now := text(await client.call_tool("which", {})).split())[0] == first:
                await asyncio.sleep(0.1)
        assert now[1] == task, "another token of the same task"

        command("task", "complete", task)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await client.call_tool("show", {"customer": 42})
                except MCPError as error:
                    if error.error.code == 40901:
                        assert error.error.data["outcome"] == "completed", error.error
                        break
                await asyncio.sleep(0.1)
    print(f"{mode}: as told")


async def leave(url: str) -> None:
    """The task is over when the client has left."""
    async with Client(parameters(url), mode="legacy") as client:
        _, task = text(await client.call_tool("which", {})).split()
    shown = json.loads(command("--json", "task", "show", task))
    assert (shown["state"], shown["outcome"]) == ("ended", "completed"), shown
    print("left: as told")


async def denied(url: str) -> None:
    """A client is told why, and not that its server is dead."""
    try:
        async with Client(parameters(url, "crm:delete@customers/42"), mode="legacy") as client:
            await client.list_tools()
        raise AssertionError("it was let in")
    except BaseException as group:
        [error] = [each for each in leaves(group) if isinstance(each, MCPError)][:1]
    assert error.error.code == 40301, error.error
    assert error.error.data["decision"], error.error
    print("denied: as told")


def leaves(error: BaseException) -> list[BaseException]:
    parts = [each for part in getattr(error, "exceptions", ()) for each in leaves(part)]
    return [error, *parts]


def main() -> None:
    log = (folder / "log").open("ab")
    ports = ["--listen", broker.removeprefix("http://"), "--tool", f"127.0.0.1:{free_port()}"]
    with process(dayfly, "dev", "--folder", str(folder), *ports, stdout=log, stderr=log) as dev:
        await_broker(dev)
        server = [sys.executable, str(Path(__file__).with_name("server.py")), broker, evidence("crm-server")]
        with process(*server, stdout=subprocess.PIPE, stderr=log, text=True) as crm:
            url = crm.stdout.readline().strip()
            place(url)
            asyncio.run(converse(url, "legacy"))
            asyncio.run(converse(url, "auto"))
            asyncio.run(leave(url))
            asyncio.run(denied(url))
    # Neither the broker nor the server says what a token is.
    said = (folder / "log").read_text()
    assert "eyJ" not in said, said


main()
