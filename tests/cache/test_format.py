"""The file format: round trips, and no byte that can change unnoticed."""

import dataclasses
import os
import subprocess
import sys

import msgpack
import numpy as np
import pytest
import xxhash
import zstandard
from faults.mutants import header_of, sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc import Causal, Documents, Local, compile_mask, compile_request, strategies
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
@settings(max_examples=30)
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
        section[6] = xxhash.xxh3_128_digest(content)
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
    document["sections"][0][2] = [2**40]
    with pytest.raises(PlanError, match="over the limit of 2,147,483,648"):
        decode(sealed(image, header=msgpack.packb(document)))
    with pytest.raises(PlanError, match=r"over the limit of 100; .* pass a larger max_decoded"):
        decode(image, max_decoded=100)


def edit(*path, value):
    return lambda document: mutated(document, path, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: msgpack.packb({"sections": d["sections"], "meta": d["meta"]}),
            "not in canonical form",
        ),
        (
            lambda d: d | {"meta": dict(reversed(d["meta"].items()))},
            "not in canonical form",
        ),
        (lambda d: msgpack.packb(d) + b"\0", "not msgpack"),
        (lambda d: {**d, b"more": 1}, "lacks 'meta' or 'sections'"),
        (lambda d: msgpack.packb({b"a": 1, "meta": d["meta"]}), "lacks 'meta' or 'sections'"),
        (lambda d: d | {"meta": {**d["meta"], b"key": 1}}, "not a map of names"),
        (lambda d: d | {"sections": {}}, "sections are not a list"),
        (lambda _: msgpack.packb([1, 2]), "lacks 'meta' or 'sections'"),
        (lambda _: b"\x91" * 2000 + b"\xc0", "not msgpack"),
        (lambda _: b"\xdf\xff\xff\xff\xff", "not msgpack"),
        (edit("meta", "zebra", value=1), "a field that format 1.0 lacks"),
        (edit("meta", "q_len", value=True), "missing or of a wrong type"),
        (edit("meta", "q_len", value=2**31), "a number out of range"),
        (edit("meta", "blocks", value=[[8, 4]] * 2), "expected three pairs"),
        (edit("meta", "blocks", value=[[8, 4], [8, 4], [8, 0]]), "a number out of range"),
        (edit("meta", "key", value="0" * 32), "not the key of meta.canonical"),
        (edit("meta", "digest", value="0" * 32), "meta.digest is 0+, the content's"),
        (edit("meta", "row_intervals", value=[1]), "meta.row_intervals: expected two numbers or"),
        (edit("meta", "row_intervals", value=[1, -1]), "row_intervals: a number out of range"),
        (edit("meta", "row_intervals", value=[1, True]), "row_intervals: a number out of range"),
        (edit("meta", "row_intervals", value=[1, 3]), "row_bounds.kv: a section that this plan"),
        (edit("meta", "row_intervals", value=[0, 1]), "meta.digest is"),
        (edit("sections", 0, 1, value="f4"), "dtype 'f4' or codec 0, which this maskc lacks"),
        (edit("sections", 0, 2, value=[-1]), r"\[-1\] is not a shape"),
        (edit("sections", 0, 2, value=[1, 1, 1, 1]), "is not a shape"),
        (edit("sections", 0, 2, value=[1]), r"dkv.full_idx \(.*\): expected 1 bytes, got \d"),
        (edit("sections", 0, 2, value=[0, 2**63, 2**63]), "no shape of an empty array"),
        (edit("sections", 0, 4, value=0), "does not lie where sections must"),
        (edit("sections", 0, 5, value=2**40), "does not lie where sections must"),
        (edit("sections", 0, 6, value=bytes(16)), "the checksum does not hold"),
        (edit("sections", 0, value=["a", "i1"]), "a row of wrong types"),
        (edit("sections", 0, 0, value="dlv.full_idx"), "sections are not in name order"),
        (edit("sections", 0, 0, value="aaaaaaaaaaaa"), "dkv.full_idx: the section is missing"),
        (lambda d: d | {"sections": d["sections"][:-1]}, r"expected \d+ sections, got \d+"),
    ],
)
def test_forged_headers_are_refused_by_name(small_plan, change, message):
    image = encode(small_plan, compress=False)
    document = change(header_of(image))
    header = document if isinstance(document, bytes) else msgpack.packb(document)
    with pytest.raises(PlanError, match=message):
        decode(sealed(image, header=header))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
    | st.binary(max_size=4)
    | st.sampled_from(["meta", "sections", "blocks", "key", "i4", "fwd.full_idx"]),
    lambda inner: st.lists(inner, max_size=8)
    | st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), inner, max_size=4)
    | st.fixed_dictionaries({"meta": inner, "sections": inner}),
    max_leaves=20,
)  # fmt: skip


