"""Tools accept what holds and refuse everything else."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dayfly import _token
from dayfly._feed import DenyList
from dayfly._token import MARKS, Claims, InvalidToken, Keys, UnknownKey, read
from dayfly.resource import Middleware, NotPermitted, Refused, Stale, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import World
    from gate import Gate

READ = "crm:read@customers/42"
AUDIENCE = "https://crm.example.org"
ISSUER = "https://dayfly.example.org"
NOW = 1_795_329_000
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@pytest.fixture
def verifier(world: World) -> Iterator[Verifier]:
    verifier = Verifier(world.url, AUDIENCE, evidence=world.evidence("crm-server"))
    yield verifier
    verifier.close()


def refused_soon(verifier: Verifier, token: str) -> Refused:
    """Wait until the feed tells."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            verifier.verify(token)
        except Refused as refused:
            return refused
        threading.Event().wait(0.01)
    raise AssertionError("it is still accepted")


def test_a_token_holds_until_its_task_ends(world: World, verifier: Verifier) -> None:
    with world.broker().task("look", "crm:read", on_behalf_of="user:7") as task:
        credential = task.credential(READ)
        token = credential.token.reveal()
        claims = verifier.verify(token)
        assert (claims.agent, claims.user, claims.tool, claims.task) == (
            "support-bot",
            "user:7",
            "crm",
            task.id,
        )
        assert (claims.lease, claims.decision) == (credential.lease_id, credential.decision)
        assert claims.expires_at == credential.expires_at
        assert claims.actors == ("support-bot",)
        claims.demand("read", "customers/42")
        claims.demand("read", "customers/42/notes")
        for action, resource in (("read", "customers/43"), ("comment", "customers/42"), ("read", None)):
            with pytest.raises(NotPermitted):
                claims.demand(action, resource)
        assert verifier.as_of is not None
        assert token not in repr(claims) + repr(verifier)
    refused = refused_soon(verifier, token)
    assert isinstance(refused, InvalidToken)
    assert "revoked (task_completed)" in refused.detail
    assert (refused.status, refused.challenge) == (401, 'Bearer error="invalid_token"')
    assert verifier.cutoffs > 0


@pytest.mark.anyio
async def test_what_was_handed_on_ends_with_the_task_above(world: World, verifier: Verifier) -> None:
    async with world.broker().task("quarter", "crm:read") as task:
        handover = await task.delegate("report-bot", purpose="one customer", scope=READ)
        async with world.broker("report-bot").join(handover.task_id) as part:
            token = (await part.credential(READ)).token.reveal()
            claims = await verifier.averify(token)
            assert claims.agent == "report-bot"
            assert claims.actors[-1] == "support-bot"
            await task.complete("cancelled")
            assert "revoked" in refused_soon(verifier, token).detail


def test_a_token_for_another_tool_or_broker_is_refused(world: World, verifier: Verifier) -> None:
    with world.broker().task("look", READ) as task:
        token = task.credential(READ).token.reveal()
        for other, reason in (
            (
                Verifier(world.url, "https://other.example.org", evidence=world.evidence("crm-server")),
                "audience",
            ),
            (Verifier(ISSUER, AUDIENCE, broker=world.url, evidence=world.evidence("crm-server")), "issuer"),
        ):
            with pytest.raises(InvalidToken, match=reason):
                other.verify(token)
            other.close()
        head, payload, signature = token.split(".")
        for changed in (
            f"{head}.{payload}.{signature[:-4]}AAAA",
            f"{head}.{payload[:-4]}AAAA.{signature}",
            token + "=",
            token + ".",
            head,
            "",
            "é",
            token * 20,
        ):
            with pytest.raises(InvalidToken):
                verifier.verify(changed)


