"""A real broker for the tests, with a trust domain, four agents and a CRM: `dayfly dev`, on ports of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from dayfly import Broker
from gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
BINARY = Path(
    os.environ.get("DAYFLY_BIN")
    or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug/dayfly"
).resolve()


def until(holds: Callable[[], Any], seconds: float = 15) -> Any:
    """Wait until something holds, looking again and again; for what no event tells. Gives what it answered."""
    end = time.monotonic() + seconds
    while not (answer := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"it did not come to hold within {seconds} s")
        time.sleep(0.02)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class World:
    """A running `dayfly dev`."""

    folder: Path
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    tool: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    @property
    def crm(self) -> str:
        return f"http://{self.tool}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "dev", "--folder", self.folder, "--listen", self.listen, "--tool", self.tool],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 30
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                # The tool comes last, when it has read keys and feed.
                httpx.get(f"{self.url}/readyz", trust_env=False).raise_for_status()
                httpx.get(f"{self.crm}/", trust_env=False)
            except httpx.HTTPError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def evidence(self, agent: str = "support-bot") -> Path:
        return self.folder / "evidence" / f"{agent}.jwt"

    def broker(self, agent: str = "support-bot", **options: Any) -> Broker:
        return Broker(
            options.pop("address", self.url), options.pop("evidence", self.evidence(agent)), **options
        )

    def ask(self, path: str, *, by: str = "ops-console", **query: str) -> Any:
        """See it as somebody else does, without the SDK."""
        headers = {"authorization": f"Bearer {self.evidence(by).read_text()}"}
        answer = httpx.get(self.url + path, params=query, headers=headers, trust_env=False)
        return answer.raise_for_status().json()

    def order(self, path: str, body: dict[str, Any], by: str = "ops-console") -> Any:
        headers = {"authorization": f"Bearer {self.evidence(by).read_text()}"}
        answer = httpx.post(self.url + path, json=body, headers=headers, trust_env=False)
        return answer.raise_for_status().json()

    def leases(self, task: str, state: str | None = None) -> list[dict[str, Any]]:
        query = {"task": task, "agent": "*"} | ({"state": state} if state else {})
        leases: list[dict[str, Any]] = self.ask("/v1/leases", **query)["leases"]
        return leases

    def origins(self, *origins: str) -> None:
        """Say where the CRM is."""
        tool = self.folder / "tools" / "crm.toml"
        before = re.sub(r"(?m)^origins = .*\n", "", tool.read_text())
        tool.write_text(re.sub(r"(?m)^audience = .*$", rf"\g<0>\norigins = {list(origins)!r}", before))
        self.order("/v1/rules/reload", {})

    def task(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/v1/tasks/{task}")
        return found

    def get(self, path: str, token: str) -> httpx.Response:
        return httpx.get(self.crm + path, headers={"authorization": f"Bearer {token}"}, trust_env=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("dayfly"))
    world.start()
    # Beside the examples: support-bot may hand work on, and report-bot may do as much at the CRM.
    for agent, before, after in (
        ("support-bot", 'roles = ["support"]', 'roles = ["support", "delegator"]'),
        ("report-bot", 'roles = ["reporting"]', 'roles = ["reporting", "support"]'),
    ):
        file = world.folder / "agents" / f"{agent}.toml"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))
    # The catalogue says where the CRM is in earnest; here it is on this machine.
    world.origins(world.crm)
    yield world
    world.stop()


@pytest.fixture
def world(shared: World) -> World:
    return shared


@pytest.fixture
def gate(shared: World) -> Iterator[Gate]:
    """A way to the broker that can be closed."""
    host, _, port = shared.listen.partition(":")
    with Gate((host, int(port))) as gate:
        yield gate


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of where the tests run is evidence."""
    for name in list(os.environ):
        if name.startswith(("DAYFLY_", "SPIFFE_", "ACTIONS_")) and name != "DAYFLY_BIN":
            monkeypatch.delenv(name)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
