import pytest


@pytest.fixture(scope="module", autouse=True)
def _every_test(quick_compilation):
    """Compiles quickly."""