def test_who_has_not_heard_from_the_feed_refuses_everything(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier(
        world.url, AUDIENCE, broker=gate.url, evidence=world.evidence("crm-server"), max_staleness=5
    )
    with world.broker().task("look", READ) as task:
        token = task.credential(READ).token.reveal()
        verifier.verify(token)
        gate.set("refuse")
        verifier.verify(token)
        real = time.time
        monkeypatch.setattr("dayfly._feed.time.time", lambda: real() + 6)
        with pytest.raises(Stale) as stale:
            verifier.verify(token)
        assert (stale.value.status, stale.value.challenge, stale.value.retryable) == (503, "Bearer", True)
        monkeypatch.undo()
        gate.set("pass")
        assert verifier.ready(5)
        verifier.verify(token)
        verifier.close()
    nobody = Verifier(world.url, AUDIENCE, evidence=lambda: "no.evi.dence")
    with pytest.raises(Stale):
        nobody.check(token)
    assert not nobody.ready(0.1)
    assert nobody.as_of is None
    nobody.close()


def test_a_source_of_evidence_that_raises_once_does_not_end_a_verifier(world: World) -> None:
    good, asked = world.evidence("crm-server").read_text(), threading.Event()

    def source() -> str:
        if not asked.is_set():
            asked.set()
            raise RuntimeError("it is not there yet")
        return good

    verifier = Verifier(world.url, AUDIENCE, evidence=source)
    assert verifier.ready(10)
    with world.broker().task("look", READ) as task:
        verifier.verify(task.credential(READ).token.reveal())
    verifier.close()


def test_what_no_answer_should_hold_does_not_end_a_verifier(world: World, gate: Gate) -> None:
    body = '{"keys":[],"cutoffs":[{"selector":[],"up_to":1}],"cursor":"c","more":false}'
    verifier = Verifier(world.url, AUDIENCE, broker=gate.url, evidence=world.evidence("crm-server"))
    for each in (
        body,
        body.replace("[]", "{}", 1),
        body.replace(
            '{"selector":[],"up_to":1}', '{"selector":{"kind":"task","id":"x"},"up_to":1,"at":1,"cause":"x"}'
        ),
    ):
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(each)}\r\n\r\n"
        gate.set("answer", answer=(head + each).encode(), times=2)
        verifier.start()
        assert gate.seen.wait(10)
    assert verifier.ready(15)
    verifier.close()


def test_one_poll_that_is_lost_makes_nothing_stale(world: World, gate: Gate) -> None:
    verifier = Verifier(world.url, AUDIENCE, broker=gate.url, evidence=world.evidence("crm-server"))
    assert verifier.ready(15)
    known = verifier.as_of
    gate.set("hang", times=1)
    assert gate.seen.wait(15)
    lost = time.monotonic()
    while verifier.as_of == known:
        assert time.monotonic() - lost < 10
        threading.Event().wait(0.02)
    verifier.close()


def test_a_cursor_that_means_nothing_now_is_dropped(world: World, gate: Gate) -> None:
    verifier = Verifier(
        world.url, AUDIENCE, broker=gate.url, evidence=world.evidence("crm-server"), max_staleness=5
    )
    assert verifier.ready(5)
    running = verifier._running
    assert running is not None
    first = running[1].as_of()
    gate.problem(400, "bad-parameter", times=1)
    until = time.monotonic() + 10
    while running[1].as_of() == first:
        assert time.monotonic() < until
        threading.Event().wait(0.02)
    verifier.close()


def test_an_answer_that_is_not_understood_makes_nothing_fresh(world: World, gate: Gate) -> None:
    selector = '{"kind":"new_kind","id":"x"}'
    cutoff = f'{{"selector":{selector},"up_to":"2026-11-22T06:30:00Z","at":"2099-11-22T06:30:00Z","cause":"revoked"}}'
    body = f'{{"cutoffs":[{cutoff}],"cursor":"c","more":false,"keys":[]}}'
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    gate.set("answer", answer=(head + body).encode())
    verifier = Verifier(world.url, AUDIENCE, broker=gate.url, evidence=world.evidence("crm-server"))
    assert not verifier.ready(1)
    with pytest.raises(Stale):
        verifier.check("x")
    verifier.close()


def test_settings_that_would_not_be_safe_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"max_staleness": 4},
        {"max_staleness": float("inf")},
        {"max_staleness": float("nan")},
        {"leeway": 61},
        {"audience": ""},
        {"issuer": "http://dayfly.example.org"},
    ]
    for each in wrong:
        with pytest.raises(ValueError, match=r"at least|at most|takes|plain HTTP"):
            Verifier(**{"issuer": ISSUER, "audience": AUDIENCE, **each})


# The rules of the guide, one by one, on tokens that are made here.

