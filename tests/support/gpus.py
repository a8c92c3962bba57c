"""GPUs that are not here: programs are lowered for them all the same."""

import importlib.util

import jax

CAN_LOWER = all(
    importlib.util.find_spec(name) for name in ("triton", "jax_triton", "jax_cuda13_plugin")
)
NEEDED = (
    "lowering for CUDA needs pip install 'maskc[gpu]' and "
    "pip install --no-deps jax-cuda13-plugin==JAXLIB_VERSION"
)


def text_for_cuda(function, *args):
    """The program in StableHLO."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
