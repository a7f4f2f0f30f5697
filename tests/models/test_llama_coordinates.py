"""Llama in μP passes a coordinate check, as heads grow in size or number, and groups or not; mistakes fail."""
import contextlib
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup import models
from haiku_mup.layers import Readout
from haiku_mup.models import layers, llama

WIDTHS, BASE = [64, 128, 256], 64
VOCAB, LENGTH, BATCH = 64, 8, 32
IDS = np.random.default_rng(4).integers(0, VOCAB, (4, LENGTH))
OPTIMIZERS = {"adam": (optax.adam, 2.0**-8), "sgd": (optax.sgd, 0.5)}
# width -> heads, groups, size of a head
SCALINGS = {"size": lambda width: (4, 2, width // 4), "count": lambda width: (width // 16, width // 32, 16),
            "groups stay": lambda width: (width // 16, 2, 16), "one key": lambda width: (width // 16, 1, 16)}


def config(scaling, width, **fields):
    count, groups, size = SCALINGS[scaling](width)
    return models.LlamaConfig(**{
        "hidden_size": width, "intermediate_size": 64 * math.ceil(width / 24), "num_attention_heads": count,
        "num_key_value_heads": groups, "head_dim": size, "num_hidden_layers": 2, "vocab_size": VOCAB,
        "initializer_range": 0.02, "layer_stack": True, **fields})


def make_model(scaling, width, **fields):
    def fn(ids):
        with haiku_mup.apply_mup():
            return models.LlamaForCausalLM(config(scaling, width, **fields))(ids)

    return hk.transform(fn)


def small(scaling, width):
    return make_model(scaling, width, num_hidden_layers=1, layer_stack=False)


def loss_fn(apply, params, rng, ids):
    return models.cross_entropy(apply(params, rng, ids), models.next_tokens(ids))


def batch():
    return jnp.asarray(np.random.default_rng(3).integers(0, VOCAB, (BATCH, LENGTH)))


def checked(scaling, optimizer="adam", parametrization="mup", widths=WIDTHS, seeds=5, steps=3, **fields):
    make, lr = OPTIMIZERS[optimizer]
    return haiku_mup.coord_check(
        functools.partial(make_model, scaling, **fields), widths, batch(), loss_fn, make(lr), base_width=BASE,
        parametrization=parametrization, adam=optimizer == "adam", seeds=seeds, steps=steps, progress=False)


# SGD leaves keys and values of groups that stay later in wider models, whatever their factors: see
# docs/guides/llama.rst, and the test below. Adam alone is checked there.
GRID = [pytest.param(scaling, optimizer, tied, marks=pytest.mark.slow)
        for scaling in SCALINGS for optimizer in OPTIMIZERS for tied in (False, True)
        if optimizer == "adam" or scaling in ("size", "count")]


@pytest.mark.parametrize("scaling, optimizer, tied", GRID)
def test_passes_in_mup(scaling, optimizer, tied):
    checked(scaling, optimizer, tie_word_embeddings=tied).assert_ok()


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS)
def test_fails_in_the_standard_parametrization(scaling):
    assert not checked(scaling, parametrization="sp").ok


@pytest.mark.slow
def test_what_reaches_values_of_groups_that_stay_starts_smaller_in_wider_models():
    """Their gradient's norm goes like 1/m, and so SGD's first steps like 1/√m; that of groups that grow stays.

    1/√m is that of any output, and 1/√m is what reaches the values: the product of a random matrix and of a
    gradient whose entries are 1/m.
    """
    def norm(scaling, width):
        mup = haiku_mup.Mup()
        for context, size in ((mup.init_base, 32), (mup.init_target, width)):
            with context():
                jax.eval_shape(small(scaling, size).init, jax.random.key(0), IDS)
        model = mup.wrap_model(small(scaling, width))

        def norm_of_gradient(key):
            params = model.init(key, IDS)
            grads = jax.grad(lambda params: loss_fn(model.apply, params, None, IDS))(params)
            return sum(jnp.sum(grads[module]["w"]**2) for module in grads if module.endswith("/value"))**0.5

        return float(jnp.mean(jax.jit(jax.vmap(norm_of_gradient))(jax.random.split(jax.random.key(1), 8))))

    stay, grow = (norm(scaling, 256) / norm(scaling, 32) for scaling in ("one key", "count"))
    assert 0.7 < 8 * stay < 1.4 and 0.7 < grow < 1.4


# --- mistakes ---

@contextlib.contextmanager
def replaced(owner, name, value):
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def plain_attention():
    """Logits divided by √d at every width."""
    return replaced(layers, "multiplier", lambda name, shape: 1.0)


def gain():
    """A norm that divides by the root of the sum of squares over the base's width, not over its own."""
    def call(self, inputs, normalized=layers.RMSNorm.__call__):
        return normalized(self, inputs) * math.sqrt(inputs.shape[-1] / BASE)

    return replaced(layers.RMSNorm, "__call__", call)


def plain_output():
    """An output layer without its multiplier."""
    return replaced(Readout, "__call__", hk.Linear.__call__)        # projections are hidden where groups grow


def embedding():
    """Embeddings times √d, as in Gemma."""
    def scaled(embed, ids, padding_id=None, lookup=llama.embed_ids):
        return lookup(embed, ids, padding_id) * math.sqrt(embed.embed_dim / BASE)

    return replaced(llama, "embed_ids", scaled)


def kept_hidden(mup, model, optimizer):
    """Keys and values of groups that stay, left as hidden: drawn √m times as large as outputs are.

    Their multiplier is 1 then, their rate 1/m, and their std that at the base / √m: as the factors of outputs,
    with draws × √m.
    """
    m = {row.target_shape[-2] / row.base_shape[-2] for row in mup.table() if row.name.endswith("key/w")}.pop()
    wrapped = mup.wrap_model(model)

    def init(*args):
        return hk.data_structures.map(lambda module, name, x: x * m**0.5 if module.endswith(("key", "value"))
                                      and name == "w" else x, wrapped.init(*args))

    return wrapped._replace(init=init), mup.wrap_optimizer(optimizer)


MISTAKES = {
    "1/√d": (plain_attention, "size", "logits"), "gain × √d": (gain, "count", "layernorm"),
    "plain output": (plain_output, "count", "lm_head"), "embedding × √d": (embedding, "count", "layers")}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails(mistake):
    plant, scaling, where = MISTAKES[mistake]
    with plant():
        bad = checked(scaling)
    assert any(where in failure.quantity for failure in bad.failures()), bad


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")     # of the planted mistake
def test_keys_that_stay_left_as_hidden_fail():
    bad = checked("groups stay", parametrization=kept_hidden)
    assert any("key" in failure.quantity or "value" in failure.quantity for failure in bad.failures()), bad


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")     # of the planted mistake
def test_a_small_one_passes_in_mup_and_fails_with_keys_left_as_hidden():
    """Checks what the grid does, for one block, two widths and two steps."""
    small = functools.partial(checked, "one key", widths=[64, 256], seeds=3, steps=2, num_hidden_layers=1,
                              layer_stack=False)
    found = small()
    assert found.failures() == [] and {each.quantity.split(" ")[0] for each in found.findings} >= {
        "logits", "activation", "update"}
    assert any("self_attn" in failure.quantity for failure in small(parametrization=kept_hidden).failures())
