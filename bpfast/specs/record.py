"""Frozen dataclasses that are cheap to define.

``@dataclass(frozen=True)`` generates up to six methods for every class, which would take most of the time of
``import bpfast``. Here `Record` has them once, and only ``__init__`` is generated.
"""

from __future__ import annotations

from dataclasses import Field, FrozenInstanceError, dataclass, field, fields, is_dataclass
from typing import Any, dataclass_transform


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def record(cls: Any = None, /, *, kw_only: bool = False, init: bool = True) -> Any:
    """Make a subclass of `Record` a frozen dataclass, compared by identity unless the class says how."""

    def decorate(cls: Any) -> Any:
        return dataclass(cls, repr=False, eq=False, kw_only=kw_only, init=init)

    return decorate if cls is None else decorate(cls)


class Record:
    """Base class of what `record` decorates: its attributes can be set once."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__name__}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r} of {type(self).__name__}")

    def __repr__(self) -> str:
        values = (f"{f.name}={getattr(self, f.name)!r}" for f in fields_of(self))
        return f"{type(self).__name__}({', '.join(values)})"


def fields_of(of: Record | type[Record]) -> tuple[Field[Any], ...]:
    """Return the fields; none if the class is not a dataclass."""
    return fields(of) if is_dataclass(of) else ()