P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = {
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
    }
    maker: Any = next(found for kind, found in algorithm.items() if isinstance(key, kind))
    return {**maker.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


KEYS = Keys(
    {"keys": [jwk(P256, "p"), jwk(ED, "e", use="sig"), jwk(RSA, "r", alg="RS256"), {"kty": "new"}, "odd"]}
)


def lease(at: float = NOW) -> str:
    number = int(at * 1000) << 80 | 7 << 76 | 2 << 62
    return "lse_" + "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def claims(**changes: Any) -> dict[str, Any]:
    marks = {
        "task": "tsk_1",
        "lease": lease(),
        "agent": "support-bot",
        "tool": "crm",
        "environment": "production",
        "trust_domain": "example.org",
        "decision": "dec_1",
        **changes.pop("marks", {}),
    }
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user:7",
        "sub_profile": "user",
        "client_id": "support-bot",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "jti": marks["lease"],
        "txn": "tsk_1",
        "scope": "crm:read",
        "authorization_details": [
            {
                "type": "dayfly_access",
                "locations": [AUDIENCE],
                "actions": ["read"],
                "resources": ["customers/42"],
            }
        ],
        "act": {"sub": "support-bot", "iss": ISSUER, "sub_profile": "ai_agent"},
        MARKS: marks,
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def token(payload: dict[str, Any], key: Any = P256, algorithm: str = "ES256", **header: Any) -> str:
    headers = {"typ": "at+jwt", "kid": "p", **header}
    return jwt.encode(payload, key, algorithm, headers=headers)


def accepted(text: str, at: float = NOW + 1) -> Claims:
    return read(text, KEYS, issuer=ISSUER, audience=AUDIENCE, at=at, leeway=30, longest_life=3600)


def test_every_algorithm_of_the_broker_is_accepted() -> None:
    for key, kid, algorithm in ((P256, "p", "ES256"), (ED, "e", "EdDSA"), (RSA, "r", "RS256")):
        assert accepted(token(claims(), key, algorithm, kid=kid)).user == "user:7"
    assert accepted(token(claims(), typ="application/AT+JWT")).agent == "support-bot"
    # What is not of this version of the claims is left alone.
    assert accepted(token(claims(new=1))).raw["new"] == 1


@pytest.mark.parametrize(
    ("payload", "at"),
    [
        (claims(iss=ISSUER + "/"), 0),
        (claims(aud=[AUDIENCE]), 0),
        (claims(aud=AUDIENCE + "/"), 0),
        (claims(cnf={"jkt": "x"}), 0),
        (claims(), 300),
        (claims(nbf=NOW + 60), 0),
        (claims(iat=NOW + 60, nbf=NOW), 0),
        (claims(exp=NOW + 3601), 0),
        (claims(exp=float(NOW + 300)), 0),
        (claims(exp=True), 0),
        (claims(exp=None), 0),
        (claims(nbf=None), 0),
        (claims(sub_profile="other"), 0),
        (claims(jti=lease(NOW + 1)), 0),
        (claims(jti="lse_1", marks={"lease": "lse_1"}), 0),
        (claims(txn="tsk_2"), 0),
        (claims(act="support-bot"), 0),
        (claims(act={"sub": "a", "iss": ISSUER, "act": {"iss": ISSUER}}), 0),
        (claims(authorization_details={}), 0),
        (
            claims(
                authorization_details=[
                    {"type": "dayfly_access", "locations": [AUDIENCE], "actions": ["read"], "only": "night"}
                ]
            ),
            0,
        ),
        (claims(authorization_details=[{"type": "other", "locations": [AUDIENCE], "actions": ["read"]}]), 0),
        (
            claims(
                authorization_details=[{"type": "dayfly_access", "locations": AUDIENCE, "actions": ["a"]}]
            ),
            0,
        ),
        *(
            (
                claims(
                    authorization_details=[
                        {
                            "type": "dayfly_access",
                            "locations": [location],
                            "actions": ["read"],
                            "resources": ["customers/42", path],
                        }
                    ]
                ),
                0,
            )
            for location in (AUDIENCE, "https://other.example.org")
            for path in ("customers/..", "customers/", "/customers", "")
        ),
        ({**claims(), MARKS: "marks"}, 0),
        (claims(marks={"parents": "tsk_0"}), 0),
    ],
)
def test_claims_that_are_not_for_us_and_now_are_refused(payload: dict[str, Any], at: float) -> None:
    with pytest.raises(InvalidToken):
        accepted(token(payload), NOW + at)


@pytest.mark.parametrize(
    "resource",
    [
        "customers/42/../7",
        "customers/42/..",
        "customers/42/.",
        "customers/42/",
        "customers/42//7",
        "customers/42/%2e%2e/7",
        "customers/42/..\\7",
        "customers/42/7?x",
        "customers/42/7\n",
        "customers/42" + "/7" * 15,
        "customers/42/" + "7" * 256,
        "",
        42,
    ],
)
def test_what_is_no_path_is_not_permitted(resource: Any) -> None:
    detail = {"type": "dayfly_access", "locations": [AUDIENCE], "actions": ["read"]}
    for resources in ({"resources": ["customers/42"]}, {}):
        found = accepted(token(claims(authorization_details=[{**detail, **resources}])))
        assert found.permits("read", "customers/42/notes")
        assert not found.permits("read", resource)
        with pytest.raises(NotPermitted):
            found.demand("read", resource)


def raw(header: dict[str, Any] | bytes, payload: bytes) -> str:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, payload))
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signed, P256)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_headers_that_could_mean_something_else_are_refused() -> None:
    payload = json.dumps(claims()).encode()
    good = {"alg": "ES256", "typ": "at+jwt", "kid": "p"}
    assert accepted(raw(good, payload)).tool == "crm"
    others: tuple[Any, ...] = ([], {}, 1, None, True)
    wrong: list[dict[str, Any] | bytes] = [
        {**good, "typ": "jwt"},
        {**good, "typ": None},
        {**good, "alg": "none"},
        {**good, "alg": "HS256"},
        {**good, "alg": "RS256"},
        *({**good, name: value} for name in good for value in others),
        {**good, "crit": []},
        {**good, "kid": None},
        b'{"alg":"ES256","alg":"ES256","typ":"at+jwt","kid":"p"}',
        b"[]",
        b"\xff",
    ]
    for header in wrong:
        with pytest.raises(InvalidToken):
            accepted(raw(header, payload))
    for body in (b'{"iss":"a","iss":"b"}', b"[]", b"x", b"[" * 5000):
        with pytest.raises(InvalidToken):
            accepted(raw(good, body))
    with pytest.raises(UnknownKey):
        accepted(raw({**good, "kid": "new"}, payload))
    with pytest.raises(InvalidToken, match="signature"):
        accepted(token(claims(), OTHER))


