"""Values that do not print."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NoReturn, final

if TYPE_CHECKING:
    from collections.abc import Callable

REDACTED = "<redacted>"


@final
class Secret:
    """A text that shows as ``<redacted>`` wherever it is printed, formatted or looked into.

    :meth:`reveal` gives the text. Pickling raises ``TypeError``, and so does ``json.dumps``. A copy is the
    secret itself. Two secrets are compared in constant time; with anything else a secret is unequal.
    """

    # A closure and no attribute: what walks over attributes, as debuggers and error reporters do, finds none.
    __slots__ = ("_reveal",)

    _reveal: Callable[[], str]

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_reveal", lambda: value)

    def reveal(self) -> str:
        """Give the text itself. Keep it no longer than the call that needs it."""
        return self._reveal()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: hand on the task's id, and ask for a credential there")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret has no state to show")
