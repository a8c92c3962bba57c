"""One source, two speeds: loops that run as Python when small and compiled by numba when large.

Importing numba costs more than compiling a small plan does, so it is imported only once the work
is worth it. A module of loops decorates them with `loop`; imported as usual they are plain Python.
`compiled(module)` gives a twin of the module, made from the same file, whose loops numba compiled
(and keeps on disk). What the module imports from other modules of loops, the twin has from their
twins: `from maskc.strip_loops import normalise` and `from maskc import strip_loops` both work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar, cast

__all__ = ["allocating_loop", "compile_all", "compiled", "is_compiled", "loop", "loops_for"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_LARGE = 40_000  # strips and intervals: plain loops take as long for so many as numba to import
_done = 0  # so many have they seen in this process

_loop_modules: set[str] = set()  # that have a function with `loop`
_twins: dict[str, ModuleType] = {}  # by the plain module's name
_digests: dict[str, str] = {}  # of a twin's sources, by the twin's name
_lock = threading.RLock()


def loop(function: _Function) -> _Function:
    """Mark a function of loops over arrays, written in the subset of Python that numba compiles.

    It makes no array and returns none; see `allocating_loop`. So numba need not count references,
    which takes as long as all else in loops that call each other with arrays.
    """
    return _marked(function, _nrt=False)


def allocating_loop(function: _Function) -> _Function:
    """`loop` for a function that makes arrays."""
    return _marked(function)


def _marked(function: _Function, **options: Any) -> _Function:
    digest = _digests.get(function.__module__)
    if digest is None:
        _loop_modules.add(function.__module__)
        return function
    import numba

    # inlined, for a call that hands arrays on takes longer than most of these loops do
    options |= {"nogil": True, "forceinline": True}
    # numba names its file by this, and would not see that a loop called from here has changed
    function.__qualname__ += f"_{digest}"
    try:
        compiled_loop = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation and no home: numba has nowhere to keep it
        compiled_loop = numba.njit(**options)(function)
    return cast("_Function", compiled_loop)


def compile_all() -> None:
    """Load the twins of all modules of loops that this process has, before they are needed."""
    for name in sorted(_loop_modules):
        compiled(sys.modules[name])


def compiled(module: ModuleType) -> ModuleType:
    """The twin of a module of loops, compiled. The first call in a process imports numba."""
    twin = _twins.get(module.__name__)
    if twin is not None:  # most often, and without a lock
        return twin
    with _lock:
        if module.__name__ not in _twins:
            _twins[module.__name__] = _twin(module)
        return _twins[module.__name__]


def is_compiled(module: ModuleType) -> bool:
    """Whether this process has the module's twin already."""
    return module.__name__ in _twins


def _twin(module: ModuleType) -> ModuleType:
    """Execute the module's file again, now compiling; then exchange what it imported.

    The order is free, since numba looks names up only when a loop is called for the first time.
    """
    borrowed = [(name, compiled(owner), what) for name, owner, what in _borrowed(module)]
    name = f"{module.__name__}_compiled"
    spec = importlib.util.spec_from_file_location(name, getattr(module, "__file__", None))
    if spec is None or spec.loader is None:
        raise ImportError(f"no source file for {module.__name__}")
    twin = importlib.util.module_from_spec(spec)
    sys.modules[name] = twin  # numba looks its functions' module up
    _digests[name] = _digest(module)  # from here on `loop` compiles what it marks in the twin
    try:
        spec.loader.exec_module(twin)
    except BaseException:
        del sys.modules[name]
        raise
    for name, owner, what in borrowed:
        setattr(twin, name, getattr(owner, what) if what else owner)
    return twin


def loops_for(module: ModuleType, work: int) -> Any:
    """The module or its twin: compiled loops if numba is there already, or once they repay it.

    That is when plain loops have cost as much as the import does: at worst, twice the least.

    Args:
        module: a module of loops.
        work: how much there is to do, in strips and intervals that a sweep goes over.
    """
    twin = _twins.get(module.__name__)
    if twin is not None:  # most often
        return twin
    return compiled(module) if _twins or _repays(work) else module


def _repays(work: int) -> bool:
    global _done  # noqa: PLW0603  # one count per process
    _done += work
    return _done >= _LARGE


def _borrowed(module: ModuleType) -> Iterator[tuple[str, ModuleType, str | None]]:
    """Names that a module has from other modules of loops: of which, and of what there.

    The last is None where the name is that of the other module itself.
    """
    others = _loop_modules - {module.__name__}
    for name, value in vars(module).items():
        if isinstance(value, ModuleType) and value.__name__ in others:
            yield name, value, None
        elif isinstance(value, FunctionType) and value.__module__ in others:
            yield name, sys.modules[value.__module__], value.__name__


def _digest(module: ModuleType) -> str:
    """8 hex digits that change with the source of any loop that the module's loops can call."""
    files = {__name__: Path(__file__).read_bytes()}  # which says how they are compiled
    waiting = [module]
    while waiting:
        source = waiting.pop()
        if source.__name__ not in files:
            files[source.__name__] = Path(str(source.__file__)).read_bytes()
            waiting.extend(owner for _, owner, _ in _borrowed(source))
    return hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()[:8]
