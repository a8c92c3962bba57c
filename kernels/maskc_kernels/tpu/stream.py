"""What TPU kernels share: reading a work list ahead in chunks, and blocks in two buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from maskc_kernels.tpu.worklist import EntryForm

__all__ = ["Buffers", "Stream", "loop"]

Carry = TypeVar("Carry")
Ref = Any
"""A Pallas reference; its type is not public."""

_SLOTS = 2


def loop(
    begin: jax.Array, end: jax.Array, step: Callable[[jax.Array, Carry], Carry], carry: Carry
) -> Carry:
    """`step(number, carry)` for every number of `[begin, end)`.

    A while loop, because Pallas writes the body of a `fori_loop` into the program twice (up to
    JAX 0.10; once more for steps that do not fill an unrolled one), and that once per nesting.
    It takes a while loop for a `fori_loop` if its condition is `<`.
    """
    _, after = jax.lax.while_loop(
        lambda state: end > state[0],
        lambda state: (state[0] + 1, step(*state)),
        (begin, carry),
    )
    return after


class Stream(NamedTuple):
    """A work list in HBM, of which two chunks are in SMEM, however long it is: here and ahead.

    Attributes:
        form: how entries are packed.
        hbm: the entries.
        smem: int32 [2 * chunk * words].
        sem: DMA semaphores [2].
    """

    form: EntryForm
    hbm: Ref
    smem: Ref
    sem: Ref

    @classmethod
    def scratch(cls, form: EntryForm) -> list[Any]:
        """Shapes of `smem` and `sem`."""
        return [
            pltpu.SMEM((_SLOTS * form.chunk * form.words,), jnp.int32),
            pltpu.SemaphoreType.DMA((_SLOTS,)),
        ]

    def words(self, number: jax.Array) -> tuple[jax.Array, ...]:
        """Entry `number` as it is packed; it must be in SMEM."""
        size = _SLOTS * self.form.chunk
        if size & size - 1:
            at = jax.lax.rem(number, jnp.int32(size))
        else:  # the same for less, where every step needs it
            at = number & jnp.int32(size - 1)
        at *= self.form.words
        return tuple(self.smem[at + word] for word in range(self.form.words))

    def walk(
        self,
        begin: jax.Array,
        end: jax.Array,
        step: Callable[[jax.Array, Carry], Carry],
        carry: Carry,
    ) -> Carry:
        """Run `step` for every entry of `[begin, end)`, which is not empty.

        Args:
            begin: int32 [], the first entry.
            end: int32 [], behind the last one.
            step: (number of the entry, carry) -> carry.
            carry: for the first step.
        """
        chunk = jnp.int32(self.form.chunk)
        first, last = jax.lax.div(begin, chunk), jax.lax.div(end - 1, chunk)
        self._copy(first).start()

        def turn(number: jax.Array, carry: Carry) -> Carry:
            self._copy(number + 1).start()
            self._wait(number)
            here = jnp.maximum(begin, number * chunk), jnp.minimum(end, (number + 1) * chunk)
            return loop(*here, step, carry)

        after = loop(first, last + 1, turn, carry)
        self._wait(last + 1)
        return after

    def _wait(self, chunk: jax.Array) -> None:
        size = self.form.chunk * self.form.words
        some = self.smem.at[pl.ds(0, size)]  # only its size counts
        copy: Any = pltpu.make_async_copy(some, some, self.sem.at[chunk & 1])
        copy.wait()

    def _copy(self, chunk: jax.Array) -> Any:
        slot, size = chunk & 1, self.form.chunk * self.form.words
        return pltpu.make_async_copy(
            self.hbm.at[pl.ds(pl.multiple_of(chunk * size, size), size)],
            self.smem.at[pl.ds(pl.multiple_of(slot * size, size), size)],
            self.sem.at[slot],
        )


class Buffers(NamedTuple):
    """Some blocks of one operand in VMEM: one in use, the others on their way from or to HBM.

    Attributes:
        hbm: the whole operand.
        vmem: [slots, ...], the blocks.
        sem: DMA semaphores [slots].
    """

    hbm: Ref
    vmem: Ref
    sem: Ref

    @classmethod
    def scratch(cls, block: tuple[int, ...], dtype: Any, slots: int = 2) -> list[Any]:
        """Shapes of `vmem` and `sem`."""
        return [pltpu.VMEM((slots, *block), dtype), pltpu.SemaphoreType.DMA((slots,))]

    def fetch(self, slot: jax.Array, *where: Any) -> Any:
        """The copy of `hbm[where]` to buffer `slot`."""
        return pltpu.make_async_copy(self.hbm.at[where], self.vmem.at[slot], self.sem.at[slot])

    def wait(self, slot: jax.Array) -> None:
        """Wait for the copy from or to buffer `slot`, of which only the size counts here."""
        block = self.vmem.at[slot]
        copy: Any = pltpu.make_async_copy(block, block, self.sem.at[slot])
        copy.wait()

    def store(self, slot: jax.Array, *where: Any) -> Any:
        """The copy of buffer `slot` to `hbm[where]`."""
        return pltpu.make_async_copy(self.vmem.at[slot], self.hbm.at[where], self.sem.at[slot])
