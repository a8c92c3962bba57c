"""Plan <-> bytes: a preamble, a canonical header, and aligned sections; every byte is checked.

    0   8  magic 89 'M' 'K' 'P' 0D 0A 1A 0A
    8   2  u16 major version            10  2  u16 minor version
    12  4  u32 header length            16  8  u64 file length
    24  4  u32 number of sections       28  4  u32 flags, all zero
    32 16  XXH3-128 of the header       48  8  reserved, zero
    56  8  XXH3-64 of bytes 0 to 55
    64     header: canonical msgpack {"meta": {...}, "sections": [[name, dtype, shape, codec,
           offset, bytes, XXH3-64 of the stored bytes], ...]}
    ..     sections in name order, each at the next multiple of 64, gaps zero, no trailing bytes

Everything is little endian. A section is raw (codec 0) or one zstd frame (codec 1) that declares
its size. Partial blocks are bits already, so integers are the only dtypes; what is shared inside
a plan (dq's lists, dkv's partial blocks) is stored once.
"""

from __future__ import annotations

import math
import mmap as mmap_module
import os
import stat
import struct
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from maskc_cache.check import check_ranges
from maskc_cache.errors import NotAPlanError, PlanCorruptError, PlanError, PlanVersionError
from maskc_cache.plan import BlockLists, Plan, SplashTables, key_of, pack

__all__ = ["MAGIC", "MAJOR", "MAX_DECODED", "MINOR", "decode", "encode", "read_plan", "write_plan"]

MAGIC = b"\x89MKP\r\n\x1a\n"
MAJOR, MINOR = 1, 0
MAX_DECODED = 2 << 30
"""Bytes that a plan may decode to, unless the caller allows more."""

_PREAMBLE = struct.Struct("<8sHHIQII16s8xQ")
_ALIGNMENT = 64
_MAX_HEADER = 256 << 10
_MAX_SECTIONS = 256
_DTYPES = {"i1": np.int8, "i2": np.int16, "i4": np.int32, "u1": np.uint8}
_RAW, _ZSTD = 0, 1
_ZSTD_LEVEL = 3  # level 9 is no smaller on plans, level 19 writes at 3 to 10 MB/s
_ZSTD_GAIN = 2  # a table is compressed if that halves it; raw ones load without a copy
_DIRECTIONS = ("fwd", "dq", "dkv")


# --- writing ------------------------------------------------------------------------------------


def encode(plan: Plan, *, compress: bool = True) -> bytes:
    """The file image of a plan.

    Args:
        plan: what to store.
        compress: False stores every section raw; such images are the same bytes everywhere, while
            zstd's output depends on its version. The digest is that of the content either way.

    Raises:
        PlanError: the canonical form is too large for a header.
    """
    stored = []
    for name, array in sorted(plan.arrays(), key=lambda item: item[0]):
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        codec, content = _compressed(name, data) if compress else (_RAW, data)
        stored.append((name, array, codec, content))
    header = _header(plan, stored, 0)
    for _ in range(3):  # offsets are inside the header: a longer one moves them once or twice
        header = _header(plan, stored, len(header))
    if len(header) > _MAX_HEADER:
        raise PlanError(
            f"the canonical form needs a header of {len(header):,} bytes, over {_MAX_HEADER:,}; "
            "give the mask as arrays instead of thousands of nodes"
        )
    image = bytearray(_PREAMBLE.size)
    image += header
    for _, _, _, content in stored:
        image += bytes(-len(image) % _ALIGNMENT)
        image += content
    _PREAMBLE.pack_into(
        image, 0, MAGIC, MAJOR, MINOR, len(header), len(image), len(stored), 0,
        xxhash.xxh3_128_digest(header), 0,
    )  # fmt: skip
    struct.pack_into("<Q", image, 56, xxhash.xxh3_64_intdigest(bytes(image[:56])))
    return bytes(image)


