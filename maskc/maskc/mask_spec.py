"""Masks in a spec: named masks, leaves with their arguments, and expressions over names.

A mask is either a string over names and operators ("causal & ~sinks"), or a mapping of one leaf or
combinator to its arguments ({local: {left: 1023, right: 0}}, {shift: {mask: causal, q: 8}}). The
arguments are those of the Python nodes; those that are masks are read as masks.
"""

from __future__ import annotations

import ast
import re
import zipfile
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from maskc import expr
from maskc.errors import MaskArgumentError
from maskc.expr import Mask
from maskc.located import Located, describe, nearest

__all__ = ["LEAVES", "MaskReader"]


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


LEAVES: dict[str, type[Mask]] = {
    _snake(kind.__name__): kind
    for kind in (
        expr.Full,
        expr.Empty,
        expr.Causal,
        expr.Local,
        expr.Chunked,
        expr.ChunkedCausal,
        expr.Strided,
        expr.Neighborhood,
        expr.Prefix,
        expr.Rectangle,
        expr.Intervals,
        expr.Queries,
        expr.Keys,
        expr.Diagonals,
        expr.Segments,
        expr.Documents,
        expr.Dense,
        expr.Blocks,
        expr.Random,
        expr.Shift,
        expr.Transpose,
        expr.Remap,
        expr.Kron,
    )
}
"""The leaves and combinators by the name that a spec uses."""

_COMBINATORS = (expr.Shift, expr.Transpose, expr.Remap, expr.Kron)

_BARE = ("full", "empty", "causal")  # leaves that mean something with no argument


