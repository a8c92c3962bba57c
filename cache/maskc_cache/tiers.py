"""Where plans are looked for, nearest first: memory, the local directory, remotes.

What a remote gives is verified like a file and kept locally. A remote never breaks a compile: its
faults are misses, one that fails is left alone for the rest of the process, and the process says so
once.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from maskc_cache.errors import PlanError, StoreError
from maskc_cache.remote import ObjectStore
from maskc_cache.store import Store

if TYPE_CHECKING:
    from maskc_cache.plan import Plan

__all__ = ["Tier", "Tiers", "open_tiers"]

_MEMORY_BYTES = 64 << 20
_has_warned = False
_T = TypeVar("_T")


class Tier(Protocol):
    """A place that keeps plans: `Store`, `ObjectStore`, or `Tiers` of them."""

    def get(self, key: str, canonical: bytes | None = None) -> Plan | None:
        """The plan of a key, verified, or None."""

    def put(self, plan: Plan) -> object:
        """Keep a plan, unless its key is there already."""


class Tiers:
    """Memory, a local directory, and remotes, in this order.

    Args:
        local: the directory.
        remotes: directories shared with others, web servers, buckets.
        upload: put plans into the remotes too. None does so only in the first process of a JAX
            program of many.
        memory_bytes: how much the plans kept in memory may take, decoded.
        warn: told the first fault of a remote in this process.
    """

    def __init__(
        self,
        local: Store,
        remotes: Sequence[Tier] = (),
        *,
        upload: bool | None = None,
        memory_bytes: int = _MEMORY_BYTES,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.local = local
        self.remotes = tuple(remotes)
        self._upload = upload
        self._memory = _Memory(memory_bytes)
        self._failed: set[int] = set()
        self._warn = warn

    def get(self, key: str, canonical: bytes | None = None) -> Plan | None:
        """The plan of a key, verified, or None.

        Raises:
            StoreError: the local directory cannot be read, and no remote has the plan.
        """
        if (plan := self._memory.get(key, canonical)) is not None:
            return plan
        problem = None
        try:
            plan = self.local.get(key, canonical)
        except StoreError as error:
            problem = error
        if plan is None:
            answers = self._each(lambda remote: remote.get(key, canonical))
            plan = next((answer for answer in answers if answer is not None), None)
            if plan is not None:
                self._keep_locally(plan)
            elif problem is not None:
                raise problem
        if plan is not None:
            self._memory.put(plan)
        return plan

    def _keep_locally(self, plan: Plan) -> None:
        try:
            self.local.put(plan)
        except StoreError as error:
            self._say(f"the plan is not kept locally: {error}")

    def put(self, plan: Plan) -> None:
        """Keep a plan in memory, locally, and where this process uploads.

        Raises:
            StoreError: the local directory cannot be written.
        """
        self._memory.put(plan)
        try:
            self.local.put(plan)
        finally:
            if self.remotes and (_is_first_process() if self._upload is None else self._upload):
                self.upload(plan)

    def upload(self, plan: Plan) -> None:
        """Put a plan into the remotes, where it is not there already."""
        for _ in self._each(lambda remote: remote.put(plan)):
            pass

    def _each(self, action: Callable[[Tier], _T]) -> Iterator[_T]:
        """What an action gives with each remote that has not failed yet."""
        for number, remote in enumerate(self.remotes):
            if number in self._failed:
                continue
            try:
                result = action(remote)
            except PlanError as error:
                self._say(f"a remote holds a damaged plan, which is not used: {error}")
            except StoreError as error:
                self._failed.add(number)
                self._say(f"a remote is not used, because it failed: {error}")
            else:
                yield result

    def _say(self, message: str) -> None:
        global _has_warned  # noqa: PLW0603  # once in a process, however many tiers it opens
        if not _has_warned:
            _has_warned = True
            self._warn(message)


class _Memory:
    """The plans used most recently, up to so many bytes; the largest may be too large to keep."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._plans: dict[str, tuple[Plan, int]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, canonical: bytes | None) -> Plan | None:
        plan, _ = self._plans.get(key, (None, 0))
        if plan is None or canonical not in {None, plan.canonical}:
            return None
        self.put(plan)
        return plan

    def put(self, plan: Plan) -> None:
        size = sum(array.nbytes for _, array in plan.arrays())
        with self._lock:
            _, before = self._plans.pop(plan.key, (None, 0))
            self._plans[plan.key] = plan, size
            self._bytes += size - before
            while self._bytes > self._max_bytes:
                _, oldest = self._plans.pop(next(iter(self._plans)))
                self._bytes -= oldest


def _is_first_process() -> bool:
    """Whether this is process 0; a program that is not distributed has only that one."""
    jax = sys.modules.get("jax")  # never imported here: who is distributed has done it
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def open_tiers(
    root: str | os.PathLike[str] | None = None,
    *,
    upload: bool | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Tiers:
    """The local directory and the remotes that the environment names.

    Args:
        root: the local directory; None is `$MASKC_CACHE` or the user's cache directory.
        upload: as for `Tiers`.
        warn: as for `Tiers`.

    Raises:
        StoreError: `$MASKC_CACHE_MAX_BYTES` is not a number.
    """
    places = os.environ.get("MASKC_REMOTE", "").split()
    return Tiers(Store(root), [_remote(place) for place in places], upload=upload, warn=warn)


def _remote(place: str) -> Tier:
    """A remote from its name in `$MASKC_REMOTE`: a URL, or a directory."""
    path = place.removeprefix("file://")
    if "://" in path:
        return ObjectStore(path)
    return Store(path, max_bytes=sys.maxsize)  # it is for its owner to say what must go
