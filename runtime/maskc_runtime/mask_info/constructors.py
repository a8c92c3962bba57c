"""Where a `MaskInfo` comes from: ids, masks, lengths, expressions, chance."""

# ruff: noqa: SLF001  # what is private to the class is shared by its modules
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from maskc_runtime.mask_info.cu_seqlens import read_cu_seqlens, seqlens_to_ids
from maskc_runtime.mask_info.debug import logged
from maskc_runtime.mask_info.errors import ArgumentShapeError, ArgumentTypeError
from maskc_runtime.mask_info.fields import AxisNames, Fields
from maskc_runtime.mask_info.segments import integers, padding_ids, truth
from maskc_runtime.mask_info.terms import Static
from maskc_runtime.mask_info.traced import Array, namespace

if TYPE_CHECKING:
    from maskc.algebra import Mask

__all__ = ["Constructors"]


class Constructors(Fields):
    """Class methods. All of them take positions and axis names for the fields of those names."""

    @classmethod
    @logged
    def from_segments(
        cls,
        q_segment_ids: Array,
        kv_segment_ids: Array | None = None,
        q_positions: Array | None = None,
        kv_positions: Array | None = None,
        batch_axis_name: AxisNames = ("dp", "fsdp"),
        qheads_axis_name: AxisNames = "tp",
        kvheads_axis_name: AxisNames = "tp",
        sequence_axis_name: AxisNames = "sp",
        is_attn_mask: bool = False,
    ) -> Self:
        """Tokens of equal ids attend each other; negative ids are padding, 0 is an id like others.

        Args:
            q_segment_ids: int [batch, q_len] or [batch, heads, q_len].
            kv_segment_ids: the same for the keys; None is `q_segment_ids`.
            q_positions: int [batch, q_len].
            kv_positions: int [batch, kv_len].
            batch_axis_name: mesh axes.
            qheads_axis_name: mesh axes.
            kvheads_axis_name: mesh axes.
            sequence_axis_name: mesh axes.
            is_attn_mask: the ids are padding masks: positive is valid, all else padding.
        """
        given = q_segment_ids, q_segment_ids if kv_segment_ids is None else kv_segment_ids
        names = "q_segment_ids", "kv_segment_ids"
        if is_attn_mask:
            xp = namespace(given)
            q, kv = (
                xp.where(truth(n, x), 0, -1).astype(xp.int32)
                for n, x in zip(names, given, strict=True)
            )
        else:
            q, kv = (integers(n, x, 2, 3) for n, x in zip(names, given, strict=True))
        if q.shape[0] != kv.shape[0] or q.ndim != kv.ndim or q.shape[1:-1] != kv.shape[1:-1]:
            raise ArgumentShapeError(
                f"kv_segment_ids: expected the batch and heads of q_segment_ids {q.shape}, got "
                f"shape {kv.shape}"
            )
        return cls(
            _q_segment_ids=q,
            _kv_segment_ids=kv,
            q_positions=q_positions,
            kv_positions=kv_positions,
            batch_axis_name=batch_axis_name,
            qheads_axis_name=qheads_axis_name,
            kvheads_axis_name=kvheads_axis_name,
            sequence_axis_name=sequence_axis_name,
        )

    @classmethod
    @logged
    def from_attention_mask(
        cls,
        attention_mask: Array,
        q_positions: Array | None = None,
        kv_positions: Array | None = None,
        *,
        mask_is_valid: bool = True,
        batch_axis_name: AxisNames = ("dp", "fsdp"),
        qheads_axis_name: AxisNames = "tp",
        kvheads_axis_name: AxisNames = "tp",
        sequence_axis_name: AxisNames = "sp",
    ) -> Self:
        """A padding mask [batch, len], or an explicit one with or without heads.

        An explicit mask is kept as it is. Its ids are those of its padding: 0, and -1 for queries
        that attend nothing and keys that nobody attends.

        Args:
            attention_mask: bool or integers, of which positive ones are True; [batch, len],
                [batch, q_len, kv_len] or [batch, heads or 1, q_len, kv_len].
            q_positions: int [batch, q_len].
            kv_positions: int [batch, kv_len].
            mask_is_valid: True may attend; else True may not.
            batch_axis_name: mesh axes.
            qheads_axis_name: mesh axes.
            kvheads_axis_name: mesh axes.
            sequence_axis_name: mesh axes.

        Raises:
            ArgumentTypeError: floats that are no zeros and ones, like an additive bias.
            ArgumentShapeError: of another rank.
        """
        xp = namespace(attention_mask)
        mask = truth("attention_mask", attention_mask)
        mask = mask if mask_is_valid else ~mask
        names: dict[str, Any] = {
            "q_positions": q_positions,
            "kv_positions": kv_positions,
            "batch_axis_name": batch_axis_name,
            "qheads_axis_name": qheads_axis_name,
            "kvheads_axis_name": kvheads_axis_name,
            "sequence_axis_name": sequence_axis_name,
        }
        if mask.ndim == 2:
            return cls.from_segments(xp.where(mask, 0, -1), **names)
        if mask.ndim not in {3, 4}:
            raise ArgumentShapeError(
                "attention_mask: expected [batch, len], [batch, q_len, kv_len] or [batch, "
                f"heads, q_len, kv_len], got shape {mask.shape}"
            )
        mask = mask[:, None] if mask.ndim == 3 else mask
        q, kv = padding_ids(mask)
        return cls(_attention_mask=mask, _q_segment_ids=q, _kv_segment_ids=kv, **names)

    @classmethod
    @logged
    def from_cu_seqlens(
        cls,
        cu_seqlens_q: Any,
        *,
        max_q_len: int,
        cu_seqlens_kv: Any = None,
        max_kv_len: int | None = None,
        q_positions: Array | None = None,
        kv_positions: Array | None = None,
        batch_axis_name: AxisNames = ("dp", "fsdp"),
        qheads_axis_name: AxisNames = "tp",
        kvheads_axis_name: AxisNames = "tp",
        sequence_axis_name: AxisNames = "sp",
    ) -> Self:
        """From cumulative lengths of either dialect.

        `SeqlenPairs` are rows of one document each; `CuSeqlens` are the documents of a single row.
        A plain array is read as the one that it can be, and refused if it can be both.

        Args:
            cu_seqlens_q: `CuSeqlens`, `SeqlenPairs`, or integers.
            max_q_len: queries per row.
            cu_seqlens_kv: the same for the keys; None is `cu_seqlens_q`.
            max_kv_len: keys per row; None is `max_q_len`.
            q_positions: int [batch, q_len].
            kv_positions: int [batch, kv_len].
            batch_axis_name: mesh axes.
            qheads_axis_name: mesh axes.
            kvheads_axis_name: mesh axes.
            sequence_axis_name: mesh axes.

        Raises:
            SeqlensError: of neither dialect, of both, or beyond the lengths.
            ArgumentShapeError: keys of another dialect or number of rows or documents.
        """
        q = read_cu_seqlens("cu_seqlens_q", cu_seqlens_q)
        kv = q if cu_seqlens_kv is None else read_cu_seqlens("cu_seqlens_kv", cu_seqlens_kv)
        if type(q) is not type(kv) or len(q) != len(kv):
            raise ArgumentShapeError(
                f"cu_seqlens_kv: expected {type(q).__name__} of {len(q)} like cu_seqlens_q, got "
                f"{type(kv).__name__} of {len(kv)}"
            )
        info = cls.from_segments(
            seqlens_to_ids(q, max_q_len, "cu_seqlens_q"),
            seqlens_to_ids(kv, max_q_len if max_kv_len is None else max_kv_len, "cu_seqlens_kv"),
            q_positions,
            kv_positions,
            batch_axis_name,
            qheads_axis_name,
            kvheads_axis_name,
            sequence_axis_name,
        )
        return info._changed(_cu_seqlens_q=q, _cu_seqlens_kv=kv)

    @classmethod
    @logged
    def from_random(
        cls,
        batch_size: int,
        q_len: int,
        kv_len: int | None = None,
        sparsity: float = 0.5,
        seed: int = 0,
        q_positions: Array | None = None,
        kv_positions: Array | None = None,
        batch_axis_name: AxisNames = ("dp", "fsdp"),
        qheads_axis_name: AxisNames = "tp",
        kvheads_axis_name: AxisNames = "tp",
        sequence_axis_name: AxisNames = "sp",
    ) -> Self:
        """Independent random pairs, other ones in each row: `maskc.Random(sparsity, seed)`.

        Args:
            batch_size: rows; row b of a larger batch is the same.
            q_len: queries.
            kv_len: keys; None is `q_len`.
            sparsity: share of pairs that may not attend, 0 to 1.
            seed: a non-negative integer below 2**43.
            q_positions: int [batch, q_len].
            kv_positions: int [batch, kv_len].
            batch_axis_name: mesh axes.
            qheads_axis_name: mesh axes.
            kvheads_axis_name: mesh axes.
            sequence_axis_name: mesh axes.

        Raises:
            MaskArgumentError: sparsity or seed is out of range.
        """
        from maskc.leaves import Random  # the compiler is not needed to import this

        info = cls.from_mask(
            [Random(sparsity, (seed << 20) + row) for row in range(batch_size)], q_len, kv_len
        )
        return info._changed(
            q_positions=q_positions,
            kv_positions=kv_positions,
            batch_axis_name=batch_axis_name,
            qheads_axis_name=qheads_axis_name,
            kvheads_axis_name=kvheads_axis_name,
            sequence_axis_name=sequence_axis_name,
        )

    @classmethod
    @logged
    def from_mask(
        cls,
        mask: Mask | Sequence[Mask],
        q_len: int,
        kv_len: int | None = None,
        *,
        batch_size: int | None = None,
        **fields: Any,
    ) -> Self:
        """From an expression of the mask language.

        Args:
            mask: a mask, which may be a `MultiHead`; or one for each batch row.
            q_len: queries.
            kv_len: keys; None is `q_len`.
            batch_size: rows; None is as many as masks were given.
            **fields: positions and axis names.
        """
        from maskc.algebra import Mask  # the compiler is not needed to import this
        from maskc.leaves import Full

        masks = (mask,) if isinstance(mask, Mask) else tuple(mask)
        batch = len(masks) if batch_size is None else batch_size
        if not masks or len(masks) not in {1, batch}:
            raise ArgumentShapeError(f"mask: expected 1 or {batch} masks, got {len(masks)}")
        wrong = next((x for x in masks if not isinstance(x, Mask)), None)
        if wrong is not None:
            raise ArgumentTypeError(f"mask: expected a mask expression, got {type(wrong).__name__}")
        alike = all(other == masks[0] for other in masks)
        term = None if masks[0] == Full() and alike else Static(masks[:1] if alike else masks)
        q, kv = (
            np.zeros((batch, n), np.int32) for n in (q_len, q_len if kv_len is None else kv_len)
        )
        return cls(_q_segment_ids=q, _kv_segment_ids=kv, _term=term, **fields)

    @classmethod
    @logged
    def dynamic_init(
        cls,
        *,
        mask_info: Self | None = None,
        input_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        attention_mask: Array | None = None,
    ) -> Self:
        """The first that is given: a MaskInfo as it is, a mask, or the shape of the inputs.

        Args:
            mask_info: returned.
            input_ids: [batch, len]: all tokens are valid.
            inputs_embeds: [batch, len, dim] likewise.
            attention_mask: as for `from_attention_mask`.

        Raises:
            ValueError: none is given.
        """
        if mask_info is not None:
            return mask_info
        if attention_mask is not None:
            return cls.from_attention_mask(attention_mask)
        source = input_ids if input_ids is not None else inputs_embeds
        if source is None:
            raise ValueError(
                "dynamic_init: expected one of mask_info, input_ids, inputs_embeds, attention_mask"
            )
        return cls.from_segments(np.zeros(np.shape(source)[:2], np.int32))

    @staticmethod
    def create_chunked_attention_mask(
        chunk_size: int,
        q_len: int,
        kv_len: int | None = None,
        offset: int = 0,
        dtype: Any = jnp.bool_,
    ) -> jax.Array:
        """Causal inside chunks, densely: [q_len, kv_len].

        Args:
            chunk_size: tokens per chunk, 1 or more.
            q_len: queries.
            kv_len: keys; None is `q_len`.
            offset: the query acts as position `q + offset`.
            dtype: of the result.

        Raises:
            ValueError: the chunk size is not 1 or more.
        """
        if chunk_size <= 0:
            raise ValueError(f"chunk_size: expected an integer >= 1, got {chunk_size}")
        q = jnp.arange(q_len)[:, None] + offset
        kv = jnp.arange(q_len if kv_len is None else kv_len)[None, :]
        return ((q // chunk_size == kv // chunk_size) & (kv <= q)).astype(dtype)
