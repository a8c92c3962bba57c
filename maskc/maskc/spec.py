"""Spec files: YAML -> one `CompileRequest` per plan. The format is described in docs/spec.md.

Errors read "file:line:column: key: what was expected, got what".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from maskc.emit import Prefetch
from maskc.errors import MaskArgumentError, SpecError
from maskc.expr import Mask, MultiHead
from maskc.located import Located, describe, nearest, parse_yaml
from maskc.mask_spec import MaskReader
from maskc.request import CompileRequest
from maskc.spec_file import read_bytes

__all__ = ["SCHEMA_VERSION", "Spec", "load_spec", "read_spec"]

SCHEMA_VERSION = 1

_Count = Annotated[int, msgspec.Meta(ge=1)] | None


class _Parameters(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The plan parameters, at the top of a spec (for all its plans) or inside one plan."""

    q_len: _Count = None
    kv_len: _Count = None
    heads: _Count = None
    block_q: _Count = None
    block_kv: _Count = None
    block_q_dq: _Count = None
    block_kv_dq: _Count = None
    block_q_dkv: _Count = None
    block_kv_dkv: _Count = None
    head_shards: _Count = None
    q_seq_shards: _Count = None
    splash: bool | None = None
    shrink_grid: bool | None = None
    downcast_smem_data: bool | None = None
    prefetch: Prefetch | None = None
    row_bounds: bool | None = None


