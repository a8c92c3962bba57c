"""Plans on a web server or in a bucket, through obstore (`pip install maskc[remote]`).

One object per plan, at the path that it has in a directory: `v<major>/<two digits>/<key>.plan`. So
any web server that serves a store's directory is a remote.

obstore speaks HTTP, S3, GCS and Azure, limits each request as a whole (a server that drips one byte
a second is cut off too), retries, follows redirects, and creates objects only where there are none.
It cannot be used after a fork, so a forked process goes without.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from maskc_cache.errors import PlanCorruptError, PlanError, StoreError
from maskc_cache.format import MAJOR, MAX_DECODED, decode, encode

if TYPE_CHECKING:
    from maskc_cache.plan import Plan

__all__ = ["DEADLINE", "ObjectStore"]

DEADLINE = 10.0
"""Seconds after which a remote counts as failed, retries included."""

_started_in: int | None = None  # the process whose threads serve obstore


class ObjectStore:
    """A read-only web server, or a bucket.

    Args:
        url: `https://host/path`, `s3://bucket/path`, `gs://...` or `az://...`. Credentials and
            endpoints come from the provider's own environment variables.
        deadline: seconds that one `get` or `put` may take.
        max_bytes: objects of more bytes than this are refused before they are fetched.
    """

    def __init__(
        self, url: str, *, deadline: float = DEADLINE, max_bytes: int = MAX_DECODED
    ) -> None:
        self.url = url
        self._deadline = deadline
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    @property
    def is_read_only(self) -> bool:
        """Whether there is no way to put a plan: on web servers."""
        return self.url.startswith(("http://", "https://"))

    def get(self, key: str, canonical: bytes | None = None) -> Plan | None:
        """The plan of a key, verified, or None; as `Store.get`.

        Raises:
            StoreError: the remote failed, or took too long.
            PlanError: what it holds under the key is not the plan of the key.
        """
        try:
            found = self._client.get(_path(key))
            if (size := found.meta["size"]) > self._max_bytes:
                raise PlanError(f"{self.url}: {size:,} bytes under {key}, over {self._max_bytes:,}")
            image = memoryview(found.bytes())
        except FileNotFoundError:
            return None
        except self._errors as error:
            raise StoreError(f"{self.url}: {_first_line(error)}") from error
        plan = decode(image, source=f"{self.url} ({key})")
        if plan.key != key:
            raise PlanCorruptError(f"{self.url}: holds the plan {plan.key} under the key {key}")
        return plan if canonical in {None, plan.canonical} else None

    def put(self, plan: Plan) -> None:
        """Create the object of a plan, unless there is one already.

        Raises:
            StoreError: the remote failed, or took too long.
        """
        if self.is_read_only:
            return
        from obstore.exceptions import AlreadyExistsError

        try:
            self._client.put(_path(plan.key), encode(plan), mode="create")
        except AlreadyExistsError:
            return  # somebody was first; nobody needs to see what they wrote
        except self._errors as error:
            raise StoreError(f"{self.url}: {_first_line(error)}") from error

    @property
    def _client(self) -> Any:
        global _started_in  # noqa: PLW0603  # obstore's threads belong to the process
        if _started_in not in {None, os.getpid()}:
            raise StoreError(f"{self.url}: not to be used in a forked process")
        _started_in = os.getpid()
        return self._opened

    @cached_property
    def _opened(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise StoreError(f"{self.url}: needs obstore; pip install 'maskc[remote]'") from None
        half = timedelta(seconds=self._deadline / 2)  # the last retry may begin after one half
        options: dict[str, Any] = {"connect_timeout": half, "timeout": half}
        if self.url.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP") == "true":
            options["allow_http"] = True
        opener: Any = from_url  # typed by provider, which only the URL tells
        try:
            return opener(
                self.url,
                client_options=options,
                retry_config={"max_retries": 2, "retry_timeout": half},
            )
        except Exception as error:  # obstore documents no common base of what it raises here
            raise StoreError(f"{self.url}: {_first_line(error)}") from error

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from obstore.exceptions import BaseError

        return (BaseError, OSError, ValueError)


def _path(key: str) -> str:
    return f"v{MAJOR}/{key[:2]}/{key}.plan"


def _first_line(error: Exception) -> str:
    """What went wrong, without obstore's dump of the causes behind it."""
    return str(error).partition("\n")[0]
