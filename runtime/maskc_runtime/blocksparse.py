"""The call surface of ejKernel's `blocksparse_attention`: every argument honoured, or refused."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from maskc_runtime.arguments import check_dtypes, check_shapes
from maskc_runtime.backends import BackendChoice, smallest_block
from maskc_runtime.block_arguments import (
    blocks_of,
    causal_of,
    chunk_of,
    mask_of,
    positions_of,
    segment_ids_of,
    sinks_of,
    window_of,
)
from maskc_runtime.dispatch import attend
from maskc_runtime.errors import (
    ArgumentShapeError,
    ArgumentTypeError,
    ArgumentValueError,
    PlanReferenceError,
)
from maskc_runtime.mask_rules import MaskRules, compiled, is_known
from maskc_runtime.plans import load_plan
from maskc_runtime.stack import shard_plan
from maskc_runtime.traced import TracedPlan
from maskc_runtime.traced_masks import plan_of_mask
from maskc_runtime.view import PlanView

if TYPE_CHECKING:
    from maskc.expr import Mask

__all__ = ["blocksparse_attention"]

Array: TypeAlias = jax.typing.ArrayLike
_Qkv: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
_Results: TypeAlias = tuple[jax.Array, jax.Array]


def blocksparse_attention(  # noqa: PLR0913, PLR0917  # the signature that users have
    query: Array,
    key: Array,
    value: Array,
    q_segment_ids: Array | None = None,
    kv_segment_ids: Array | None = None,
    q_positions: Array | None = None,
    kv_positions: Array | None = None,
    softmax_aux: Array | None = None,
    bias: Array | None = None,
    attention_mask: Array | None = None,
    sequence_parallelism_mesh_axis_name: str | None = None,
    logits_soft_cap: float | None = None,
    qkv_layouts: Any = None,
    softmax_scale: float | Array | None = None,
    fwd_params: Any = None,
    bwd_params: Any = None,
    mask_builder: Callable[..., Any] | None = None,
    sliding_window: int | Sequence[int | None] | None = None,
    chunk_size: int | None = None,
    causal: bool | None = None,
    fused_backward: bool | None = None,
    *,
    return_lse: bool = False,
    backend: BackendChoice = None,
    config: Any = None,
) -> Any:
    """Attention under rules, with the arguments of ejKernel's function of this name.

    What is known when the function is traced is compiled to a plan, once per process; what is
    traced becomes a plan on the device (`plan_of_mask`). All that restricts the mask is ANDed.
    Segment ids stay an option of the kernels, so new ones need no new plan. The docs list each
    argument and what differs from ejKernel.

    Args:
        query: [batch, heads, q_len, head_dim].
        key: [batch, kv_heads, kv_len, head_dim].
        value: [batch, kv_heads, kv_len, v_head_dim].
        q_segment_ids: int [batch, q_len]; equal ids attend each other, negative ones are padding.
        kv_segment_ids: int [batch, kv_len]; None is `q_segment_ids`, if there are as many keys.
        q_positions: int [q_len] or [batch, q_len], in any order; causal, window and chunk go by
            them. Negative ones and int32's greatest are padding. None counts from 0.
        kv_positions: int [kv_len] or [batch, kv_len], likewise.
        softmax_aux: sink logits: a scalar for all heads, [heads] for one each, or
            [heads or 1, num_sinks] for several. Differentiable.
        bias: [batch or 1, heads or 1, q_len or 1, kv_len or 1]. Differentiable.
        attention_mask: bool [batch or 1, heads or 1, q_len, kv_len], or without heads; True means
            that q may attend kv.
        sequence_parallelism_mesh_axis_name: inside `shard_map`, the axis that splits the queries
            and the keys. Keys and values, their ids and positions are gathered over it; bias and
            attention_mask have this device's queries and all keys.
        logits_soft_cap: scores become `cap * tanh(score / cap)`; static.
        qkv_layouts: a plan, or whatever `load_plan` takes, or (fwd, dq, dkv), thrice the same plan.
            It is the whole mask: rules beside it are refused.
        softmax_scale: None is head_dim**-0.5.
        fwd_params: blocks of the forward pass, see `BlockParams`.
        bwd_params: blocks of the backward passes; None is those of the forward pass.
        mask_builder: called when the function is traced, without arguments or with (q_len, kv_len,
            heads, head_idx, reps) for each head; returns a mask expression, a mask of
            `maskc.splash` or of JAX's splash attention, or a plan.
        sliding_window: `(left, right)` positions, both inclusive; one number is for both sides,
            None for no bound.
        chunk_size: positions of one chunk of this size attend each other.
        causal: None is True, unless `qkv_layouts` or `mask_builder` says what the mask is.
        fused_backward: True is one kernel for all gradients on TPUs, False one for dq and one for
            dk and dv, None whichever takes fewer cycles. The other kernels have separate passes.
        return_lse: give the log-sum-exp too, as `attention` does.
        backend: as for `attention`.
        config: as for `attention`.

    Returns:
        [batch, heads, q_len, v_head_dim] in the query's dtype; with `return_lse` also the
        log-sum-exp [batch, heads, q_len].

    Raises:
        ArgumentShapeError: an array has another shape.
        ArgumentTypeError: an argument is of another type.
        ArgumentValueError: an argument is out of range, or does not go together with another one.
        MaskcError: whatever `attention` raises.
    """
    q, k, v = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    check_dtypes(query=q, key=k, value=v)
    check_shapes(q, k, v)
    if q.ndim != 4:
        raise ArgumentShapeError(f"query: expected [batch, heads, q_len, head_dim], got {q.shape}")
    causal = causal_of(causal)
    ids = segment_ids_of(q_segment_ids, kv_segment_ids, q, k)
    positions = [
        positions_of(f"{side}_positions", values, array)
        for side, values, array in (("q", q_positions, q), ("kv", kv_positions, k))
    ]
    axis = _Axis.of(sequence_parallelism_mesh_axis_name)
    if axis.name is not None:
        k, v = (jax.lax.all_gather(x, axis.name, axis=2, tiled=True) for x in (k, v))
        ids, positions[1] = axis.gathered(ids), axis.gathered_array(positions[1])
    plan, builder = _mask_of_its_own(qkv_layouts, mask_builder, q, k, axis.size)
    options: dict[str, Any] = {
        "sm_scale": softmax_scale,
        "logits_soft_cap": logits_soft_cap,
        "sinks": sinks_of(softmax_aux, q),
        "bias": bias,
        "backend": backend,
        "config": _config(config, backend, fused_backward=fused_backward),
    }
    if plan is not None:
        _refuse_rules(
            causal=causal,
            sliding_window=sliding_window,
            chunk_size=chunk_size,
            q_positions=q_positions,
            kv_positions=kv_positions,
            attention_mask=attention_mask,
            fwd_params=fwd_params,
            bwd_params=bwd_params,
        )
        results = attend(q, k, v, axis.own(plan), segment_ids=ids, **options)
        return results if return_lse else results[0]
    rules = MaskRules(
        q_len=q.shape[2],
        kv_len=k.shape[2],
        causal=builder is None if causal is None else causal,
        window=window_of(sliding_window),
        chunk=chunk_of(chunk_size),
        q_positions=positions[0],
        kv_positions=positions[1],
        dense=mask_of(attention_mask, q, k),
        builder=builder,
    )
    smallest, split = smallest_block(backend), axis.name is not None
    blocks = blocks_of(fwd_params, bwd_params, q, k, smallest=smallest, whole_q=split)
    results = _by_rules((q, k, v), rules, blocks, ids, axis, options)
    return results if return_lse else results[0]


def _config(config: Any, backend: BackendChoice, *, fused_backward: bool | None) -> Any:
    """The settings, with the way to make gradients among those of the TPU kernels."""
    if fused_backward is None:
        return config
    if isinstance(backend, str) and backend != "tpu":
        if fused_backward:
            raise ArgumentValueError(
                f"fused_backward: only the TPU kernels have one for all gradients, got {backend=}; "
                "leave it None"
            )
        return config
    from maskc_kernels.tpu import KernelConfig

    given = config if isinstance(config, dict) else {} if config is None else {"tpu": config}
    own = dataclasses.replace(given.get("tpu", KernelConfig()), fused_backward=fused_backward)
    return given | {"tpu": own}


def _refuse_rules(**rules: object) -> None:
    """A plan that was given is the whole mask."""
    for name, rule in rules.items():
        if rule is not None:
            raise ArgumentValueError(
                f"{name}: the plan that was given is the whole mask, with its blocks; leave {name} "
                "out, or compile it into the plan"
            )


class _Axis(NamedTuple):
    """The mesh axis that splits the sequence, if there is one."""

    name: str | None
    size: int

    @classmethod
    def of(cls, name: Any) -> _Axis:
        if name is None:
            return cls(None, 1)
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"sequence_parallelism_mesh_axis_name: expected the name of an axis, got {name!r}"
            )
        try:
            return cls(name, jax.lax.axis_size(name))
        except NameError as error:
            raise ArgumentValueError(
                f"sequence_parallelism_mesh_axis_name: no axis {name!r} here; call it inside a "
                "shard_map over that axis"
            ) from error

    def gathered_array(self, values: Any) -> Any:
        if self.name is None or values is None:
            return values
        return jax.lax.all_gather(jnp.asarray(values), self.name, axis=1, tiled=True)

    def gathered(self, ids: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
        return None if ids is None else (ids[0], self.gathered_array(ids[1]))

    def own(self, plan: PlanView | TracedPlan) -> PlanView | TracedPlan:
        """This device's part of a plan."""
        if self.name is None:
            return plan
        if isinstance(plan, TracedPlan):
            raise ArgumentTypeError(
                "qkv_layouts: to split its queries a plan has to be known; got one that is traced"
            )
        return shard_plan(plan, 1, self.size)[0, jax.lax.axis_index(self.name)]


