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
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
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
    "Meta",
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

_PREAMBLE = struct.Struct("<8sHHIQII16s8xQ")
_MAX_SECTIONS = 256
_MAX_ELEMENTS = 1 << 40  # of an array, empty dimensions aside; numpy can address as many
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Pair: TypeAlias = tuple[_Number, _Number]


class Meta(msgspec.Struct, frozen=True, gc=False):
    """The header's facts about the plan as a whole (see `Plan`).

    Attributes:
        blocks: (block_q, block_kv) of fwd, dq and dkv.
        digest: of the plan.
        key: of `canonical`.
        row_intervals: most intervals of one query and of one key, or nothing.
    """

    blocks: tuple[_Pair, _Pair, _Pair]
    canonical: bytes
    compiler: str
    digest: str
    head_shards: _Number
    key: str
    kv_len: _Number
    q_len: _Number
    q_seq_shards: _Number
    row_intervals: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)], ...], msgspec.Meta(max_length=2)
    ]


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
    shape: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=3)]
    codec: int
    offset: _Count
    nbytes: _Count
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


class _Header(msgspec.Struct, frozen=True, gc=False):
    meta: Meta
    sections: Annotated[tuple[Section, ...], msgspec.Meta(max_length=_MAX_SECTIONS)]


class _LaterHeader(msgspec.Struct):
    """The same with all fields of `meta`, also those of later minor versions, as they stand."""

    meta: dict[str, msgspec.Raw]
    sections: msgspec.Raw


_decode_header = msgspec.msgpack.Decoder(_Header).decode


def _aligned(offset: int) -> int:
    return offset + -offset % ALIGNMENT


# --- writing ------------------------------------------------------------------------------------


def build_image(meta: Meta, stored: list[Stored]) -> bytes:
    """The file of sections given in name order.

    Raises:
        PlanError: the header is too large.
    """
    header, length = b"", -1
    while len(header) != length:  # offsets widen with the header; they only grow, so this ends
        length = len(header)
        header = pack(_Header(meta, tuple(_rows(stored, _PREAMBLE.size + length))))
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


def _rows(stored: list[Stored], end: int) -> list[Section]:
    rows = []
    for name, array, codec, content in stored:
        offset = _aligned(end)
        check = xxhash.xxh3_128_digest(content)
        dtype = array.dtype.str[1:]
        rows.append(Section(name, dtype, array.shape, codec, offset, len(content), check))
        end = offset + len(content)
    return rows


# --- reading ------------------------------------------------------------------------------------


def parse_image(image: npt.NDArray[np.uint8], max_decoded: int) -> tuple[Meta, tuple[Section, ...]]:
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
    meta, sections = _parsed_header(header, minor)
    if len(meta.row_intervals) == 1:
        raise PlanCorruptError("meta.row_intervals: expected two numbers or none")
    if key_of(meta.canonical) != meta.key:
        raise PlanCorruptError("meta.key is not the key of meta.canonical")
    if len(sections) != n_sections:
        raise PlanCorruptError(f"expected {n_sections} sections, got {len(sections)}")
    _check_sections(image, _PREAMBLE.size + len(header), sections, max_decoded)
    return meta, sections


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


def _parsed_header(content: bytes, minor: int) -> tuple[Meta, tuple[Section, ...]]:
    """The header's two parts. One spelling only: they must encode back to the same bytes."""
    try:
        header = _decode_header(content)
        if pack(header) != content and (minor <= MINOR or not _is_later(content, header)):
            raise PlanCorruptError("the header is not in canonical form")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PlanCorruptError(f"the header: {error}") from None
    return header.meta, header.sections


def _is_later(content: bytes, header: _Header) -> bool:
    """Whether a header that is not as ours would be only has more fields in "meta"."""
    later = msgspec.msgpack.decode(content, type=_LaterHeader)
    known = {name: later.meta[name] for name in Meta.__struct_fields__}
    return (
        pack(later) == content
        and [*later.meta] == sorted(later.meta)
        and pack(_LaterHeader(known, later.sections)) == pack(header)
    )


def _check_sections(
    image: npt.NDArray[np.uint8], end: int, sections: tuple[Section, ...], max_decoded: int
) -> None:
    """The section table: in name order, one behind the other, with nothing between and behind.

    One pass with few calls, since this is a good part of the time that it takes to open a plan.
    """
    content, total, decoded, last = image.data, len(image), 0, ""
    for section in sections:
        name, dtype, shape, codec, offset, nbytes, _ = section
        if dtype not in DTYPES or codec not in CODECS:
            raise PlanVersionError(
                f"{name}: dtype {dtype!r} or codec {codec}, which this maskc lacks"
            )
        size = _ITEMSIZE[dtype]
        for n in shape:
            size *= n
        if not size and math.prod(n for n in shape if n) > _MAX_ELEMENTS:
            raise PlanCorruptError(f"{name}: {[*shape]} is no shape of an empty array")
        decoded += size
        if decoded > max_decoded:
            raise PlanError(
                f"decodes to {decoded:,} bytes or more, over the limit of {max_decoded:,}"
            )
        if name <= last:
            raise PlanCorruptError("the sections are not in name order")
        gap = -end % ALIGNMENT
        if offset != end + gap or nbytes > total - offset:
            raise PlanCorruptError(f"{section.place}: does not lie where sections must")
        if codec == RAW and nbytes != size:
            raise PlanCorruptError(f"{section.place}: expected {size} bytes, got {nbytes}")
        if content[end:offset] != _ZEROS[gap]:
            raise PlanCorruptError(f"bytes {end} to {offset - 1} are not zero")
        end, last = offset + nbytes, name
    if end != total:
        raise PlanCorruptError(f"{total - end} bytes behind the last section")
