"""The table of rules: each has an identity, fires, keeps the meaning and lessens the measure."""

import re
from pathlib import Path

import numpy as np
import pytest
from dense_oracle import dense
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskc import (
    Blocks,
    Causal,
    Chunked,
    Dense,
    Diagonals,
    Empty,
    Full,
    Intervals,
    Kron,
    Local,
    Neighborhood,
    Or,
    Prefix,
    Random,
    Rectangle,
    Remap,
    Segments,
    Shift,
    Strided,
    Transpose,
    strategies,
)
from maskc.canonical import RULES, canonical
from maskc.rules import measure

RULE = {rule.name: rule for rule in RULES}
BITS = Dense(np.random.default_rng(0).random((12, 12)) < 0.5)
OTHER = Dense(np.random.default_rng(1).random((12, 12)) < 0.5)
MIXED = np.arange(12) * 7 % 5  # too many runs to be strips beside a long mask
TALL = np.arange(64) * 7 % 5

# One mask for each rule, at 12 x 12 unless lengths are given, in whose rewriting it is applied.
FIRES = {
    "or_strips": Causal() | Prefix(4),
    "or_as_and": BITS | OTHER,
    "not_constant": BITS ^ BITS ^ Full() ^ Full(),
    "not_not": ~~BITS,
    "not_strips": ~Causal(),
    "and_empty": BITS & Empty(),
    "and_full": BITS & Full(),
    "and_strips": Causal() & Prefix(4),
    "and_same": BITS & BITS,
    "and_complement": BITS & ~BITS,
    "and_absorbs": BITS & (BITS | OTHER),
    "and_reduces": BITS & (~BITS | OTHER),
    "and_commutes": [BITS & OTHER, OTHER & BITS],
    "xor_empty": BITS ^ Empty(),
    "xor_full": BITS ^ Full(),
    "xor_not": ~BITS ^ OTHER,
    "xor_strips": Causal() ^ Prefix(4),
    "xor_same": BITS ^ BITS,
    "xor_corner": BITS ^ Causal(),
    "xor_commutes": [BITS ^ OTHER, OTHER ^ BITS],
    "strips_constant": Prefix(12),
    "leaf_strips": Causal(),
    "bits_constant": Dense(np.ones((12, 12), bool)),
    "blocks_tile": (Blocks(np.arange(64)[None] % 2 == 0, 1), (1, 64)),
    "random_constant": Random(0),
    "strided_phase": (Strided(2, 3), (64, 64)),
    "diagonals_seen": (Diagonals(np.append(2 * np.arange(20), 99)), (64, 64)),
    "segments_numbered": (Segments(TALL, TALL), (64, 64)),
    "shift_outside": Shift(BITS, 12, 0, 12, 12),
    "shift_lengths_written": Shift(Random(0.5), 3),
    "shift_nothing": Shift(BITS, 0, 0),
    "shift_constant": Shift(Full(), 3),
    "shift_strips": Shift(Causal(), 3, 1),
    "shift_distributes": Shift(BITS & OTHER, 3, -1, 12, 12),
    "shift_not": Shift(~BITS, 3, -1, 12, 12),
    "shift_shift": Shift(Shift(BITS, 3, 1, 12, 12), -2, 0, 12, 12),
    "shift_diagonals": (Shift(Strided(2), 3), (64, 64)),
    "shift_segments": (Shift(Segments(TALL), 3, 0, 64, 64), (64, 64)),
    "shift_random": Shift(Random(0.5), 0, 0, 5, 5),
    "transpose_constant": Transpose(Full()),
    "transpose_strips": Transpose(Causal()),
    "transpose_distributes": Transpose(BITS & OTHER),
    "transpose_twice": Transpose(Transpose(Random(0.5))),
    "transpose_inwards": Transpose(Shift(Random(0.5), 3)),
    "transpose_leaf": Transpose(BITS),
    "remap_written": Remap(BITS, MIXED, q_len=12, kv_len=12),
    "remap_nothing": Remap(BITS, np.arange(12)),
    "remap_constant": Remap(Full(), MIXED),
    "remap_segments": Remap(Segments([0, 1, 0, 1, 2]), MIXED),
    "remap_distributes": Remap(BITS & OTHER, MIXED, MIXED, 12, 12),
    "remap_not": Remap(~BITS, MIXED, MIXED, 12, 12),
    "remap_remap": Remap(Remap(BITS, MIXED, MIXED, 12, 12), np.arange(12)[::-1]),
    "kron_written": Kron((Random(0.5), Causal()), (None, 3)),
    "kron_empty": Kron((BITS, Empty()), (12, 1)),
    "kron_full": Kron((Full(), Full()), (4, 3)),
    "kron_one": Kron((BITS,), (12,)),
    "kron_point": Kron((Random(0.5), Full()), (12, 1)),
    "kron_full_full": Kron((Full(), Full(), Random(0.5)), (2, 3, 2)),
    "kron_strips": Kron((Local(0, 0), Causal()), (4, 3)),
    "kron_blocks": Kron((Dense(np.eye(3, dtype=bool)), Full()), (3, 4)),
    "kron_strided": (Kron((Full(), Local(0, 0)), (32, 2)), (64, 64)),
    "neighborhood_axes": Neighborhood((3, 4), 3),
}


def applications(mask, shape):
    """Every application of a rule on the way to the canonical form."""
    found = []
    form = canonical(mask, *shape, watch=lambda *seen: found.append(seen))
    return form, found


def check(rule, before, after, shape):
    np.testing.assert_array_equal(dense(before, *shape), dense(after, *shape))
    assert measure(after) < measure(before), rule.name
    assert isinstance(before, rule.kinds)


def test_rules_have_names_and_identities():
    assert len(RULE) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", rule.name)
        assert rule.identity.endswith("."), rule.name
        assert len(rule.identity.splitlines()) == 1, rule.name
        assert rule.kinds


def test_every_rule_has_an_example():
    assert sorted(FIRES) == sorted(RULE)


@pytest.mark.parametrize("name", sorted(FIRES))
def test_a_rule_fires_keeps_the_meaning_and_gets_closer(name):
    examples = FIRES[name] if isinstance(FIRES[name], list) else [FIRES[name]]
    fired = 0
    for example in examples:
        mask, shape = example if isinstance(example, tuple) else (example, (12, 12))
        for rule, *seen in applications(mask, shape)[1]:
            check(rule, *seen)
            fired += rule.name == name
    assert fired


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_rules_keep_the_meaning_and_get_closer_on_any_tree(data):
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    mask = data.draw(strategies.masks(*shape))
    form, found = applications(mask, shape)
    for seen in found:
        check(*seen)
    assert applications(form, shape) == (form, [])


def test_the_page_lists_the_rules():
    """docs/lowering.md shows the table as it is."""
    page = (Path(__file__).parents[2] / "docs" / "lowering.md").read_text()
    section = page.split("## Rewriting rules")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE)
    shown = [(rule.name, rule.identity.replace("|", "\\|").rstrip(".")) for rule in RULES]
    assert listed == shown


def test_nothing_of_the_sugar_is_left():
    left = canonical(Or((BITS, Intervals([0] * 12, [3] * 12), Rectangle(2, 3), Chunked(5))), 12, 12)
    assert type(left).__name__ == "Not"
    assert {type(part).__name__ for part in left.mask.masks} == {"Not", "Strips"}
