import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskc.compile import compile_mask
from maskc.expr import Causal, Dense, Empty, Full, MultiHead
from maskc_kernels import BlockTable
from maskc_kernels.tpu.segments import Segments
from maskc_kernels.tpu.worklist import EntryForm, work_list


def decoded(work):
    """Every mask's entries, decoded as a kernel does."""
    ptr, words = np.asarray(work.ptr), work.entries.reshape(-1, work.form.words)
    fields = [np.asarray(field)[: ptr[-1]] for field in decode(work.form, words)]
    return [list(zip(*(f[a:b] for f in fields), strict=True)) for a, b in itertools.pairwise(ptr)]


@functools.partial(jax.jit, static_argnums=0)
def decode(form, words):
    return jax.vmap(lambda row: form.decode(tuple(row)))(words)


def expected(table, rows):
    """The same by loops: (first, last, listed, partial, col or None, id or None)."""
    masks = []
    for mask in range(table.masks(rows)):
        entries = []
        for n in range(mask * rows, (mask + 1) * rows):
            row = [(False, col, None) for col in table.full_idx[slice(*table.full_ptr[n : n + 2])]]
            span = slice(*table.partial_ptr[n : n + 2])
            row += [
                (True, *pair)
                for pair in zip(table.partial_idx[span], table.partial_id[span], strict=True)
            ]
            last = len(row) - 1
            entries += [(i == 0, i == last, True, *entry) for i, entry in enumerate(row)]
            entries += [] if row else [(True, True, False, False, None, None)]
        masks.append(entries)
    return masks


def assert_same(actual, wanted):
    assert [len(mask) for mask in actual] == [len(mask) for mask in wanted]
    pairs = map(zip, actual, wanted)
    for found, right in itertools.chain.from_iterable(pairs):
        assert tuple(bool(mark) for mark in found[:4]) == right[:4]
        assert not found[4]
        for value, number in zip(found[5:7], right[4:], strict=True):
            assert number is None or value == number


@pytest.mark.parametrize("direction", ["fwd", "dkv"])
def test_entries_are_the_rows_of_the_lists(direction, tables_of):
    rows, cols = (3, 4) if direction == "fwd" else (4, 3)
    build = jax.jit(lambda table: work_list(table, rows=rows, cols=cols, chunk=8))

    @settings(max_examples=30)
    @given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.5]))
    def holds(seed, density):
        rng = np.random.default_rng(seed)
        blocks = np.kron(rng.random((3, 4)) < 0.5, np.ones((8, 8), bool))
        other = rng.random((24, 32)) < density
        other[0, :2] = [True, False]  # so that the three masks differ
        mask = MultiHead((Dense(blocks), Dense(blocks ^ other), Dense(other)))
        plan = compile_mask(mask, q_len=24, kv_len=32, block_q=8, block_kv=8)
        # Lists of one length, whatever the mask, so that one compilation serves all; what no row
        # points at must stay out.
        table = getattr(tables_of(plan, roomy=True), direction)
        work = build(table)
        assert_same(decoded(work), expected(table, rows))
        assert len(work.entries) % (8 * work.form.words) == 0
        # A kernel looks one entry behind the last, and sends for the chunk after that.
        assert len(work.entries) >= (work.ptr[-1] // 8 + 2) * 8 * work.form.words

    holds()


@pytest.mark.parametrize("mask", [Full(), Empty()])
def test_a_row_without_blocks_has_one_entry(mask):
    table = BlockTable.from_lists(compile_mask(mask, q_len=24, block_q=8, block_kv=8).fwd)
    (entries,) = decoded(work_list(table, rows=3, cols=3))
    assert_same([entries], expected(table, 3))
    assert len(entries) == (9 if mask == Full() else 3)


def test_an_entry_takes_two_words_where_one_is_too_short():
    plan = compile_mask(Dense(np.eye(24, dtype=bool)), q_len=24, block_q=8, block_kv=8)
    table = BlockTable.from_lists(plan.fwd)
    assert work_list(table, rows=3, cols=3).form == EntryForm(col_bits=2, words=1, chunk=1024)
    # Columns of 28 bits leave no bit for the number of a partial block.
    wide = work_list(table, rows=3, cols=1 << 28)
    assert wide.form == EntryForm(col_bits=28, words=2, chunk=1024)
    assert_same(decoded(wide), expected(table, 3))


def test_all_32_bits_of_a_word_are_used():
    plan = compile_mask(Dense(np.eye(24, dtype=bool)), q_len=24, block_q=8, block_kv=8)
    table = BlockTable.from_lists(plan.fwd)
    blocks = np.zeros((4, 8, 1), np.uint8)
    table = dataclasses.replace(table, partial_id=np.int8([3, 2, 1]), partial_blocks=blocks)
    work = work_list(table, rows=3, cols=1 << 25)
    assert work.form.words == 1
    assert_same(decoded(work), expected(table, 3))


@pytest.mark.parametrize("cols", [3, 1 << 22], ids=["one word", "two words"])
def test_tiles_come_with_the_number_of_a_partial_block(cols):
    plan = compile_mask(Dense(np.eye(24, dtype=bool)), q_len=24, block_q=8, block_kv=8)
    table = dataclasses.replace(
        BlockTable.from_lists(plan.fwd), partial_id=np.int16([5 << 4 | 9, 15, 1 << 4]),
        partial_blocks=np.zeros((6, 8, 1), np.uint8),
    )  # fmt: skip
    work = work_list(table, rows=3, cols=cols, tiles=4)
    assert (work.form.words, work.form.tiles) == (1 if cols == 3 else 2, 4)
    (entries,) = decoded(work)
    assert [(entry[5], entry[6], entry[7]) for entry in entries] == [
        (0, 5, 9),
        (1, 0, 15),
        (2, 1, 0),
    ]


def test_segment_ids_drop_blocks_and_mark_the_rest(tables_of):
    block, length = 8, 48
    table = tables_of(compile_mask(Causal(), q_len=length, block_q=block, block_kv=block)).fwd

    @settings(max_examples=50)
    @given(hnp.arrays(np.int32, (2, 2, length // 4), elements=st.integers(-2, 2)))
    def holds(runs):
        q_ids, kv_ids = np.repeat(runs, 4, axis=2)
        ids = Segments.of(q_ids, kv_ids, block, block)
        work = work_list(table, rows=6, cols=6, chunk=8, ids=(ids.q_blocks, ids.kv_blocks))
        assert (work.batches, work.masks) == (2, 1)
        (listed,) = expected(table, 6)
        for batch, entries in enumerate(decoded(work)):
            q, kv = (side[batch].reshape(-1, block) for side in (q_ids, kv_ids))
            row, kept = -1, [[] for _ in range(6)]
            for first, _, real, partial, cut, col, _, _ in entries:
                row += bool(first)
                if real:
                    kept[row].append((int(col), bool(partial)))
                    same = (q[row][:, None] == kv[col]) & (q[row] >= 0)[:, None]
                    assert cut or same.all()
            row = -1
            for first, _, _, partial, col, _ in listed:
                row += first
                a, b = q[row][q[row] >= 0], kv[col][kv[col] >= 0]
                meets = a.size and b.size and a.min() <= b.max() and b.min() <= a.max()
                assert ((col, partial) in kept[row]) == bool(meets)
            assert row == 5

    holds()
