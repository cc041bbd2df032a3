"""No evidence and no credential in anything that is printed, logged, raised or written down."""

from __future__ import annotations

import copy
import inspect
import io
import json
import logging
import pickle
import pprint
import threading
import traceback
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from dayfly import (
    ApprovalPending,
    AttestationFailed,
    BrokerUnavailable,
    Credential,
    DayflyError,
    Denied,
    InvalidRequest,
    Secret,
    TaskEnded,
    TaskSuspended,
    _credential,
    _errors,
)
from dayfly.evidence import Environment, File, GitHubActions

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import World
    from gate import Gate

READ = "crm:read@customers/42"
TOLD = "eyJhbGciOiJub25lIn0.c2VjcmV0.secret-secret-secret"


def told(value: object) -> str:
    """Everything that says what a value is."""
    texts = [
        repr(value),
        str(value),
        f"{value}",
        f"{value!s:>80}",
        "%s %r" % (value, value),  # noqa: UP031
        pprint.pformat(value),
        json.dumps({"it": value}, default=str),
        json.dumps({"it": value}, default=repr),
        repr(inspect.getmembers(value, lambda member: not callable(member))),
        repr([getattr(type(value), name, None) for name in dir(value)]),
        repr(copy.copy(value)),
        repr(copy.deepcopy(value)),
        repr(getattr(value, "__dict__", None)),
    ]
    for dump in (pickle.dumps, json.dumps):
        try:
            texts.append(repr(dump(value)))
        except TypeError as refused:
            texts.append(str(refused))
    return "\n".join(texts)


def from_answer(answer: Any, before: Credential | None = None) -> Credential:
    return _credential.demanded(_credential.read(answer, before))


def test_a_secret_shows_in_nothing_but_reveal() -> None:
    secret = Secret(TOLD)
    assert TOLD not in told(secret)
    assert secret.reveal() == TOLD
    assert repr(secret) == str(secret) == f"{secret}" == "<redacted>"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(secret)
    assert copy.deepcopy(secret) is secret
    assert secret == Secret(TOLD)
    assert secret != Secret("other")
    assert secret != TOLD
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(AttributeError):
        secret._reveal = lambda: ""
    with pytest.raises(AttributeError):
        del secret._reveal
    with pytest.raises(TypeError):
        vars(secret)


ANSWER = {
    "lease": {"id": "lse_1", "tool": "db", "actions": ["read"], "resources": []},
    "requested": 60,
    "granted": 60,
    "bounded_by": "policy",
    "revocation": "immediate",
    "expires_at": "2026-11-22T08:10:29.000Z",
    "decision": "dec_1",
}


@pytest.mark.parametrize(
    ("members", "secrets"),
    [
        ({"type": "bearer_token", "token": "s3cret-token"}, ["s3cret-token"]),
        (
            {
                "type": "aws_session",
                "access_key_id": "ASIA1",
                "secret_access_key": "s3-key",
                "session_token": "s3-ses",
            },
            ["ASIA1", "s3-key", "s3-ses"],
        ),
        (
            {
                "type": "database_login",
                "host": "db.example.org",
                "port": 5432,
                "database": "orders",
                "username": "dayfly_1",
                "password": "p@ss/w:rd",
            },
            ["p@ss/w:rd"],
        ),
        ({"type": "fields", "fields": {"user": "u-s3cret", "key": "k-s3cret"}}, ["u-s3cret", "k-s3cret"]),
    ],
)
def test_no_kind_of_credential_shows_its_secrets(members: dict[str, Any], secrets: list[str]) -> None:
    credential = from_answer({**ANSWER, "credential": members})
    assert credential.kind == members["type"]
    text = told(credential) + str(asdict(credential))
    for secret in secrets:
        assert secret not in text
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(credential)
    revealed = [value.reveal() for value in credential._secrets.values()]
    assert revealed == secrets