def _compressed(name: str, data: bytes) -> tuple[int, bytes]:
    packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
    wanted = 1 if name.endswith("partial_blocks") else _ZSTD_GAIN
    return (_ZSTD, packed) if len(packed) * wanted < len(data) else (_RAW, data)


def _header(plan: Plan, stored: list[tuple[str, Any, int, bytes]], length: int) -> bytes:
    sections, end = [], _PREAMBLE.size + length
    for name, array, codec, content in stored:
        start = end + -end % _ALIGNMENT
        check = xxhash.xxh3_64_intdigest(content)
        dtype = array.dtype.str[1:]
        sections.append([name, dtype, list(array.shape), codec, start, len(content), check])
        end = start + len(content)
    return pack({"meta": _meta(plan), "sections": sections})


def _meta(plan: Plan) -> dict[str, Any]:
    return {
        "blocks": [list(plan.fwd.blocks), list(plan.dq.blocks), list(plan.dkv.blocks)],
        "canonical": plan.canonical,
        "compiler": plan.compiler,
        "digest": plan.digest,
        "head_shards": plan.head_shards,
        "key": plan.key,
        "kv_len": plan.kv_len,
        "q_len": plan.q_len,
        "q_seq_shards": plan.q_seq_shards,
    }


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file, replacing one that is there; readers see the old file or the new one.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.write(encode(plan))
            file.flush()
            os.fdatasync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        OSError: the file cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not make us wait
    descriptor = os.open(path, flags if follow_symlinks else flags | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotAPlanError(f"{path}: not a regular file")
        if status.st_size > max_decoded + _MAX_HEADER:
            raise PlanCorruptError(f"{path}: {status.st_size:,} bytes, over {max_decoded:,}")
        if mmap and status.st_size:
            # unmapped when the last array that looks into it is gone
            mapped = mmap_module.mmap(file.fileno(), 0, access=mmap_module.ACCESS_READ)
            buffer = np.frombuffer(mapped, np.uint8)
        else:
            buffer = _aligned(status.st_size)
            if file.readinto(buffer.data) != status.st_size:
                raise PlanCorruptError(f"{path}: the file shrank while it was read")
    return decode(buffer, source=str(path), max_decoded=max_decoded)


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Memory at a multiple of 64, which `jax.device_put` on the CPU takes without a copy."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


@dataclass(frozen=True, slots=True)
class _Section:
    """One row of the header's section table."""

    name: str
    dtype: str
    shape: list[int]
    codec: int
    offset: int
    nbytes: int
    check: int

    @property
    def decoded(self) -> int:
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


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
    """
    image = np.frombuffer(buffer, np.uint8) if not isinstance(buffer, np.ndarray) else buffer
    try:
        header = _checked_header(image)
        meta, sections = _parsed_header(header)
        _check_layout(image, _PREAMBLE.size + len(header), sections, max_decoded)
        arrays = {section.name: _array(image, section) for section in sections}
        plan = _assemble(meta, arrays)
        check_ranges(plan)
    except PlanError as error:
        hint = "" if isinstance(error, NotAPlanError) else "; delete the file and compile again"
        raise type(error)(f"{source}: {error}{hint}") from None
    return plan


def _checked_header(image: npt.NDArray[np.uint8]) -> bytes:
    """The header's bytes, once the preamble and both of their checksums hold."""
    start = image[: _PREAMBLE.size].tobytes()
    if start[:8] != MAGIC[: len(start[:8])] or not start:
        raise NotAPlanError("not a plan file (wrong magic bytes)")
    if len(start) < _PREAMBLE.size:
        raise PlanCorruptError(f"truncated inside the preamble, {len(start)} of 64 bytes")
    _, major, minor, length, total, _, flags, check, own = _PREAMBLE.unpack(start)
    if own != xxhash.xxh3_64_intdigest(start[:56]) or any(start[48:56]):
        raise PlanCorruptError("the preamble's checksum does not hold (bytes 0 to 63)")
    if major != MAJOR:
        raise PlanVersionError(
            f"format {major}.{minor}; this maskc reads {MAJOR}.x, so compile the mask again"
        )
    if flags:
        raise PlanVersionError(f"flags {flags:#x} that this maskc does not know")
    if total != len(image):
        raise PlanCorruptError(f"expected a file of {total:,} bytes, got {len(image):,}")
    if length > _MAX_HEADER or _PREAMBLE.size + length > total:
        raise PlanCorruptError(f"a header of {length:,} bytes cannot be")
    header = image[_PREAMBLE.size : _PREAMBLE.size + length].tobytes()
    if xxhash.xxh3_128_digest(header) != check:
        raise PlanCorruptError(f"the header's checksum does not hold (bytes 64 to {63 + length})")
    return header


_META = {
    "blocks": list,
    "canonical": bytes,
    "compiler": str,
    "digest": str,
    "head_shards": int,
    "key": str,
    "kv_len": int,
    "q_len": int,
    "q_seq_shards": int,
}


def _parsed_header(header: bytes) -> tuple[dict[str, Any], list[_Section]]:
    """The header as typed values. One spelling only: it must encode back to the same bytes."""
    try:
        document = msgpack.unpackb(header, strict_map_key=True, max_ext_len=0)
        if pack(document) != header:
            raise PlanCorruptError("the header is not in canonical form")
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise PlanCorruptError(f"the header is not msgpack: {error}") from None
    if type(document) is not dict or sorted(document) != ["meta", "sections"]:
        raise PlanCorruptError("the header lacks 'meta' or 'sections'")
    meta, rows = document["meta"], document["sections"]
    if type(meta) is not dict or any(type(meta.get(k)) is not t for k, t in _META.items()):
        raise PlanCorruptError("the header's meta has a field that is missing or of a wrong type")
    blocks = meta["blocks"]
    numbers = [meta[k] for k, t in _META.items() if t is int]
    if len(blocks) != 3 or any(type(b) is not list or len(b) != 2 for b in blocks):
        raise PlanCorruptError("meta.blocks: expected three pairs")
    numbers += [n for pair in blocks for n in pair]
    if any(type(n) is not int or not 0 < n < 2**31 for n in numbers):
        raise PlanCorruptError("the header's meta has a number out of range")
    if key_of(meta["canonical"]) != meta["key"]:
        raise PlanCorruptError("meta.key is not the key of meta.canonical")
    if type(rows) is not list or len(rows) > _MAX_SECTIONS:
        raise PlanCorruptError(f"expected at most {_MAX_SECTIONS} sections")
    return meta, [_section(row) for row in rows]


def _section(row: Any) -> _Section:
    types = (str, str, list, int, int, int, int)
    if type(row) is not list or [type(v) for v in row] != list(types):
        raise PlanCorruptError("the section table has a row of wrong types")
    section = _Section(*row)
    if section.dtype not in _DTYPES or section.codec not in {_RAW, _ZSTD}:
        raise PlanVersionError(
            f"{section.name}: this maskc lacks dtype {section.dtype!r} or codec {section.codec}"
        )
    if len(section.shape) > 3 or any(type(n) is not int or n < 0 for n in section.shape):
        raise PlanCorruptError(f"{section.name}: {section.shape} is not a shape")
    return section


def _check_layout(
    image: npt.NDArray[np.uint8], end: int, sections: list[_Section], max_decoded: int
) -> None:
    """Sections in name order, one behind the other, and together no larger than allowed."""
    names = [section.name for section in sections]
    if sorted(set(names)) != names:
        raise PlanCorruptError("the sections are not in name order")
    decoded = sum(section.decoded for section in sections)
    if decoded > max_decoded:
        raise PlanCorruptError(f"decodes to {decoded:,} bytes, over the limit of {max_decoded:,}")
    for section in sections:
        start = end + -end % _ALIGNMENT
        if section.offset != start or section.nbytes > len(image) - start or section.nbytes < 0:
            raise PlanCorruptError(f"{section.name}: does not lie where sections must")
        if image[end:start].any():
            raise PlanCorruptError(f"bytes {end} to {start - 1} are not zero")
        end = start + section.nbytes
    if end != len(image):
        raise PlanCorruptError(f"{len(image) - end} bytes behind the last section")


def _array(image: npt.NDArray[np.uint8], section: _Section) -> npt.NDArray[Any]:
    stop = section.offset + section.nbytes
    content = image[section.offset : stop]
    where = f"{section.name} (bytes {section.offset} to {stop - 1})"
    if xxhash.xxh3_64_intdigest(content.data) != section.check:
        raise PlanCorruptError(f"{where}: the checksum does not hold")
    dtype = np.dtype(_DTYPES[section.dtype]).newbyteorder("<")
    if section.codec == _ZSTD:
        content = np.frombuffer(_decompressed(content.data, section.decoded, where), np.uint8)
    elif section.nbytes != section.decoded:
        raise PlanCorruptError(f"{where}: expected {section.decoded} bytes, got {section.nbytes}")
    return content.view(dtype).reshape(section.shape)


def _decompressed(content: memoryview, size: int, where: str) -> bytes:
    """One zstd frame of exactly `size` bytes; the declared size is compared before allocating."""
    try:
        if zstandard.get_frame_parameters(content).content_size != size or not size:
            raise PlanCorruptError(f"{where}: the zstd frame is not of {size} bytes")
        decompressor = zstandard.ZstdDecompressor()
        return decompressor.decompress(content, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PlanCorruptError(f"{where}: not a zstd frame: {error}") from None


def _assemble(meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Plan:
    """The plan's records from its sections; what is shared is not stored twice."""
    lists: dict[str, BlockLists] = {}
    for name, blocks in zip(_DIRECTIONS, meta["blocks"], strict=True):
        lists[name] = _lists(name, blocks, arrays, lists)
    tables = {name: _tables(name, arrays) for name in ("fwd", "dkv")}
    head_mask = arrays.pop("head_mask", None)
    if head_mask is None or arrays:
        raise PlanCorruptError(
            f"a section is missing or unknown: {', '.join(arrays) or 'head_mask'}"
        )
    return Plan(
        q_len=meta["q_len"],
        kv_len=meta["kv_len"],
        head_mask=head_mask,
        head_shards=meta["head_shards"],
        q_seq_shards=meta["q_seq_shards"],
        splash_fwd=tables["fwd"],
        splash_dkv=tables["dkv"],
        canonical=meta["canonical"],
        compiler=meta["compiler"],
        **lists,
    )


def _lists(
    name: str, blocks: list[int], arrays: dict[str, npt.NDArray[Any]], known: dict[str, BlockLists]
) -> BlockLists:
    same = [other for other in known.values() if list(other.blocks) == blocks]
    if name == "dq" and same:
        return same[0]
    parts: dict[str, Any] = {}
    for field in fields(BlockLists)[2:]:
        section = f"{name}.{field.name}"
        if section in arrays:
            parts[field.name] = arrays.pop(section)
        elif field.name == "partial_blocks" and same:
            parts[field.name] = same[0].partial_blocks
        else:
            raise PlanCorruptError(f"{section}: the section is missing")
    return BlockLists(block_q=blocks[0], block_kv=blocks[1], **parts)


def _tables(name: str, arrays: dict[str, npt.NDArray[Any]]) -> SplashTables | None:
    parts: dict[str, Any] = {
        f.name: arrays.pop(f"splash_{name}.{f.name}", None) for f in fields(SplashTables)
    }
    if parts["data_next"] is None or parts["block_mask"] is None:
        if any(part is not None for part in parts.values()):
            raise PlanCorruptError(f"splash_{name}: a table is missing")
        return None
    return SplashTables(**parts)
