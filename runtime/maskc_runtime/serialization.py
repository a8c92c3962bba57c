"""What `jax.export` writes of our pytrees, so that exported programs take them as arguments.

A program that was exported with a plan or a `MaskInfo` as an argument is called with one of the
same static part: a plan of the same digest, a mask of the same conditions, a `TracedPlan` of the
same shapes. What is read back is data, and is checked like any other argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.export
import msgspec
import numpy as np

from maskc_cache.format import decode, encode
from maskc_cache.plan import pack
from maskc_kernels.segment_ids import SegmentIds
from maskc_runtime.errors import ArgumentTypeError, ArgumentValueError
from maskc_runtime.mask_info import CuSeqlens, MaskInfo, SeqlenPairs
from maskc_runtime.mask_info.terms import (
    AllOf,
    AnyOf,
    Between,
    Compiled,
    Equal,
    Moved,
    Static,
    Stored,
)
from maskc_runtime.traced import TracedPlan
from maskc_runtime.view import PlanFacts, PlanView

if TYPE_CHECKING:
    from maskc.expr import Mask

__all__ = ["register_serialization"]

_NODE, _ARRAY, _BITS, _TUPLE = "node", "array", "bits", "tuple"


def _unpack(data: bytes | bytearray) -> Any:
    return msgspec.msgpack.decode(data)


def _tuples(value: Any) -> Any:
    """Lists, at any depth, as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_tuples(data: bytes | bytearray) -> Any:
    return _tuples(_unpack(data))


# --- static parts that are more than numbers and names ----------------------------------------


def _facts(facts: PlanFacts) -> bytes:
    return pack([getattr(facts, entry.name) for entry in dataclasses.fields(PlanFacts)])


def _read_facts(data: bytes | bytearray) -> PlanFacts:
    return PlanFacts(*_read_tuples(data))


def _compiled(term: Compiled) -> bytes:
    return pack([encode(term.plan), term.batch])


def _read_compiled(data: bytes | bytearray) -> Compiled:
    plan, batch = _unpack(data)
    return Compiled(decode(plan, source="plan of an exported MaskInfo"), batch)


def _static(term: Static) -> bytes:
    return pack([_listed(mask) for mask in term.masks])


def _read_static(data: bytes | bytearray) -> Static:
    return Static(tuple(map(_node, _unpack(data))))


def _listed(value: Any) -> Any:
    """A mask as lists, its arrays included."""
    from maskc import expr  # a program without a MaskInfo never needs the compiler
    from maskc.arrays import FrozenArray, PackedMask

    match value:
        case expr.Mask():
            name = type(value).__name__
            if getattr(expr, name, None) is not type(value):
                raise ArgumentTypeError(
                    f"MaskInfo: a mask of {name} cannot be exported as an argument; close over it, "
                    "or pass what `operands` gives"
                )
            names = [entry.name for entry in dataclasses.fields(value)]  # type: ignore[arg-type]
            return [_NODE, name, {name: _listed(getattr(value, name)) for name in names}]
        case FrozenArray(array=array):
            return [_ARRAY, array.dtype.str, list(array.shape), array.tobytes()]
        case PackedMask(shape=shape, bits=bits):
            return [_BITS, list(shape), bits.array.tobytes()]
        case tuple():
            return [_TUPLE, *map(_listed, value)]
        case _:
            return value


def _node(value: Any) -> Any:
    """The inverse of `_listed`, through the checks of every node."""
    from maskc import expr  # a program without a MaskInfo never needs the compiler

    match value:
        case [str(tag), str(name), dict(arguments)] if tag == _NODE:
            kind: Any = getattr(expr, name, None) if name in expr.__all__ else None
            is_node = isinstance(kind, type) and issubclass(kind, expr.Mask)
            if not is_node or kind is expr.Mask:
                raise ArgumentValueError(f"MaskInfo: an exported program names no mask: {name!r}")
            mask: Mask = kind(**{key: _node(item) for key, item in arguments.items()})
            return mask
        case [str(tag), dtype, shape, data] if tag == _ARRAY:
            return np.frombuffer(data, np.dtype(dtype)).reshape(shape)
        case [str(tag), [rows, columns], data] if tag == _BITS:
            bits = np.frombuffer(data, np.uint8).reshape(rows, -1)
            return np.unpackbits(bits, axis=1, count=columns, bitorder="little").view(np.bool_)
        case [str(tag), *items] if tag == _TUPLE:
            return tuple(map(_node, items))
        case _:
            return value


# --- the registry -----------------------------------------------------------------------------

_Write = Callable[[Any], bytes]
_Read = Callable[[Any], Any]
_CODECS: dict[type, tuple[_Write, _Read]] = {
    PlanView: (_facts, _read_facts),
    Compiled: (_compiled, _read_compiled),
    Static: (_static, _read_static),
}
_PLAIN = (TracedPlan, MaskInfo, CuSeqlens, SeqlenPairs, AllOf, AnyOf, Between, Equal, Moved, Stored)
_CODECS |= dict.fromkeys(_PLAIN, (pack, _read_tuples))


def register_serialization() -> None:
    """Tell `jax.export` of every type; once in a process."""
    for kind, (write, read) in _CODECS.items():
        jax.export.register_pytree_node_serialization(
            kind,
            serialized_name=f"maskc.{kind.__name__}",
            serialize_auxdata=write,
            deserialize_auxdata=read,
        )
    jax.export.register_namedtuple_serialization(SegmentIds, serialized_name="maskc.SegmentIds")
