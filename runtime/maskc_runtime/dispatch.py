"""Attention under a plan: the call that everything else comes down to."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, overload

import jax
import jax.numpy as jnp

from maskc_kernels.dtypes import accumulator
from maskc_runtime.arguments import (
    SegmentIdsArgument,
    check_dtypes,
    check_plan,
    check_shapes,
    option_arrays,
    scalar,
    soft_cap,
)
from maskc_runtime.backends import BackendChoice, Call, run
from maskc_runtime.errors import BackendError
from maskc_runtime.plans import PlanRef, load_plan
from maskc_runtime.traced import TracedPlan

__all__ = ["attend", "attention"]

Array = jax.typing.ArrayLike
Tree = TypeVar("Tree")


@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    plan: PlanRef | TracedPlan,
    *,
    sm_scale: float | Array | None = None,
    segment_ids: SegmentIdsArgument = None,
    logits_soft_cap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    return_lse: Literal[False] = False,
    backend: BackendChoice = None,
    config: Any = None,
) -> jax.Array: ...
@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    plan: PlanRef | TracedPlan,
    *,
    sm_scale: float | Array | None = None,
    segment_ids: SegmentIdsArgument = None,
    logits_soft_cap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    return_lse: Literal[True],
    backend: BackendChoice = None,
    config: Any = None,
) -> tuple[jax.Array, jax.Array]: ...
def attention(
    q: Array,
    k: Array,
    v: Array,
    plan: PlanRef | TracedPlan,
    *,
    sm_scale: float | Array | None = None,
    segment_ids: SegmentIdsArgument = None,
    logits_soft_cap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    return_lse: bool = False,
    backend: BackendChoice = None,
    config: Any = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Softmax attention that computes only the blocks that a plan calls non-empty.

    Exact, in time that falls with the mask's density, and without an array of size q_len x kv_len.
    Works under `jit`, `grad` (reverse mode, in q, k, v, sm_scale, sinks and bias), `vmap`,
    `checkpoint`, `scan`, `shard_map` and `jax.export`. A query that may attend nothing gets output
    0, log-sum-exp -inf and zero gradients. Lengths need not be multiples of the plan's blocks.

    The score of a pair is `sm_scale * q . k`, then capped, then the bias is added. An option that
    is None adds nothing to the program.

    Without a batch, every array has one axis less.

    Args:
        q: [batch, heads, q_len, head_dim], bfloat16, float16, float32 or float64.
        k: [batch, kv_heads, kv_len, head_dim]. kv_heads divides heads; query head h uses kv head
            `h // (heads // kv_heads)`.
        v: [batch, kv_heads, kv_len, v_head_dim].
        plan: a plan, or whatever `load_plan` takes; it decides heads, q_len and kv_len.
        sm_scale: factor on the scores q . k, a number or a scalar array (traced or not); None is
            head_dim**-0.5.
        segment_ids: `SegmentIds(q, kv)` of int [batch, q_len] and [batch, kv_len], or one array for
            both, traced or not; [q_len] and [kv_len] serve all batch rows. A query attends only
            keys of its own id, and only where the plan lets it. Negative ids are padding, which
            attends nothing and which nobody attends. Blocks whose ids do not overlap are skipped.
        logits_soft_cap: scores become `cap * tanh(score / cap)`; a positive number, static.
        sinks: a logit, or one for each head [heads], that takes weight in every query's softmax and
            has no value; counted once.
        bias: [batch or 1, heads or 1, q_len or 1, kv_len or 1], added to the scores.
        return_lse: give the log-sum-exp of the scores too, the sink included.
        backend: the name of the kernels to use ("xla", "tpu", "gpu"), which then run the call or
            refuse it; or names to choose from by the platform that the program is lowered for. None
            chooses among those for this process's devices. Whoever is left out, the XLA kernels
            run.
        config: settings of the backend that is named, if it has any; or a dict of settings by
            backend, of which those of the one that runs apply.

    Returns:
        [batch, heads, q_len, v_head_dim] in q's dtype; with `return_lse` also the log-sum-exp
        [batch, heads, q_len] in float32, or float64 if an input is float64. Sums are kept in that
        dtype too.

    Raises:
        ArgumentShapeError: shapes disagree with each other or with the plan.
        ArgumentTypeError: an argument is not of one of the dtypes above.
        ArgumentValueError: an argument is out of range.
        BackendError: the backend that was named cannot run this call; the text says why.
        MaskcError: `plan` cannot be loaded; see `load_plan`.
    """
    results = attend(
        q,
        k,
        v,
        plan,
        sm_scale=sm_scale,
        segment_ids=segment_ids,
        logits_soft_cap=logits_soft_cap,
        sinks=sinks,
        bias=bias,
        backend=backend,
        config=config,
    )
    return results if return_lse else results[0]


def attend(
    q: Array,
    k: Array,
    v: Array,
    plan: PlanRef | TracedPlan,
    *,
    sm_scale: float | Array | None = None,
    segment_ids: SegmentIdsArgument = None,
    logits_soft_cap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    backend: BackendChoice = None,
    config: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp; the arguments are those of `attention`."""
    view = plan if isinstance(plan, TracedPlan) else load_plan(plan)
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    check_dtypes(q=q, k=k, v=v)
    check_shapes(q, k, v)
    check_plan(q, k, v, view)
    cap = soft_cap(logits_soft_cap)
    configs = _configs(config, backend)
    single = tuple(x if x.ndim == 4 else x[None] for x in (q, k, v))
    scale = scalar(sm_scale, q).astype(accumulator(q, k, v))
    arrays = option_arrays(q, k, segment_ids, sinks, bias)
    operands, tables, arrays = _varying_alike(((*single, scale), view.tables, arrays))
    static = {} if cap is None else {"logits_soft_cap": cap}
    out, lse = run(Call(operands, tables, arrays, static, configs), backend)
    return (out, lse) if q.ndim == 4 else (out[0], lse[0])


def _configs(config: Any, backend: BackendChoice) -> dict[str, Any]:
    """Settings by backend."""
    if config is None or isinstance(config, dict):
        return config or {}
    if not isinstance(backend, str):
        raise BackendError(
            f"config: only a backend that is named has settings, got {backend=}; name one, or give "
            "a dict of settings by backend"
        )
    return {backend: config}


def _varying_alike(arrays: Tree) -> Tree:
    """Inside `shard_map`, arrays that vary over some axes: all of them over all of those.

    Sums over the axes that were missing then become part of the gradients by JAX's own rules.
    """
    leaves = jax.tree.leaves(arrays)
    axes = frozenset[Any]().union(*(_varying(leaf) for leaf in leaves))
    if not axes:
        return arrays

    def vary(leaf: Any) -> Any:
        missing = tuple(axes - _varying(leaf))
        return jax.lax.pcast(jnp.asarray(leaf), missing, to="varying") if missing else leaf

    varied: Tree = jax.tree.map(vary, arrays)
    return varied


def _varying(leaf: Any) -> frozenset[Any]:
    axes: frozenset[Any] = jax.typeof(leaf).manual_axis_type.varying
    return axes
