"""Which kernels run where: one line per backend, and how one is chosen for a call.

`jax.lax.platform_dependent` traces every branch that it is given, and picks one when the program is
lowered. So a backend is offered only if a device of its platform is in sight, or if the caller
names it, as for `jax.export` on a machine that has no such device; and only if it accepts the call.
Whatever is left, the XLA kernels run anywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax

from maskc_kernels.errors import KernelUnavailableError
from maskc_kernels.tables import AttentionTables
from maskc_runtime.errors import BackendError

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendChoice",
    "Call",
    "backend_refusals",
    "run",
    "smallest_block",
]

BackendChoice: TypeAlias = str | Sequence[str] | None
"""The name of the one backend to use; names to choose from by platform; or None."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where kernels are and where they run.

    Attributes:
        name: what users call it.
        platforms: that it runs on, as `jax.lax.platform_dependent` names them; none for all.
        module: has `block_sparse_attention` and `refusal`; imported when it is first needed.
        install: what to install if that module cannot be imported.
        block: the blocks that it takes are multiples of this.
    """

    name: str
    platforms: tuple[str, ...]
    module: str
    install: str = "maskc"
    block: int = 1


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("tpu", ("tpu",), "maskc_kernels.tpu", block=128),
        Backend("gpu", ("cuda",), "maskc_kernels.gpu", "maskc[gpu]", block=16),
        Backend("xla", (), "maskc_kernels.xla"),
    )
}
"""By name, in the order of preference."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of attention, checked and broadcast, in the form that every backend takes.

    Attributes:
        operands: q, k, v and sm_scale.
        tables: of the plan.
        arrays: the options that are arrays, by name; those not used are left out.
        static: the options that are not.
        configs: settings by backend.
    """

    operands: tuple[jax.Array, ...]
    tables: AttentionTables
    arrays: dict[str, jax.Array]
    static: dict[str, Any]
    configs: dict[str, Any] = field(default_factory=dict)

    def options(self, backend: str) -> dict[str, Any]:
        """What is static for a backend."""
        own = self.configs.get(backend)
        return self.static if own is None else self.static | {"config": own}


def run(call: Call, backend: BackendChoice) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp of a call.

    Args:
        call: what to compute.
        backend: which kernels may.

    Raises:
        BackendError: the one that was named cannot run this call; or there is none of that name.
    """
    if isinstance(backend, str):
        if (problem := _problem(_named(backend), call)) is not None:
            raise BackendError(f"backend={backend!r} cannot run this call: {problem}")
        return _branch(backend, call)(*_operands(call))
    names = _offered(backend)
    branches = {
        platform: _branch(name, call)
        for name in names
        for platform in BACKENDS[name].platforms
        if _problem(BACKENDS[name], call) is None
    }
    anywhere = _branch("xla", call)
    if not branches:
        return anywhere(*_operands(call))
    result: tuple[jax.Array, jax.Array] = jax.lax.platform_dependent(
        *_operands(call), default=anywhere, **branches
    )
    return result


def smallest_block(backend: BackendChoice) -> int:
    """The smallest block that each of the backends takes.

    Args:
        backend: which kernels may run.

    Raises:
        BackendError: there is none of that name.
    """
    return max((BACKENDS[name].block for name in _offered(backend)), default=1)


def backend_refusals(call: Call) -> dict[str, str | None]:
    """For each backend why it cannot run a call, or None if it can."""
    return {name: _problem(backend, call) for name, backend in BACKENDS.items()}


def _offered(backend: BackendChoice) -> list[str]:
    if backend is None:
        return _in_sight()
    return [_named(name).name for name in ([backend] if isinstance(backend, str) else backend)]


def _in_sight() -> list[str]:
    """The backends whose platform this process computes on."""
    platform = jax.default_backend()
    aliases = {"gpu": ("cuda", "rocm")}.get(platform, (platform,))
    return [name for name, entry in BACKENDS.items() if set(entry.platforms) & set(aliases)]


def _named(name: str) -> Backend:
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


def _operands(call: Call) -> tuple[Any, ...]:
    return *call.operands, call.tables, call.arrays


def _problem(backend: Backend, call: Call) -> str | None:
    """Why it cannot run the call; also if it cannot be imported here."""
    try:
        module = importlib.import_module(backend.module)
    except ImportError as error:
        return f"{error}; install it with: pip install '{backend.install}'"
    problem: str | None = module.refusal(
        *call.operands[:3], call.tables, **call.arrays, **call.options(backend.name)
    )
    return problem


def _branch(name: str, call: Call) -> Callable[..., tuple[jax.Array, jax.Array]]:
    kernels = importlib.import_module(BACKENDS[name].module).block_sparse_attention
    static = call.options(name)

    def branch(*operands: Any) -> tuple[jax.Array, jax.Array]:
        *arrays, options = operands
        try:
            result: tuple[jax.Array, jax.Array] = kernels(*arrays, **options, **static)
        except KernelUnavailableError as error:
            raise BackendError(f"backend={name!r} cannot be used here: {error}") from error
        return result

    return branch
