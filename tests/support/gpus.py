"""GPUs that are not here: programs are traced and lowered as if for them."""

import importlib.util

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

CAN_LOWER = all(
    importlib.util.find_spec(name) for name in ("triton", "jax_triton", "jax_cuda13_plugin")
)
NEEDED = (
    "lowering for CUDA needs pip install 'maskc[gpu]' on Python >= 3.12, and "
    "pip install --no-deps jax-cuda13-plugin==JAXLIB_VERSION"
)


def on(kind):
    """A context in which programs are for this kind of device, as in "NVIDIA H100"."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def text_for_cuda(function, *args):
    """The program in StableHLO."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
