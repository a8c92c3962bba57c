"""Damaged and forged plan files: small changes, random ones, and some with right checksums."""

import copy
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgpack
import numpy as np
import xxhash
import zstandard

from faults import Counts
from faults.plans import even, large_image, tiny
from maskc_cache import Plan, PlanError, decode, encode
from maskc_cache.format import MAGIC, MAJOR, MINOR

__all__ = ["bombs", "every_damage", "fuzz", "header_of", "laid_out", "random_flips", "sealed"]

_PREAMBLE = ("magic", "major", "minor", "header_len", "file_len", "sections", "flags")


def refused(image: bytes | bytearray) -> bool:
    """Whether `decode` says no in the one way that it may."""
    try:
        decode(image)
    except PlanError as error:
        return str(error).startswith("<bytes>: ")
    return False


# --- damage -------------------------------------------------------------------------------------


def every_damage(image: bytes) -> Counts:
    """Every bit flip, byte set, truncation, zeroed block and tail, and some appended bytes.

    Returns:
        How many there were of each kind, and how many were read without an error ("silent"). A
        change that changes nothing (zeroing zeros) is not counted.
    """
    counts: Counter[str] = Counter(silent=0)

    def attempt(kind: str, damaged: bytes | bytearray) -> None:
        if damaged != image:
            counts[kind] += 1
            counts["silent"] += not refused(damaged)

    changed = bytearray(image)
    for at, old in enumerate(image):
        for bit in range(8):
            changed[at] = old ^ 1 << bit
            attempt("bit flips", changed)
        for new in (0, 255, old ^ 0x55):
            changed[at] = new
            attempt("byte sets", changed)
        changed[at] = old
        attempt("truncations", image[:at])
    for start in range(0, len(image), 64):
        stop = min(start + 64, len(image))
        attempt("zeroed blocks", image[:start] + bytes(stop - start) + image[stop:])
        attempt("zeroed tails", image[:start] + bytes(len(image) - start))
    for extra in (b"\0", b"\n", b"\xff", bytes(64), bytes(4096), image, image[:64]):
        attempt("appended", image + extra)
    return counts


def random_flips(megabytes: int, flips: int) -> Counts:
    """Single bit flips at random places of a large file."""
    image = bytearray(large_image(megabytes))
    chance, silent = random.Random(0), 0
    for _ in range(flips):
        at, bit = chance.randrange(len(image)), 1 << chance.randrange(8)
        image[at] ^= bit
        silent += not refused(image)
        image[at] ^= bit
    return {"flips": flips, "bytes": len(image), "silent": silent}


# --- forgery ------------------------------------------------------------------------------------


def header_of(image: bytes) -> dict:
    """The header of a file, unpacked."""
    length = struct.unpack_from("<I", image, 12)[0]
    return msgpack.unpackb(image[64 : 64 + length])


def sealed(image: bytes, header: bytes | None = None, **fields: int | bytes) -> bytes:
    """An image with its header or preamble fields replaced and their checksums made right."""
    old = struct.unpack("<8sHHIQII16s8xQ", image[:64])
    values = dict(zip(_PREAMBLE, old, strict=False))
    if header is not None:
        image = image[:64] + header + image[64 + old[3] :]
        values |= {"header_len": len(header), "file_len": len(image)}
    values |= fields
    header = image[64 : 64 + values["header_len"]]
    start = struct.pack("<8sHHIQII16s8x", *values.values(), xxhash.xxh3_128_digest(header))
    return start + struct.pack("<Q", xxhash.xxh3_64_intdigest(start)) + image[64:]


_ATOMS = [
    None, True, False, 0, 1, 2, 3, 4, 8, 20, 63, 64, 127, 255, -1, 2**31 - 1, 2**31, 2**32, 2**40,
    2**63, 2**64 - 1, -(2**63), 0.5, float("inf"), float("nan"), "", "i1", "i2", "i4", "u1", "f8",
    "b1", "fwd.full_idx", "meta", b"", b"x", "\0", [], {}, [[]], {"a": 1}, {b"a": 1}, {1: 1}, [0],
    [2**62, 2**62], [0, 2**40], [-1], [1] * 9, ["i1"], msgpack.ExtType(1, b"x"),
    msgpack.Timestamp(1),
]  # fmt: skip


def _bytes_changed(chance: random.Random, image: bytes) -> bytes:
    """A few bytes changed, removed, doubled or moved; checksums as they come."""
    changed = bytearray(image)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(changed)) if changed else 0
        span = chance.choice((1, 1, 2, 8, 64))
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + span]
            case 2:
                changed[at:at] = changed[at : at + span]
            case 3:
                other = chance.randrange(len(changed) + 1)
                changed[at : at + span] = changed[other : other + span]
            case 4:
                changed[at : at + span] = chance.randbytes(span)
    return bytes(changed)


