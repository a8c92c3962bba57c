"""A second reader of plan files, written from docs/plan-file.md alone; it trusts what it reads."""

import math
import struct

import msgpack
import xxhash
import zstandard

__all__ = ["Reader"]

_FORMATS = {"i1": "b", "i2": "h", "i4": "i", "u1": "B"}


class Reader:
    """The header and the arrays of a plan file, as lists of Python integers.

    Attributes:
        meta: the header's `meta`.
        arrays: (dtype, shape, flat values) by section.
    """

    def __init__(self, image: bytes) -> None:
        head = struct.unpack("<8sHHIQII16s8sQ", image[:64])
        assert head[:3] == (b"\x89MKP\r\n\x1a\n", 1, 0)
        assert (head[4], head[6], head[8]) == (len(image), 0, bytes(8))
        header = image[64 : 64 + head[3]]
        assert head[7] == xxhash.xxh3_128(header).digest()
        assert head[9] == xxhash.xxh3_64(image[:56]).intdigest()
        document = msgpack.unpackb(header)
        assert msgpack.packb(document) == header
        assert len(document["sections"]) == head[5]
        self.meta = document["meta"]
        self.arrays = {}
        end = 64 + len(header)
        for name, dtype, shape, codec, offset, nbytes, check in document["sections"]:
            assert offset == (end + 63) // 64 * 64
            assert not any(image[end:offset])
            end = offset + nbytes
            stored = image[offset:end]
            assert xxhash.xxh3_128(stored).digest() == check
            self.arrays[name] = dtype, shape, _values(stored, dtype, shape, codec)
        assert end == len(image)
        assert xxhash.xxh3_128(self.meta["canonical"]).hexdigest() == self.meta["key"]

    def digest(self) -> str:
        """The digest of the content, computed from the arrays."""
        names = "q_len", "kv_len", "head_shards", "q_seq_shards", "blocks", "row_intervals"
        contents = []
        for name, (dtype, shape, values) in self.arrays.items():
            content = struct.pack(f"<{len(values)}{_FORMATS[dtype]}", *values)
            contents.append([name, dtype, shape, xxhash.xxh3_128(content).digest()])
        packed = msgpack.packb([*(self.meta[name] for name in names), contents])
        return xxhash.xxh3_128(packed).hexdigest()


def _values(stored: bytes, dtype: str, shape: list[int], codec: int) -> list[int]:
    content = stored if codec == 0 else zstandard.ZstdDecompressor().decompress(stored)
    if codec in {3, 4}:
        numbers = list(struct.unpack(f"<{len(content) // 4}i", content))
        half = len(numbers) // 2
        firsts, lengths = _sums(numbers[:half]), _sums(numbers[half:])
        values = [a + i for a, n in zip(firsts, lengths, strict=True) for i in range(n)]
    else:
        form = _FORMATS[dtype]
        values = list(struct.unpack(f"<{len(content) // struct.calcsize(form)}{form}", content))
    if codec in {2, 4}:
        values = _sums(values)
    if codec == 5:
        width = shape[-1]
        height = shape[-2] if len(shape) > 1 else 1
        if len(shape) == 1:
            values = _sums(values)
        for start in range(0, len(values), width):
            values[start : start + width] = _sums(values[start : start + width])
        for plane in range(0, len(values), width * height):
            for column in range(plane, plane + width):
                rows = slice(column, plane + width * height, width)
                values[rows] = _sums(values[rows])
    assert len(values) == math.prod(shape)
    return [_wrapped(value, dtype) for value in values]


def _sums(steps: list[int]) -> list[int]:
    total, sums = 0, []
    for step in steps:
        total += step
        sums.append(total)
    return sums


def _wrapped(value: int, dtype: str) -> int:
    size = 8 * int(dtype[1])
    value %= 1 << size
    return value - (1 << size) if dtype[0] == "i" and value >> (size - 1) else value
