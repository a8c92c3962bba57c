"""The preamble, the header and the layout of a plan file: what stands where, and what is refused.

    0   8  magic 89 'M' 'K' 'P' 0D 0A 1A 0A
    8   2  u16 major version            10  2  u16 minor version
    12  4  u32 header length            16  8  u64 file length
    24  4  u32 number of sections       28  4  u32 flags, all zero
    32 16  XXH3-128 of the header       48  8  reserved, zero
    56  8  XXH3-64 of bytes 0 to 55
    64     header: canonical msgpack {"meta": {...}, "sections": [[name, dtype, shape, codec,
           offset, bytes, XXH3-128 of the stored bytes], ...]}
    ..     sections in name order, each at the next multiple of 64, gaps zero, no trailing bytes

Everything is little endian. A later minor version may add fields to "meta", nothing else.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import xxhash

from maskc_cache.codec import CODECS, RAW
from maskc_cache.errors import NotAPlanError, PlanCorruptError, PlanError, PlanVersionError
from maskc_cache.plan import key_of, pack

__all__ = [
    "ALIGNMENT",
    "DTYPES",
    "MAGIC",
    "MAJOR",
    "MAX_HEADER",
    "MINOR",
    "Row",
    "Section",
    "Stored",
    "build_image",
    "parse_image",
]

MAGIC = b"\x89MKP\r\n\x1a\n"
MAJOR, MINOR = 1, 0
ALIGNMENT = 64
_ZEROS = [bytes(gap) for gap in range(ALIGNMENT)]
MAX_HEADER = 256 << 10
DTYPES = {name: np.dtype(f"<{name}") for name in ("i1", "i2", "i4", "u1")}
_ITEMSIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}

Stored = tuple[str, npt.NDArray[Any], int, bytes]
"""A section to write: its name, the array, the codec and the bytes to store."""

Row = tuple[str, str, tuple[int, ...], int, int, int, bytes]
"""A row of the section table: what `Section(*row)` is made of, which takes a while."""

_PREAMBLE = struct.Struct("<8sHHIQII16s8xQ")
_MAX_SECTIONS = 256
_MAX_FIELDS = 64  # of "meta"; later minor versions add some
_MAX_ELEMENTS = 1 << 40  # of an array, empty dimensions aside; numpy can address as many
_META = {
    "blocks": tuple,
    "canonical": bytes,
    "compiler": str,
    "digest": str,
    "head_shards": int,
    "key": str,
    "kv_len": int,
    "q_len": int,
    "q_seq_shards": int,
    "row_intervals": tuple,
}
_TYPES = [*_META.values()]
_numbers = itemgetter(*(name for name, kind in _META.items() if kind is int))
_ROW = [str, str, tuple, int, int, int, bytes]


class Section(NamedTuple):
    """One row of the header's section table.

    Attributes:
        name: of the array, as `Plan.arrays` gives it.
        dtype: one of `DTYPES`.
        shape: of the decoded array.
        codec: one of `codec.CODECS`.
        offset: of the stored bytes in the file.
        nbytes: how many bytes are stored.
        check: their XXH3-128.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: int
    offset: int
    nbytes: int
    check: bytes

    @property
    def stop(self) -> int:
        """The offset behind the stored bytes."""
        return self.offset + self.nbytes

    @property
    def decoded(self) -> int:
        """How many bytes the array takes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def place(self) -> str:
        """What errors call it."""
        return f"{self.name} (bytes {self.offset} to {self.stop - 1})"


def _aligned(offset: int) -> int:
    return offset + -offset % ALIGNMENT


# --- writing ------------------------------------------------------------------------------------


def build_image(meta: dict[str, Any], stored: list[Stored]) -> bytes:
    """The file of sections given in name order.

    Raises:
        PlanError: the header is too large.
    """
    header, length = b"", -1
    while len(header) != length:  # offsets widen with the header; they only grow, so this ends
        length = len(header)
        rows = _rows(stored, _PREAMBLE.size + length)
        header = pack({"meta": dict(sorted(meta.items())), "sections": rows})
    if length > MAX_HEADER:
        raise PlanError(
            f"the canonical form needs a header of {length:,} bytes, over {MAX_HEADER:,}; "
            "give the mask as arrays instead of thousands of nodes"
        )
    image = bytearray(_PREAMBLE.size)
    image += header
    for _, _, _, content in stored:
        image += bytes(_aligned(len(image)) - len(image))
        image += content
    _PREAMBLE.pack_into(
        image, 0, MAGIC, MAJOR, MINOR, length, len(image), len(stored), 0,
        xxhash.xxh3_128_digest(header), 0,
    )  # fmt: skip
    struct.pack_into("<Q", image, 56, xxhash.xxh3_64_intdigest(bytes(image[:56])))
    return bytes(image)


def _rows(stored: list[Stored], end: int) -> list[Any]:
    rows = []
    for name, array, codec, content in stored:
        offset = _aligned(end)
        check = xxhash.xxh3_128_digest(content)
        dtype = array.dtype.str[1:]
        rows.append([name, dtype, list(array.shape), codec, offset, len(content), check])
        end = offset + len(content)
    return rows


# --- reading ------------------------------------------------------------------------------------


def parse_image(
    image: npt.NDArray[np.uint8], max_decoded: int
) -> tuple[dict[str, Any], tuple[Row, ...]]:
    """The header's meta and section table, once all but the sections' content is checked.

    Args:
        image: uint8 [file length].
        max_decoded: refuse sections that decode to more bytes than this in total.

    Raises:
        NotAPlanError: the bytes are something else.
        PlanVersionError: a version, flag, codec or dtype that this reader lacks.
        PlanCorruptError: a length, checksum or type does not hold, or a byte is where none may be.
        PlanError: more than `max_decoded`.
    """
    minor, n_sections, header = _checked_header(image)
    meta, rows = _parsed_header(header)
    _check_meta(meta, minor)
    if len(rows) != n_sections:
        raise PlanCorruptError(f"expected {n_sections} sections, got {len(rows)}")
    _check_rows(image, _PREAMBLE.size + len(header), rows, max_decoded)
    return meta, rows


def _checked_header(image: npt.NDArray[np.uint8]) -> tuple[int, int, bytes]:
    """Minor version, section count and header bytes, once both of their checksums hold."""
    start = image[: _PREAMBLE.size].tobytes()
    if start[:8] != MAGIC[: len(start[:8])] or not start:
        raise NotAPlanError("not a plan file (wrong magic bytes)")
    if len(start) < _PREAMBLE.size:
        raise PlanCorruptError(f"truncated inside the preamble, {len(start)} of 64 bytes")
    _, major, minor, length, total, n_sections, flags, check, own = _PREAMBLE.unpack(start)
    if own != xxhash.xxh3_64_intdigest(start[:56]):
        raise PlanCorruptError("the preamble's checksum does not hold (bytes 0 to 63)")
    if major != MAJOR:
        raise PlanVersionError(f"format {major}.{minor}; this maskc reads {MAJOR}.x")
    if flags:
        raise PlanVersionError(f"flags {flags:#x} that this maskc does not know")
    if any(start[48:56]):
        raise PlanVersionError("reserved bytes that this maskc does not know (bytes 48 to 55)")
    if total != len(image):
        raise PlanCorruptError(f"expected a file of {total:,} bytes, got {len(image):,}")
    if length > MAX_HEADER or _PREAMBLE.size + length > total or n_sections > _MAX_SECTIONS:
        raise PlanCorruptError(f"a header of {length:,} bytes, {n_sections} sections cannot be")
    header = image[_PREAMBLE.size : _PREAMBLE.size + length].tobytes()
    if xxhash.xxh3_128_digest(header) != check:
        raise PlanCorruptError(f"the header's checksum does not hold (bytes 64 to {63 + length})")
    return minor, n_sections, header


def _parsed_header(header: bytes) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The header's two parts. One spelling only: they must encode back to the same bytes."""
    try:
        document = msgpack.unpackb(
            header,
            use_list=False,
            strict_map_key=True,
            max_array_len=_MAX_SECTIONS,
            max_map_len=_MAX_FIELDS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise PlanCorruptError(f"the header is not msgpack: {error}") from None
    if type(document) is not dict or document.keys() != {"meta", "sections"}:
        raise PlanCorruptError("the header lacks 'meta' or 'sections'")
    meta, rows = document["meta"], document["sections"]
    if type(meta) is not dict or not {*map(type, meta)} <= {str}:
        raise PlanCorruptError("the header's meta is not a map of names")
    if type(rows) is not tuple:
        raise PlanCorruptError("the header's sections are not a list")
    try:
        again = pack(document)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise PlanCorruptError(f"the header cannot be written back: {error}") from None
    if again != header or [*document] != ["meta", "sections"] or [*meta] != sorted(meta):
        raise PlanCorruptError("the header is not in canonical form")
    return meta, rows


def _check_meta(meta: dict[str, Any], minor: int) -> None:
    if [*map(type, map(meta.get, _META))] != _TYPES:
        raise PlanCorruptError("the header's meta has a field that is missing or of a wrong type")
    if minor <= MINOR and len(meta) != len(_META):
        raise PlanCorruptError(f"the header's meta has a field that format 1.{minor} lacks")
    blocks = meta["blocks"]
    if [*map(type, blocks)] != [tuple] * 3 or [*map(len, blocks)] != [2] * 3:
        raise PlanCorruptError("meta.blocks: expected three pairs")
    if len(meta["row_intervals"]) not in {0, 2}:
        raise PlanCorruptError("meta.row_intervals: expected two numbers or none")
    numbers = [*_numbers(meta), *blocks[0], *blocks[1], *blocks[2]]
    if {*map(type, numbers)} != {int} or min(numbers) < 1 or max(numbers) >= 2**31:
        raise PlanCorruptError("the header's meta has a number out of range")
    for number in meta["row_intervals"]:
        if type(number) is not int or not 0 <= number < 2**31:
            raise PlanCorruptError("meta.row_intervals: a number out of range")
    if key_of(meta["canonical"]) != meta["key"]:
        raise PlanCorruptError("meta.key is not the key of meta.canonical")


def _check_rows(
    image: npt.NDArray[np.uint8], end: int, rows: tuple[Any, ...], max_decoded: int
) -> None:
    """The section table: in name order, one behind the other, with nothing between and behind.

    One pass with few calls, since this is a good part of the time that it takes to open a plan.
    """
    if not (
        {*map(type, rows)} <= {tuple}
        and {*map(len, rows)} <= {7}
        and [*map(type, chain.from_iterable(rows))] == _ROW * len(rows)
    ):
        raise PlanCorruptError("the section table has a row of wrong types")
    content, total, decoded, last = image.data, len(image), 0, ""
    for row in rows:
        name, dtype, shape, codec, offset, nbytes, _ = row
        if dtype not in DTYPES or codec not in CODECS:
            raise PlanVersionError(
                f"{name}: dtype {dtype!r} or codec {codec}, which this maskc lacks"
            )
        size = _ITEMSIZE[dtype]
        for n in shape:
            if type(n) is not int or n < 0:
                raise PlanCorruptError(f"{name}: {[*shape]} is not a shape")
            size *= n
        if not size or len(shape) > 1:
            _check_shape(name, shape)
        decoded += size
        if decoded > max_decoded:
            raise PlanError(
                f"decodes to {decoded:,} bytes or more, over the limit of {max_decoded:,}"
            )
        if name <= last:
            raise PlanCorruptError("the sections are not in name order")
        gap = -end % ALIGNMENT
        if offset != end + gap or not 0 <= nbytes <= total - offset:
            raise PlanCorruptError(f"{Section(*row).place}: does not lie where sections must")
        if codec == RAW and nbytes != size:
            raise PlanCorruptError(f"{Section(*row).place}: expected {size} bytes, got {nbytes}")
        if content[end:offset] != _ZEROS[gap]:
            raise PlanCorruptError(f"bytes {end} to {offset - 1} are not zero")
        end, last = offset + nbytes, name
    if end != total:
        raise PlanCorruptError(f"{total - end} bytes behind the last section")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Whether there can be such an array."""
    if len(shape) > 3:
        raise PlanCorruptError(f"{name}: {[*shape]} is not a shape")
    if 0 in shape and math.prod(n for n in shape if n) > _MAX_ELEMENTS:
        raise PlanCorruptError(f"{name}: {[*shape]} is no shape of an empty array")
