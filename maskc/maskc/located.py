"""YAML with positions: every value and key of a spec knows its line and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from maskc.errors import SpecError

__all__ = ["Located", "nearest", "parse_yaml"]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value and where it stands.

    Attributes:
        value: a scalar, a list of `Located`, or a dict of str or int to `Located`.
        source: the file's name, as the user gave it.
        line: 1 is the first.
        column: 1 is the first.
        keys: for a dict, where each key stands, as `(line, column)`.
    """

    value: Any
    source: str
    line: int
    column: int
    keys: dict[Any, tuple[int, int]]

    def error(self, message: str) -> SpecError:
        """An error about this value."""
        return SpecError(f"{self.source}:{self.line}:{self.column}: {message}")

    def key_error(self, key: Any, message: str) -> SpecError:
        """An error about one key of this mapping."""
        line, column = self.keys[key]
        return SpecError(f"{self.source}:{line}:{column}: {message}")

    def mapping(self, what: str) -> dict[Any, Located]:
        """The value as a dict, or an error that says what was expected here."""
        if not isinstance(self.value, dict):
            raise self.error(f"{what}: expected a mapping, got {describe(self.value)}")
        return self.value

    def plain(self) -> Any:
        """The value without positions."""
        match self.value:
            case dict():
                return {key: item.plain() for key, item in self.value.items()}
            case list():
                return [item.plain() for item in self.value]
            case _:
                return self.value


def describe(value: Any) -> str:
    """A value for an error text: scalars as written, containers by kind."""
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case _:
            return f"{value!r} ({type(value).__name__})"


def nearest(word: Any, known: Iterable[Any]) -> str:
    """The end of an error text about an unknown name: what is known, and the likeliest of it."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"expected one of {', '.join(sorted(names))}{hint}"


def parse_yaml(content: bytes, source: str) -> Located:
    """Parse YAML whose top level is one document.

    Args:
        content: the file's bytes.
        source: the file's name, for errors.

    Raises:
        SpecError: the content is not UTF-8, or is not YAML.
    """
    loader = None
    try:
        loader = _Loader(content.decode())
        node = loader.get_single_node()
        if node is None:
            raise SpecError(f"{source}:1:1: the spec is empty; expected at least 'maskc: 1'")
        return _Builder(source, loader).build(node)
    except UnicodeDecodeError as error:
        raise SpecError(f"{source}: not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise SpecError(f"{source}: nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{source}{where}: not valid YAML: {problem}") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Turns composed nodes into `Located` values, each node once (aliases share)."""

    def __init__(self, source: str, loader: Any) -> None:
        self._source = source
        self._loader = loader
        self._done: dict[int, Located | None] = {}

    def build(self, node: Any) -> Located:
        if id(node) in self._done:
            done = self._done[id(node)]
            if done is None:
                raise self._at(node, None).error("an alias that contains itself")
            return done
        self._done[id(node)] = None
        located = self._build(node)
        self._done[id(node)] = located
        return located

    def _at(self, node: Any, value: Any, keys: Any = None) -> Located:
        mark = node.start_mark
        return Located(value, self._source, mark.line + 1, mark.column + 1, keys or {})

    def _build(self, node: Any) -> Located:
        match node:
            case yaml.MappingNode():
                return self._mapping(node)
            case yaml.SequenceNode():
                return self._at(node, [self.build(item) for item in node.value])
            case _:
                try:
                    return self._at(node, self._loader.construct_object(node))
                except (ValueError, yaml.YAMLError) as error:
                    problem = getattr(error, "problem", error)
                    raise self._at(node, None).error(f"not a plain value: {problem}") from error

    def _mapping(self, node: Any) -> Located:
        items: dict[Any, Located] = {}
        keys: dict[Any, tuple[int, int]] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node)
            if isinstance(key.value, dict | list) or key.value is None:
                raise key.error(f"a key must be a word, got {describe(key.value)}")
            if key.value in items:
                first = ":".join(map(str, keys[key.value]))
                raise key.error(f"{key.value}: this key already stands at {first}")
            items[key.value] = self.build(value_node)
            keys[key.value] = (key.line, key.column)
        return self._at(node, items, keys)
