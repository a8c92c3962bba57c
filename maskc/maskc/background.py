"""Work on a second core that goes on while the compiler does something else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

__all__ = ["Background"]


class Background:
    """Threads for work whose results nobody reads before the block of `with` is left.

    Leaving it waits for all that was started, and raises what one of them raised. Threads are
    started with the first work, so a block that has none costs nothing.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._started: list[Future[None]] = []

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """Call `work` with arguments on another thread; of use where it lets Python go on."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(2)
        self._started.append(self._pool.submit(work, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        self._pool.shutdown()
        for started in self._started:
            started.result()
