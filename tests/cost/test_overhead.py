"""A compiled training step in μP does what the plain one does, and the readouts' multiplications."""
import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks import overhead
from benchmarks.overhead import Case
from haiku_mup.optimizers import trees

KEY = jax.random.key(1)
MLP = Case(overhead.mlp, (8, 64), jax.random.normal(KEY, (6, 5)))
LM = Case(functools.partial(overhead.transformer, blocks=2, heads=2, vocab=11), (8, 32),
          jax.random.randint(KEY, (2, 4), 0, 11), 11)
GPT2 = Case(functools.partial(overhead.gpt2, blocks=1), (32, 64), jax.random.randint(KEY, (2, 4), 0, 256), 256)
RESNET = Case(overhead.resnet, (2, 4), jax.random.normal(KEY, (2, 16, 16, 3)), readouts=("*/logits",))


def unmerged(x):
    """Returns how many of two multiplications by constants XLA leaves unmerged: 0 in JAX 0.10, 1 in 0.12."""
    program = jax.jit(lambda x: x * 0.3 * 0.7).lower(x).compile()
    return program.cost_analysis()["flops"] // x.size - 1


def scaled(step):
    """Returns the size of all parameters that have a factor."""
    params = step.carry[0]
    return sum(params[row.name.rpartition("/")[0]][row.name.rpartition("/")[2]].size
               for row in step.mup.table() if row.adam_lr != 1)


@pytest.mark.parametrize("case, inputs, most", [
    (MLP, 6 * 64, 2),           # what the readout is given: once forward, once back
    # XLA fuses the multiplied queries, inputs of the readout and gradients into each of their uses
    pytest.param(LM, 2 * 4 * 32, 16, marks=pytest.mark.slow),
    pytest.param(GPT2, 2 * 4 * 64, 16, marks=pytest.mark.slow),
    pytest.param(RESNET, 2 * 32, 16, marks=pytest.mark.slow)], ids=["mlp", "transformer", "gpt2", "resnet"])
def test_only_readouts_multiply(case, inputs, most):
    """Counts FLOPs: a factor takes two more multiplications, each next to a constant of the optimizer's own.

    XLA merges them with it, or puts them into the same loop over memory.
    """
    plain, wrapped = overhead.steps(case)
    factors = 2 * scaled(wrapped) * unmerged(jnp.ones(64))
    extra = wrapped.flops - plain.flops - factors
    assert 0 < extra <= most * inputs < scaled(wrapped) / 2
    assert wrapped.memory <= 1.02 * plain.memory
    assert wrapped.count("fusion") <= 1.02 * plain.count("fusion")
    assert wrapped.count("dot") == plain.count("dot") > 0


def test_at_the_base_nothing_is_added():
    plain, wrapped = overhead.steps(MLP._replace(widths=(64, 64)))
    assert wrapped.flops == plain.flops and wrapped.memory == plain.memory
    assert wrapped.count() == plain.count() > 100


def test_a_factor_that_is_not_constant_would_show(monkeypatch):
    """Shows that the check sees a factor that XLA can't fold: it costs a multiplication for each number."""
    plain = overhead.build(MLP, overhead.PLAIN)
    scaled_by_constant = trees.scaled
    monkeypatch.setattr(trees, "scaled", lambda x, s: scaled_by_constant(
        x, s) if s == 1 else x * jax.lax.optimization_barrier(jnp.full((1,) * x.ndim, s, x.dtype)))
    wrapped = overhead.build(MLP, overhead.OURS)
    assert wrapped.flops - plain.flops > scaled(wrapped)


@pytest.mark.slow
def test_the_command_measures_both_sides(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "cases", lambda: {"mlp": MLP})
    monkeypatch.setattr(overhead, "STEP_SECONDS", 0)
    overhead.main(["--quick"])
    head, heads, line = capsys.readouterr().out.splitlines()
    assert "wrapped / plain" in head and len(line) == len(heads) and line.startswith("mlp")


@pytest.mark.slow
def test_rounds_take_turns():
    pair = overhead.steps(MLP)
    builds, steps = overhead.time_builds(pair, 2), overhead.time_steps(pair, 0)
    assert builds.shape == (2, 2, 2) and steps.shape == (overhead.STEP_ROUNDS, 3)
    assert (builds > 0).all() and (steps > 0).all()
