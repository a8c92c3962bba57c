"""Files of released versions, read for ever; and a second reader, written from the page.

python tests/cache/test_golden.py    adds the files of a new version; never change those there
"""

import json
import struct
import sys
from pathlib import Path

import pytest
from plain_reader import Reader

from maskc import Causal, Documents, Local, MultiHead, Queries, Random, compile_mask
from maskc_cache import decode, encode, read_plan, verify
from maskc_cache.diagnose import diagnose, stored_sections
from maskc_cache.header import MAJOR, MINOR

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("v*/*.plan"))


def plans():
    """What the files of a new version hold: every section, sharing, codec and dtype."""
    heads = MultiHead([Causal(), Local(3, 1) & Documents([0, 9, 20])])
    small = {"q_len": 20, "block_q": 8, "block_kv": 4}
    shards = {"heads": 4, "head_shards": 2, "q_seq_shards": 2}
    blocks = {"block_q": 8, "block_kv": 8}
    return {
        "two-heads": (compile_mask(heads, **small, block_q_dkv=4), False),
        "dq-of-its-own": (compile_mask(Causal(), q_len=30, **blocks, block_q_dq=4), False),
        "ragged": (compile_mask(Causal(), q_len=20, kv_len=13, **blocks), False),
        "sharded": (compile_mask(Local(9, 0), q_len=64, **blocks, **shards), False),
        "row-bounds": (compile_mask(heads, **small, row_bounds=True), False),
        "row-bounds-of-queries": (
            compile_mask(Queries([0, 2, 4, 9]) & Causal(), **small, row_bounds=True),
            True,
        ),
        "empty": (compile_mask(Causal() - Causal(), q_len=5), False),
        "random": (compile_mask(Random(0.5), q_len=48, **blocks), True),
        "causal": (compile_mask(Causal(), q_len=4096, block_q=16, block_kv=16), True),
        "documents": (
            compile_mask(
                Causal() & Documents([0, 1600, 2900, 4096]), q_len=4096, block_q=16, block_kv=16
            ),
            True,
        ),
        "window": (compile_mask(Local(99, 0), q_len=2048, block_q=16, block_kv=16), True),
    }


def test_there_are_files_of_this_version():
    assert {path.parent.name for path in FILES} >= {f"v{MAJOR}.{MINOR}"}
    assert sum(path.stat().st_size for path in FILES) < 100_000


def test_they_show_every_codec_and_dtype():
    rows = [row for path in FILES for row in stored_sections(path)]
    assert {row[2] for row in rows} == {"raw", "zstd", "delta", "runs", "delta runs", "grid"}
    assert {row[1][:2] for row in rows} == {"i1", "i2", "i4", "u1"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_file_is_read(path):
    expected = json.loads((path.parent / "content.json").read_text())[path.stem]
    plan = read_plan(path)
    verify(plan)
    assert diagnose(path) == []
    assert {"key": plan.key, "digest": plan.digest} == expected
    assert decode(encode(plan)) == plan


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_page_is_enough_to_read_one(path):
    reader, plan = Reader(path.read_bytes()), read_plan(path)
    assert reader.digest() == reader.meta["digest"] == plan.digest
    for name, array in plan.arrays():
        dtype, shape, values = reader.arrays[name]
        assert (dtype, tuple(shape)) == (array.dtype.str[1:], array.shape)
        assert values == array.ravel().tolist(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_raw_files_are_still_written_so(path):
    """Same plan, same bytes; but for the version of the compiler, which stands in the header."""
    plan, image = read_plan(path), path.read_bytes()
    if {row[2] for row in stored_sections(path)} == {"raw"}:
        assert struct.unpack_from("<HH", image, 8) == (MAJOR, MINOR)
        assert encode(plan, compress=False) == image


def main():
    """Write the files of the version that the code is at."""
    folder = GOLDEN / f"v{MAJOR}.{MINOR}"
    folder.mkdir(parents=True)
    content = {}
    for name, (plan, compress) in plans().items():
        (folder / f"{name}.plan").write_bytes(encode(plan, compress=compress))
        content[name] = {"key": plan.key, "digest": plan.digest}
    (folder / "content.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
