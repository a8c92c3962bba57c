"""What a spec file meant the last time: its plans' canonical forms, without reading it as YAML.

Reading YAML, building the masks and bringing them to canonical form is a pure function of the
spec's bytes and of the code that does it. So its result can be kept in the cache, beside the plans,
under a hash of the two. An answer is believed only if the record holds the very bytes of the spec
and of that hash, under a checksum; and the plan that it leads to is still compared by its canonical
form, as on every hit. "The code" is the source of this package and of what it reads YAML with, by
content, not by version. Specs that name other files are not remembered.

A record is a file of the store's directory, evicted like a plan. None of this can fail: a record
that is not there, not whole, or cannot be written only means that the spec is read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import xxhash

import maskc_cache
from maskc_cache.plan import pack
from maskc_cache.store import Store

if TYPE_CHECKING:
    from maskc.spec import Spec

__all__ = ["SpecMemo"]

_READERS = ("yaml", "msgspec")
_MAX_BYTES = 1 << 20  # of a record; larger specs are read each time


class SpecMemo:
    """The record of one spec file, in one store.

    Args:
        store: where the record is.
        content: the spec file's bytes.
        plan: the name of the only plan that is asked for, if not all are.
    """

    def __init__(self, store: Store, content: bytes, plan: str | None) -> None:
        self._content = content
        self._code = _code()
        self._asked = pack([content, plan, self._code])
        key = xxhash.xxh3_128_hexdigest(self._asked)
        self._path = store.path(key).with_suffix(".spec")

    def recall(self) -> list[tuple[str, bytes]] | None:
        """Name and canonical form of each plan, in the spec's order; None if it is not known."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(self._path, "rb", opener=lambda path, _: os.open(path, flags)) as file:
                content = file.read(_MAX_BYTES)
            check, record = content[:16], content[16:]
            if xxhash.xxh3_128_digest(record) != check:
                return None
            asked, plans = msgspec.msgpack.decode(record)
        except (OSError, ValueError, msgspec.DecodeError):
            return None
        return [(name, canonical) for name, canonical in plans] if asked == self._asked else None

    def remember(self, spec: Spec) -> None:
        """Keep what the spec means, for the next time."""
        if spec.reads_files or spec.content != self._content:
            return
        plans = [[name, request.canonical] for name, request in spec.requests.items()]
        record = pack([self._asked, plans])
        if not self._code or self._code != _code() or len(record) + 16 > _MAX_BYTES:
            return  # the source is not at hand, or changed while it was read
        from maskc_cache.publish import replace  # a hit needs none

        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            replace(xxhash.xxh3_128_digest(record) + record, self._path)


def _code() -> bytes:
    """A hash of the code that reads specs; empty if its source is not at hand."""
    state = xxhash.xxh3_128(repr((sys.version, np.__version__)).encode())
    names = set()
    for path in sorted(_sources()):
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        name = os.path.basename(path)
        names.add(name)
        state.update(f"{name} {len(content)} ".encode())
        state.update(content)
    return state.digest() if {"spec.py", "plan.py"} <= names else b""


def _sources() -> Iterator[str]:
    """Paths as text: those of `pathlib` take twice as long, on every hit."""
    for package in (__file__, maskc_cache.__file__):
        for folder, folders, files in os.walk(os.path.dirname(package)):
            folders[:] = [name for name in folders if name != "__pycache__"]
            yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))
    for reader in _READERS:
        if (found := importlib.util.find_spec(reader)) and found.origin:
            yield found.origin  # where the reader's version stands
