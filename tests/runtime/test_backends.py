"""Which kernels run: by platform, by name, and what is said if they cannot."""

import functools
import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskc.compile import compile_mask
from maskc.expr import Causal
from maskc_kernels.xla import block_sparse_attention
from maskc_runtime import BackendError, attention, backends
from maskc_runtime.backends import BACKENDS, Backend
from maskc_runtime.errors import MaskcError

PLAN = compile_mask(Causal(), q_len=16, heads=2, block_q=8, block_kv=8)
Q = np.random.default_rng(0).standard_normal((1, 2, 16, 4)).astype(np.float32)


@pytest.fixture
def other(monkeypatch):
    """A backend of an imaginary kind, for whatever platform a test says; it doubles the output."""
    seen = types.SimpleNamespace(calls=[], problem=None)

    def kernels(q, k, v, sm_scale, tables, **options):
        seen.calls.append(options)
        config = options.pop("config", None)
        out, lse = block_sparse_attention(q, k, v, sm_scale, tables, **options)
        return out * (config or 2), lse

    module = types.ModuleType("imaginary_kernels")
    module.block_sparse_attention = kernels
    module.refusal = lambda *_args, **_options: seen.problem
    monkeypatch.setitem(sys.modules, "imaginary_kernels", module)

    def install(*platforms):
        entry = Backend("other", platforms, "imaginary_kernels", "imaginary")
        monkeypatch.setattr(backends, "BACKENDS", {"other": entry, **BACKENDS})
        return seen

    return install


def plain():
    return attention(Q, Q, Q, PLAN, backend="xla")


def test_the_backend_of_this_platform_runs(other):
    other(jax.default_backend())
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN), 2 * plain())
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN, backend="xla"), plain())
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN, backend=[]), plain())


def test_settings_by_backend_reach_the_one_that_runs(other):
    other(jax.default_backend())
    run = functools.partial(attention, Q, Q, Q, PLAN)
    np.testing.assert_array_equal(run(config={"other": 5, "gpu": 3}), 5 * plain())
    np.testing.assert_array_equal(run(config={"gpu": 3}), 2 * plain())
    np.testing.assert_array_equal(run(config={"other": 5}, backend="xla"), plain())


def test_one_that_refuses_is_left_out(other):
    seen = other(jax.default_backend())
    seen.problem = "heads: too many"
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN), plain())
    assert not seen.calls


def test_one_that_is_named_runs_or_says_why_not(other):
    seen = other("elsewhere")
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN, backend="other"), 2 * plain())
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN, backend="other", config=3), 3 * plain())
    seen.problem = "heads: too many"
    text = "backend='other' cannot run this call: heads: too many"
    with pytest.raises(BackendError, match=text) as caught:
        jax.jit(lambda q: attention(q, q, q, PLAN, backend="other"))(Q)
    assert isinstance(caught.value, MaskcError)


def test_one_of_another_platform_is_not_even_traced(other):
    seen = other("elsewhere")
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN), plain())
    assert not seen.calls


def test_the_platform_of_the_lowering_decides_between_those_named(other):
    seen = other("tpu")
    run = jax.jit(lambda q: attention(q, q, q, PLAN, backend=["other"]))
    np.testing.assert_array_equal(run(Q), plain())
    assert len(seen.calls) == 1
    texts = [
        jax.export.export(run, platforms=[platform])(Q).mlir_module() for platform in ("cpu", "tpu")
    ]
    doubled = ["dense<2.000000e+00>" in text for text in texts]
    assert doubled == [False, True]


def test_only_what_is_used_reaches_the_kernels(other):
    seen = other(jax.default_backend())
    attention(Q, Q, Q, PLAN)
    attention(Q, Q, Q, PLAN, segment_ids=np.zeros(16, int), logits_soft_cap=3)
    assert [sorted(options) for options in seen.calls] == [
        [],
        ["kv_segment_ids", "logits_soft_cap", "q_segment_ids"],
    ]


def test_the_program_without_a_choice_has_no_branches():
    text = jax.jit(lambda q: attention(q, q, q, PLAN)).lower(Q).as_text()
    assert "stablehlo.case" not in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"backend": "cuda"}, "backend: expected one of tpu, gpu, xla, got 'cuda'"),
        ({"backend": ["xla", "mps"]}, "backend: expected one of tpu, gpu, xla, got 'mps'"),
        ({"config": 3}, "config: only a backend that is named has settings, got backend=None"),
        ({"backend": "xla", "config": 3}, "cannot run this call: config: the XLA kernels have no"),
    ],
)
def test_what_is_refused(arguments, text):
    with pytest.raises(BackendError, match=text):
        attention(Q, Q, Q, PLAN, **arguments)


def test_one_that_is_not_installed_says_what_to_install(other, monkeypatch):
    other("elsewhere")
    monkeypatch.setitem(sys.modules, "imaginary_kernels", None)
    with pytest.raises(BackendError, match=r"install it with: pip install 'imaginary'"):
        attention(Q, Q, Q, PLAN, backend="other")
    np.testing.assert_array_equal(attention(Q, Q, Q, PLAN, backend=["other"]), plain())


def test_every_backend_can_be_asked(other):
    seen = other("elsewhere")
    seen.problem = "heads: too many"
    arrays = tuple(map(jnp.asarray, (Q, Q, Q, np.float32(1))))
    tables = backends.AttentionTables(PLAN.head_mask, *(PLAN.fwd, PLAN.dq, PLAN.dkv))
    found = backends.backend_refusals(backends.Call(arrays, tables, {}, {}))
    assert (found["other"], found["xla"]) == ("heads: too many", None)
    assert list(found) == ["other", *BACKENDS]


@pytest.mark.parametrize(
    ("name", "text"), [("tpu", "no TPU here .*use_abstract_mesh"), ("gpu", "install")]
)
def test_kernels_of_a_machine_that_is_not_there(name, text):
    """Neither compiled nor interpreted: one error, whatever the libraries below say."""
    if name == "gpu" and importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("JAX for CUDA is installed, with which jax-triton can be loaded anywhere")
    plan = compile_mask(Causal(), q_len=128, heads=1, block_q=128, block_kv=128)
    q = np.ones((1, 1, 128, 16), np.float32)
    with pytest.raises(BackendError, match=f"backend='{name}' cannot .*{text}"):
        attention(q, q, q, plan, backend=name)