@given(ANYTHING.map(msgpack.packb) | st.binary(max_size=40))
def test_any_header_gives_a_plan_error(small_plan, header):
    with pytest.raises(PlanError, match="<bytes>: "):
        decode(sealed(encode(small_plan, compress=False), header=header))


def test_headers_of_every_length_settle(small_plan):
    """Offsets count from the end of the header that holds them, and take 1 to 5 bytes in it."""
    for length in (*range(0, 300, 7), *range(64_000, 65_600, 29)):
        plan = dataclasses.replace(small_plan, canonical=bytes(length))
        assert decode(encode(plan)).canonical == plan.canonical
    with pytest.raises(PlanError, match=r"needs a header of .* over 262,144"):
        encode(dataclasses.replace(small_plan, canonical=bytes(1 << 18)))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (lambda c, _: c.compress(bytes(1 << 20)), r"the zstd frame is not of \d+ bytes"),
        (lambda c, data: c.compress(data) + b"\0", "not a zstd frame: .*unused data"),
        (lambda c, data: c.compress(data)[:-1], "not a zstd frame: "),
        (lambda _c, _d: b"\x50\x2a\x4d\x18" + bytes(8), "the zstd frame is not of"),
        (
            lambda _, data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
            "the zstd frame is not of",
        ),
    ],
    ids=["bomb", "trailing", "truncated", "skippable", "no size"],
)
def test_a_zstd_frame_is_of_the_size_it_must_have(small_plan, monkeypatch, frame, message):
    compressor = zstandard.ZstdCompressor()
    monkeypatch.setattr(
        "maskc_cache.format.packed",
        lambda data, is_bits: (1, frame(compressor, data.tobytes() or b"0")),  # noqa: ARG005
    )
    with pytest.raises(PlanCorruptError, match=message):
        decode(encode(small_plan))


def test_raw_images_are_the_same_bytes_in_every_process():
    program = (
        "import hashlib; from maskc import *; from maskc.cache import encode;"
        "heads = MultiHead([Causal(), Local(3, 1) & Documents([0, 9, 20])]);"
        "plan = compile_mask(heads, q_len=20, block_q=8, block_kv=4, block_q_dkv=4,"
        "    row_bounds=True);"
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


@pytest.mark.parametrize(
    ("mask", "options", "limit"),
    [
        (Causal(), {"splash": False}, 2_400),
        (Causal(), {}, 4_800),
        (Local(4096, 0), {}, 3_600),
        (Causal(), {"row_bounds": True, "splash": False}, 2_700),
    ],
)
def test_files_are_small(mask, options, limit):
    plan = compile_mask(mask, q_len=131072, block_q=512, block_kv=512, **options)
    assert len(encode(plan)) < limit
    assert len(encode(plan, compress=False)) > 10 * limit
    assert decode(encode(plan)) == plan


def test_a_million_tokens_of_documents_are_half_a_megabyte():
    ends = np.sort(np.random.default_rng(0).choice(np.arange(1, 1 << 20), 255, replace=False))
    mask = Causal() & Documents([0, *ends.tolist(), 1 << 20])
    plan = compile_mask(mask, q_len=1 << 20, block_q=1024, block_kv=1024)
    image = encode(plan)
    assert len(image) < 500_000
    assert decode(image) == plan


def test_a_directory_is_refused_and_leaks_nothing(tmp_path):
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for _ in range(3):
        with pytest.raises(IsADirectoryError, match="directory"):
            read_plan(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
