"""Bring equal masks to one form: bind to the lengths, then rewrite bottom-up by a table of rules.

Every leaf whose rows are few intervals becomes its strip form (`strips`), which is the same for
equal masks, and so do operators, shifts, transpositions and products of strip forms: for a tree
of such leaves **equal meaning is equal form**. What is left (Dense, Random, ...) keeps its node.

The table is `RULES`; each rule is one identity, in the module named after what it is about. The
first rule that applies to a node with canonical operands is applied, until none does. That ends:
see `rules.measure`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from maskc.expr import And, Kron, Mask, MultiHead, Not, Or, Remap, Shift, Transpose, Xor
from maskc.rules import Rule, Shape, encode
from maskc.rules_leaves import LEAF_CHECKS, LEAF_RULES
from maskc.rules_moves import MOVE_RULES, remap_lengths, shift_lengths, shift_region
from maskc.rules_operators import OPERATOR_RULES
from maskc.rules_products import PRODUCT_RULES, kron_sizes

__all__ = ["RULES", "canonical", "encode"]

RULES: tuple[Rule, ...] = (*OPERATOR_RULES, *LEAF_RULES, *MOVE_RULES, *PRODUCT_RULES)
"""All rules; those of one kind of node are tried in this order."""

_OF_KIND: dict[type[Mask], tuple[Rule, ...]] = {
    kind: tuple(rule for rule in RULES if kind in rule.kinds)
    for kind in {kind for rule in RULES for kind in rule.kinds}
}

Watch = Callable[[Rule, Mask, Mask, Shape], None]


def canonical(mask: Mask, q_len: int, kv_len: int, watch: Watch | None = None) -> Mask:
    """The canonical form of a single head's mask for `q_len` queries and `kv_len` keys.

    It means the same on every element, and `canonical(canonical(m)) == canonical(m)`.

    Args:
        mask: the mask.
        q_len: number of queries.
        kv_len: number of keys.
        watch: called for each application of a rule with the rule, the node before and after it,
            and the node's lengths.

    Raises:
        MaskArgumentError: an array inside the mask does not fit the lengths.
        TypeError: a `MultiHead`, which has one canonical form per head.
    """
    return _Rewriting(watch).form(mask, (q_len, kv_len))


class _Rewriting:
    """One run of the driver; remembers what is canonical already."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._forms: dict[tuple[int, Shape], tuple[Mask, Mask]] = {}

    def form(self, mask: Mask, shape: Shape) -> Mask:
        key = id(mask), shape
        known = self._forms.get(key)
        if known is not None:
            return known[1]
        form, after = mask, self._step(mask, shape)
        while after is not form:
            form, after = after, self._step(after, shape)
        self._forms[key] = (mask, form)  # kept alive, so no other node gets its id
        if form is not mask:
            self._forms[id(form), shape] = (form, form)
        return form

    def _step(self, mask: Mask, shape: Shape) -> Mask:
        """The node after the first rule that applies to it; itself if there is none."""
        kind = type(mask)
        operands = _OPERANDS.get(kind)
        if operands is not None:
            mask = operands(self.form, mask, shape)
        elif (check := LEAF_CHECKS.get(kind)) is not None:
            check(mask, shape)
        for rule in _OF_KIND.get(kind, ()):
            after = rule.apply(mask, shape)
            if after is not None:
                if self._watch is not None:
                    self._watch(rule, mask, after, shape)
                return after
        return mask


# --- the same node over canonical operands ------------------------------------------------------

_Form = Callable[[Mask, Shape], Mask]


def _all(form: _Form, mask: And | Or | Xor, shape: Shape) -> Mask:
    forms = tuple([form(part, shape) for part in mask.masks])
    return mask if _same(forms, mask.masks) else type(mask)(forms)  # which makes one of `a & b & c`


def _axes(form: _Form, mask: Kron, shape: Shape) -> Mask:
    sizes = zip(*kron_sizes(mask, shape), strict=True)
    forms = tuple([form(*pair) for pair in zip(mask.masks, sizes, strict=True)])
    return mask if _same(forms, mask.masks) else _with(mask, "masks", forms)


def _same(forms: Sequence[Mask], masks: Sequence[Mask]) -> bool:
    return all(map(operator.is_, forms, masks))


def _inner(form: _Form, mask: Not | Transpose | Shift | Remap, shape: Shape) -> Mask:
    after = form(mask.mask, shape)
    return mask if after is mask.mask else _with(mask, "mask", after)


def _transpose(form: _Form, mask: Transpose, shape: Shape) -> Mask:
    return _inner(form, mask, (shape[1], shape[0]))


def _shift(form: _Form, mask: Shift, shape: Shape) -> Mask:
    if shift_region(mask, shape) is None:  # nothing of the operand is seen
        return mask
    return _inner(form, mask, shift_lengths(mask, shape))


def _remap(form: _Form, mask: Remap, shape: Shape) -> Mask:
    return _inner(form, mask, remap_lengths(mask, shape))


def _heads(_form: _Form, _mask: MultiHead, _shape: Shape) -> Mask:
    raise TypeError("a MultiHead mask has one canonical form per head")


def _with(mask: Mask, name: str, operands: object) -> Mask:
    """The node over other operands, without the checks that it passed when it was built."""
    copy = object.__new__(type(mask))
    for field in mask.__match_args__:  # type: ignore[attr-defined]  # every node is a dataclass
        object.__setattr__(copy, field, getattr(mask, field))
    object.__setattr__(copy, name, operands)
    return copy


_OPERANDS: dict[type[Mask], Callable[[_Form, Any, Shape], Mask]] = {
    And: _all,
    Or: _all,
    Xor: _all,
    Kron: _axes,
    Not: _inner,
    Transpose: _transpose,
    Shift: _shift,
    Remap: _remap,
    MultiHead: _heads,
}
"""What gives a node canonical operands, for the kinds that have any."""
