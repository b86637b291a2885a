"""A YAML or JSON document that knows its lines, so that a message can name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from aiobs.errors import NotEnabledError, PlanError

_MISSING: Any = object()


class Node:
    """A place in a document.

    Attributes:
        value: what stands there.
        line: on which line, from 1; 0 where the document was made in Python.
    """

    def __init__(self, value: Any, path: str, field: str, lines: dict[str, int]) -> None:
        self.value = value
        self._path, self._field, self._lines = path, field, lines
        self.line = lines.get(field, 0)

    def refuse(self, name: str, value: object, remedy: str) -> NoReturn:
        """Raise PlanError for the field `name` in here."""
        field = f"{self._field}.{name}".strip(".")
        line = self._lines.get(field) or self.line
        where = f"{self._path}:{line}: " if line else f"{self._path}: " if self._path else ""
        raise PlanError(f"{where}{field}", value, remedy)

    def only(self, *allowed: str) -> None:
        """Refuse fields that mean nothing here."""
        for name in self._map():
            if name not in allowed:
                self.refuse(str(name), self.value[name], f"no such field; there are {', '.join(allowed)}")

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._map()

    def child(self, name: str) -> Node:
        """The map at `name`."""
        if not isinstance(self._map().get(name), dict):
            self.refuse(name, self.value.get(name), "a map is needed here")
        return self._at(name)

    def items(self, name: str) -> list[Node]:
        """The maps in the list at `name`."""
        found = self._map().get(name)
        if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
            self.refuse(name, found, "a list of maps is needed here")
        return [self._at(f"{name}[{place}]", item) for place, item in enumerate(found)]

    def texts(self, name: str) -> tuple[str, ...]:
        """The text or texts at `name`; () where there is nothing."""
        found = self._map().get(name)
        found = [] if found is None else found if isinstance(found, list) else [found]
        if not all(isinstance(item, (str, int, float)) for item in found):
            self.refuse(name, found, "a text or a list of texts")
        return tuple([_told(item) for item in found])

    def text(self, name: str, default: str = _MISSING) -> str:
        """The text at `name`."""
        found = self._map().get(name)
        if found is None and default is not _MISSING:
            return default
        if not isinstance(found, (str, int)) or found == "":
            self.refuse(name, found, "a text is needed here")
        return str(found)

    def number(self, name: str, default: Any = _MISSING) -> Any:
        """The number at `name`."""
        found = self._map().get(name)
        if found is None and default is not _MISSING:
            return default
        if (
            isinstance(found, bool)
            or not isinstance(found, (int, float))
            or found != found
            or abs(found) == float("inf")
        ):
            self.refuse(name, found, "a number is needed here")
        return float(found)

    def seconds(self, name: str) -> float | None:
        """The length of time at `name`: 30, ``30s``, ``500ms``, ``2m``; None where there is nothing."""
        found = self._map().get(name)
        if found is None:
            return None
        units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
        text = str(found).strip()
        unit = next((unit for unit in units if text.endswith(unit)), "")
        try:
            length = float(text.removesuffix(unit)) * units.get(unit, 1.0)
        except ValueError:
            length = -1.0
        if isinstance(found, bool) or not 0 <= length < float("inf"):
            self.refuse(name, found, "a length of time, such as 30s, 500ms or 2m")
        return length

    def expect(self, name: str, allowed: tuple[str, ...]) -> str:
        """The text at `name`, one of `allowed`."""
        found = self._map().get(name)
        if found not in allowed:
            self.refuse(name, found, f"use {' or '.join(allowed) if len(allowed) < 3 else ', '.join(allowed)}")
        return str(found)

    def patterns(self, name: str) -> dict[str, tuple[str, ...]]:
        """Attributes with the values (``*`` and ``?`` are wildcards) they may have."""
        node = self.child(name)
        found = {str(key): node.texts(key) for key in node.value}
        for key, values in found.items():
            if not values:
                node.refuse(key, None, "a value or a list of values; '*' for any")
        if not found:
            self.refuse(name, {}, "at least one attribute with its values")
        return found

    def _map(self) -> dict[Any, Any]:
        if not isinstance(self.value, dict):
            self.refuse("", self.value, "a map is needed here")
        return self.value

    def _at(self, name: str, value: Any = _MISSING) -> Node:
        found = self.value[name] if value is _MISSING else value
        return Node(found, self._path, f"{self._field}.{name}".strip("."), self._lines)


def _told(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def read_document(source: str | Path | dict[str, Any]) -> Node:
    """The document in a file (YAML, JSON), or made in Python.

    Raises:
        PlanError: it is not there, or is no document.
        NotEnabledError: PyYAML is not installed.
    """
    if isinstance(source, dict):
        return Node(source, "", "", {})
    try:
        import yaml
    except ImportError:
        raise NotEnabledError("reading a spec", "containment") from None
    path = str(source)
    try:
        text = Path(source).read_text("utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except OSError as error:
        raise PlanError("spec", path, f"name a readable file ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise PlanError(
            f"{path}{line}", getattr(error, "problem", None) or str(error), "write valid YAML or JSON"
        ) from error
    lines: dict[str, int] = {}
    _mark(tree, "", lines)
    return Node(value, path, "", lines)


def _mark(node: Any, field: str, lines: dict[str, int]) -> None:
    if node is None:
        return
    lines.setdefault(field, node.start_mark.line + 1)
    if node.id == "mapping":
        for key, value in node.value:
            name = f"{field}.{key.value}".strip(".")
            lines[name] = key.start_mark.line + 1
            _mark(value, name, lines)
    elif node.id == "sequence":
        for place, item in enumerate(node.value):
            _mark(item, f"{field}[{place}]", lines)
