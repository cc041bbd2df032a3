"""What is asked for: a tool, some of its actions, on some of its resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any, TypeAlias

from ._errors import InvalidRequest

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SEGMENT = re.compile(r"[A-Za-z0-9._~@:+=,-]+")
_MOST = 16
_HOW = "write `tool:action[,action…][@resource[,resource…]]`, such as `crm:read@customers/42`"


@dataclass(frozen=True, slots=True)
class Access:
    """One tool, between 1 and 16 of its actions, and up to 16 resources; no resource means the whole tool.

    A resource is a path such as ``customers/42`` and covers what lies below it. As text it is what the command
    line takes: ``crm:read,comment@customers/42``. Raises :class:`~dayfly.InvalidRequest` for what cannot be one.
    """

    tool: str
    actions: tuple[str, ...]
    resources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("actions", self.actions), ("resources", self.resources)):
            if isinstance(values, str):
                values = (values,)
            ordered = tuple(sorted(set(values)))
            if len(ordered) > _MOST:
                raise InvalidRequest(f"an access names at most {_MOST} {name}", pointer=f"/{name}")
            object.__setattr__(self, name, ordered)
        if not self.actions:
            raise InvalidRequest("name at least one action", pointer="/actions")
        for slug in (self.tool, *self.actions):
            if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
                raise InvalidRequest(f"{slug!r} is no name of a tool or an action: {_HOW}", pointer="")
        for path in self.resources:
            if not isinstance(path, str) or not is_path(path):
                raise InvalidRequest(f"{path!r} is no resource: {_HOW}", pointer="/resources")

    @classmethod
    def parse(cls, text: str) -> Access:
        """Read ``tool:action[,action…][@resource[,resource…]]``."""
        tool, colon, rest = text.partition(":")
        if not colon:
            raise InvalidRequest(f"{text!r} is no access: {_HOW}", pointer="")
        actions, at, resources = rest.partition("@")
        return cls(tool, tuple(actions.split(",")), tuple(resources.split(",")) if at else ())

    @classmethod
    def of(cls, given: AccessLike) -> Access:
        """Read an access in any of its forms: itself, its text, or a mapping of its members."""
        if isinstance(given, Access):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, Mapping):
            raise InvalidRequest(f"{given!r} is no access: {_HOW}", pointer="")
        unknown = set(given) - {"tool", "actions", "resources"}
        if unknown or "tool" not in given or "actions" not in given:
            raise InvalidRequest(
                "an access has `tool`, `actions` and perhaps `resources`, nothing else", pointer=""
            )
        return cls(given["tool"], tuple(given["actions"]), tuple(given.get("resources", ())))

    def covers(self, other: Access) -> bool:
        """Whether everything that `other` asks for is within this access."""
        return (
            self.tool == other.tool
            and set(other.actions) <= set(self.actions)
            and (
                not self.resources
                or (
                    bool(other.resources)
                    and all(any(covers(mine, path) for mine in self.resources) for path in other.resources)
                )
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Give its members, as the HTTP API takes them."""
        members: dict[str, Any] = {"tool": self.tool, "actions": list(self.actions)}
        if self.resources:
            members["resources"] = list(self.resources)
        return members

    def __str__(self) -> str:
        resources = "@" + ",".join(self.resources) if self.resources else ""
        return f"{self.tool}:{','.join(self.actions)}{resources}"


AccessLike: TypeAlias = str | Access | Mapping[str, Any]
"""An access in any of its forms: ``"crm:read@customers/42"``, :class:`Access`, or a mapping of its members."""

ScopeLike: TypeAlias = AccessLike | Iterable[AccessLike]
"""One access, or several."""

Duration: TypeAlias = int | float | timedelta | str
"""Seconds, a ``timedelta``, or a text with units such as ``"90s"``, ``"5m"`` or ``"1h30m"``."""


def scope_of(given: ScopeLike) -> tuple[Access, ...]:
    """Read a scope: between 1 and 32 accesses."""
    listed = (given,) if isinstance(given, str | Access | Mapping) else given
    accesses = tuple(Access.of(each) for each in listed)
    if not 1 <= len(accesses) <= 32:
        raise InvalidRequest("a scope holds between 1 and 32 accesses", pointer="/scope")
    return accesses


def access_of(
    tool: AccessLike, actions: str | Iterable[str] | None, resources: str | Iterable[str]
) -> Access:
    """Read an access from the arguments of a call: its text alone, or its members one by one."""
    if actions is None:
        if resources:
            raise InvalidRequest("name the resources behind `@`, or the actions too", pointer="/resources")
        return Access.of(tool)
    if not isinstance(tool, str):
        raise InvalidRequest("give an access, or its members one by one", pointer="/tool")
    listed = (actions,) if isinstance(actions, str) else tuple(actions)
    paths = (resources,) if isinstance(resources, str) else tuple(resources)
    return Access(tool, listed, paths)


def covers(path: str, other: str) -> bool:
    """Whether `other` is this path or lies below it: `customers` covers `customers/42`, not `customers-2`."""
    return other == path or other.startswith(path + "/")


def wire_duration(given: Duration) -> int | str:
    """A length of time as the HTTP API takes it."""
    if isinstance(given, str):
        return given
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not 0 < seconds < 1e9:
        raise InvalidRequest(f"{given!r} is no length of time: give seconds, or a text such as `5m`")
    return ceil(seconds)


def is_path(path: str) -> bool:
    """Whether this is the path of a resource: nothing that could be read as another one, as `a/../b` could."""
    segments = path.split("/")
    return (
        len(path) <= 256
        and len(segments) <= 16
        and all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments)
    )
