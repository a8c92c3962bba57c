"""Tiers: nearest first, filled on the way back, and never in the way."""

import types

import pytest
from faults.plans import many, tiny
from faulty_http import FaultyServer

from maskc import Causal, CompileRequest, compile_cached
from maskc_cache import (
    ObjectStore,
    PlanCorruptError,
    Store,
    StoreError,
    Tiers,
    encode,
    open_tiers,
)
from maskc_cache import tiers as tiers_module


class Remote:
    """A remote that counts, and fails as told."""

    def __init__(self, *plans, error=None):
        self.plans = {plan.key: plan for plan in plans}
        self.error = error
        self.asked = self.given = 0

    def get(self, key, canonical=None):
        assert canonical is None or isinstance(canonical, bytes)
        self.asked += 1
        if self.error:
            raise self.error
        return self.plans.get(key)

    def put(self, plan):
        self.given += 1
        if self.error:
            raise self.error
        self.plans[plan.key] = plan


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(tiers_module, "_has_warned", False)


@pytest.fixture
def local(tmp_path):
    return Store(tmp_path / "local")


def test_nearest_first_and_kept_on_the_way_back(local):
    far, near = Remote(tiny()), Remote()
    tiers = Tiers(local, [near, far])
    assert tiers.get(tiny().key, tiny().canonical) == tiny()
    assert (near.asked, far.asked) == (1, 1)
    assert local.get(tiny().key) == tiny()
    assert tiers.get(tiny().key) is tiers.get(tiny().key)  # from memory
    assert Tiers(local, [near, far]).get(tiny().key) == tiny()  # from the directory
    assert (near.asked, far.asked) == (1, 1)
    assert tiers.get(many(1)[0].key) is None


def test_memory_compares_the_canonical_form_and_is_bounded(local):
    plans = many(10)
    bound = sum(array.nbytes for at in (0, 7, 9) for _, array in plans[at].arrays())
    tiers = Tiers(local, memory_bytes=bound)
    for plan in plans:
        tiers.put(plan)
    tiers.get(plans[7].key)
    tiers.put(plans[0])
    for plan in plans:
        local.remove(plan.key)
    assert [tiers.get(p.key) is not None for p in plans] == [p in {0, 7, 9} for p in range(10)]
    assert tiers.get(plans[7].key, b"another form") is None
    assert Tiers(local, memory_bytes=0).put(plans[0]) is None


@pytest.mark.parametrize("error", [StoreError("broken"), PlanCorruptError("damaged")])
def test_a_fault_is_a_miss_and_one_warning(local, error):
    bad, good, said = Remote(error=error), Remote(*many(3)), []
    tiers = Tiers(local, [bad, good], upload=True, warn=said.append)
    for plan in many(3):
        assert tiers.get(plan.key, plan.canonical) == plan
    tiers.put(tiny())
    assert good.plans[tiny().key] == tiny()
    Tiers(local, [Remote(error=error)], warn=said.append).get("0" * 32)
    assert len(said) == 1
    assert str(error) in said[0]
    # one that fails is left alone; a damaged plan says nothing about the others
    assert (bad.asked, bad.given) == ((1, 0) if isinstance(error, StoreError) else (3, 1))


def test_remotes_stand_in_for_a_local_directory_that_is_broken(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    tiers = Tiers(Store(tmp_path / "file"), [Remote(tiny())], warn=said.append)
    assert tiers.get(tiny().key) == tiny()
    assert "the plan is not kept locally" in said[0]
    with pytest.raises(StoreError, match="Not a directory"):
        tiers.put(many(1)[0])


def test_the_error_of_the_local_directory_is_told_where_nobody_has_the_plan(local, monkeypatch):
    def fail(*_args, **_options):
        raise StoreError("too many open files")

    monkeypatch.setattr(local, "get", fail)
    with pytest.raises(StoreError, match="too many open files"):
        Tiers(local, [Remote()]).get(tiny().key)
    assert Tiers(local, [Remote(tiny())]).get(tiny().key) == tiny()


def jax(*, distributed, index):
    return types.SimpleNamespace(
        distributed=types.SimpleNamespace(is_initialized=lambda: distributed),
        process_index=lambda: index,
    )


@pytest.mark.parametrize(
    ("module", "uploads"),
    [
        (None, True),
        (jax(distributed=False, index=7), True),
        (jax(distributed=True, index=0), True),
        (jax(distributed=True, index=1), False),
    ],
)
def test_the_first_process_uploads(local, monkeypatch, module, uploads):
    monkeypatch.setitem(tiers_module.sys.modules, "jax", module)
    remote = Remote()
    Tiers(local, [remote]).put(tiny())
    assert remote.given == uploads
    Tiers(local, [remote], upload=False).put(many(1)[0])
    assert remote.given == uploads
    Tiers(local, [remote], upload=True).put(many(2)[1])
    assert remote.given == uploads + 1


def test_the_environment_names_remotes(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "local"))
    monkeypatch.delenv("MASKC_REMOTE", raising=False)
    assert open_tiers().remotes == ()
    shared = tmp_path / "shared"
    monkeypatch.setenv("MASKC_REMOTE", f"{shared} file://{shared} s3://bucket/x https://host/y")
    tiers = open_tiers(upload=True)
    assert tiers.local.root == tmp_path / "local"
    assert [repr(remote) for remote in tiers.remotes] == [
        f"Store('{shared}')", f"Store('{shared}')", "ObjectStore('s3://bucket/x')",
        "ObjectStore('https://host/y')",
    ]  # fmt: skip


def test_a_shared_directory_serves_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKC_REMOTE", str(tmp_path / "shared"))
    monkeypatch.setenv("MASKC_CACHE_MAX_BYTES", "0")  # of this machine, not of the shared one
    request = CompileRequest(Causal(), q_len=32)
    _, hit = compile_cached(request, open_tiers(tmp_path / "one"))
    assert not hit
    plan, hit = compile_cached(request, open_tiers(tmp_path / "two"))
    assert hit
    assert Store(tmp_path / "shared").get(plan.key) == plan
    for other in many(5):
        open_tiers(tmp_path / "one").put(other)
    assert len(list(Store(tmp_path / "shared").list())) == 6


@pytest.mark.parametrize("fault", ["stall", "html", "flip", "broken", "tebibyte"])
def test_a_compile_goes_on_whatever_the_server_does(tmp_path, fault):
    server, said = FaultyServer(), []
    request = CompileRequest(Causal(), q_len=32)
    plan, _ = compile_cached(request, Store(tmp_path / "elsewhere"))
    server.files[f"/plans/v1/{plan.key[:2]}/{plan.key}.plan"] = encode(plan)
    server.fault = fault
    remote = ObjectStore(server.url, deadline=0.5)
    tiers = Tiers(Store(tmp_path / "local"), [remote], warn=said.append)
    assert compile_cached(request, tiers) == (plan, False)
    assert compile_cached(request, tiers) == (plan, True)
    assert len(said) == 1
    server.close()
