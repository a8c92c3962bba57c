"""Plan <-> bytes and files; every byte is checked on the way in (`header` draws the layout).

`codec` says how a section's integers are stored. Partial blocks are bits already, so integers are
the only dtypes; what is shared inside a plan (dq's lists, dkv's partial blocks) is stored once.
"""

from __future__ import annotations

import ctypes
import errno
import mmap as mmap_module
import operator
import os
import stat
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from maskc_cache.check import check_ranges
from maskc_cache.codec import RAW, decompress
from maskc_cache.codec import compress as packed
from maskc_cache.errors import NotAPlanError, PlanCorruptError, PlanError, PlanVersionError
from maskc_cache.header import (
    ALIGNMENT,
    DTYPES,
    MAGIC,
    MAJOR,
    MAX_HEADER,
    MINOR,
    Row,
    Section,
    Stored,
    build_image,
    parse_image,
)
from maskc_cache.plan import (
    MAX_INTERVALS,
    BlockLists,
    Content,
    Plan,
    RowBounds,
    SplashTables,
    digest_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAGIC", "MAJOR", "MAX_DECODED", "MINOR", "decode", "encode", "read_plan", "write_plan"]

MAX_DECODED = 2 << 30
"""Bytes that a plan may decode to, unless the caller allows more."""

_HINTS: dict[type[PlanError], str] = {
    NotAPlanError: "",
    PlanVersionError: "; compile the mask again",
    PlanCorruptError: "; delete the file and compile again",
    PlanError: "; to read it all the same, pass a larger max_decoded",
}

_BITS = "partial_blocks"  # is expanded anyhow when it is used
_WORTH = 32  # a compressed table makes the file smaller by this part of it at least

_LISTS = {
    name: [f"{name}.{field.name}" for field in fields(BlockLists)[2:]]
    for name in ("fwd", "dq", "dkv")
}
"""The sections of each direction's block lists, in the order of their fields."""

_facts = operator.itemgetter(
    "q_len", "kv_len", "head_shards", "q_seq_shards", "blocks", "row_intervals"
)

_Arrays = dict[str, npt.NDArray[Any]]


# --- writing ------------------------------------------------------------------------------------


def encode(plan: Plan, *, compress: bool = True) -> bytes:
    """The file image of a plan.

    Args:
        plan: what to store.
        compress: False stores every section raw; such images are the same bytes everywhere, while
            zstd's output depends on its version. The digest is that of the content either way.

    Raises:
        PlanError: the canonical form is too large for a header, or the plan holds two copies of
            what directions with the same blocks must share.
    """
    _check_sharing(plan)
    meta = {
        "blocks": [list(plan.fwd.blocks), list(plan.dq.blocks), list(plan.dkv.blocks)],
        "canonical": plan.canonical,
        "compiler": plan.compiler,
        "digest": plan.digest,
        "head_shards": plan.head_shards,
        "key": plan.key,
        "kv_len": plan.kv_len,
        "q_len": plan.q_len,
        "q_seq_shards": plan.q_seq_shards,
        "row_intervals": list(plan.row_intervals or ()),
    }
    return build_image(meta, _packed(plan) if compress else _raw(plan))


def _raw(plan: Plan) -> list[Stored]:
    """The sections in name order, as little-endian bytes."""
    return [
        (name, array, RAW, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        for name, array in sorted(plan.arrays(), key=operator.itemgetter(0))
    ]


def _packed(plan: Plan) -> list[Stored]:
    """The same, compressed where that pays: raw tables take no time to open."""
    raw = _raw(plan)
    small = [
        (name, array, *packed(array, is_bits=name.endswith(_BITS))) for name, array, _, _ in raw
    ]
    least = sum(len(content) for *_, content in small) // _WORTH
    return [
        after if len(before[3]) - len(after[3]) >= least or after[0].endswith(_BITS) else before
        for before, after in zip(raw, small, strict=True)
    ]


def _check_sharing(plan: Plan) -> None:
    if plan.dq is not plan.fwd and plan.dq.blocks == plan.fwd.blocks:
        raise PlanError("dq: a copy of fwd's lists; it must be the same object")
    for other in (plan.fwd, plan.dq):
        shared = plan.dkv.partial_blocks is other.partial_blocks
        if not shared and plan.dkv.blocks == other.blocks:
            raise PlanError("dkv.partial_blocks: a copy; it must be the same object")


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file, replacing one that is there; readers see the old file or the new one.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
        PlanError: the plan cannot be encoded (see `encode`).
    """
    from maskc_cache.publish import replace  # a reader needs none

    replace(encode(plan), Path(path))


# --- reading ------------------------------------------------------------------------------------


def read_plan(
    path: str | os.PathLike[str],
    *,
    mmap: bool = False,
    max_decoded: int = MAX_DECODED,
    follow_symlinks: bool = True,
) -> Plan:
    """Read and verify a plan file.

    Args:
        path: the file.
        mmap: map the file instead of reading it. Raw sections then cost no memory of their own;
            but if somebody truncates the file later, touching them kills the process (SIGBUS).
        max_decoded: refuse plans that decode to more bytes than this.
        follow_symlinks: False refuses a symbolic link (OSError, ELOOP).

    Raises:
        NotAPlanError: the file is something else.
        PlanVersionError: the file is of a version, codec or dtype that this reader lacks.
        PlanCorruptError: a byte of the file is wrong.
        PlanError: the plan is larger than `max_decoded`.
        OSError: the file cannot be read.
    """
    image, _ = read_image(
        path, mmap=mmap, max_bytes=max_decoded + MAX_HEADER, follow_symlinks=follow_symlinks
    )
    return decode(image, source=str(path), max_decoded=max_decoded)


def read_image(
    path: str | os.PathLike[str],
    *,
    mmap: bool = False,
    max_bytes: int = MAX_DECODED + MAX_HEADER,
    follow_symlinks: bool = True,
) -> tuple[npt.NDArray[np.uint8], os.stat_result]:
    """The bytes of a plan file, unchecked, and its status; arguments and errors as `read_plan`."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not make us wait
    if not follow_symlinks:
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise NotAPlanError(f"{path}: not a regular file")
        if size > max_bytes:
            hint = _HINTS[PlanError]
            raise PlanError(f"{path}: {size:,} bytes, over the limit of {max_bytes:,}{hint}")
        if mmap and size:
            # unmapped when the last array that looks into it is gone
            mapped = mmap_module.mmap(descriptor, 0, access=mmap_module.ACCESS_READ)
            return np.frombuffer(mapped, np.uint8), status
        return _filled(descriptor, size), status
    finally:
        os.close(descriptor)


def _filled(descriptor: int, size: int) -> npt.NDArray[np.uint8]:
    """A file's bytes, fewer if it shrank meanwhile.

    They begin at a multiple of 64, so `jax.device_put` on the CPU takes them without a copy.
    """
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) % ALIGNMENT
    image, end = memory[start : start + size], 0
    while end < size and (count := os.readv(descriptor, [image.data[end:]])):
        end += count
    return image[:end]


def decode(
    buffer: bytes | memoryview | npt.NDArray[np.uint8],
    *,
    source: str = "<bytes>",
    max_decoded: int = MAX_DECODED,
) -> Plan:
    """A plan from its file image, after checking every byte of it.

    Raw sections are views of `buffer`.

    Args:
        buffer: the whole image.
        source: what to call it in errors.
        max_decoded: refuse plans that decode to more bytes than this.

    Raises:
        NotAPlanError: the bytes are something else.
        PlanVersionError: a version, codec or dtype that this reader lacks.
        PlanCorruptError: a length, checksum, range or invariant does not hold.
        PlanError: the plan is larger than `max_decoded`.
    """
    image = np.frombuffer(buffer, np.uint8)
    image.setflags(write=False)  # and with it all that look into it
    try:
        meta, sections = parse_image(image, max_decoded)
        arrays = decode_sections(image, sections)
        digest = _digest(meta, sections, arrays)
        plan = _assemble(meta, arrays)
        check_ranges(plan)
        if digest != meta["digest"]:
            raise PlanCorruptError(f"meta.digest is {meta['digest']}, the content's {digest}")
    except PlanError as error:
        raise type(error)(f"{source}: {error}{_HINTS[type(error)]}") from None
    return plan


def decode_sections(
    image: npt.NDArray[np.uint8], sections: Iterable[Row]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of sections by their names, once their checksums and sizes hold.

    Args:
        image: read-only, as the arrays are then.
        sections: as `parse_image` found them in it.

    Raises:
        PlanCorruptError: a checksum or a size does not hold.
    """
    arrays, content, checksum = {}, image.data, xxhash.xxh3_128_digest
    for row in sections:
        name, dtype, shape, codec, offset, nbytes, check = row
        stored = content[offset : offset + nbytes]
        if checksum(stored) != check:
            raise PlanCorruptError(f"{Section(*row).place}: the checksum does not hold")
        if codec == RAW:
            arrays[name] = np.ndarray(shape, DTYPES[dtype], image, offset)
            continue
        try:
            arrays[name] = decompress(codec, stored, DTYPES[dtype], shape)
        except ValueError as error:
            raise PlanCorruptError(f"{Section(*row).place}: {error}") from None
    return arrays


def _digest(meta: dict[str, Any], sections: tuple[Row, ...], arrays: _Arrays) -> str:
    """The digest of the content; the checksum of a raw section is that of its content."""
    contents: list[Content] = [
        (name, dtype, shape, check if codec == RAW else xxhash.xxh3_128_digest(arrays[name].data))
        for name, dtype, shape, codec, _, _, check in sections
    ]
    return digest_of([*_facts(meta)], contents)


def _assemble(meta: dict[str, Any], arrays: _Arrays) -> Plan:
    """The plan's records from its sections; takes what it uses out of `arrays`."""
    fwd_blocks, dq_blocks, dkv_blocks = meta["blocks"]
    fwd = _lists("fwd", fwd_blocks, arrays)
    dq = fwd if dq_blocks == fwd_blocks else _lists("dq", dq_blocks, arrays)
    if dkv_blocks in (fwd_blocks, dq_blocks):
        if "dkv.partial_blocks" in arrays:
            raise PlanCorruptError("dkv.partial_blocks: stored though it is shared")
        shared = fwd if dkv_blocks == fwd_blocks else dq
        arrays["dkv.partial_blocks"] = shared.partial_blocks
    dkv = _lists("dkv", dkv_blocks, arrays)
    plan = object.__new__(Plan)  # its constructor would look at every array once more
    vars(plan).update(
        q_len=meta["q_len"],
        kv_len=meta["kv_len"],
        head_mask=_taken(("head_mask",), arrays)[0],
        head_shards=meta["head_shards"],
        q_seq_shards=meta["q_seq_shards"],
        fwd=fwd,
        dq=dq,
        dkv=dkv,
        splash_fwd=_tables("splash_fwd", arrays),
        splash_dkv=_tables("splash_dkv", arrays),
        row_bounds=_row_bounds(meta["row_intervals"], arrays),
        canonical=meta["canonical"],
        compiler=meta["compiler"],
        key=meta["key"],
        digest=meta["digest"],
    )
    if arrays:
        raise PlanCorruptError(f"{', '.join(arrays)}: a section that this plan must not have")
    return plan


def _taken(names: Iterable[str], arrays: _Arrays) -> list[npt.NDArray[Any]]:
    try:
        return [*map(arrays.pop, names)]
    except KeyError as missing:
        raise PlanCorruptError(f"{missing.args[0]}: the section is missing") from None


def _lists(name: str, blocks: tuple[int, int], arrays: _Arrays) -> BlockLists:
    return BlockLists(blocks[0], blocks[1], *_taken(_LISTS[name], arrays))


def _tables(name: str, arrays: _Arrays) -> SplashTables | None:
    if f"{name}.data_next" not in arrays:
        return None  # any other table of this name is left over, and then refused
    data_next, block_mask = _taken((f"{name}.data_next", f"{name}.block_mask"), arrays)
    return SplashTables(data_next, arrays.pop(f"{name}.mask_next", None), block_mask)


def _row_bounds(intervals: tuple[int, ...], arrays: _Arrays) -> RowBounds | None:
    if not intervals:
        return None
    q, kv = (
        _taken((f"row_bounds.{side}",), arrays)[0] if most <= MAX_INTERVALS else None
        for side, most in zip(("q", "kv"), intervals, strict=True)
    )
    return RowBounds(q_intervals=intervals[0], kv_intervals=intervals[1], q=q, kv=kv)