class MaskReader:
    """Reads masks of one spec file; named masks are read once and may refer to each other.

    Args:
        named: the spec's `masks` mapping, or None.
        folder: where array files are looked up.

    Attributes:
        reads_files: whether a mask came from a file other than the spec.
    """

    def __init__(self, named: Located | None, folder: Path) -> None:
        self._at = named
        self._named: dict[Any, Located] = named.mapping("masks") if named else {}
        self._folder = folder
        self.reads_files = False
        self._done: dict[str, Mask] = {}
        self._open: list[str] = []
        for name in self._named:
            self._check_name(name)

    def _check_name(self, name: Any) -> None:
        assert self._at is not None  # noqa: S101  # there is a name, so there is the mapping
        if not isinstance(name, str) or not name.isidentifier():
            raise self._at.key_error(
                name, f"masks.{name}: expected a name of letters, digits and '_'"
            )
        if name in LEAVES:
            raise self._at.key_error(name, f"masks.{name}: this name belongs to a built-in mask")

    def read_all(self) -> None:
        """Read every named mask, so that an unused one cannot be wrong unnoticed."""
        for name in self._named:
            self._name(name)

    def read(self, at: Located, where: str) -> Mask:
        """The mask at a position of the spec.

        Raises:
            SpecError: with the position of what is wrong.
        """
        match at.value:
            case str():
                return self._expression(at, where)
            case dict() if len(at.value) == 1:
                return self._leaf(at, where)
            case dict():
                raise at.error(f"{where}: expected one mask, got {len(at.value)} keys")
            case _:
                raise at.error(
                    f"{where}: expected a mask, like 'causal & window' or {{prefix: 256}}, "
                    f"got {describe(at.value)}"
                )

    def _name(self, name: str) -> Mask:
        """A named mask of the spec, which the caller knows to exist."""
        if name not in self._done:
            at = self._named[name]
            if name in self._open:
                cycle = " -> ".join([*self._open[self._open.index(name) :], name])
                raise at.error(f"masks.{name}: refers to itself: {cycle}")
            self._open.append(name)
            self._done[name] = self.read(at, f"masks.{name}")
            self._open.pop()
        return self._done[name]

    # --- expressions over names

    def _expression(self, at: Located, where: str) -> Mask:
        try:
            tree = ast.parse(at.value.strip(), mode="eval")
            return self._operation(tree.body, at, where)
        except (SyntaxError, ValueError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise at.error(
                f"{where}: {at.value!r} is not a mask expression ({reason}); "
                "expected names combined with & | ^ ~ - and parentheses"
            ) from error
        except RecursionError as error:
            raise at.error(f"{where}: the expression is nested too deeply") from error

    def _operation(self, node: ast.expr, at: Located, where: str) -> Mask:
        match node:
            case ast.Name(id=name):
                return self._lookup(name, at, where)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self._operation(operand, at, where)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self._operation(left, at, where), self._operation(right, at, where)
                match op:
                    case ast.BitAnd():
                        return a & b
                    case ast.BitOr():
                        return a | b
                    case ast.BitXor():
                        return a ^ b
                    case ast.Sub():
                        return a - b
        piece = ast.unparse(node)
        raise at.error(
            f"{where}: {piece!r} is not allowed here; "
            "expected names combined with & | ^ ~ - and parentheses"
        )

    def _lookup(self, name: str, at: Located, where: str) -> Mask:
        if name in self._named:
            return self._name(name)
        if name in _BARE:
            return LEAVES[name]()
        if name in LEAVES:
            raise at.error(
                f"{where}: {name} needs arguments; name it under 'masks' as {{{name}: ...}}"
            )
        raise at.error(f"{where}: unknown mask {name!r}; {nearest(name, [*self._named, *_BARE])}")

    # --- leaves

    def _leaf(self, at: Located, where: str) -> Mask:
        name, arguments = next(iter(at.mapping(where).items()))
        if name not in LEAVES:
            raise at.key_error(name, f"{where}.{name}: unknown mask; {nearest(name, LEAVES)}")
        kind = LEAVES[name]
        given = self._arguments(kind, arguments, f"{where}.{name}")
        required = [f.name for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]  # leaves are dataclasses
        for argument in required:
            if argument not in given:
                raise at.key_error(name, f"{where}.{name}.{argument}: missing key")
        try:
            values: dict[str, Any] = {
                key: self._inner(key, item, f"{where}.{name}.{key}")
                if kind in _COMBINATORS and key in {"mask", "masks"}
                else self._value(item, f"{where}.{name}")
                for key, item in given.items()
            }
            return kind(**values)
        except MaskArgumentError as error:
            argument = str(error).split(":", 1)[0].rpartition(".")[2]
            item = given.get(argument, arguments)
            text = str(error).split(": ", 1)[1]
            raise item.error(f"{where}.{name}.{argument}: {text}") from error

    def _arguments(self, kind: type[Mask], at: Located, where: str) -> dict[str, Located]:
        """The arguments by name; a lone value is the first one ({prefix: 256})."""
        names = [f.name for f in fields(kind)]  # type: ignore[arg-type]  # leaves are dataclasses
        if at.value is None:
            return {}
        if not isinstance(at.value, dict) or "file" in at.value:
            if not names:
                raise at.error(f"{where}: takes no argument, got {describe(at.value)}")
            return {names[0]: at}
        for key in at.value:
            if key not in names:
                raise at.key_error(key, f"{where}.{key}: unknown key; {nearest(key, names)}")
        return at.value

    def _inner(self, argument: str, at: Located, where: str) -> Mask | list[Mask]:
        """The mask inside a combinator, or the masks."""
        if argument == "mask":
            return self.read(at, where)
        if not isinstance(at.value, list):
            raise at.error(f"{where}: expected a list of masks, got {describe(at.value)}")
        return [self.read(item, f"{where}[{i}]") for i, item in enumerate(at.value)]

    def _value(self, at: Located, where: str) -> Any:
        if isinstance(at.value, dict):
            return self._array(at, where)
        value = at.plain()
        if isinstance(value, list):
            try:
                return np.array(value) if value else value
            except ValueError as error:
                raise at.error(f"{where}: the rows of this list differ in length") from error
        return value

    def _array(self, at: Located, where: str) -> np.ndarray[Any, Any]:
        """An array from `{file: ids.npy}` or `{file: arrays.npz, key: ids}`."""
        for key in at.value:
            if key not in {"file", "key"}:
                raise at.key_error(
                    key, f"{where}.{key}: unknown key; {nearest(key, ['file', 'key'])}"
                )
        name = at.value["file"].value if "file" in at.value else None
        if not isinstance(name, str):
            raise at.error(f"{where}: expected {{file: NAME.npy}} or {{file: NAME.npz, key: NAME}}")
        path = self._inside(at.value["file"], name, where)
        self.reads_files = True
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise at.value["file"].error(f"{where}.file: cannot read {path}: {reason}") from error
        if isinstance(loaded, np.ndarray):
            if "key" in at.value:
                raise at.key_error("key", f"{where}.key: {name} is a single array")
            return loaded
        with loaded:
            key = at.value["key"].value if "key" in at.value else None
            if key not in loaded.files:
                raise at.error(f"{where}.key: no array {key!r} in {name}; {nearest(key, loaded)}")
            array: np.ndarray[Any, Any] = loaded[key]
            return array

    def _inside(self, at: Located, name: str, where: str) -> Path:
        """A file of the spec's folder, symbolic links followed."""
        folder = self._folder.resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise at.error(
                f"{where}.file: {name!r} is outside the spec's folder {folder}; "
                "expected a relative path inside it"
            )
        return path
