import pytest

from maskc import jit


@pytest.fixture(autouse=True, scope="package")
def _plain_loops():
    """These masks are small: loops in Python, which need not be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "_repays", lambda _work: False)
        yield
