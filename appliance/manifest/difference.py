"""Which fields of two nested mappings differ, by name; and what of a part is not compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from appliance.manifest.finding import KeyPath, format_path


class Absent:
    """The value of a field that one side does not have; ``ABSENT`` is its only instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()

FieldChange = tuple[str, Any, Any]
"""Dotted path, old value, new value."""


def checkout_without_place(checkout: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``eval.checkout`` reduced to what decides a result; the lock's digests stand beside it."""
    return None if checkout is None else {"tree": checkout.get("tree")}


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[FieldChange]:
    """Every field that differs, by path in the order of ``new``, fields only in ``old`` last.

    Mappings are compared key by key; anything else, lists included, is one field. A mapping against
    something else (``plan: null`` against a plan) is one field too. Values are equal when their
    JSON is: 1 equals 1.0, but not true. ``changed_fields(x, x) == []``.
    """
    return [(format_path(path), before, after) for path, before, after in _walk(old, new, ())]


def _walk(old: Any, new: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from _walk(old.get(key, ABSENT), new.get(key, ABSENT), (*path, str(key)))
    elif not _same(old, new):
        yield path, old, new


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)