def _resealed(chance: random.Random, image: bytes) -> bytes:
    """Bytes of the header or preamble changed; its checksums are right."""
    length = struct.unpack_from("<I", image, 12)[0]
    if chance.random() < 0.2:
        name = chance.choice(_PREAMBLE[1:])
        top = 2**16 if name in {"major", "minor"} else 2**32
        return sealed(image, **{name: chance.choice((0, 1, 7, top - 1, chance.randrange(top)))})
    return sealed(image, header=_bytes_changed(chance, image[64 : 64 + length]))


def _table_forged(chance: random.Random, image: bytes) -> bytes:
    """Stored bytes of sections changed; all checksums are right, the digest is not."""
    document, changed = header_of(image), bytearray(image)
    for _ in range(chance.choice((1, 1, 2, 5))):
        row = chance.choice(document["sections"])
        start, stop = row[4], row[4] + row[5]
        if start == stop:
            continue
        at = chance.randrange(start, stop)
        changed[at] = chance.choice((0, 1, 127, 128, 255, changed[at] ^ 1 << chance.randrange(8)))
        row[6] = xxhash.xxh3_128_digest(bytes(changed[start:stop]))
    return sealed(bytes(changed), header=msgpack.packb(document))


def _header_forged(chance: random.Random, image: bytes) -> bytes:
    """Values of the header replaced, moved or removed; its checksums are right."""
    document = header_of(image)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                parent.pop(key)
            case 1:
                other, other_key = chance.choice(places)
                parent[key] = copy.deepcopy(other[other_key])
            case 2 if type(parent[key]) is int:
                near = parent[key] + chance.choice((-64, -1, 1, 64))
                parent[key] = max(-(2**63), min(near, 2**64 - 1))
            case 3 if isinstance(parent, list):
                chance.shuffle(parent)
            case _:
                parent[key] = copy.deepcopy(chance.choice(_ATOMS))
        if not document:
            break
    return sealed(image, header=msgpack.packb(document))


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every place inside a document, as (container, key)."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _frames_forged(chance: random.Random, image: bytes) -> bytes:
    """A section stored anew by another codec or as another content; all checksums are right."""
    document = header_of(image)
    rows = document["sections"]
    contents = [image[row[4] : row[4] + row[5]] for row in rows]
    at = chance.randrange(len(rows))
    row, raw = rows[at], contents[at]
    compressor = zstandard.ZstdCompressor(write_content_size=chance.random() < 0.8)
    match chance.randrange(6):
        case 0:
            row[3], contents[at] = chance.choice((1, 2, 3, 4, 5)), compressor.compress(raw)
        case 1:
            row[3], contents[at] = 1, compressor.compress(chance.randbytes(chance.randrange(200)))
        case 2:
            content = _bytes_changed(chance, compressor.compress(raw))
            row[3], contents[at] = chance.choice((1, 2, 3, 4, 5)), content
        case 5:
            runs = struct.pack("<4i", *(chance.choice((0, 1, 5, -1, 2**31 - 1)) for _ in range(4)))
            row[3], contents[at] = chance.choice((3, 4)), compressor.compress(runs)
        case 3:
            contents[at] = chance.randbytes(len(raw))
        case 4:
            row[2] = [len(raw), *row[2][1:]] if chance.random() < 0.5 else row[2][::-1]
    return laid_out(document, contents)


def laid_out(document: dict, contents: list[bytes], minor: int = MINOR) -> bytes:
    """A file of the sections given, with every offset, length and checksum right."""
    rows = document["sections"]
    header = b""
    for _ in range(4):
        end = 64 + len(header)
        for row, content in zip(rows, contents, strict=True):
            row[4] = end + -end % 64
            row[5], row[6] = len(content), xxhash.xxh3_128_digest(content)
            end = row[4] + len(content)
        header = msgpack.packb(document)
    body = bytearray(struct.pack("<8sHH", MAGIC, MAJOR, minor).ljust(64, b"\0")) + header
    for content in contents:
        body += bytes(-len(body) % 64) + content
    return sealed(bytes(body), header_len=len(header), file_len=len(body), sections=len(rows))


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _bytes_changed, _resealed, _table_forged, _header_forged, _frames_forged,
)  # fmt: skip


def fuzz(mutants: int, seed: int = 0) -> Counts:
    """Mutants of small files: each is refused, or is a plan whose every index can be used.

    A mutant that decodes counts as "same" if it is the same plan (say, a raw section compressed)
    and as "other" if it is another one, which only a forger who also forges the digest can make.

    Raises:
        AssertionError: `decode` raised something else than a `PlanError`; with the mutant.
    """
    plans = (tiny(splash=True), tiny(splash=False), even())
    seeds = [encode(plan, compress=compress) for plan in plans for compress in (True, False)]
    del seeds[-1]  # large, and has nothing that the others lack
    digests = {plan.digest for plan in plans}
    chance = random.Random(seed)
    counts: Counter[str] = Counter(mutants=mutants, refused=0, same=0, other=0)
    started = time.perf_counter()
    for _ in range(mutants):
        image = chance.choice(MUTATIONS)(chance, chance.choice(seeds))
        try:
            found = decode(image)
        except PlanError:
            counts["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r} for {image.hex()}") from error
        else:
            counts["same" if found.digest in digests else "other"] += 1
            _use(found)
    counts["per_second"] = int(mutants / (time.perf_counter() - started))
    return counts


