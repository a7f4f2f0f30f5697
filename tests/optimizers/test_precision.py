"""bfloat16, masters, accumulated gradients, donated buffers: wrapping changes no dtype, and copies nothing."""
import contextlib
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from small_models import KEY
from trees import equal

import haiku_mup
from haiku_mup import models
from haiku_mup.optimizers import trees

BASE, WIDTH = 16, 64            # so that factors are powers of two, and exact in any dtype
X = jnp.linspace(-1, 1, 8 * 6).reshape(8, 6)
Y = jnp.arange(8) % 3


class Net(hk.Module):
    """An MLP, whose class has the policy, as in a user's program."""

    def __init__(self, width, ours, name="net"):
        super().__init__(name)
        self.width, self.ours = width, ours

    def __call__(self, x):
        for _ in range(2):
            x = hk.LayerNorm(-1, True, True)(jax.nn.gelu(hk.Linear(self.width)(x)))
        return (haiku_mup.Readout(3) if self.ours else hk.Linear(3, name="readout"))(x)


def fn(x, width, ours, policy):
    with hk.mixed_precision.push_policy(Net, jmp.get_policy(policy)):
        if not ours:
            return Net(width, False)(x)
        with haiku_mup.apply_mup():
            return Net(width, True)(x)


def model(ours, policy, width=WIDTH):
    return hk.without_apply_rng(hk.transform(functools.partial(fn, width=width, ours=ours, policy=policy)))


def gpt2_fn(ids, width, ours, policy):
    config = models.GPT2Config(vocab_size=11, n_embd=width,
                               n_head=2, n_layer=3, n_positions=5, layer_stack=True)
    with hk.mixed_precision.push_policy(models.GPT2LMHeadModel, jmp.get_policy(policy)), \
            haiku_mup.apply_mup() if ours else contextlib.nullcontext():
        return models.GPT2LMHeadModel(config)(ids)


def gpt2(ours, policy, width=WIDTH):
    return hk.without_apply_rng(hk.transform(functools.partial(gpt2_fn, width=width, ours=ours, policy=policy)))


IDS = jnp.arange(10).reshape(2, 5)
BATCH = {model: (X, Y), gpt2: (IDS, IDS + 1)}


def captured(policy, make=model, **given):
    mup = haiku_mup.Mup(**given)
    with mup.init_base():
        jax.eval_shape(make(True, policy, BASE).init, KEY, BATCH[make][0])
    with mup.init_target():
        jax.eval_shape(make(True, policy).init, KEY, BATCH[make][0])
    return mup


class Masters(NamedTuple):
    """A float32 copy of the parameters, and the state of the optimizer that works on it."""

    params: Any
    inner: Any


def with_masters(optimizer):
    """The optimizer for parameters in bfloat16, with masters in float32, as users write it."""
    def float32(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def init(params):
        masters = float32(params)
        return Masters(masters, optimizer.init(masters))

    def update(grads, state, params):
        updates, inner = optimizer.update(float32(grads), state.inner, state.params)
        masters = optax.apply_updates(state.params, updates)
        return jax.tree.map(lambda new, p: new.astype(p.dtype) - p, masters, params), Masters(masters, inner)

    return optax.GradientTransformation(init, update)


def accumulating(optimizer, steps=2):
    return optax.MultiSteps(optimizer, steps).gradient_transformation()


POLICIES = {"bf16 compute": "p=f32,c=bf16,o=f32", "bf16": "p=bf16,c=bf16,o=f32", "float32": "p=f32,c=f32,o=f32"}
AROUND = {"": lambda opt: opt, "accumulated": accumulating, "masters": with_masters,
          "accumulated masters": lambda opt: accumulating(with_masters(opt))}


class Run(NamedTuple):
    """A training step, and the shapes of what it starts from.

    Attributes:
      step: (parameters and optimizer's state, inputs, labels) -> the first, anew, the updates, the loss.
      state: the shapes of the first, and their dtypes.
      batch: inputs and labels.
    """

    step: Any
    state: Any
    batch: Any

    @classmethod
    def of(cls, ours, policy, around="", optimizer=None, mup=None, make=model, **how):
        """The wrapped model with the wrapped optimizer, or the plain ones."""
        net, optimizer = make(ours, POLICIES[policy]), optimizer or optax.adamw(1e-3)
        if ours:
            mup = mup or captured(POLICIES[policy], make)
            net, optimizer = mup.wrap_model(net), mup.wrap_optimizer(optimizer, **how)
        optimizer = AROUND[around](optimizer)

        def step(state, x, y):
            def loss_fn(params):
                return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, x), y).mean()

            params, inner = state
            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, inner = optimizer.update(grads, inner, params)
            return (optax.apply_updates(params, updates), inner), updates, loss

        def start(key):
            params = net.init(key, BATCH[make][0])
            return params, optimizer.init(params)

        return cls(step, jax.eval_shape(start, KEY), BATCH[make])

    def dtypes(self):
        """Of parameters, optimizer's state and updates, before a step and after it, with their shapes."""
        after, updates, _ = jax.eval_shape(self.step, self.state, *self.batch)
        return [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (self.state, after, updates)]

    def compiled(self, donated=True):
        """What the compiler says of a step's memory."""
        def step(state, x, y):
            state, _, loss = self.step(state, x, y)
            return state, loss

        jitted = jax.jit(step, donate_argnums=0 if donated else ())
        return jitted.lower(self.state, *self.batch).compile().memory_analysis()


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# --- dtypes ---

