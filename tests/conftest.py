"""Settings that every test shares.

Property tests draw 100 examples each; `pytest --hypothesis-profile=sweep` draws 5,000, and
`--hypothesis-profile=fuzz` 100,000 (name the tests that are to).
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from maskc import jit

os.environ["JAX_PLATFORMS"] = "cpu"  # the same numbers on machines that have more

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=100, **_COMMON)
settings.register_profile("sweep", max_examples=5000, **_COMMON)
settings.register_profile("fuzz", max_examples=100_000, database=None, **_COMMON)
settings.load_profile("default")


@pytest.fixture(scope="module")
def compiled_loops():
    """All loops compiled, however small the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "_repays", lambda _work: True)
        yield


@pytest.fixture(scope="module", params=["plain", "compiled"])
def loops(request):
    """Every test once with plain loops and once with compiled ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "_repays", lambda _work: request.param == "compiled")
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA at its lowest level: a test's program runs a few times, and compiling it is the cost."""
    import jax  # most tests need none

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def jax_option():
    """Set a JAX option for one test."""
    import jax  # most tests need none

    before = {}

    def change(name, value):
        before.setdefault(name, jax.config.values[name])
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)