def _by_rules(
    qkv: _Qkv,
    rules: MaskRules,
    blocks: dict[str, int],
    ids: tuple[Any, Any] | None,
    axis: _Axis,
    options: dict[str, Any],
) -> _Results:
    """Attention under rules: over one plan, or over one for each batch row."""
    q, k, v = qkv
    batch, heads = q.shape[:2]
    q_start: jax.Array | int = 0
    if axis.name is not None:
        q_start = jax.lax.axis_index(axis.name) * q.shape[2]
    own = rules.q_positions is not None or rules.dense is not None or rules.kv_positions is not None
    if rules.known and not (own and axis.name is not None):
        whole = dataclasses.replace(rules, q_len=q.shape[2] * axis.size)
        rows = whole.expression(heads)
        if len(rows) == 1:
            plan = _compiled(rows[0], whole, heads, blocks)
            return attend(q, k, v, axis.own(plan), segment_ids=ids, **options)
        if ids is None or all(map(is_known, ids)):
            folded = _compiled(_per_batch(rows, ids, heads), whole, batch * heads, blocks)
            return _folded(qkv, folded, options)
    if rules.builder is not None and axis.name is not None:
        raise ArgumentValueError(
            "mask_builder: with a sequence axis, positions and attention_mask are traced, and "
            "then a builder has no shard of its own; put them all into the builder"
        )
    mask = rules.dense_mask(heads, q_start)
    if mask.shape[0] > 1 and ids is not None:
        mask &= _same_segment(*ids)
        ids = None
    if mask.shape[0] == 1:
        traced = plan_of_mask(mask[0], heads=heads, **blocks)
        return attend(q, k, v, traced, segment_ids=ids, **options)
    every = jnp.broadcast_to(mask, (batch, heads, *mask.shape[2:])).reshape(-1, *mask.shape[2:])
    return _folded(qkv, plan_of_mask(every, **blocks), options)


