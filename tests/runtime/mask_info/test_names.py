"""The page that lists every name, held against the code and the tests."""

import ast
import dataclasses
import re
from pathlib import Path

import maskc_runtime
from maskc_runtime import mask_info

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/mask-info.md").read_text()
ROWS = re.findall(r"^\| (`.*?) \| (.*?) \| `(\w+\.py)::(\w+)` \|$", PAGE, re.MULTILINE)
NAMES = [name for row in ROWS for name in re.findall(r"`(\w+)`", row[0])]


def test_the_table_is_read():
    assert len(ROWS) == PAGE.count("::test_") > 40
    assert len(NAMES) == len(set(NAMES))


def test_every_name_exists():
    fields = {field.name for field in dataclasses.fields(mask_info.MaskInfo)}
    for name in NAMES:
        found = name in fields or hasattr(mask_info, name) or hasattr(mask_info.MaskInfo, name)
        assert found, name


def test_every_public_name_is_listed():
    members = {name for name in dir(mask_info.MaskInfo) if not name.startswith("_")}
    fields = {field.name for field in dataclasses.fields(mask_info.MaskInfo)}
    public = set(mask_info.__all__) | members | (fields - {"_term", "_derived"})
    assert public - {"tree_flatten_with_keys"} <= set(NAMES)
    assert set(mask_info.__all__) <= set(maskc_runtime.__all__)


def test_every_test_exists():
    folder = Path(__file__).parent
    tests = {}
    for path in folder.glob("test_*.py"):
        functions = (node for node in ast.parse(path.read_text()).body if hasattr(node, "name"))
        tests[path.name] = {function.name for function in functions}
    for _, status, file, test in ROWS:
        assert test in tests[file], (file, test)
        assert status.split()[0].strip(":,") in {"same", "mended", "new"}, status
