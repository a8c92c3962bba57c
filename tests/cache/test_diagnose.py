"""Which bytes of which section are wrong."""

import dataclasses
import os

import msgpack
import pytest
import xxhash
from faults.mutants import header_of, sealed

from maskc_cache import encode
from maskc_cache.diagnose import Finding, diagnose, stored_sections


@pytest.fixture
def image(small_plan):
    return bytearray(encode(small_plan, compress=False))


@pytest.fixture
def found(tmp_path):
    def of(content):
        (tmp_path / "x.plan").write_bytes(content)
        return diagnose(tmp_path / "x.plan")

    return of


def test_a_good_file_has_no_findings(plans, found):
    for plan in plans.values():
        assert found(encode(plan)) == []


def test_every_damaged_section_is_named(image, found):
    rows = header_of(image)["sections"]
    chosen = [rows[2], rows[7], rows[-1]]
    for row in chosen:
        image[row[4] + row[5] // 2] ^= 4
    findings = found(image)
    assert findings == [
        Finding(row[0], row[4], row[4] + row[5] - 1, "the checksum does not hold") for row in chosen
    ]
    assert str(findings[0]) == (
        f"{chosen[0][0]}, bytes {chosen[0][4]} to {chosen[0][4] + chosen[0][5] - 1}: "
        "the checksum does not hold"
    )


def test_each_byte_of_a_file_belongs_to_a_finding(image, found):
    """Whichever byte is wrong, the range that is named holds it."""
    for at in range(0, len(image), 7):
        image[at] ^= 0x10
        (finding,) = found(image)
        assert finding.first <= at <= finding.last, (at, finding)
        image[at] ^= 0x10


@pytest.mark.parametrize(
    ("change", "section", "problem"),
    [
        (lambda b: b[:-10], "file", "expected a file of"),
        (lambda b: b + b"more", "file", "expected a file of"),
        (lambda b: b[:30], "file", "truncated inside the preamble"),
        (lambda _: b"", "file", "not a plan file"),
        (lambda _: b"hello" * 20, "file", "not a plan file"),
        (lambda b: sealed(bytes(b), major=9), "file", "format 9.0"),
    ],
)
def test_what_concerns_the_whole_file(image, found, change, section, problem):
    (finding,) = found(change(image))
    assert finding.section == section
    assert problem in finding.problem


def test_the_missing_and_the_surplus_bytes_are_named(image, found):
    size = len(image)
    assert [(f.first, f.last) for f in found(image[:-10])] == [(size - 10, size - 1)]
    assert [(f.first, f.last) for f in found(image + b"more")] == [(size, size + 3)]


def test_an_index_that_points_outside_is_found_though_checksums_hold(image, found):
    document = header_of(image)
    row = next(row for row in document["sections"] if row[0] == "fwd.full_idx")
    image[row[4]] = 100
    row[6] = xxhash.xxh3_128_digest(bytes(image[row[4] : row[4] + row[5]]))
    (finding,) = found(sealed(bytes(image), header=msgpack.packb(document)))
    assert (finding.section, finding.first) == ("fwd.full_idx", row[4])
    assert "expected values from 0 to 4, got 100" in finding.problem


def test_an_invariant_that_does_not_hold_is_found(small_plan, found):
    """Nothing points outside, and the plan means nothing all the same."""
    blocks = small_plan.fwd.partial_blocks.copy()
    blocks[0] = 0
    lists = dataclasses.replace(small_plan.fwd, partial_blocks=blocks)
    broken = dataclasses.replace(small_plan, fwd=lists, dq=lists)
    (finding,) = found(encode(broken))
    assert finding.section == "fwd.partial_blocks"
    assert "block 0 is not partial" in finding.problem


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert diagnose(tmp_path / "fifo")[0].problem == "not a regular file"
    with pytest.raises(FileNotFoundError):
        diagnose(tmp_path / "none")


def test_sections_are_listed(small_plan, tmp_path):
    path = tmp_path / "x.plan"
    path.write_bytes(encode(small_plan, compress=False))
    rows = stored_sections(path)
    assert [row[0] for row in rows] == sorted(name for name, _ in small_plan.arrays())
    assert {row[2] for row in rows} == {"raw"}
    assert all(stored == decoded for *_, stored, decoded in rows)
    assert sum(row[4] for row in rows) == sum(a.nbytes for _, a in small_plan.arrays())