OPTIMIZERS = {
    "momenta in bf16": (optax.adamw(1e-3, mu_dtype=jnp.bfloat16), {}),
    "sgd, bf16": (optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.bfloat16), {"adam": False}),
    "scaled eps": (optax.adam(1e-3), {"scale_eps": True}), "lion": (optax.lion(1e-3), {}),
    "adafactor": (optax.adafactor(1e-3), {"rule": "adafactor"}), "lamb": (optax.lamb(1e-3), {"rule": "lamb"}),
}
QUICK = [("bf16 compute", ""), ("bf16", "accumulated masters")]


def slow(rows, quick):
    return [pytest.param(*row, marks=() if row in quick else pytest.mark.slow) for row in rows]


def dtypes_of_both(policy, around=""):
    """Returns those of the plain step, and those of the wrapped one: before, after, and of the updates."""
    return [Run.of(side, policy, around).dtypes() for side in (False, True)]


@pytest.mark.parametrize("policy, around", slow([(p, a) for p in POLICIES for a in AROUND], QUICK))
def test_dtypes_are_those_of_the_plain_step(policy, around):
    plain, ours = dtypes_of_both(policy, around)
    assert ours == plain
    before, after, _ = ours
    assert after == before          # and so one compiled program serves all steps


@pytest.mark.parametrize("policy, name", slow([(p, o) for p in ("bf16 compute", "bf16") for o in OPTIMIZERS],
                                              [("bf16", "momenta in bf16")]))
def test_dtypes_of_other_optimizers(policy, name):
    optimizer, how = OPTIMIZERS[name]
    plain, ours = Run.of(False, policy, optimizer=optimizer), Run.of(True, policy, optimizer=optimizer, **how)
    assert ours.dtypes() == plain.dtypes()


@pytest.mark.parametrize("policy, form", slow([(p, f) for p in ("bf16 compute", "bf16") for f in (
    "table3", "table9", "mean_field")], [("bf16", "table9")]))
def test_dtypes_where_weights_are_multiplied(policy, form):
    mup = captured(POLICIES[policy], parametrization=haiku_mup.maximal_update(form))
    assert Run.of(True, policy, mup=mup).dtypes() == Run.of(False, policy).dtypes()


def test_a_factor_that_promotes_would_show(monkeypatch):
    monkeypatch.setattr(trees, "scaled", lambda x, s: x if s == 1 else x * np.float32(s))
    plain, ours = dtypes_of_both("bf16")
    assert ours != plain


# --- factors ---

def drawn(tree, scale=1.0):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree)


@pytest.mark.parametrize("policy", POLICIES)
def test_factors_are_those_of_float32(policy):
    """Base and target draw in bfloat16, too, and a std is what the initializer says."""
    assert captured(POLICIES[policy]).table() == captured(POLICIES["float32"]).table()


@pytest.mark.parametrize("policy", ["bf16 compute", *(
    pytest.param(policy, marks=pytest.mark.slow) for policy in ("bf16", "float32"))])
