"""Functions that get a credential, and do not show it."""

from __future__ import annotations

import inspect
import typing
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from dayfly import Credential, InvalidRequest

if TYPE_CHECKING:
    from conftest import World


def test_a_function_gets_a_credential_of_the_task_around_it(world: World) -> None:
    broker = world.broker()

    @broker.requires("crm:read", resource=lambda customer: f"customers/{customer}")
    def show(customer: int, credential: Credential, verbose: bool = False) -> tuple[str, bool]:
        """Show a customer."""
        answer = world.get(f"/customers/{customer}", credential.token.reveal())
        return str(answer.json()["name"]), verbose

    assert str(inspect.signature(show)) == "(customer: 'int', verbose: 'bool' = False) -> 'tuple[str, bool]'"
    assert typing.get_type_hints(show) == {"customer": int, "verbose": bool, "return": tuple[str, bool]}
    assert (show.__name__, show.__doc__) == ("show", "Show a customer.")
    assert "credential" not in inspect.getfullargspec(show).args
    assert inspect.unwrap(show) is show
    with pytest.raises(InvalidRequest, match="no task"):
        show(42)
    with broker.task("look", "crm:read@customers") as task:
        assert show(42, True) == ("Harbour Books", True)
        assert show(customer=43) == ("Mill Street Bakery", False)
        with pytest.raises(TypeError):
            show(42, credential=None)
        # As frameworks run tools: in a thread, with the context of the agent.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(copy_context().run, show, 42).result()[0] == "Harbour Books"
        resources = {tuple(lease["resources"]) for lease in world.leases(task.id)}
        assert resources == {("customers/42",), ("customers/43",)}
        with pytest.raises(InvalidRequest, match="no task of this broker"):
            world.broker().requires("crm:read")(lambda credential: credential)()
    with pytest.raises(InvalidRequest, match="no task"):
        show(42)


@pytest.mark.anyio
async def test_a_coroutine_function_gets_one_too(world: World) -> None:
    broker = world.broker()

    @broker.requires("crm:read@customers/42", into="key")
    async def show(*paths: str, key: Credential, **more: Any) -> list[int]:
        return [world.get(path, key.token.reveal()).status_code for path in paths]

    assert inspect.iscoroutinefunction(show)
    assert str(inspect.signature(show)) == "(*paths: 'str', **more: 'Any') -> 'list[int]'"
    async with broker.task("look", "crm:read@customers"):
        assert await show("/customers/42", "/customers/43", any=1) == [200, 403]


def test_what_cannot_be_decorated_is_said_at_once(world: World) -> None:
    broker = world.broker()

    def without(customer: int) -> None: ...

    def positional(credential: Credential, /) -> None: ...

    def generator(credential: Credential) -> Any:
        yield credential

    for function in (without, positional, generator):
        with pytest.raises(TypeError):
            broker.requires("crm:read")(function)
    with pytest.raises(InvalidRequest):
        broker.requires("crm:read@customers", resource="customers")