def test_each_kind_gives_its_parts() -> None:
    def made(**members: Any) -> Credential:
        return from_answer({**ANSWER, "credential": members})

    login = made(
        type="database_login", host="::1", port=5432, database="o/1", username="u", password="p@ss/w:rd"
    )
    assert login.dsn().reveal() == "postgresql://u:p%40ss%2Fw%3Ard@[::1]:5432/o%2F1"
    assert (login.host, login.port, login.database, login.username) == ("::1", 5432, "o/1", "u")
    session = made(type="aws_session", access_key_id="a", secret_access_key="b", session_token="c")
    assert session.region is None
    assert (session.access_key_id.reveal(), session.session_token.reveal()) == ("a", "c")
    fields = made(type="fields", fields={"token": "t"})
    assert fields.fields["token"].reveal() == "t"
    with pytest.raises(AttributeError):
        _ = fields.token
    with pytest.raises(AttributeError):
        _ = login.fields
    assert not hasattr(session, "dsn_of")
    renewed = from_answer({**ANSWER, "granted": 90}, session)
    assert (renewed.granted, renewed.secret_access_key) == (90, session.secret_access_key)
    answers: list[Any] = [{}, {**ANSWER, "credential": {"type": "new"}}, ANSWER, [], None]
    for broken in answers:
        with pytest.raises(BrokerUnavailable, match="no credential"):
            from_answer(broken)


def shown(error: BaseException) -> str:
    """What error reporters make of an exception: its traceback with the locals of every frame, and all causes."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = ["".join(whole.format()), "".join(traceback.format_exception(error)), told(error)]
    seen: BaseException | None = error.__context__ or error.__cause__
    while seen is not None:
        texts.append("".join(traceback.TracebackException.from_exception(seen, capture_locals=True).format()))
        seen = seen.__context__ or seen.__cause__
    return "\n".join(texts)


def test_no_error_and_no_log_holds_evidence_or_a_token(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    evidence = world.evidence().read_text().strip()
    try:
        with world.broker(address=gate.url).task("look", ["crm:read,delete,export@customers/42"]) as task:
            token = task.credential(READ).token.reveal()
            for access, error in (
                ("crm:delete@customers/42", Denied),
                ("crm:export@customers/42", ApprovalPending),
            ):
                with pytest.raises(error) as caught:
                    task.credential(access)
                errors.append(caught.value)
            for mode in ("refuse", "swallow"):
                gate.set(mode)
                with pytest.raises(BrokerUnavailable) as unreachable:
                    task.credential(READ, cache=False)
                errors.append(unreachable.value)
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{]]]}"
            gate.set("answer", answer=answer)
            with pytest.raises(DayflyError) as unreadable:
                task.credential(READ, cache=False)
            errors.append(unreadable.value)
            gate.set("pass")
            with pytest.raises(DayflyError) as elsewhere:
                httpx.get("http://127.0.0.1:1/", auth=task.auth(READ), trust_env=False)
            errors.append(elsewhere.value)
            try:
                credential = task.credential(READ)
                raise RuntimeError(f"with {credential} and {credential.token} for {task}")  # noqa: TRY301
            except RuntimeError as mine:
                errors.append(mine)
        with pytest.raises(AttestationFailed) as refused:
            world.broker(evidence=lambda: evidence[:-6] + "AAAAAA").decide("look", READ)
        errors.append(refused.value)
    finally:
        root.removeHandler(handler)
    logs = stream.getvalue() + caplog.text
    assert "/v1/tasks" in logs, "there is something to look at"
    signatures = [evidence.split(".")[2], evidence.split(".")[1], token.split(".")[2], token.split(".")[1]]
    for text in (logs, *map(shown_but_here, errors)):
        for secret in (evidence, token, *signatures, evidence[-40:-6]):
            assert secret not in text


def shown_but_here(error: BaseException) -> str:
    """Without the frames of this file, which know the secrets, of course."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    for frame in whole.stack:
        if frame.filename == __file__:
            frame.locals = {}
    return "".join(whole.format()) + "".join(traceback.format_exception(error)) + told(error)