def test_keys_that_are_not_for_this_are_not_taken() -> None:
    for entry in (
        jwk(P256, "p", use="enc"),
        jwk(P256, "p", key_ops=["sign"]),
        jwk(P256, "p", alg="ES384"),
        {**jwk(P256, "p"), "kid": None},
        jwk(ec.generate_private_key(ec.SECP256K1()), "p") if hasattr(ec, "SECP256K1") else {},
    ):
        with pytest.raises(UnknownKey):
            keys = Keys({"keys": [entry]})
            read(
                token(claims()), keys, issuer=ISSUER, audience=AUDIENCE, at=NOW, leeway=30, longest_life=3600
            )
    with pytest.raises(ValueError, match="private"):
        Keys({"keys": [{**jwk(P256, "p"), "d": "x"}]})
    with pytest.raises((KeyError, TypeError)):
        Keys({})


def cutoff(kind: str, name: str | None, up_to: float = NOW, at: float = NOW) -> dict[str, Any]:
    def text(instant: float) -> str:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(instant)))
        return f"{whole}.{int(instant * 1000) % 1000:03}Z"

    selector = {"kind": kind} if name is None else {"kind": kind, "id": name}
    return {"selector": selector, "up_to": text(up_to), "at": text(at), "cause": "revoked"}


def test_every_kind_of_cutoff_ends_what_it_selects() -> None:
    payload = claims(
        act={
            "sub": "support-bot",
            "iss": ISSUER,
            "sub_profile": "ai_agent",
            "act": {"sub": "planner", "iss": ISSUER, "sub_profile": "ai_agent"},
        },
        marks={"parents": ["tsk_0"], "parent_trust_domains": ["above.example.org"]},
    )
    held = accepted(token(payload))
    fits: list[tuple[str, str | None]] = [
        ("lease", lease()),
        ("task", "tsk_1"),
        ("task", "tsk_0"),
        ("agent", "support-bot"),
        ("agent", "planner"),
        ("tool", "crm"),
        ("environment", "production"),
        ("trust_domain", "example.org"),
        ("trust_domain", "above.example.org"),
        ("user", "user:7"),
        ("all", None),
    ]
    for kind, name in fits:
        denied = DenyList(3660, 10)
        denied.apply(cutoff(kind, name, NOW - 0.001), NOW * 1000)
        denied.check(held)
        denied.apply(cutoff(kind, name, NOW), NOW * 1000)
        with pytest.raises(InvalidToken, match=r"revoked \(revoked\)"):
            denied.check(held)
        denied.apply(cutoff(kind, name, NOW - 10), NOW * 1000)
        with pytest.raises(InvalidToken):
            denied.check(held)
    others = DenyList(3660, 10)
    for kind, name in (("agent", "crm"), ("tool", "support-bot"), ("task", lease()), ("user", "support-bot")):
        others.apply(cutoff(kind, name), NOW * 1000)
    others.check(held)
    own = accepted(token(claims(sub="support-bot", sub_profile="ai_agent", act=None)))
    others.apply(cutoff("user", "support-bot"), NOW * 1000)
    others.check(own)
    assert own.user is None


