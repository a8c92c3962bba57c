"""Remotes, against a real web server that misbehaves and a real S3-compatible server."""

import time
import uuid

import pytest
from faults import run
from faults.plans import many, tiny
from faulty_http import FaultyServer

from maskc_cache import ObjectStore, PlanError, Store, StoreError, encode
from maskc_cache import remote as remote_module

DEADLINE = 1.0


@pytest.fixture
def web():
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def served(web):
    """The web server with one plan, and that plan."""
    web.files[path_of(tiny())] = encode(tiny())
    return web


def path_of(plan):
    return f"/plans/v1/{plan.key[:2]}/{plan.key}.plan"


def test_a_plan_comes_from_a_web_server(served):
    remote = ObjectStore(served.url)
    assert remote.is_read_only
    assert remote.get(tiny().key, tiny().canonical) == tiny()
    assert remote.get(tiny().key, b"another form") is None
    assert remote.get(many(1)[0].key) is None
    remote.put(many(1)[0])
    assert set(served.asked) == {path_of(tiny()), path_of(many(1)[0])}


def test_a_served_directory_is_a_remote(web, tmp_path):
    store = Store(tmp_path)
    path = store.put(tiny())
    web.files[f"/plans/{path.relative_to(tmp_path)}"] = path.read_bytes()
    assert ObjectStore(web.url).get(tiny().key) == tiny()


def test_redirects_are_followed(served):
    served.files[path_of(tiny()).replace("plans", "moved")] = served.files.pop(path_of(tiny()))
    served.fault = "redirect"
    assert ObjectStore(served.url).get(tiny().key) == tiny()
    assert sum(served.asked.values()) == 2


FAILURES = [
    "cut", "cut_headers", "close_at_once", "no_content", "tebibyte", "negative_length",
    "no_length", "stall", "stall_in_body", "drip", "drip_headers", "redirect_in_a_circle",
    "redirect_to_a_file", "redirect_nowhere", "bad_request", "unauthorized", "forbidden",
    "too_many", "broken", "unavailable",
]  # fmt: skip
DAMAGES = ["short", "long", "flip", "empty", "html", "gzipped"]


@pytest.mark.parametrize("fault", FAILURES + DAMAGES)
def test_a_fault_is_an_error_in_time(served, fault):
    served.fault = fault
    remote = ObjectStore(served.url, deadline=DEADLINE)
    started = time.perf_counter()
    with pytest.raises((StoreError, PlanError), match=r"^http://127\.0\.0\.1:\d+/plans"):
        remote.get(tiny().key, tiny().canonical)
    assert time.perf_counter() - started < 2 * DEADLINE
    served.fault = None
    assert remote.get(tiny().key, tiny().canonical) == tiny()


def test_too_much_is_refused_before_it_is_fetched(served):
    with pytest.raises(PlanError, match=r"[\d,]+ bytes under [0-9a-f]+, over 100"):
        ObjectStore(served.url, max_bytes=100).get(tiny().key)


def test_a_plan_under_another_key_is_refused(served):
    other = many(1)[0]
    served.files[path_of(other)] = encode(tiny())
    with pytest.raises(PlanError, match=f"holds the plan {tiny().key} under the key {other.key}"):
        ObjectStore(served.url).get(other.key)


def test_nobody_there():
    with pytest.raises(StoreError, match="127"):
        ObjectStore("http://127.0.0.1:1/", deadline=DEADLINE).get(tiny().key)


@pytest.mark.parametrize(
    ("url", "message"), [("nonsense://x/y", "nonsense"), ("s3://", "s3://: "), ("http://", "http")]
)
def test_a_wrong_url_is_an_error(url, message):
    with pytest.raises(StoreError, match=message):
        ObjectStore(url).get(tiny().key)


def test_without_obstore_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"needs obstore; pip install 'maskc\[remote\]'"):
        ObjectStore("s3://bucket").get(tiny().key)


def test_a_forked_process_goes_without(served):
    """obstore's threads do not survive a fork: a call in the child would wait for ever.

    In a process of its own: JAX, which other tests import, warns of every fork.
    """
    assert run("forked_remote", served.url) == {"failed": 0}


# --- S3 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    """An S3-compatible server on loopback; gives the URL of a new bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            environment.setenv(name, value)
        yield endpoint
    server.stop()


@pytest.fixture
def bucket(s3):
    """A new bucket, as a remote."""
    import urllib.request

    name = f"plans-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")).close()  # noqa: S310
    return ObjectStore(f"s3://{name}/some/folder")


def test_a_bucket_keeps_plans(bucket):
    assert not bucket.is_read_only
    for plan in (tiny(), *many(4)):
        assert bucket.get(plan.key) is None
        bucket.put(plan)
        bucket.put(plan)
        assert bucket.get(plan.key, plan.canonical) == plan
        assert bucket.get(plan.key, b"another form") is None


def test_a_bucket_that_is_not_there(s3):
    missing = ObjectStore("s3://none-such")
    assert s3
    assert missing.get(tiny().key) is None
    with pytest.raises(StoreError, match="s3://none-such: "):
        missing.put(tiny())


def test_the_deadline_bounds_retries():
    assert remote_module.DEADLINE <= 10
