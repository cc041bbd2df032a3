"""Where evidence comes from, and in which order it is looked for."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from dayfly import AttestationFailed, Broker, Secret, evidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import World

BROKER = "https://dayfly.example.org"


def jwt(issued: float, expires: float, mark: str = "") -> str:
    def part(members: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'iat': issued, 'exp': expires, 'mark': mark})}.x"


def text(source: evidence.Evidence, *, fresh: bool = False) -> str:
    async def get() -> str:
        return (await source.get(fresh=fresh)).reveal()

    return anyio.run(get)


def test_sources_are_looked_for_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYFLY_EVIDENCE", "a.b.c")
    kubernetes = tmp_path / "token"
    monkeypatch.setattr(evidence, "_KUBERNETES", str(kubernetes))
    kubernetes.write_text("k.8.s\n")
    env = {
        "DAYFLY_EVIDENCE_FILE": str(tmp_path / "file"),
        "DAYFLY_EVIDENCE": "a.b.c",
        "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire.sock",
        "ACTIONS_ID_TOKEN_REQUEST_URL": "https://ids.example.org/?x=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t",
        "DAYFLY_AGENT": "support-bot",
    }
    order = [
        ("DAYFLY_EVIDENCE_FILE", f"File('{tmp_path}/file')"),
        ("DAYFLY_EVIDENCE", "Environment('DAYFLY_EVIDENCE')"),
        ("SPIFFE_ENDPOINT_SOCKET", f"Spiffe('unix:///run/spire.sock', audience='{BROKER}')"),
        (None, f"File('{kubernetes}')"),
        ("ACTIONS_ID_TOKEN_REQUEST_URL", f"GitHubActions(audience='{BROKER}')"),
    ]
    for name, found in order:
        assert repr(evidence.find(BROKER, env)) == found
        if name is None:
            kubernetes.unlink()
        else:
            del env[name]
    with pytest.raises(AttestationFailed) as none:
        evidence.find(BROKER, env)
    for looked_at in (
        "DAYFLY_EVIDENCE_FILE",
        "SPIFFE_ENDPOINT_SOCKET",
        str(kubernetes),
        "ACTIONS_ID",
        "DAYFLY_AGENT",
    ):
        assert looked_at in str(none.value)
    dev = evidence.find("http://127.0.0.1:8440", env)
    assert repr(dev) == "File('.dayfly/evidence/support-bot.jwt')"
    dev = evidence.find("http://localhost:8440", {**env, "DAYFLY_DEV_FOLDER": "/tmp/x"})
    assert repr(dev) == "File('/tmp/x/evidence/support-bot.jwt')"
    named = evidence.find(
        BROKER, {"SPIFFE_ENDPOINT_SOCKET": "tcp://127.0.0.1:1", "DAYFLY_AUDIENCE": "dayfly"}
    )
    assert repr(named) == "Spiffe('tcp://127.0.0.1:1', audience='dayfly')"


def test_without_evidence_the_first_call_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(world.url)
    with pytest.raises(AttestationFailed, match="looked at: DAYFLY_EVIDENCE_FILE"):
        broker.decide("look", "crm:read")
    monkeypatch.setenv("DAYFLY_AGENT", "support-bot")
    monkeypatch.setenv("DAYFLY_DEV_FOLDER", str(world.folder))
    assert broker.decide("look", "crm:read@customers/42")[0].permitted


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "evidence.jwt"
    source = evidence.source_of(file, BROKER)
    for content in ("a.b.c", "d.e.f\n"):
        file.write_text(content)
        assert text(source) == content.strip()
    for bad in ("", "two words", "é.b.c", "x" * 20_000):
        file.write_text(bad)
        with pytest.raises(AttestationFailed, match="holds no token"):
            text(source)
    file.unlink()
    with pytest.raises(AttestationFailed, match="cannot be read"):
        text(source)


def test_a_function_is_asked_for_each_request(world: World) -> None:
    async def later() -> Secret:
        await anyio.lowlevel.checkpoint()
        return Secret(world.evidence().read_text())

    for function in (later, lambda: world.evidence().read_text(), lambda: later()):
        assert world.broker(evidence=function).decide("look", "crm:read@customers/42")[0].permitted
    with pytest.raises(AttestationFailed, match="holds no token"):
        world.broker(evidence=lambda: None).decide("look", "crm:read")


@pytest.fixture
def github() -> Iterator[Any]:
    class Handler(BaseHTTPRequestHandler):
        asked: list[tuple[str, str | None]] = []  # noqa: RUF012
        tokens: list[str] = []  # noqa: RUF012

        def do_GET(self) -> None:
            Handler.asked.append((self.path, self.headers.get("authorization")))
            status = 200 if Handler.tokens else 403
            body = json.dumps({"value": Handler.tokens.pop(0)} if Handler.tokens else {}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}/token?api-version=2"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    server.server_close()


def test_github_gives_a_token_for_the_broker_which_is_kept_until_shortly_before_its_end(github: Any) -> None:
    now = time.time()
    github.tokens += [jwt(now, now + 300, "1"), jwt(now, now + 59, "2"), jwt(now, now + 300, "3")]
    env = {"ACTIONS_ID_TOKEN_REQUEST_URL": github.url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    source = evidence.find(BROKER, env)
    first = text(source)
    assert text(source) == first
    assert github.asked == [("/token?api-version=2&audience=https%3A%2F%2Fdayfly.example.org", "Bearer job")]
    second = text(source, fresh=True)
    assert second != first
    assert text(source) != second, "less than a minute is left of it"
    with pytest.raises(AttestationFailed, match="id-token: write"):
        text(source, fresh=True)
    with pytest.raises(ValueError, match="plain HTTP"):
        evidence.GitHubActions("http://ids.example.org/", "job", BROKER)


def test_the_workload_api_gives_a_token_which_is_kept_until_half_of_its_life(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc")
    asked: list[tuple[bytes, dict[str, str]]] = []
    now = time.time()
    tokens = [jwt(now, now + 300, "1"), jwt(now - 200, now + 100, "2"), jwt(now, now + 300, "3")]

    def fetch(question: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        asked.append((question, metadata))
        if metadata.get("workload.spiffe.io") != "true" or not tokens:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        svid = tokens.pop(0).encode()
        inner = b"\x0a\x03abc" + b"\x12" + evidence._varint(len(svid)) + svid + b"\x1a\x01h"
        return b"\x0a" + evidence._varint(len(inner)) + inner

    handler = grpc.method_handlers_generic_handler(
        "SpiffeWorkloadAPI", {"FetchJWTSVID": grpc.unary_unary_rpc_method_handler(fetch)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(handler,))
    socket = f"unix://{tmp_path}/api.sock"
    server.add_insecure_port(socket)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        source = evidence.find(BROKER, {"SPIFFE_ENDPOINT_SOCKET": socket})
        first = text(source)
        assert text(source) == first
        assert asked[0][0] == b"\x0a" + bytes([len(BROKER)]) + BROKER.encode()
        second = text(source, fresh=True)
        assert text(source) not in (first, second), "more than half of the second is over"
        assert len(asked) == 3
        other = evidence.Spiffe(f"tcp://127.0.0.1:{port}", "dayfly")
        with pytest.raises(AttestationFailed, match="PERMISSION_DENIED"):
            text(other)
    finally:
        server.stop(None).wait()
    with pytest.raises(AttestationFailed, match="UNAVAILABLE"):
        text(evidence.Spiffe(f"unix://{tmp_path}/nobody.sock", "dayfly"))