def test_the_list_is_bounded_and_forgets_what_nothing_can_match() -> None:
    denied = DenyList(60, 2)
    at = NOW * 1000
    denied.apply(cutoff("agent", "old", at=NOW - 61), at)
    assert len(denied) == 0
    denied.apply(cutoff("agent", "a"), at)
    denied.apply(cutoff("agent", "b", at=NOW + 5), at)
    denied.apply(cutoff("agent", "a", at=NOW + 10), at)
    with pytest.raises(ValueError, match="full"):
        denied.apply(cutoff("agent", "c"), at)
    denied.forget(at + 60_000)
    assert len(denied) == 2, "it was prolonged"
    denied.forget(at + 65_000)
    assert len(denied) == 1
    denied.forget(at + 70_000)
    assert len(denied) == 0
    denied.apply(cutoff("agent", "a", up_to=253_402_300_799.999), at)
    wrong: list[dict[str, Any]] = [
        cutoff("new", "x"),
        cutoff("agent", None),
        cutoff("all", "x"),
        {"selector": {}},
    ]
    for broken in wrong:
        with pytest.raises((ValueError, KeyError)):
            denied.apply(broken, at)


async def app(scope: Any, receive: Any, send: Any) -> None:
    found = scope.get("dayfly")
    body = (found.agent if found else "nobody").encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.anyio
async def test_the_middleware_lets_nothing_through_that_does_not_hold(
    world: World, verifier: Verifier
) -> None:
    def needs(scope: Any) -> tuple[str, str | None] | None:
        return None if scope["path"] == "/health" else ("read", scope["path"].strip("/"))

    guarded = Middleware(app, verifier, needs)
    async with (
        world.broker().task("look", READ) as task,
        httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url=AUDIENCE) as client,
    ):
        assert (await client.get("/health")).text == "nobody"
        bare = await client.get("/customers/42")
        assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer")
        headers = {"authorization": f"Bearer {(await task.credential(READ)).token.reveal()}"}
        good = await client.get("/customers/42", headers=headers)
        assert (good.status_code, good.text) == (200, "support-bot")
        other = await client.get("/customers/43", headers=headers)
        assert other.status_code == 403
        assert other.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
        for wrong in ("Bearer x", "Basic eDp4", "Bearer"):
            assert (await client.get("/customers/42", headers={"authorization": wrong})).status_code == 401
        twice = [("authorization", headers["authorization"])] * 2
        assert (await client.get("/customers/42", headers=twice)).status_code == 401
        plain = httpx.ASGITransport(Middleware(app, verifier))
        async with httpx.AsyncClient(transport=plain, base_url=AUDIENCE) as all_of_it:
            assert (await all_of_it.get("/anything", headers=headers)).text == "support-bot"


@pytest.mark.anyio
async def test_the_middleware_says_503_when_nothing_is_known(world: World) -> None:
    verifier = Verifier(world.url, AUDIENCE, evidence=lambda: "no.evi.dence")
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"authorization", b"Bearer a.b.c")]}
    import dayfly.resource

    before, dayfly.resource._FIRST_READING = dayfly.resource._FIRST_READING, 0.05
    try:
        await Middleware(app, verifier)(scope, send, send)  # type: ignore[arg-type]
        await Middleware(app, verifier)({**scope, "type": "websocket"}, send, send)  # type: ignore[arg-type]
    finally:
        dayfly.resource._FIRST_READING = before
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (503, b"1")
    assert sent[-1]["type"] == "websocket.close"
    verifier.close()


def test_when_a_lease_was_made_stands_in_its_id() -> None:
    assert _token.made_at(lease(1_795_329_000.123)) == 1_795_329_000_123
    for bad in ("lse_", "tsk_" + lease()[4:], lease()[:-1], "lse_" + "z" * 26, "lse_" + "i" * 26):
        with pytest.raises((ValueError, KeyError)):
            _token.made_at(bad)