def _compiled(mask: Mask, rules: MaskRules, heads: int, blocks: dict[str, int]) -> PlanView:
    from maskc.request import CompileRequest

    parameters: dict[str, Any] = {"heads": heads, "splash": False, **blocks}
    return compiled(CompileRequest(mask, q_len=rules.q_len, kv_len=rules.kv_len, **parameters))


def _per_batch(rows: list[Mask], ids: tuple[Any, Any] | None, heads: int) -> Mask:
    from maskc.expr import MultiHead, Segments, per_batch

    if ids is not None:
        pairs = zip(*(np.asarray(side) for side in ids), strict=True)
        rows = [row & Segments(*pair) for row, pair in zip(rows, pairs, strict=True)]
    wide = [row if isinstance(row, MultiHead) else MultiHead([row] * heads) for row in rows]
    return per_batch(wide, heads)


def _same_segment(q_ids: Any, kv_ids: Any) -> jax.Array:
    q, kv = jnp.asarray(q_ids)[:, None, :, None], jnp.asarray(kv_ids)[:, None, None, :]
    return (q == kv) & (q >= 0)


def _folded(qkv: _Qkv, plan: PlanView | TracedPlan, options: dict[str, Any]) -> _Results:
    """Attention with a mask for each batch row: the batch is folded into the heads."""
    batch, heads = qkv[0].shape[:2]
    q, k, v = (x.reshape(1, -1, *x.shape[2:]) for x in qkv)
    changed = dict(options)
    if (sinks := options["sinks"]) is not None:
        changed["sinks"] = jnp.tile(jnp.broadcast_to(sinks, (heads,)), batch)
    if options["bias"] is not None:
        bias = jnp.asarray(options["bias"])
        if bias.ndim == 4 and bias.shape[:2] != (1, 1):
            wide = jnp.broadcast_to(bias, (batch, heads, *bias.shape[2:]))
            changed["bias"] = wide.reshape(1, -1, *bias.shape[2:])
    out, lse = attend(q, k, v, plan, **changed)
    return out.reshape(batch, heads, *out.shape[2:]), lse.reshape(batch, heads, -1)


