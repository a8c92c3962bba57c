"""From what a program calls a plan (a file, a key, a spec) to a `PlanView`. Pure host work."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

from maskc_cache.format import read_plan
from maskc_cache.plan import Plan
from maskc_cache.store import Store
from maskc_runtime.errors import MaskcError, PlanLookupError, PlanReferenceError
from maskc_runtime.view import PlanView

__all__ = ["PlanRef", "load_plan"]

PlanRef: TypeAlias = str | os.PathLike[str] | tuple[str | os.PathLike[str], str] | Plan | PlanView
"""Whatever names a plan; see `load_plan`."""

_KEY_DIGITS = 32
_PREFIX_DIGITS = 6  # 16 million prefixes: enough to be unique in one person's cache
_FORMS = (
    "a path of a .plan file, a key (32 hex digits, or 6 and more that begin only one), "
    "(spec path, plan name), a Plan, or a PlanView"
)


def load_plan(
    ref: PlanRef, *, cache: str | os.PathLike[str] | Store | None = None, mmap: bool = False
) -> PlanView:
    """Load a plan. Works outside `jax.jit` and, at trace time, inside it.

    Load once and keep the view: every call reads and verifies the file again.

    Args:
        ref: one of
            the path of a .plan file (a str with a separator or ending in .plan, or a PathLike);
            a key: 32 hex digits, or at least 6 that no other plan in the cache begins with;
            (spec path, plan name), compiled if the cache does not have it;
            a `maskc_cache` Plan; a PlanView, returned as it is.
        cache: the cache directory or its Store; None is the default one.
        mmap: map the file into memory in place of reading it; for paths and keys.

    Raises:
        PlanLookupError: no plan of this name, or several.
        PlanReferenceError: `ref` is of no such type.
        PlanError: the file is not a plan, or damaged.
        SpecError: the spec is wrong, or has no such plan.
    """
    match ref:
        case PlanView():
            return ref
        case Plan():
            return PlanView.from_plan(ref)
        case (str() | os.PathLike() as spec, str(name)) if isinstance(ref, tuple):
            return PlanView.from_plan(_from_spec(Path(spec), name, _store(cache)))
        case os.PathLike():
            return PlanView.from_plan(_from_path(Path(ref), mmap=mmap))
        case str():
            return PlanView.from_plan(_from_text(ref, cache, mmap=mmap))
    raise PlanReferenceError(f"plan: expected {_FORMS}; got {_describe(ref)}")


def _store(cache: str | os.PathLike[str] | Store | None) -> Store:
    return cache if isinstance(cache, Store) else Store(None if cache is None else Path(cache))


def _describe(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _from_text(ref: str, cache: str | os.PathLike[str] | Store | None, *, mmap: bool) -> Plan:
    if "/" in ref or os.sep in ref or Path(ref).suffix in {".plan", ".yaml", ".yml"}:
        return _from_path(Path(ref), mmap=mmap)
    if re.fullmatch(rf"[0-9a-fA-F]{{{_PREFIX_DIGITS},{_KEY_DIGITS}}}", ref):
        return _from_key(ref.lower(), _store(cache), mmap=mmap)
    raise PlanLookupError(f"plan: {ref!r} is neither a path nor a key; expected {_FORMS}")


def _from_path(path: Path, *, mmap: bool) -> Plan:
    if path.suffix in {".yaml", ".yml"}:
        raise PlanLookupError(
            f"plan: {path} is a spec, not a plan; name one of its plans, "
            f"load_plan(({str(path)!r}, NAME)){_names_in(path)}"
        )
    try:
        return read_plan(path, mmap=mmap)
    except FileNotFoundError as error:
        raise PlanLookupError(
            f"plan: no file {path.absolute()}; write one with: maskc compile SPEC -o {path.parent}"
        ) from error
    except OSError as error:
        raise PlanLookupError(f"plan: cannot read {path.absolute()}: {error.strerror}") from error


def _names_in(spec: Path) -> str:
    from maskc.spec import load_spec  # the compiler is not needed to load a plan

    try:
        return f"; it has {', '.join(map(repr, load_spec(spec)))}"
    except (MaskcError, OSError):
        return ""  # what is wrong with the spec is not what was asked


def _from_key(key: str, store: Store, *, mmap: bool) -> Plan:
    keys = [key] if len(key) == _KEY_DIGITS else store.find(key)
    if len(keys) > 1:
        shown = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
        raise PlanLookupError(f"plan: {len(keys)} keys begin with {key}: {shown}; give more digits")
    plan = store.get(keys[0], mmap=mmap) if keys else None
    if plan is None:
        raise PlanLookupError(
            f"plan: no plan {key} in the cache at {store.root}; compile it with: maskc compile "
            "SPEC, or name the spec, load_plan((SPEC, NAME))"
        )
    return plan


def _from_spec(spec: Path, name: str, store: Store) -> Plan:
    from maskc.compile import compile_cached  # the compiler is not needed to load a plan
    from maskc.spec import load_spec

    if not spec.exists():
        raise PlanLookupError(f"plan: no spec file {spec.absolute()}")
    plan, _ = compile_cached(load_spec(spec, name)[name], store)
    return plan
