"""The Python of the GPU page runs."""

from pathlib import Path

import pytest
from gpus import CAN_LOWER, NEEDED
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

PAGE = Path(__file__).parents[3] / "docs" / "gpu.md"


@pytest.mark.skipif(not CAN_LOWER, reason=NEEDED)
def test_the_page_runs():
    examples = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples())
    assert examples
    for example in examples:
        example.evaluate()
