"""What can go wrong, one class for each thing that a caller does about it.

No error holds evidence, a credential, or anything that was made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = "https://dayfly.dev/problems/"


class DayflyError(Exception):
    """What every error of this package is.

    ``detail`` says what happened and what to do next. ``status`` and ``slug`` are those of the broker's problem
    (RFC 9457), and ``request_id`` names the request in its logs; all three are ``None`` where no answer stands
    behind the error. ``retryable`` says whether the same call may work later.
    """

    detail: str
    status: int | None
    slug: str | None
    request_id: str | None
    retryable: bool
    retry_after: float | None
    """Seconds after which it may work, where the broker said so."""

    _retryable = False

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        slug: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.slug = slug
        self.request_id = request_id
        self.retry_after = retry_after
        self.retryable = self._retryable if retryable is None else retryable

    def __str__(self) -> str:
        known = (" ".join(str(part) for part in (self.status, self.slug) if part), self.request_id)
        notes = "; ".join(part for part in known if part)
        return f"{self.detail} ({notes})" if notes else self.detail

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(kind: type[DayflyError], args: tuple[Any, ...], state: dict[str, Any]) -> DayflyError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Denied(DayflyError):
    """Policy or the task's scope does not permit it. ``decision`` names the record of the denial."""

    reason: str
    decision: str | None

    def __init__(self, detail: str, *, decision: str | None = None, **known: Any) -> None:
        super().__init__(detail, **known)
        self.reason = detail
        self.decision = decision


class ApprovalPending(DayflyError):
    """Policy would permit it once somebody in the role ``approval`` agreed. It is no :class:`Denied`."""

    reason: str
    decision: str | None
    approval: str | None

    def __init__(
        self, detail: str, *, decision: str | None = None, approval: str | None = None, **known: Any
    ) -> None:
        super().__init__(detail, **known)
        self.reason = detail
        self.decision = decision
        self.approval = approval


class NotAdmitted(DayflyError):
    """The workload is proven, and is no agent, or one that gets nothing for now."""


class AttestationFailed(DayflyError):
    """The evidence proves nothing to the broker, or there is none to be had."""


class TaskEnded(DayflyError):
    """The task is over. ``outcome`` says how, where that is known, such as ``lost``, ``revoked`` or ``expired``."""

    state: str
    outcome: str | None

    def __init__(
        self, detail: str, *, state: str = "ended", outcome: str | None = None, **known: Any
    ) -> None:
        super().__init__(detail, **known)
        self.state = state
        self.outcome = outcome


class TaskSuspended(DayflyError):
    """The task is suspended: nothing is issued for it until it is resumed."""


class Revoked(DayflyError):
    """A revocation is in force for this agent, tool, user or environment."""


class NotFound(DayflyError):
    """There is no such thing, or none that this agent may see."""


class InvalidRequest(DayflyError, ValueError):
    """A field or an argument is wrong. ``pointer`` is its JSON pointer (RFC 6901), where there is one."""

    pointer: str | None

    def __init__(self, detail: str, *, pointer: str | None = None, **known: Any) -> None:
        super().__init__(detail, **known)
        self.pointer = pointer


class ScopeWidening(InvalidRequest):
    """This is outside of the task's scope. Nothing was asked of the broker."""


class Budget(DayflyError):
    """As many credentials are live, or tasks open, as there may be. ``budget`` says whose."""

    budget: str | None
    _retryable = True

    def __init__(self, detail: str, *, budget: str | None = None, **known: Any) -> None:
        super().__init__(detail, **known)
        self.budget = budget


class ProviderFailed(DayflyError):
    """The system that mints for this tool refuses."""

    _retryable = True


class BrokerUnavailable(DayflyError):
    """The broker cannot be reached, or cannot do it now. The call was tried several times."""

    _retryable = True


class OriginRefused(DayflyError):
    """A token was not sent, because ``origin`` is none of those that its tool is registered with."""

    origin: str

    def __init__(self, detail: str, *, origin: str = "", **known: Any) -> None:
        super().__init__(detail, **known)
        self.origin = origin


_KINDS: dict[str, type[DayflyError]] = {
    "unidentified": AttestationFailed,
    "not-admitted": NotAdmitted,
    "denied": Denied,
    "approval-required": ApprovalPending,
    "revoked": Revoked,
    "not-found": NotFound,
    "budget": Budget,
    "provider-refused": ProviderFailed,
    "malformed": InvalidRequest,
    "bad-parameter": InvalidRequest,
    "too-large": InvalidRequest,
    "media-type": InvalidRequest,
    "invalid-field": InvalidRequest,
    "key-reused": InvalidRequest,
    "conflict": BrokerUnavailable,
    "unavailable": BrokerUnavailable,
    "quarantine": BrokerUnavailable,
    "busy": BrokerUnavailable,
    "timed-out": BrokerUnavailable,
}

_BY_STATUS: dict[int, type[DayflyError]] = {
    401: AttestationFailed,
    403: Denied,
    404: NotFound,
    429: Budget,
    502: BrokerUnavailable,
    503: BrokerUnavailable,
    504: BrokerUnavailable,
}

# What an error of a kind knows beside what all errors know.
_EXTRAS: dict[type[DayflyError], tuple[str, ...]] = {
    Denied: ("decision",),
    ApprovalPending: ("decision", "approval"),
    InvalidRequest: ("pointer",),
    Budget: ("budget",),
}


def from_answer(status: int, body: object, headers: Mapping[str, str]) -> DayflyError:
    """Make the error of an answer that is no success; of a problem, of an OAuth error, or of neither."""
    known: Mapping[str, Any] = body if isinstance(body, dict) else {}
    kind = _text(known.get("type")) or _text(known.get("error_uri")) or ""
    slug = kind.removeprefix(TYPES) if kind.startswith(TYPES) else None
    detail = _text(known.get("detail")) or _text(known.get("error_description"))
    if detail is None:
        detail = "the broker answered with a redirect" if 300 <= status < 400 else "the broker gave no reason"
    # A slug that is newer than this package says as much as its status.
    error = _KINDS.get(slug or "") or _BY_STATUS.get(status, DayflyError)
    extras: dict[str, Any] = {name: _text(known.get(name)) for name in _EXTRAS.get(error, ())}
    return error(
        detail,
        status=status,
        slug=slug,
        request_id=_text(known.get("request_id")) or headers.get("x-request-id"),
        retry_after=_seconds(known.get("retry_after", headers.get("retry-after"))),
        **extras,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else None
