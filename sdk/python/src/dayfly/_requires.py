"""Functions that get a credential of the task around them, as an argument that nobody else sees."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._access import Access
from ._core import Core, ambient
from ._errors import InvalidRequest
from ._task import AsyncTask, Task

if TYPE_CHECKING:
    from ._credential import Credential
    from ._transport import Transport

Resource = str | Iterable[str] | Callable[..., str | Iterable[str]] | None


def requires(
    transport: Transport, access: str | Access, into: str, resource: Resource
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorator; see `Broker.requires`."""
    wanted = Access.of(access)
    if resource is not None and wanted.resources:
        raise InvalidRequest("name the resources behind `@` or by `resource`, not both")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        full = inspect.signature(function)
        injected = full.parameters.get(into)
        if injected is None or injected.kind not in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError(f"{function!r} takes no argument `{into}` by name")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is a generator: ask for the credential in it")
        left = full.replace(parameters=[each for each in full.parameters.values() if each is not injected])

        def asked(bound: inspect.BoundArguments) -> Access:
            return _narrowed(wanted, resource, bound)

        def whole(bound: inspect.BoundArguments, credential: Credential) -> inspect.BoundArguments:
            # In the order of the function, so that what comes by position stays in its place.
            given = {**bound.arguments, into: credential}
            return inspect.BoundArguments(
                full, OrderedDict((name, given[name]) for name in full.parameters if name in given)
            )

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                bound = left.bind(*args, **kwargs)
                credential = await AsyncTask(_ambient(transport)).credential(asked(bound))
                call = whole(bound, credential)
                return await function(*call.args, **call.kwargs)
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                bound = left.bind(*args, **kwargs)
                credential = Task(_ambient(transport)).credential(asked(bound))
                call = whole(bound, credential)
                return function(*call.args, **call.kwargs)

        # Whoever follows `__wrapped__` would see the argument again.
        del wrapper.__wrapped__
        wrapper.__signature__ = left  # type: ignore[attr-defined]
        wrapper.__annotations__ = {
            name: hint for name, hint in inspect.get_annotations(function).items() if name != into
        }
        return wrapper

    return decorate


def _ambient(transport: Transport) -> Core:
    core = ambient()
    if core is None or core.transport is not transport:
        raise InvalidRequest(
            "there is no task of this broker around the call: open one with `broker.task(…)`"
        )
    return core


def _narrowed(wanted: Access, resource: Resource, bound: inspect.BoundArguments) -> Access:
    every = inspect.BoundArguments(bound.signature, OrderedDict(bound.arguments))
    every.apply_defaults()
    return narrowed_by(wanted, resource, every.arguments)


def narrowed_by(wanted: Access, resource: Resource, arguments: Mapping[str, Any]) -> Access:
    """Narrow an access to resources; a function of them is given those of the arguments that it names."""
    if resource is None:
        return wanted
    if callable(resource):
        takes = inspect.signature(resource).parameters.values()
        by_name = dict(arguments)
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes):
            by_name = {each.name: by_name[each.name] for each in takes if each.name in by_name}
        resource = resource(**by_name)
    return Access(wanted.tool, wanted.actions, (resource,) if isinstance(resource, str) else tuple(resource))