_PARAMETERS = tuple(field.name for field in msgspec.structs.fields(_Parameters))
_MASK_KEYS = ("mask", "head_masks")
_TOP_KEYS = ("maskc", "masks", "plans", *_MASK_KEYS, *_PARAMETERS)
DEFAULT_PLAN = "default"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a spec file asks for.

    Attributes:
        content: the file's bytes, as they were read.
        requests: the requests by plan name, in the file's order. Every mask is already bound to its
            lengths, so compiling them raises no further error about the spec.
        reads_files: whether its masks came from further files.
    """

    content: bytes
    requests: dict[str, CompileRequest]
    reads_files: bool


def load_spec(path: str | os.PathLike[str], plan: str | None = None) -> dict[str, CompileRequest]:
    """The requests of a spec file by plan name, as `read_spec` gives them."""
    return read_spec(path, plan).requests


def read_spec(path: str | os.PathLike[str], plan: str | None = None) -> Spec:
    """Read a spec file.

    Args:
        path: the YAML file. Array files are resolved relative to it and never outside its folder.
        plan: read only the plan of this name.

    Raises:
        SpecError: with file, line, column, the offending key and what was expected.
    """
    content = read_bytes(Path(path))
    top = parse_yaml(content, str(path))
    spec = _check_top(top)
    reader = MaskReader(spec.get("masks"), Path(path).parent)
    entries = _plan_entries(top, spec)
    if plan is not None:
        if plan not in entries:
            raise SpecError(f"{path}: no plan {plan!r}; {nearest(plan, entries)}")
        entries = {plan: entries[plan]}
    reader.read_all()
    shared = _parameters(top, {k: v for k, v in spec.items() if k in _PARAMETERS}, "")
    requests = {name: _request(name, entry, top, shared, reader) for name, entry in entries.items()}
    return Spec(content, requests, reader.reads_files)


def _check_top(top: Located) -> dict[Any, Located]:
    spec = top.mapping("spec")
    if "maskc" not in spec:
        raise top.error(
            f"maskc: missing key; expected 'maskc: {SCHEMA_VERSION}', the schema version"
        )
    if spec["maskc"].value != SCHEMA_VERSION:
        raise spec["maskc"].error(
            f"maskc: expected schema version {SCHEMA_VERSION}, got {describe(spec['maskc'].value)}"
        )
    _refuse_unknown(top, spec, _TOP_KEYS, "")
    return spec


def _refuse_unknown(at: Located, keys: Any, known: tuple[str, ...], prefix: str) -> None:
    for key in keys:
        if key not in known:
            raise at.key_error(key, f"{prefix}{key}: unknown key; {nearest(key, known)}")


def _plan_entries(top: Located, spec: dict[Any, Located]) -> dict[str, Located]:
    """The plans by name; a spec with a mask and no `plans` has one, called "default"."""
    if "plans" not in spec:
        if not any(key in spec for key in _MASK_KEYS):
            raise top.error("plans: missing key; expected 'plans', or one 'mask' for all heads")
        return {DEFAULT_PLAN: top}
    for key in _MASK_KEYS:
        if key in spec:
            raise top.key_error(key, f"{key}: expected inside one of the 'plans', not beside them")
    entries = spec["plans"].mapping("plans")
    if not entries:
        raise spec["plans"].error("plans: expected one plan or more")
    for name in entries:
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.+-]*", name, re.ASCII):
            raise spec["plans"].key_error(
                name, f"plans.{name}: expected a name of letters, digits, '_', '-', '.' and '+'"
            )
    return dict(entries)


def _parameters(at: Located, items: dict[Any, Located], prefix: str) -> dict[str, Any]:
    """The parameters that are given, checked one by one so that an error has its position."""
    given: dict[str, Any] = {}
    for key, item in items.items():
        try:
            checked = msgspec.convert({key: item.plain()}, _Parameters)
        except msgspec.ValidationError as error:
            text = str(error).split(" - at ")[0]
            got = f", got {describe(item.value)}" if ", got " not in text else ""
            raise at.key_error(key, f"{prefix}{key}: {text[0].lower()}{text[1:]}{got}") from error
        if (value := getattr(checked, key)) is not None:
            given[key] = value
    return given


def _request(
    name: str, entry: Located, top: Located, shared: dict[str, Any], reader: MaskReader
) -> CompileRequest:
    prefix = "" if entry is top else f"plans.{name}."
    items = entry.mapping(f"plans.{name}")
    if entry is not top:
        _refuse_unknown(entry, items, (*_MASK_KEYS, *_PARAMETERS), prefix)
        own = _parameters(entry, {k: v for k, v in items.items() if k in _PARAMETERS}, prefix)
        parameters = shared | own
    else:
        parameters = shared
    if "q_len" not in parameters:
        raise entry.error(f"{prefix}q_len: missing key; expected the number of queries")
    mask = _mask(entry, items, prefix, parameters.get("heads"), reader)
    try:
        request = CompileRequest(mask, **parameters)
        request.unique_masks  # noqa: B018  # binds the masks to the lengths, which may refuse
    except MaskArgumentError as error:
        raise _located(error, entry, items, top, prefix) from error
    return request


def _mask(
    entry: Located, items: dict[Any, Located], prefix: str, heads: int | None, reader: MaskReader
) -> Mask:
    if all(key in items for key in _MASK_KEYS):
        raise entry.key_error(
            "head_masks", f"{prefix}head_masks: expected this or 'mask', not both"
        )
    if "head_masks" in items:
        return _head_masks(items["head_masks"], f"{prefix}head_masks", heads, reader)
    if "mask" not in items:
        raise entry.error(f"{prefix}mask: missing key; expected 'mask', or 'head_masks' per head")
    return reader.read(items["mask"], f"{prefix}mask")


def _head_masks(at: Located, where: str, heads: int | None, reader: MaskReader) -> MultiHead:
    """Heads by number or inclusive range ("0-7"), each exactly once."""
    by_head: dict[int, Mask] = {}
    for key, item in at.mapping(where).items():
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(key))
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise at.key_error(key, f"{where}.{key}: expected a head or a range of heads like 0-7")
        mask = reader.read(item, f"{where}.{key}")
        for head in range(int(match[1]), int(match[2] or match[1]) + 1):
            if head in by_head:
                raise at.key_error(key, f"{where}.{key}: head {head} already has a mask")
            if heads is not None and head >= heads:
                raise at.key_error(key, f"{where}.{key}: head {head} is not one of heads={heads}")
            by_head[head] = mask
    count = heads if heads is not None else max(by_head, default=-1) + 1
    missing = [head for head in range(count) if head not in by_head]
    if missing or not count:
        lacking = f"head {missing[0]} has no mask" if missing else "no head has a mask"
        raise at.error(f"{where}: {lacking}; expected one for each of {count or 'the'} heads")
    return MultiHead([by_head[head] for head in range(count)])


def _located(
    error: MaskArgumentError, entry: Located, items: dict[Any, Located], top: Located, prefix: str
) -> SpecError:
    """Give an argument error the position of the key that it is about."""
    text = str(error)
    key = text.split(":", 1)[0]
    if key in items:
        return entry.key_error(key, f"{prefix}{text}")
    if key in top.keys:
        return top.key_error(key, text)
    for mask_key in _MASK_KEYS:
        if mask_key in items:
            return items[mask_key].error(f"{prefix}{mask_key}: {text}")
    return entry.error(f"{prefix}{text}")


assert set(_PARAMETERS) == {f.name for f in fields(CompileRequest)} - {"mask"}  # noqa: S101  # one list of parameters
