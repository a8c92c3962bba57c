"""The file format: round trips, and no byte that can change unnoticed."""

import os
import struct
import subprocess
import sys

import msgpack
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from maskc import Causal, compile_mask, compile_request, strategies
from maskc_cache import (
    NotAPlanError,
    PlanCorruptError,
    PlanError,
    PlanVersionError,
    decode,
    encode,
    read_plan,
    verify,
    write_plan,
)


@given(strategies.requests(max_length=40), st.booleans())
def test_round_trip(request, compress):
    plan = compile_request(request)
    again = decode(encode(plan, compress=compress))
    verify(again)
    assert again == plan
    assert (again.key, again.canonical, again.compiler) == (
        plan.key, plan.canonical, plan.compiler,
    )  # fmt: skip
    assert [name for name, _ in again.arrays()] == [name for name, _ in plan.arrays()]


def test_plans_round_trip_with_their_sharing(plans):
    for plan in plans.values():
        again = decode(encode(plan))
        assert again == plan
        assert (again.dq is again.fwd) == (plan.dq is plan.fwd)


def test_every_bit_flip_truncation_and_extension_is_seen(small_plan):
    for compress in (True, False):
        image = encode(small_plan, compress=compress)
        for at in range(len(image)):
            for bit in range(8):
                bad = bytearray(image)
                bad[at] ^= 1 << bit
                with pytest.raises(PlanError, match="<bytes>: "):
                    decode(bytes(bad))
            with pytest.raises(PlanError, match="<bytes>: "):
                decode(image[:at])
        for extra in (b"\0", b"\0" * 64, image):
            with pytest.raises(PlanCorruptError, match="expected a file of"):
                decode(image + extra)


def test_errors_say_where_and_what_to_do(small_plan, tmp_path):
    image = bytearray(encode(small_plan, compress=False))
    image[-1] ^= 1
    (tmp_path / "bad.plan").write_bytes(image)
    with pytest.raises(
        PlanCorruptError,
        match=rf"bad\.plan: splash_fwd\.mask_next \(bytes \d+ to {len(image) - 1}\): the checksum "
        "does not hold; delete the file and compile again",
    ):
        read_plan(tmp_path / "bad.plan")


def sealed(image, header=None, **fields):
    """An image with its header or preamble fields replaced and all checksums made right again."""
    old = struct.unpack("<8sHHIQII16s8xQ", image[:64])
    names = ("magic", "major", "minor", "header_len", "file_len", "sections", "flags")
    values = dict(zip(names, old, strict=False))
    if header is not None:
        image = image[:64] + header + image[64 + old[3] :]
        values |= {"header_len": len(header), "file_len": len(image)}
    values |= fields
    header = image[64 : 64 + values["header_len"]]
    start = struct.pack("<8sHHIQII16s8x", *values.values(), xxhash.xxh3_128_digest(header))
    return start + struct.pack("<Q", xxhash.xxh3_64_intdigest(start)) + image[64:]


def test_versions_and_flags_of_the_future_are_named(small_plan):
    image = encode(small_plan)
    with pytest.raises(PlanVersionError, match=r"format 2\.0; this maskc reads 1\.x"):
        decode(sealed(image, major=2))
    with pytest.raises(PlanVersionError, match="flags 0x4 that this maskc does not know"):
        decode(sealed(image, flags=4))
    assert decode(sealed(image, minor=7)) == small_plan


def test_other_files_are_not_plans(tmp_path):
    for content in (b"", b"PK\3\4", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        with pytest.raises(NotAPlanError, match="not a plan file"):
            decode(content)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null"):
        with pytest.raises(NotAPlanError, match="not a regular file"):
            read_plan(path)
    with pytest.raises(FileNotFoundError, match="none"):
        read_plan(tmp_path / "none.plan")


def header_of(image):
    length = struct.unpack_from("<I", image, 12)[0]
    return msgpack.unpackb(image[64 : 64 + length])


def mutated(document, path, value):
    *parents, last = path
    target = document
    for step in parents:
        target = target[step]
    target[last] = value
    return document


HEADER_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**40),
    st.sampled_from(["i1", "i4", "u1", "f8", "head_mask", "fwd.full_ptr", ""]),
    st.binary(max_size=4),
    st.lists(st.integers(-1, 2**33), max_size=4),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)


