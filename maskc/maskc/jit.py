"""One source, two speeds: loops that run as Python when small and compiled by numba when large.

Importing numba costs more than compiling a small plan does, so it is imported only once the work
is worth it. A module of loops decorates them with `loop`; imported as usual they are plain Python.
`compiled(module)` gives a twin of the module, made from the same file, whose loops numba compiled
(and keeps on disk).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

__all__ = ["compiled", "is_compiled", "loop", "loops_for"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compiling = False
_LARGE = 2000  # rows, runs and the like from which compiled loops repay importing numba


def loop(function: _Function) -> _Function:
    """Mark a function of loops over arrays, written in the subset of Python that numba compiles."""
    if not _compiling:
        return function
    import numba

    return cast("_Function", numba.njit(cache=True, nogil=True)(function))


def compiled(module: ModuleType) -> ModuleType:
    """The twin of a module of loops, compiled. The first call in a process imports numba."""
    name = _twin_name(module)
    if name not in sys.modules:
        _load_twin(name, module)
    return sys.modules[name]


def _load_twin(name: str, module: ModuleType) -> None:
    global _compiling  # noqa: PLW0603  # `loop` runs while the twin's file is executed
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    if spec is None or spec.loader is None:
        raise ImportError(f"no source file for {module.__name__}")
    twin = importlib.util.module_from_spec(spec)
    sys.modules[name] = twin  # numba looks its functions' module up
    _compiling = True
    try:
        spec.loader.exec_module(twin)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _compiling = False


def loops_for(module: ModuleType, work: int) -> Any:
    """The module or its twin: compiled loops if numba is there already, or if the work is worth it.

    Args:
        module: a module of loops.
        work: how often its outer loops turn.
    """
    return compiled(module) if work >= _LARGE or "numba" in sys.modules else module


def is_compiled(module: ModuleType) -> bool:
    """Whether this process has the module's twin already."""
    return _twin_name(module) in sys.modules


def _twin_name(module: ModuleType) -> str:
    return f"{module.__name__}_compiled"
