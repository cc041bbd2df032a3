"""A credential, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from ._errors import BrokerUnavailable
from ._secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

# Which parts of which kind are secret; what else there is, is plain.
_SECRET: dict[str, tuple[str, ...]] = {
    "bearer_token": ("token",),
    "aws_session": ("access_key_id", "secret_access_key", "session_token"),
    "database_login": ("password",),
}
_PLAIN: dict[str, tuple[str, ...]] = {
    "bearer_token": (),
    "aws_session": ("region",),
    "database_login": ("host", "port", "database", "username"),
}


@dataclass(frozen=True, eq=False)
class Credential:
    """What opens one tool for a while, and what is known about it. Its secret parts are :class:`~dayfly.Secret`.

    Which parts there are depends on `kind`; asking for one of another kind raises ``AttributeError``.
    """

    lease_id: str
    """Names it at the broker; the ``jti`` of a token."""
    tool: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    """What it opens; none means the tool as a whole."""
    kind: str
    """``bearer_token``, ``aws_session``, ``database_login`` or ``fields``."""
    expires_at: datetime
    """When it ends by itself (UTC)."""
    granted: int
    """The life that was granted, in seconds."""
    bounded_by: str
    """What made its life no longer, such as ``policy``."""
    revocation: str
    """How it can end before: ``immediate``, ``deny_listed``, ``at_expiry`` or ``never``."""
    decision: str
    """The record of why it exists."""
    origins: tuple[str, ...]
    """Where it may be sent, such as ``https://crm.example.org``; empty where the broker does not say."""
    _secrets: Mapping[str, Secret]
    _plain: Mapping[str, Any]

    def _part(self, parts: Mapping[str, Any], name: str) -> Any:
        if name not in parts:
            there = ", ".join((*self._secrets, *self._plain)) or "none"
            raise AttributeError(
                f"a credential of the kind `{self.kind}` has no `{name}`; its parts: {there}"
            )
        return parts[name]

    def _secret(self, name: str) -> Secret:
        part = self._part(self._secrets if self.kind != "fields" else {}, name)
        assert isinstance(part, Secret)  # noqa: S101 - for the type checker
        return part

    @property
    def token(self) -> Secret:
        """The token for ``Authorization: Bearer`` (kind ``bearer_token``)."""
        return self._secret("token")

    @property
    def access_key_id(self) -> Secret:
        """``AWS_ACCESS_KEY_ID`` (kind ``aws_session``)."""
        return self._secret("access_key_id")

    @property
    def secret_access_key(self) -> Secret:
        """``AWS_SECRET_ACCESS_KEY`` (kind ``aws_session``)."""
        return self._secret("secret_access_key")

    @property
    def session_token(self) -> Secret:
        """``AWS_SESSION_TOKEN`` (kind ``aws_session``)."""
        return self._secret("session_token")

    @property
    def region(self) -> str | None:
        """``AWS_REGION``, if the tool says where (kind ``aws_session``)."""
        value = self._part(self._plain, "region")
        return None if value is None else str(value)

    @property
    def host(self) -> str:
        """The server's name or address (kind ``database_login``)."""
        return str(self._part(self._plain, "host"))

    @property
    def port(self) -> int:
        """Its port (kind ``database_login``)."""
        return int(self._part(self._plain, "port"))

    @property
    def database(self) -> str:
        """The database on it (kind ``database_login``)."""
        return str(self._part(self._plain, "database"))

    @property
    def username(self) -> str:
        """The login's name (kind ``database_login``)."""
        return str(self._part(self._plain, "username"))

    @property
    def password(self) -> Secret:
        """Its password (kind ``database_login``)."""
        return self._secret("password")

    def dsn(self, scheme: str = "postgresql") -> Secret:
        """Give a connection URL with everything in it (kind ``database_login``)."""
        login = f"{quote(self.username, safe='')}:{quote(self.password.reveal(), safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Secret(f"{scheme}://{login}@{host}:{self.port}/{quote(self.database, safe='')}")

    @property
    def fields(self) -> Mapping[str, Secret]:
        """Whatever the provider's system gives, by name (kind ``fields``)."""
        if self.kind != "fields":
            self._part({}, "fields")
        return self._secrets

    def __repr__(self) -> str:
        access = f"{self.tool}:{','.join(self.actions)}" + (
            "@" + ",".join(self.resources) if self.resources else ""
        )
        return (
            f"Credential({access!r}, kind={self.kind!r}, lease_id={self.lease_id!r}, "
            f"expires_at={self.expires_at.isoformat()!r}, secret=<redacted>)"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not pickled: hand on the task's id, and ask for a credential there")

    def __copy__(self) -> Credential:
        return self

    def __deepcopy__(self, memo: object) -> Credential:
        return self


def instant(text: str) -> datetime:
    """Read an instant of the broker's (RFC 3339, UTC)."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def demanded(credential: Credential | None) -> Credential:
    """Raise where an answer was no credential: where no frame holds the answer."""
    if credential is None:
        raise BrokerUnavailable("the broker's answer is no credential: compare the versions", retryable=False)
    return credential


def read(answer: Any, before: Credential | None = None) -> Credential | None:
    """Read the answer of an issue, or of a renewal of the credential of before; nothing where it is none."""
    try:
        lease, given = answer["lease"], answer.get("credential")
        if given is None:
            if before is None:
                return None
            kind, secrets, plain = before.kind, before._secrets, before._plain
        else:
            kind = str(given["type"])
            if kind == "fields":
                secrets = {name: Secret(value) for name, value in given["fields"].items()}
                plain = {}
            else:
                secrets = {name: Secret(given[name]) for name in _SECRET[kind]}
                plain = {name: given.get(name) for name in _PLAIN[kind]}
        return Credential(
            lease_id=lease["id"],
            tool=lease["tool"],
            actions=tuple(lease["actions"]),
            resources=tuple(lease["resources"]),
            kind=kind,
            expires_at=instant(answer["expires_at"]),
            granted=int(answer["granted"]),
            bounded_by=answer["bounded_by"],
            revocation=answer["revocation"],
            decision=answer["decision"],
            origins=tuple(answer.get("origins") or ()),
            _secrets=secrets,
            _plain=plain,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