@given(st.data())
def test_a_forged_header_gives_a_plan_or_a_plan_error(small_plan, data):
    image = encode(small_plan, compress=False)
    document = header_of(image)
    if data.draw(st.booleans()):
        row = data.draw(st.integers(0, len(document["sections"]) - 1))
        path = ["sections", row, data.draw(st.integers(0, 6))]
    else:
        path = ["meta", data.draw(st.sampled_from(sorted(document["meta"])))]
    forged = msgpack.packb(mutated(document, path, data.draw(HEADER_VALUES)))
    try:
        plan = decode(sealed(image, header=forged))
    except PlanError:
        return
    assert [a.size for _, a in plan.arrays()] == [a.size for _, a in small_plan.arrays()]


@given(st.data())
def test_forged_tables_cannot_point_outside(small_plan, data):
    """Section bytes changed, and every checksum made right again."""
    image = bytearray(encode(small_plan, compress=False))
    document = header_of(image)
    row = data.draw(st.sampled_from(document["sections"]))
    at = row[4] + data.draw(st.integers(0, max(row[5] - 1, 0)))
    image[min(at, len(image) - 1)] ^= data.draw(st.integers(1, 255))
    for section in document["sections"]:
        content = bytes(image[section[4] : section[4] + section[5]])
        section[6] = xxhash.xxh3_64_intdigest(content)
    forged = msgpack.packb(document)
    try:
        plan = decode(sealed(bytes(image), header=forged))
    except PlanError:
        return
    for direction in ("fwd", "dq", "dkv"):
        plan.lists(direction).states(*plan.grid(direction))  # indexes by every table


def test_bombs_are_refused_before_memory_is_taken(small_plan):
    image = encode(small_plan, compress=False)
    document = header_of(image)
    for section in document["sections"]:
        if section[0] == "fwd.full_idx":
            section[2] = [2**40]
    with pytest.raises(PlanCorruptError, match="over the limit of 2,147,483,648"):
        decode(sealed(image, header=msgpack.packb(document)))
    with pytest.raises(PlanCorruptError, match="over the limit of 100"):
        decode(image, max_decoded=100)


def test_a_zstd_frame_must_declare_its_size(small_plan, monkeypatch):
    packed = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 20))
    monkeypatch.setattr("maskc_cache.format._compressed", lambda *_: (1, packed))
    with pytest.raises(PlanCorruptError, match="the zstd frame is not of"):
        decode(encode(small_plan))


def test_raw_images_are_the_same_bytes_in_every_process():
    program = (
        "import hashlib; from maskc import *; from maskc.cache import encode;"
        "heads = MultiHead([Causal(), Local(3, 1) & Documents([0, 9, 20])]);"
        "plan = compile_mask(heads, q_len=20, block_q=8, block_kv=4, block_q_dkv=4);"
        "print(hashlib.sha256(encode(plan, compress=False)).hexdigest())"
    )
    images = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(images) == 1


def test_reading_is_aligned_and_zero_copy(small_plan, tmp_path):
    path = tmp_path / "plan.plan"
    path.write_bytes(encode(small_plan, compress=False))
    for mapped in (False, True):
        plan = read_plan(path, mmap=mapped)
        assert plan == small_plan
        for name, array in plan.arrays():
            assert array.ctypes.data % 64 == 0, name
            assert not array.flags.owndata, name


def test_write_plan_replaces_and_leaves_nothing_behind(small_plan, tmp_path):
    path = tmp_path / "plan.plan"
    path.write_bytes(b"older")
    write_plan(small_plan, path)
    assert read_plan(path) == small_plan
    with pytest.raises(IsADirectoryError):
        write_plan(small_plan, tmp_path)
    assert os.listdir(tmp_path) == ["plan.plan"]  # noqa: PTH208


def test_files_are_small():
    plan = compile_mask(Causal(), q_len=131072, block_q=512, block_kv=512, splash=False)
    assert len(encode(plan)) < 8_000
    assert len(encode(plan, compress=False)) > 100_000
    assert np.array_equal(decode(encode(plan)).fwd.full_idx, plan.fwd.full_idx)
