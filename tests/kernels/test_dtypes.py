import jax.numpy as jnp
import numpy as np
import pytest

from maskc_kernels.dtypes import INPUT_DTYPES, accumulator


@pytest.mark.parametrize("dtype", INPUT_DTYPES)
def test_sums_are_kept_in_float32_or_wider(dtype):
    expected = "float64" if dtype == "float64" else "float32"
    assert accumulator(np.zeros(1, np.float16), np.zeros(1, jnp.dtype(dtype))) == expected
