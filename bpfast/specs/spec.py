"""Specifications: small frozen dataclasses, each registered under a name in a table.

A specification holds hyperparameters, and its docstring the formula; it holds no arrays. Each family
(activations, losses, optimizers, ...) is one `Family` table, so names, configurations read from a file
and objects are all resolved in the same way.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, field
from typing import Any, ClassVar, Generic, Self, TypeVar, dataclass_transform

from .record import Record, fields_of, record

S = TypeVar("S", bound="Spec")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def spec(cls: Any = None, /, *, kw_only: bool = False, init: bool = True) -> Any:
    """Make a subclass of `Spec` a frozen dataclass, compared by value."""
    return record(cls, kw_only=kw_only, init=init)


class Spec(Record):
    """A named set of hyperparameters; subclasses are decorated with `spec`."""

    name: ClassVar[str] = ""

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields_of(self))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        """Return the expression that makes it; keyword-only fields at their default are left out."""
        values = [(f, getattr(self, f.name)) for f in fields_of(self) if f.repr]
        shown = [f"{f.name}={value!r}" for f, value in values if not (f.kw_only and value == f.default)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def config(self) -> dict[str, Any]:
        """Return the specification as plain JSON values: its name and its fields."""
        values: dict[str, Any] = {"name": self.name}
        for f in fields_of(self):
            values[f.name] = _plain(getattr(self, f.name))
        return values

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> Self:
        """Build a specification from the fields of `config`."""
        return cls(**values)

    def _set(self, field: str, value: Any) -> None:
        """Replace a field; for ``__post_init__`` only."""
        object.__setattr__(self, field, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.config()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class Family(Generic[S]):
    """The table of one kind of specification: name → class.

    Parameters
    ----------
    kind : str
        The name of a member in messages, such as ``"activation"``.
    base : type
        The base class of every member.
    """

    def __init__(self, kind: str, base: type[S]) -> None:
        self.kind = kind
        self.base = base
        self._members: dict[str, type[S]] = {}
        self._aliases: dict[str, str] = {}
        #: Unknown name → hint for the error message, for names that other libraries use.
        self.hints: dict[str, str] = {}

    def register(self, name: str, *aliases: str) -> Callable[[type[S]], type[S]]:
        """Return a class decorator that registers a specification under a name and its aliases."""

        def enter(cls: type[S]) -> type[S]:
            cls.name = name
            self._members[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return enter

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members or name in self._aliases

    def __getitem__(self, name: str) -> type[S]:
        key = self._aliases.get(name, name)
        if key in self._members:
            return self._members[key]
        if name in self.hints:
            raise ValueError(f"unknown {self.kind} {name!r}; {self.hints[name]}")
        known = [*self._members, *self._aliases]
        # Imported here, because few processes need it and `import bpfast` should be fast.
        import difflib

        near = difflib.get_close_matches(name[:40].lower(), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {self.kind} {name!r}{hint} (known: {', '.join(self._members)})")

    def resolve(self, value: str | S | type[S], argument: str | None = None) -> S:
        """Convert a name, a class or a specification to a specification."""
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            return self._default(self[value])
        if isinstance(value, type) and issubclass(value, self.base):
            return self._default(value)
        article = "an" if self.base.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{argument or self.kind} must be a name or {article} {self.base.__name__} object; got {value!r}"
        )

    def _default(self, cls: type[S]) -> S:
        required = [f.name for f in fields_of(cls) if f.default is MISSING and f.default_factory is MISSING]
        if required:
            raise TypeError(
                f"{self.kind} {cls.name!r} has required parameters; "
                f"pass an object such as bp.{cls.__name__}({required[0]}=...)"
            )
        return cls()

    def from_config(self, config: Any) -> S:
        """Build a specification from the result of `Spec.config`."""
        if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
            raise ValueError(f"{self.kind} configuration must be an object with a name; got {config!r}")
        cls = self[config["name"]]
        known = {f.name for f in fields_of(cls)}
        values = {key: value for key, value in config.items() if key != "name"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{self.kind} {cls.name!r} has no parameter {unknown[0]!r}")
        return cls.from_fields(values)


def number(
    owner: str,
    argument: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Check a real number against its bounds and return it as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {argument} must be a number; got {value!r}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    bounds = []
    if above is not None:
        bounds.append((f"greater than {above:g}", result > above))
    if at_least is not None:
        bounds.append((f"at least {at_least:g}", result >= at_least))
    if below is not None:
        bounds.append((f"less than {below:g}", result < below))
    if at_most is not None:
        bounds.append((f"at most {at_most:g}", result <= at_most))
    if not math.isfinite(result):
        bounds.append(("finite", False))
    if not all(holds for _, holds in bounds):
        expected = " and ".join(text for text, _ in bounds)
        raise ValueError(f"{owner}: {argument} must be {expected}; got {value!r}")
    return result


def integer(owner: str, argument: str, value: Any, *, at_least: int) -> int:
    """Check an integer against its lower bound and return it as an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {argument} must be an integer; got {value!r}")
    if value < at_least:
        raise ValueError(f"{owner}: {argument} must be at least {at_least}; got {value!r}")
    if int(value) >= 2**63:
        raise ValueError(f"{owner}: {argument} must be below 2**63; got {value!r}")
    return int(value)


def file_path(owner: str, argument: str, value: Any) -> str | os.PathLike[str]:
    """Check the path of a file and return it."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{owner}: {argument} must be a str or path; got {value!r}")
    return value


def flag(owner: str, argument: str, value: Any) -> bool:
    """Check a Boolean and return it."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {argument} must be True or False; got {value!r}")
    return value
