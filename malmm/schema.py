"""Checking plain mappings against dataclasses, which are the one place where keys and types are written down.

Unknown keys are refused with the nearest known one, wrong types with the right one, both naming file and key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from malmm.errors import InputError


@dataclass(frozen=True)
class Section:
    """The keys of a mapping: name -> type hint, dataclass or further Section; which of them must be there."""

    fields: Mapping[str, Any]
    required: frozenset[str] = frozenset()

    @classmethod
    def of(cls, schema: type, **more: Any) -> Section:
        """The fields of a dataclass, and `more` beside them."""
        hints = typing.get_type_hints(schema)
        entries = dataclasses.fields(schema)
        empty = dataclasses.MISSING
        required = frozenset(e.name for e in entries if e.default is empty and e.default_factory is empty)
        return cls({**more, **{entry.name: hints[entry.name] for entry in entries}}, required)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every dotted key that is known."""
        for name, hint in self.fields.items():
            yield f"{prefix}{name}"
            if (inner := _as_section(hint)) is not None:
                yield from inner.keys(f"{prefix}{name}.")


def check(values: Mapping[str, Any], section: Section, source: str, complete: bool = False) -> dict[str, Any]:
    """The values, ints turned to floats where floats belong; InputError naming `source` and the wrong key.

    Unless `complete`, values may hold interpolations (`${...}`) and required keys may be absent.
    """
    return _Checker(section, source, complete).mapping(values, section, "")


@dataclass(frozen=True)
class _Checker:
    root: Section
    source: str
    complete: bool

    def mapping(self, values: Any, section: Section, key: str) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise InputError(f"{self.source}: {key} is {values!r}; it must be a section with keys of its own")
        prefix = f"{key}." if key else ""
        for name in values:
            if name not in section.fields:
                nearest = self._nearest(f"{prefix}{name}")
                raise InputError(
                    f"{self.source}: unknown key {prefix}{name}; the nearest known one is {nearest}"
                )
        if self.complete and (absent := sorted(section.required - set(values))):
            raise InputError(f"{self.source}: key {prefix}{absent[0]} is missing: set it")
        fields = section.fields
        return {name: self.value(item, fields[name], f"{prefix}{name}") for name, item in values.items()}

    def value(self, value: Any, hint: Any, key: str) -> Any:
        if hint is Any or (not self.complete and isinstance(value, str) and "${" in value):
            return value
        if (section := _as_section(hint)) is not None:
            return self.mapping(value, section, key)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(value, hint, key)
        if origin is Literal and value in arguments:
            return value
        if origin in (list, tuple) and isinstance(value, list):
            return [self.value(item, arguments[0], f"{key}[{i}]") for i, item in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            return {name: self.value(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is hint:
            return value
        raise InputError(f"{self.source}: {key} is {value!r}; it must be {_describe(hint)}")

    def _union(self, value: Any, hint: Any, key: str) -> Any:
        options = list(typing.get_args(hint))
        if isinstance(value, dict):
            options = [option for option in options if _as_section(option) is not None] or options
            if len(options) == 1:
                return self.value(value, options[0], key)
        # The value's own type first, so that true stays a bool in `bool | str` and 1 an int in `int | float`.
        for option in sorted(options, key=lambda option: option is not type(value)):
            try:
                return self.value(value, option, key)
            except InputError:
                continue
        raise InputError(f"{self.source}: {key} is {value!r}; it must be {_describe(hint)}")

    def _nearest(self, key: str) -> str:
        """The known key most like `key`; a key of the same name in another section before all others."""
        known = list(self.root.keys())
        elsewhere = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
        return difflib.get_close_matches(key, elsewhere or known, n=1, cutoff=0.0)[0]


def _as_section(hint: Any) -> Section | None:
    if isinstance(hint, Section):
        return hint
    return Section.of(hint) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def _describe(hint: Any) -> str:
    """A type hint in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(str(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"a list, each entry {_describe(arguments[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return "null" if hint is types.NoneType else words.get(hint, "a section with keys of its own")
