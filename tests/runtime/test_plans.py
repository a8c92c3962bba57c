import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.errors import SpecError
from maskc.expr import Causal, Local
from maskc_cache.errors import NotAPlanError
from maskc_cache.format import write_plan
from maskc_cache.store import Store
from maskc_runtime import PlanLookupError, PlanReferenceError, PlanView, attention, load_plan

SPEC = """
maskc: 1
q_len: 16
heads: 2
block_q: 8
block_kv: 8
masks:
  window: {local: {left: 4, right: 0}}
plans:
  local: {mask: window}
  global: {mask: causal}
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(SPEC)
    return path


def test_a_view_is_returned_as_it_is(causal_plan):
    view = PlanView.from_plan(causal_plan)
    assert load_plan(view) is view


def test_a_plan_becomes_a_view(causal_plan):
    assert load_plan(causal_plan) == PlanView.from_plan(causal_plan)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", [Path, str])
def test_a_path(causal_plan, tmp_path, kind, mmap):
    path = tmp_path / "some.plan"
    write_plan(causal_plan, path)
    view = load_plan(kind(path), mmap=mmap)
    assert view == load_plan(causal_plan)
    assert view.facts.wiring == load_plan(causal_plan).facts.wiring
    for loaded, original in zip(view.arrays, load_plan(causal_plan).arrays, strict=True):
        np.testing.assert_array_equal(loaded, original)


def test_a_bare_file_name_is_a_path(causal_plan, tmp_path, monkeypatch):
    write_plan(causal_plan, tmp_path / "deadbeef.plan")
    monkeypatch.chdir(tmp_path)
    assert load_plan("deadbeef.plan") == load_plan(causal_plan)


def test_a_key_and_a_unique_prefix(causal_plan, store):
    store.put(causal_plan)
    for ref in (causal_plan.key, causal_plan.key[:6], causal_plan.key.upper()):
        assert load_plan(ref, cache=store) == load_plan(causal_plan)
    assert load_plan(causal_plan.key, cache=store.root) == load_plan(causal_plan)
    assert load_plan(causal_plan.key, cache=str(store.root)) == load_plan(causal_plan)


def test_a_plan_of_a_spec_is_compiled_once(spec, store):
    expected = compile_mask(Local(left=4, right=0), q_len=16, heads=2, block_q=8, block_kv=8)
    view = load_plan((spec, "local"), cache=store)
    assert view == load_plan(expected)
    assert load_plan(view.key, cache=store) == view
    assert load_plan((str(spec), "local"), cache=store) == view
    assert load_plan((spec, "global"), cache=store) != view


def test_inside_jit_and_outside_give_the_same(spec, store, draw_qkv):
    qkv = draw_qkv((2, 16, 4), (1, 16, 4))
    inside = jax.jit(lambda *qkv: attention(*qkv, load_plan((spec, "local"), cache=store)))
    expected = attention(*qkv, load_plan((spec, "local"), cache=store))
    np.testing.assert_allclose(inside(*qkv), expected, atol=1e-6)


def test_a_path_that_is_not_there(tmp_path):
    path = tmp_path / "gone.plan"
    text = f"plan: no file {path}; write one with: maskc compile SPEC -o {tmp_path}"
    with pytest.raises(PlanLookupError, match=re.escape(text)):
        load_plan(path)
    with pytest.raises(PlanLookupError, match=re.escape(f"plan: cannot read {tmp_path}")):
        load_plan(tmp_path)


def test_a_file_that_is_no_plan(tmp_path):
    path = tmp_path / "letter.plan"
    path.write_text("dear reader, this is not a plan" * 10)
    with pytest.raises(NotAPlanError, match=re.escape(str(path))):
        load_plan(path)


def test_a_key_that_is_not_there(causal_plan, store):
    for ref in (causal_plan.key, causal_plan.key[:8]):
        text = f"plan: no plan {ref} in the cache at {store.root}; compile it with: maskc compile"
        with pytest.raises(PlanLookupError, match=re.escape(text)):
            load_plan(ref, cache=store)


def test_a_prefix_of_several_keys(store, monkeypatch):
    keys = [f"abcdef{number:026x}" for number in range(7)]
    monkeypatch.setattr(
        Store, "find", lambda _store, prefix: [k for k in keys if k.startswith(prefix)]
    )
    with pytest.raises(PlanLookupError, match=r"7 keys begin with abcdef: .*, \.\.\.; give more"):
        load_plan("abcdef", cache=store)


def test_a_spec_without_the_name_of_a_plan(spec, tmp_path):
    text = f"{spec} is a spec, not a plan; name one of its plans, load_plan(({str(spec)!r}, NAME))"
    for ref in (spec, str(spec)):
        with pytest.raises(PlanLookupError, match=re.escape(text) + "; it has 'local', 'global'"):
            load_plan(ref)
    with pytest.raises(PlanLookupError, match=r"none.yaml is a spec, not a plan; .*NAME\)\)$"):
        load_plan(tmp_path / "none.yaml")


def test_a_plan_that_the_spec_does_not_have(spec, store):
    with pytest.raises(SpecError, match=r"model.yaml: no plan 'locall'.*local"):
        load_plan((spec, "locall"), cache=store)


def test_a_spec_that_is_not_there(tmp_path, store):
    text = f"plan: no spec file {tmp_path / 'none.yaml'}"
    with pytest.raises(PlanLookupError, match=re.escape(text)):
        load_plan((tmp_path / "none.yaml", "local"), cache=store)


@pytest.mark.parametrize("ref", ["causal", "abc12", "0" * 33, ""])
def test_a_text_that_is_neither_path_nor_key(ref):
    with pytest.raises(
        PlanLookupError, match=f"plan: '{ref}' is neither a path nor a key; expected"
    ):
        load_plan(ref)


@pytest.mark.parametrize("ref", [None, 7, ("a", "b", "c"), (1, "b"), ["a", "b"], Causal()])
def test_a_value_of_another_type(ref):
    text = f"plan: expected a path of a .plan file, .*; got {type(ref).__name__} "
    with pytest.raises(PlanReferenceError, match=text):
        load_plan(ref)
    with pytest.raises(TypeError, match="got ndarray"):
        load_plan(np.arange(1000))


def test_loading_a_file_does_not_import_the_compiler(causal_plan, tmp_path):
    path = tmp_path / "some.plan"
    write_plan(causal_plan, path)
    program = (
        "import sys, maskc_runtime\n"
        f"maskc_runtime.load_plan({str(path)!r})\n"
        "assert 'maskc' not in sys.modules, 'the compiler was imported'\n"
        "assert 'numba' not in sys.modules, 'numba was imported'\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=True
    )


def test_loading_under_jit_makes_no_jax_array(causal_plan, tmp_path):
    write_plan(causal_plan, tmp_path / "some.plan")

    @jax.jit
    def traced(x):
        view = load_plan(tmp_path / "some.plan")
        assert all(type(leaf) in {np.ndarray, np.memmap} for leaf in view.arrays)
        return x

    traced(1.0)