def _given_plan(layouts: Any) -> PlanView | TracedPlan | None:
    if layouts is None or isinstance(layouts, TracedPlan):
        return layouts
    if isinstance(layouts, list) or (isinstance(layouts, tuple) and len(layouts) in {1, 3}):
        views = [one if isinstance(one, TracedPlan) else load_plan(one) for one in layouts]
        if not views or any(view != views[0] for view in views):
            raise ArgumentValueError(
                "qkv_layouts: expected one plan, or the same one for fwd, dq and dkv; a plan has "
                "the lists of all three passes, each with blocks of its own (block_q_dq, ...)"
            )
        return views[0]
    return load_plan(layouts)


def _mask_of_its_own(
    layouts: Any, builder: Callable[..., Any] | None, q: jax.Array, k: jax.Array, shards: int
) -> tuple[PlanView | TracedPlan | None, Mask | None]:
    """The plan, or the expression, that a caller brings instead of rules."""
    plan = _given_plan(layouts)
    if builder is None:
        return plan, None
    if plan is not None:
        raise ArgumentValueError("mask_builder: qkv_layouts says already what the mask is")
    from maskc.expr import Mask, MultiHead

    if not callable(builder):
        raise ArgumentTypeError(f"mask_builder: expected a callable, got {builder!r}")
    heads, lengths = q.shape[1], (q.shape[2] * shards, k.shape[2])
    if not _takes_arguments(builder):
        built = _expression(builder(), lengths)
    else:
        calls = [(*lengths, heads, head, heads // k.shape[1]) for head in range(heads)]
        found = [_expression(builder(*arguments), lengths) for arguments in calls]
        built = found[0]
        if any(one != built for one in found):
            built = MultiHead(found)
    if isinstance(built, Mask):
        return None, built
    try:
        return _given_plan(built), None
    except PlanReferenceError as error:
        raise ArgumentTypeError(
            f"mask_builder: expected it to return a mask or a plan, got {built!r}"
        ) from error


def _expression(built: Any, lengths: tuple[int, int]) -> Any:
    """What a builder returned, masks of splash attention as expressions."""
    shape = getattr(built, "shape", None)
    if not isinstance(shape, tuple):
        return built
    from maskc.splash.expressions import expression_of

    if shape[-2:] != lengths:
        raise ArgumentShapeError(
            f"mask_builder: expected a mask of shape {lengths}, got {type(built).__name__} of "
            f"shape {shape}"
        )
    return expression_of(built)


def _takes_arguments(builder: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(builder).parameters.values()
    return any(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) or any(
        p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters
    )
