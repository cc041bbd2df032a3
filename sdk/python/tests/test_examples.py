"""What is printed and shipped as an example runs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx

import dayfly.evidence
import dayfly.resource

if TYPE_CHECKING:
    import pytest

    from conftest import World

HERE = Path(__file__).parents[1]


def run(world: World, *argv: str) -> str:
    env = {
        **os.environ,
        "DAYFLY_BROKER": world.url,
        "DAYFLY_AGENT": "support-bot",
        "DAYFLY_DEV_FOLDER": str(world.folder),
    }
    done = subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines_of_the_readme_run_as_printed(world: World, tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    code = next(text for language, text in blocks if language == "python")
    printed = next(text for language, text in blocks if language == "text")
    agent = tmp_path / "agent.py"
    # Only the ports are those of this test.
    agent.write_text(code.replace("http://127.0.0.1:8441", world.crm))
    assert run(world, str(agent)) == printed


def test_of_fifty_agents_that_come_to_grief_nothing_is_left(world: World) -> None:
    notes = json.loads(run(world, str(HERE / "examples" / "fifty_agents.py")))
    over = time.monotonic()
    assert len(notes) == 50
    outcomes = {"works": "completed", "raises": "failed", "cancelled": "cancelled"}
    for note in notes:
        if note["fate"] != "dies":
            # Already now, without waiting for anything.
            assert world.task(note["task"])["outcome"] == outcomes[note["fate"]]
            assert {lease["state"] for lease in world.leases(note["task"])} == {"ended"}
    dead = [note["task"] for note in notes if note["fate"] == "dies"]
    assert len(dead) == 5
    live = [lease for task in dead for lease in world.leases(task) if lease["state"] != "ended"]
    while live and time.monotonic() - over < 15:
        time.sleep(0.25)
        live = [lease for task in dead for lease in world.leases(task) if lease["state"] != "ended"]
    assert live == [], "15 seconds later one is alive"
    assert {world.task(task)["outcome"] for task in dead} == {"lost"}


def test_the_example_of_a_tool_serves_who_may_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DAYFLY_BROKER": world.url,
        "DAYFLY_AGENT": "crm-server",
        "DAYFLY_DEV_FOLDER": str(world.folder),
    }.items():
        monkeypatch.setenv(name, value)
    app = runpy.run_path(str(HERE / "examples" / "crm_tool.py"))["app"]

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            world.broker().task("look", "crm:read@customers/42", on_behalf_of="user:7") as task,
            httpx.AsyncClient(transport=transport, base_url="https://crm.example.org") as client,
        ):
            token = (await task.credential("crm:read@customers/42")).token
            client.headers["authorization"] = f"Bearer {token.reveal()}"
            found = await client.get("/customers/42")
            assert found.json() == {"name": "Harbour Books", "read_by": "support-bot", "for": "user:7"}
            assert (await client.get("/customers/43")).status_code == 403

    anyio.run(main)


def test_the_reference_names_every_public_name() -> None:
    page = (HERE.parents[1] / "docs/reference/sdk-python.md").read_text()
    words = set(re.findall(r"\w+", page))
    for module in (dayfly, dayfly.resource, dayfly.evidence):
        for name in module.__all__:
            if name in ("AccessLike", "Duration", "EvidenceLike", "Found", "ScopeLike"):
                continue  # names of types that the page describes in words
            assert name in words, name
            kind = getattr(module, name)
            if isinstance(kind, type) and kind.__module__.startswith("dayfly"):
                members = {
                    each for each in vars(kind) if not each.startswith("_") and "auth_flow" not in each
                }
                assert members <= words, (name, members - words)