def test_the_sources_of_evidence_do_not_print_it(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setenv("DAYFLY_EVIDENCE", TOLD)
    broker = world.broker(evidence=Environment())
    github = GitHubActions("https://ids.example.org/?a=b", TOLD, "dayfly")
    assert TOLD not in told_of(broker) + told_of(github)


@pytest.mark.parametrize("text", [f"{TOLD} {TOLD}", TOLD * 400], ids=["words", "long"])
def test_evidence_that_is_refused_shows_in_no_frame(
    text: str, monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "evidence"
    file.write_text(text)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"value": text}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    async def later() -> str:
        return text

    def raises() -> str:
        mine = text
        raise RuntimeError(mine)

    def variable(name: str) -> Any:
        def make() -> Any:
            for each, value in {
                "DAYFLY_EVIDENCE": text,
                "ACTIONS_ID_TOKEN_REQUEST_URL": "https://ids.example.org/",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": text,
            }.items():
                monkeypatch.delenv(each, raising=False)
                if each.startswith(name):
                    monkeypatch.setenv(each, value)

        return make

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        sources: list[Any] = [file, lambda: text, lambda: Secret(text), later, raises]
        sources += [GitHubActions(url, "job", "dayfly"), variable("DAYFLY_EVIDENCE"), variable("ACTIONS")]
        for source in sources:
            prepare = getattr(source, "__name__", "") == "make"
            if prepare:
                source()
            with pytest.raises(AttestationFailed) as refused:
                world.broker(evidence=None if prepare else source).decide("look", READ)
            assert TOLD not in shown_but_here(refused.value), source
        server.shutdown()
    with pytest.raises(AttestationFailed) as refused:
        GitHubActions("https://ids.example.org/", text, "dayfly")
    assert TOLD not in shown_but_here(refused.value)
    with pytest.raises(ValueError, match="plain HTTP") as plain:
        GitHubActions("http://ids.example.org/", TOLD, "dayfly")
    assert TOLD not in shown_but_here(plain.value)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("how", ["no credential", "over", "suspended"])
def test_an_answer_that_is_not_given_out_shows_in_no_frame(
    world: World, gate: Gate, how: str, cache: bool
) -> None:
    tasks: list[Any] = []

    def evidence() -> str:
        # Between the question and its answer.
        if tasks and how == "over":
            tasks[0]._core.is_over("revoked")
        if tasks and how == "suspended":
            tasks[0]._core.state = "suspended"
        return world.evidence().read_text()

    whole = {**ANSWER, "credential": {"type": "bearer_token", "token": TOLD}}
    if how == "no credential":
        del whole["decision"]
    body = json.dumps(whole)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    task = world.broker(address=gate.url, evidence=evidence).task("look", READ).open()
    gate.set("answer", answer=(head + body).encode())
    tasks.append(task)
    with pytest.raises((BrokerUnavailable, TaskEnded, TaskSuspended)) as failed:
        task.credential(READ, cache=cache)
    assert gate.requests == 1
    assert TOLD not in shown_but_here(failed.value)
    gate.set("pass")
    world.order(f"/v1/tasks/{task.id}/revoke", {"reason": "the test is over"})


def test_a_token_in_place_of_a_path_is_not_quoted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = world.evidence().read_text()
    for given in (token, TOLD, f" {TOLD}\n"):
        with pytest.raises(InvalidRequest, match="no path") as refused:
            world.broker(evidence=given)
        assert given.strip() not in "".join(traceback.format_exception(refused.value)) + repr(refused.value)
        monkeypatch.setenv("DAYFLY_EVIDENCE_FILE", given)
        broker = world.broker(evidence=None)
        with pytest.raises(AttestationFailed, match="put it into DAYFLY_EVIDENCE") as failed:
            broker.decide("look", READ)
        assert given.strip() not in shown_but_here(failed.value) + told_of(broker)
    for path in ("a.b.c", "evidence/support-bot.token.jwt", "/run/eyJhbGciOiJub25lIn0.c2VjcmV0.jwt"):
        assert repr(File(path)) == f"File({path!r})"


def told_of(value: object) -> str:
    return repr(value) + repr(vars(value)) + pprint.pformat(vars(value))


def test_errors_survive_pickling_and_copying() -> None:
    error = _errors.from_answer(
        403,
        {"type": _errors.TYPES + "denied", "detail": "no", "decision": "dec_1", "request_id": "req_1"},
        {},
    )
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(other, Denied)
        assert (other.reason, other.decision, other.status, other.slug) == ("no", "dec_1", 403, "denied")
        assert str(other) == "no (403 denied; req_1)"
    assert isinstance(_errors.from_answer(599, None, {}), DayflyError)