def _use(plan: Plan) -> None:
    """Every index points into what it indexes, however large the plan says that its grid is."""
    for direction in ("fwd", "dq", "dkv"):
        lists = plan.lists(direction)
        rows, columns = plan.grid(direction)
        for ptr, idx in ((lists.full_ptr, lists.full_idx), (lists.partial_ptr, lists.partial_idx)):
            assert len(ptr) == plan.masks * rows + 1
            assert np.add.reduce(np.diff(ptr)) == len(idx)
            assert not len(idx) or 0 <= idx.min() <= idx.max() < columns
        lists.partial_blocks[lists.partial_id]
    for tables, lists in ((plan.splash_fwd, plan.fwd), (plan.splash_dkv, plan.dkv)):
        if tables is not None and tables.mask_next is not None:
            lists.partial_blocks[tables.mask_next]


# --- bombs --------------------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """Files of a few kB that would take gigabytes, if sizes were believed or nesting followed."""
    image = encode(tiny(), compress=False)

    def with_header(header: bytes) -> bytes:
        return sealed(image, header=header)

    def with_section(shape: list[int], content: bytes, codec: int = 1) -> bytes:
        document = header_of(image)
        rows = document["sections"]
        contents = [image[row[4] : row[4] + row[5]] for row in rows]
        at = next(i for i, row in enumerate(rows) if row[0] == "fwd.full_idx")
        rows[at][1:4] = ["i1", shape, codec]
        contents[at] = content
        return laid_out(document, contents)

    gigabyte = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))
    one_run = zstandard.ZstdCompressor().compress(struct.pack("<2i", 0, 2**31 - 1))
    until_sections = msgpack.packb({"meta": header_of(image)["meta"], "sections": []})[:-1]
    huge = gigabyte[:4] + b"\xe0" + struct.pack("<Q", 1 << 62) + gigabyte[13:]
    return {
        "zstd: 1 GiB where 9 bytes belong": with_section([9], gigabyte),
        "zstd: 3 GiB, as its shape says": with_section([3 << 30], gigabyte),
        "zstd: no size": with_section([9], unsized),
        "zstd: 4 EiB declared": with_section([1 << 62], huge),
        "runs: 1 GiB of them": with_section([9], gigabyte, 3),
        "runs: 2 G values, where 9 belong": with_section([9], one_run, 3),
        "shape over the limit": with_section([1 << 40], gigabyte),
        "empty shape of many": with_section([0, 1 << 40, 1 << 40], b""),
        "msgpack: 100,000 nils": with_header(
            b"\xdd" + struct.pack(">I", 100_000) + b"\xc0" * 100_000
        ),
        "msgpack: 4 G elements": with_header(b"\xdd\xff\xff\xff\xff"),
        "msgpack: 4 GiB string": with_header(b"\xdb\xff\xff\xff\xff"),
        "msgpack: 4 G pairs": with_header(b"\xdf\xff\xff\xff\xff"),
        "msgpack: nested 100,000 deep": with_header(b"\x91" * 100_000 + b"\xc0"),
        "msgpack: 200 kB of empty lists": with_header(
            b"\xdd" + struct.pack(">I", 200_000) + b"\x90" * 200_000
        ),
        "msgpack: 200 kB of empty lists, 200 by 200": with_header(
            b"\xdc\0\xc8" + (b"\xdc\0\xc8" + b"\xdc\0\xc8" + b"\x90" * 1000) * 200
        ),
        "msgpack: 4 G sections": with_header(until_sections + b"\xdd\xff\xff\xff\xff"),
        "msgpack: 4 G dimensions": with_header(
            until_sections + b"\x91\x97\xa1n\xa2i1\xdd\xff\xff\xff\xff"
        ),
        "msgpack: 4 GiB name": with_header(until_sections + b"\x91\x97\xdb\xff\xff\xff\xff"),
        "msgpack: a field of a later version nested 100,000 deep": sealed(
            image, header=b"\x83" + until_sections[1:] + b"\x90\xa1x" + b"\x91" * 100_000, minor=7
        ),
        "header length lies": sealed(image, header_len=(1 << 32) - 1),
        "file length lies": sealed(image, file_len=(1 << 64) - 1),
        "4 G sections": sealed(image, sections=(1 << 32) - 1),
    }  # fmt: skip
