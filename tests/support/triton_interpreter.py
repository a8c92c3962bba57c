"""The GPU kernels on the CPU: Triton's interpreter under `jax.jit`, its faults repaired.

Repaired in Triton 3.7 to 3.9: `tl.dot` multiplies the bit patterns of bfloat16; float32 is
truncated to bfloat16, not rounded; every call of a device function patches `triton.language`
again and never restores it, so that nothing compiles afterwards; a wild pointer is a crash of the
process. Elementwise arithmetic on bfloat16 stays wrong: kernels widen first.
"""

import contextlib
import functools
import threading
import types
import warnings

import jax
import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

_LOCK = threading.RLock()
_FUNCTIONS = {}
_EVERYTHING = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})  # what is patched


def call(what):
    """A launcher for `maskc_kernels.gpu.launch.using`."""
    assert what.warps in {1, 2, 4, 8}
    assert what.stages >= 1

    def run(*arrays):
        inputs = [np.array(x) for x in arrays]
        outputs = [filler(x.shape, x.dtype) for x in what.out_type]
        interpret(what.kernel, (*inputs, *outputs), (what.programs,), what.constants)
        return tuple(outputs)

    return jax.pure_callback(run, what.out_type, *what.operands)


def filler(shape, dtype):
    """What no kernel would write: an output that is left untouched shows."""
    return np.full(shape, 12345, dtype)


def interpret(kernel, arrays, grid, constants):
    """Run a kernel over numpy arrays, in place."""
    with _LOCK, _repaired(arrays), warnings.catch_warnings():
        # numpy warns of infinities and NaNs; a GPU computes with them.
        warnings.simplefilter("ignore", RuntimeWarning)
        function = interpreter.InterpretedFunction(kernel.fn)
        function[grid](*map(_Buffer, arrays), **constants)


class _Buffer:
    """As much of a torch tensor as the interpreter asks for, over a numpy array."""

    def __init__(self, array):
        assert array.flags.c_contiguous
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def copy_(self, other):
        assert other is self

    def new_empty(self, *_args, **_kwargs):
        return self

    def set_(self, *_args):
        return self

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)


@contextlib.contextmanager
def _repaired(arrays):
    builder = interpreter.InterpreterBuilder
    guard, original_patch = _Guard(arrays), interpreter._patch_lang
    changes = [
        (builder, "create_dot", _dot),
        (builder, "cast_impl", functools.partialmethod(_convert, builder.cast_impl)),
        (builder, "create_fp_to_fp", functools.partialmethod(_convert, builder.create_fp_to_fp)),
        (builder, "create_masked_load", guard.wrap(builder.create_masked_load)),
        (builder, "create_masked_store", guard.wrap(builder.create_masked_store)),
        (interpreter, "_patch_lang", lambda _function: original_patch(_EVERYTHING)),
        (JITFunction, "__call__", _call_device_function),
    ]
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def _call_device_function(function, *args, **kwargs):
    # By its Python function: the hash of a JITFunction reads all sources that it depends on.
    if function.fn not in _FUNCTIONS:
        _FUNCTIONS[function.fn] = interpreter.InterpretedFunction(function.fn).rewrite()
    return _FUNCTIONS[function.fn](*args, **kwargs)


def _widened(handle):
    data = handle.data
    if handle.dtype.scalar == tl.bfloat16:
        data = data.view(ml_dtypes.bfloat16)
    return data.astype(np.float32)


def _dot(_builder, a, b, d, _precision, _imprecise):
    product = np.matmul(_widened(a), _widened(b)) + d.data
    return interpreter.TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)


def _convert(builder, original, src, dst_type, *rest):
    if (src.dtype.scalar, dst_type.scalar) == (tl.float32, tl.bfloat16):
        rounded = src.data.astype(ml_dtypes.bfloat16).view(np.uint16)
        return interpreter.TensorHandle(rounded, tl.bfloat16)
    return original(builder, src, dst_type, *rest)


class _Guard:
    """Every address that a load or store touches must lie in an operand."""

    def __init__(self, arrays):
        self.starts = np.array([x.ctypes.data for x in arrays], np.uint64)
        self.stops = self.starts + np.array([x.nbytes for x in arrays], np.uint64)

    def wrap(self, original):
        def checked(builder, ptrs, *rest):
            # A load has its mask behind the pointers, a store behind the values.
            mask = rest[0] if original.__name__ == "create_masked_load" else rest[1]
            used = ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)]
            if used.size:
                low, high = used.min(), used.max()
                if not ((self.starts <= low) & (high < self.stops)).any():
                    raise IndexError(f"{original.__name__}: an address outside of every operand")
            return original(builder, ptrs, *rest)

        return checked
