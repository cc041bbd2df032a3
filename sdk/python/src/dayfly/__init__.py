"""Dayfly for agents: credentials that are minted for one task and one tool, and end with the task.

    from dayfly import Broker

    broker = Broker()
    with broker.task("answer ticket 4711", "crm:read@customers/42") as task:
        token = task.credential("crm:read@customers/42").token

See :class:`Broker`. Evidence is in :mod:`dayfly.evidence`, and what tools need in :mod:`dayfly.resource`.
"""

from ._access import Access, AccessLike, Duration, ScopeLike
from ._auth import Auth
from ._broker import Broker, Verdict
from ._core import Completion, EndedLease
from ._credential import Credential
from ._ended import AsyncEnded, Ended
from ._errors import (
    ApprovalPending,
    AttestationFailed,
    BrokerUnavailable,
    Budget,
    DayflyError,
    Denied,
    InvalidRequest,
    NotAdmitted,
    NotFound,
    OriginRefused,
    ProviderFailed,
    Revoked,
    ScopeWidening,
    TaskEnded,
    TaskSuspended,
)
from ._secret import Secret
from ._task import AsyncTask, Handover, Task, TaskContext, TaskHandle

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AccessLike",
    "ApprovalPending",
    "AsyncEnded",
    "AsyncTask",
    "AttestationFailed",
    "Auth",
    "Broker",
    "BrokerUnavailable",
    "Budget",
    "Completion",
    "Credential",
    "DayflyError",
    "Denied",
    "Duration",
    "Ended",
    "EndedLease",
    "Handover",
    "InvalidRequest",
    "NotAdmitted",
    "NotFound",
    "OriginRefused",
    "ProviderFailed",
    "Revoked",
    "ScopeLike",
    "ScopeWidening",
    "Secret",
    "Task",
    "TaskContext",
    "TaskEnded",
    "TaskHandle",
    "TaskSuspended",
    "Verdict",
]
