"""Many writers of one object, against a real S3-compatible server."""

import concurrent.futures
import logging
import os
import threading
import urllib.request
from collections import Counter
from typing import Any

from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from obstore.exceptions import AlreadyExistsError

from faults import Counts
from faults.plans import many
from maskc_cache import ObjectStore, Plan

__all__ = ["one_creates"]

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


class _Counting:
    """A client that counts how many of its writes found an object there."""

    def __init__(self, client: Any) -> None:
        self.get = client.get
        self._put = client.put
        self.refused = 0
        self._lock = threading.Lock()

    def put(self, *arguments: object, **options: object) -> object:
        try:
            return self._put(*arguments, **options)
        except AlreadyExistsError:
            with self._lock:
                self.refused += 1
            raise


def _make_atomic() -> None:
    """moto looks for an object and then makes it; a real server does both in one step."""
    lock, put = threading.Lock(), S3Response._key_response_put

    def locked(self: S3Response, *arguments: Any) -> Any:
        with lock:
            return put(self, *arguments)

    S3Response._key_response_put = locked


def one_creates(rounds: int, writers: int) -> Counts:
    """Writers of one key at once, for many keys: one creates it, and all are content.

    "several" counts the rounds in which more than one did, "none" those in which nobody knows that
    it did: a request that is sent again finds what it made itself.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    _make_atomic()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ.update(_ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint})
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/plans", method="PUT")).close()  # noqa: S310
    counts: Counter[str] = Counter(rounds=rounds, writers=writers, none=0, several=0, bad=0)
    barrier = threading.Barrier(writers)

    def write(remote: ObjectStore, plan: Plan) -> None:
        barrier.wait()
        remote.put(plan)

    with concurrent.futures.ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            plan = many(50)[number % 50]
            remote = ObjectStore(f"s3://plans/{number // 50}", deadline=240)
            client = remote.__dict__["_opened"] = _Counting(remote._client)
            for done in [pool.submit(write, remote, plan) for _ in range(writers)]:
                done.result()
            counts["none"] += client.refused == writers
            counts["several"] += client.refused < writers - 1
            counts["bad"] += remote.get(plan.key, plan.canonical) != plan
    server.stop()
    return counts
