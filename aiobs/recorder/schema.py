"""How names and attributes become bytes: each set of keys and types is named once, then only values are written.

A :class:`Family` is a name with kind and scope; its :class:`Form` for given keys and value types holds the
schema id in the flight record and a function, generated for those types, that packs the values.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiobs.recorder import layout as at
from aiobs.recorder.compiled import core
from aiobs.recorder.flight import Flight
from aiobs.recorder.state import on_new_flight, state

Pack = Callable[[Iterable[Any]], "bytes | None"]
"""Packs a record's values; None where their types are not exactly the form's."""

FORM_LIMIT = 4000
"""Forms of one process that get a schema of their own; later ones are written as JSON, slower but whole."""

_LETTERS = {bool: "b", int: "q", float: "d", str: "s"}
_CLASSES = {"b": "bool", "q": "int", "d": "float", "s": "str", "j": "str"}


def plain(value: Any, limit: int) -> Any:
    """`value` as OTLP can carry it: scalars, lists and string-keyed mappings of these; else its text.

    Numbers of other libraries (numpy, 0-dimensional tensors) become Python's; strings are cut to `limit`.
    """
    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        return bool(value) if isinstance(value, bool) else int(value) if isinstance(value, int) else float(value)  # fmt: skip
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, bytes):
        return value[:limit].decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key)[:limit]: plain(item, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain(item, limit) for item in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return plain(item(), limit)
    return str(value)[:limit]


def json_bytes(value: Any) -> bytes:
    """Compact JSON; lone surrogates survive as escapes, so it can never fail on text."""
    return json.dumps(value, separators=(",", ":"), default=str).encode()


def _pack_function(letters: str) -> Pack:
    """The function that packs values of exactly these types, e.g. for "qs"::

    def pack(values):
        v0, v1, = values
        if v0.__class__ is int and v1.__class__ is str:
            v1 = v1.encode()
            return S(v0, len(v1)) + v1
    """
    fields = [f"v{i}" for i in range(len(letters))]
    texts = [name for name, letter in zip(fields, letters) if letter in "sj"]  # noqa: B905 - one made of the other
    exact = " and ".join(f"{name}.__class__ is {_CLASSES[letter]}" for name, letter in zip(fields, letters))  # noqa: B905
    lines = ["def pack(values):", f"    {', '.join(fields)}, = values", f"    if {exact}:"]
    lines += [f"        {name} = {name}.encode()" for name in texts]
    sizes = ", ".join(f"len({name})" if name in texts else name for name in fields)
    lines.append(f"        return S({sizes})" + "".join(f" + {name}" for name in texts))
    codes = "<" + "".join(at.VALUE_CODES[letter] for letter in letters)
    namespace: dict[str, Any] = {"S": struct.Struct(codes).pack}
    exec("\n".join(lines), namespace)  # noqa: S102 - the text is made of the five letters above and nothing else
    pack: Pack = namespace["pack"]
    return pack


class Form:
    """A family with one set of attribute keys and types: schema id (0: written as JSON) and packing function."""

    __slots__ = ("exact", "lists", "pack", "room", "schema")

    def __init__(self, family: Family, keys: tuple[str, ...], letters: str, flight: Flight) -> None:
        # What fits into one cell is shorter than the limit on values, or has to be looked at value by value.
        self.exact = "j" not in letters and flight.clip_at >= at.CELL_PAYLOAD
        # The same of longer payloads: one within this has no value beyond the limit.
        self.room = min(flight.clip_at, at.PAYLOAD_LIMIT)
        self.lists = [index for index, letter in enumerate(letters) if letter == "j"]
        self.schema = 0
        if _forms.count < FORM_LIMIT:
            _forms.count += 1
            self.schema = flight.append_numbered(at.ENTRY_SCHEMA, {**family.entry, "keys": keys, "types": letters})
        self.pack: Pack = _nothing
        if keys:
            self.pack = _pack_function(letters) if core is None else core.Shape(letters, self.schema)


def _nothing(_values: Iterable[Any]) -> bytes:
    return b""


class Family:
    """A record name with its kind and scope, and its forms; valid for one flight record."""

    __slots__ = ("bare", "entry", "forms", "lead", "recent")

    def __init__(self, name: str, kind: int, scope: str, version: str, flight: Flight) -> None:
        self.entry: dict[str, Any] = {"name": name, "kind": kind, "scope": scope, "version": version}
        self.forms: dict[tuple[tuple[str, ...], str], Form] = {}
        self.recent: dict[tuple[str, ...], Form] = {}
        self.bare = Form(self, (), "", flight)
        self.lead = self.bare.schema << 32

    def form(self, keys: tuple[str, ...], letters: str, flight: Flight) -> Form:
        """The form for these keys and types, made at first sight."""
        form = self.forms.get((keys, letters))
        if form is None:
            form = Form(self, keys, letters, flight)
            if form.schema:
                self.forms[keys, letters] = form
        if form.schema:
            self.recent[keys] = form
        return form

    def encode(self, attributes: Mapping[str, Any], flight: Flight) -> tuple[int, bytes]:
        """Schema id and payload for `attributes`, whatever they are."""
        if not attributes:
            return (self.bare.schema, b"") if self.bare.schema else (0, self._json({}, flight))
        form = self.recent.get(tuple(attributes))
        if form is not None:
            try:
                payload = form.pack(_with_lists(attributes, form.lists) if form.lists else attributes.values())
                if payload is not None and len(payload) <= form.room:
                    return form.schema, payload
            except (struct.error, UnicodeEncodeError, TypeError, ValueError):
                # An int beyond 64 bits, a text beyond 64 KiB or with lone surrogates, something in a list that JSON
                # does not know: the careful way takes them.
                pass
        return self._encode_carefully(tuple(map(str, attributes)), tuple(attributes.values()), flight)

    def _encode_carefully(self, keys: tuple[str, ...], values: tuple[Any, ...], flight: Flight) -> tuple[int, bytes]:
        limit = flight.clip_at
        kept = tuple(_fitting(plain(value, limit)) for value in values)
        if _clipped(values, limit):
            flight.add(at.CLIPPED)
        form = self.form(keys, "".join(_LETTERS.get(type(value), "j") for value in kept), flight)
        if not form.schema:
            return 0, self._json(dict(zip(keys, kept)), flight)  # noqa: B905 - same length by construction
        texts = tuple(v if type(v) in _LETTERS else json.dumps(v, separators=(",", ":")) for v in kept)
        with contextlib.suppress(struct.error):  # one text beyond 64 KiB of UTF-8
            payload = form.pack(texts)
            if payload is not None and len(payload) <= at.PAYLOAD_LIMIT:
                return form.schema, payload
        flight.add(at.CLIPPED)
        share = max(16, at.PAYLOAD_LIMIT // (8 * len(keys)))
        cut = tuple(v if type(v) in (bool, int, float) else str(v)[:share] for v in kept)
        form = self.form(keys, "".join(_LETTERS[type(value)] for value in cut), flight)
        payload = form.pack(cut) if form.schema else None
        return (form.schema, payload) if payload is not None and len(payload) <= at.PAYLOAD_LIMIT else (0, self._json({}, flight))  # fmt: skip

    def _json(self, attributes: Mapping[str, Any], flight: Flight) -> bytes:
        payload = json_bytes({**self.entry, "attributes": attributes})
        if len(payload) > at.PAYLOAD_LIMIT:
            flight.add(at.CLIPPED)
            payload = json_bytes({**self.entry, "name": str(self.entry["name"])[:256], "attributes": {}})
        return payload


_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _with_lists(attributes: Mapping[str, Any], lists: list[int]) -> list[Any]:
    """The values, those that have to be lists as JSON. Raises TypeError or ValueError for any other."""
    values = list(attributes.values())
    for index in lists:
        value = values[index]
        if value.__class__ is not list and value.__class__ is not tuple:
            raise TypeError(value)
        values[index] = _dumps(value)
    return values


def _fitting(value: Any) -> Any:
    """Keep ints of 64 bits as such; wider ones become JSON text, lone surrogates are escaped."""
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _clipped(values: tuple[Any, ...], limit: int) -> bool:
    return any(isinstance(value, (str, bytes)) and len(value) > limit for value in values)


class _Count:
    """Forms made for the current flight record."""

    count = 0


_forms = _Count()
_families: dict[tuple[str, int, str, str], Family] = {}
families: dict[str, Family] = {}
"""Families of plain internal spans of our own scope by name: the hot path's lookup."""

OWN_SCOPE = "aiobs"
FAMILY_LIMIT = 20_000
"""Families kept in memory; names with ids in them would grow without end otherwise."""


def family(name: str, kind: int, scope: str, version: str, flight: Flight) -> Family:
    """The family of that name, kind and scope in the current flight record."""
    found = _families.get((name, kind, scope, version))
    if found is None:
        name = str(name)[:1024]
        found = Family(name, kind, scope, version, flight)
        if len(_families) < FAMILY_LIMIT:
            _families[name, kind, scope, version] = found
            if kind == 1 and scope == OWN_SCOPE and not version:
                families[name] = found
    return found


_phases: dict[str, int] = {}


def phase_id(name: str) -> int:
    """Id of a phase name in the current flight record; 0 where nothing is recorded or the table is full."""
    number = _phases.get(name, 0)
    if not number and state.flight is not None:
        number = state.flight.append_numbered(at.ENTRY_PHASE, {"name": name})
        _phases[name] = number
    return number


def _forget() -> None:
    _families.clear()
    families.clear()
    _phases.clear()
    _forms.count = 0


on_new_flight(_forget)