def test_the_readout_is_divided_in_any_dtype(policy):
    mup, plain = captured(POLICIES[policy]), model(False, POLICIES[policy])
    params = drawn(jax.eval_shape(plain.init, KEY, X))
    params["net/readout"]["b"] *= 0
    ours, theirs = (m.apply(params, X) for m in (mup.wrap_model(model(True, POLICIES[policy])), plain))
    assert ours.dtype == theirs.dtype == jnp.float32
    assert (ours == theirs / (WIDTH // BASE)).all() and abs(ours).max() > 0.01


@pytest.mark.parametrize("dtype, around", slow(
    [(d, a) for d in ("bfloat16", "float32") for a in AROUND], [("bfloat16", "accumulated masters")]))
def test_updates_are_the_plain_ones_times_the_factor(dtype, around):
    """Exactly, since factors are powers of two; and a decay is the plain one."""
    mup = captured(POLICIES["bf16"])
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), jax.eval_shape(
        model(True, POLICIES["bf16"]).init, KEY, X))
    plain, ours = (AROUND[around](opt) for opt in (optax.adam(1e-3), mup.wrap_optimizer(optax.adam(1e-3))))
    grads = [drawn(params, scale) for scale in (0.5, 2.0)]
    mine, theirs = (jax.jit(functools.partial(moved, opt))(params, grads) for opt in (ours, plain))
    scales = mup.lr_scales()
    assert equal(mine, jax.tree.map(lambda x, scale: x * scale, theirs, scales))
    assert not equal(mine, theirs) and {*jax.tree.leaves(scales)} == {1.0, 0.25}


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_a_decay_is_the_plain_one(dtype):
    mup, plain = captured(POLICIES["bf16"]), optax.adamw(1e-3, weight_decay=0.1)
    params = jax.tree.map(lambda x: x.astype(dtype), drawn(jax.eval_shape(
        model(True, POLICIES["bf16"]).init, KEY, X)))
    zeros = [jax.tree.map(jnp.zeros_like, params)]
    mine, shrunk, theirs = (jax.jit(functools.partial(moved, opt))(params, zeros) for opt in (
        mup.wrap_optimizer(plain), mup.wrap_optimizer(plain, scale_decay=True), plain))
    assert equal(mine, theirs) and not equal(shrunk, theirs)


def moved(optimizer, params, grads):
    """The sum of what the optimizer makes of gradients; where there are masters, how far they are from it."""
    state, total = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for each in grads:
        updates, state = optimizer.update(each, state, params)
        total = jax.tree.map(jnp.add, total, updates)
    found = masters(state)
    return total if found is None else jax.tree.map(lambda x, p: x - p.astype(x.dtype), found, params)


def masters(state):
    found = [x.params for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Masters))
             if isinstance(x, Masters)]
    return found[0] if found else None


# --- memory ---

def copies(policy, around, donated=True, make=model):
    """Returns the kinds of memory in which the wrapped step takes another size than the plain one, or more."""
    plain, ours = (Run.of(side, policy, around, make=make) for side in (False, True))
    theirs, mine = plain.compiled(), ours.compiled(donated)
    found = {kind for kind in ("alias", "argument", "output")
             if getattr(mine, f"{kind}_size_in_bytes") != getattr(theirs, f"{kind}_size_in_bytes")}
    found |= {"alias"} if theirs.alias_size_in_bytes != size(ours.state) else set()
    return found | ({"temp"} if mine.temp_size_in_bytes > theirs.temp_size_in_bytes else set())


@pytest.mark.parametrize("policy, around", slow([(p, a) for p in POLICIES for a in AROUND], QUICK[:1]))
def test_a_wrapped_step_copies_nothing(policy, around):
    """All that goes in is donated, and what comes out is in its place."""
    assert copies(policy, around) == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*applied without its multipliers")         # that is the plain one
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("around", ["", "accumulated masters"])
def test_gpt2_in_bfloat16(policy, around):
    """Stacked blocks, attention and a tied readout."""
    plain, ours = (Run.of(side, policy, around, make=gpt2).dtypes() for side in (False, True))
    assert plain == ours
    found = {dtype for _, dtype in jax.tree.leaves(plain[0][0], is_leaf=lambda x: isinstance(x, tuple))}
    assert found == {jnp.dtype(jnp.bfloat16 if policy == "bf16" else jnp.float32)}
    assert copies(policy, around, make=gpt2) == set()


@pytest.mark.slow
def test_what_is_not_donated_would_show():
    assert "alias" in copies("bf16 compute", "", donated=False)


def update_alone(ours, around):
    """The memory that an update takes, in which all can be one loop a parameter; and that of parameters."""
    params = jax.eval_shape(model(False, POLICIES["bf16"]).init, KEY, X)
    optimizer = optax.adamw(1e-3)
    optimizer = AROUND[around](captured(POLICIES["bf16"]).wrap_optimizer(optimizer) if ours else optimizer)

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    found = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    assert found.alias_size_in_bytes == size((params, state))
    return found.temp_size_in_bytes, size(params)


@pytest.mark.parametrize("around", ["masters", *(
    pytest.param(name, marks=pytest.mark.slow) for name in AROUND if name != "masters")])
def test_an_update_has_no_array_of_its_own(around):
    (theirs, params), (mine, _) = (update_alone(side, around) for side in (False, True))
    assert mine == theirs
    assert "accumulated" in around or mine < params / 20


def test_an_array_of_its_own_would_show(monkeypatch):
    """A product in a loop of its own, which XLA can't put into the update's."""
    monkeypatch.setattr(trees, "scaled",
                        lambda x, s: x if s == 1 else jax.lax.map(lambda y: y * s, x))
    mine, params = update_alone(True, "masters")
    assert mine > params / 2
