"""forward_factors: which factors of the width it finds, on which line; none in right models."""
import functools
import inspect
import math
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup import models

WIDTHS = 64, 256
X = jnp.ones((4, 6, 16))
IDS = jnp.ones((2, 8), int)


def maker(function):
    """make_model(width) of function(x, width), inside apply_mup()."""
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return function(x, width)
        return hk.transform_with_state(fn)
    return make_model


def found(function, x=X, widths=WIDTHS):
    return haiku_mup.forward_factors(maker(function), widths, x)


def line_of(function, text):
    """Number of the one line of a function that has this text."""
    lines, first = inspect.getsourcelines(function)
    [number] = [first + i for i, line in enumerate(lines) if text in line]
    return number


# --- right models ---

def block(x, width):
    """What a pre-LN transformer's blocks are made of, with 1/d attention of one's own."""
    h = hk.LayerNorm(-1, True, True)(x)
    heads, size = 4, width // 4
    q, k, v = (hk.Linear(width, name=name)(h).reshape(*h.shape[:2], heads, size) for name in "qkv")
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / size
    out = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v).reshape(h.shape)
    x = x + hk.Linear(width)(out)
    return x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(hk.RMSNorm(-1)(x))))


def transformer(x, width):
    x = hk.Linear(width)(x)
    for _ in range(2):
        x = block(x, width)
    return haiku_mup.Readout(3)(hk.LayerNorm(-1, True, True)(x).mean(1))


def stacked(x, width):
    x = hk.experimental.layer_stack(3)(hk.remat(lambda x: block(x, width)))(hk.Linear(width)(x))
    return haiku_mup.Readout(3)(x)


def library_attention(x, width):
    x = hk.Linear(width)(x)
    x = x + haiku_mup.MultiHeadAttention(4, width // 4, w_init=hk.initializers.VarianceScaling())(x, x, x)
    return haiku_mup.Readout(3)(x)


def more_heads(x, width):
    x = hk.Linear(width)(x)
    x = x + hk.MultiHeadAttention(width // 16, 16, w_init=hk.initializers.VarianceScaling())(x, x, x)
    return haiku_mup.Readout(3)(x)


def norms(x, width):
    x = hk.Linear(width)(x)
    x = hk.GroupNorm(4)(x[:, None])[:, 0]
    x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    cosines = jnp.einsum("btd,bsd->bts", unit, unit)
    return haiku_mup.Readout(3)(jnp.einsum("bts,bsd->btd", jax.nn.softmax(10 * cosines), x))


def recurrent(x, width):
    for core in (hk.LSTM(width), hk.GRU(width)):
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    return haiku_mup.Readout(3)(x)


def convolutions(x, width):
    x = jax.nn.relu(hk.Conv2D(width, 3)(x[..., None]))
    x = hk.avg_pool(hk.DepthwiseConv2D(1, 3)(x), (2, 2, 1), (2, 2, 1), "SAME")
    return haiku_mup.ConvReadout(2, 3, 1)(hk.Conv2DTranspose(2 * width, 3)(x))


def experts(x, width):
    h = jax.nn.relu(hk.Linear(width)(x))
    gate = jax.nn.softmax(haiku_mup.Readout(3, name="router")(h))
    chosen = jax.nn.one_hot(gate.argmax(-1), 3) * gate
    each = jnp.stack([hk.Linear(width, name=f"expert_{c}")(h) for c in "abc"], -1)
    return haiku_mup.Readout(10)(jax.nn.relu(h + (each * chosen[..., None, :]).sum(-1)))


def rotary(x, width):
    h = hk.Linear(width)(x)
    angles = jnp.arange(x.shape[1])[None, :, None] / 10000**(jnp.arange(0, width, 2) / width)[None, None]
    even, odd = h[..., ::2], h[..., 1::2]
    q = jnp.concatenate([even * jnp.cos(angles) - odd * jnp.sin(angles),
                         even * jnp.sin(angles) + odd * jnp.cos(angles)], -1)
    return haiku_mup.Readout(3)(jax.nn.softmax(q @ jnp.swapaxes(q, 1, 2) / width) @ h)


def positions(x, width):
    angles = np.arange(x.shape[1])[:, None] / 10000**(np.arange(width // 2) / width)
    h = hk.Linear(width)(x) + np.concatenate([np.sin(angles), np.cos(angles)], -1)[None]
    return haiku_mup.Readout(3)(hk.dropout(hk.next_rng_key(), 0.1, jax.nn.relu(h)))


def normalised_after(x, width):
    """What a norm takes back is no finding: x·√d before LayerNorm changes nothing."""
    return haiku_mup.Readout(3)(hk.LayerNorm(-1, True, True)(hk.Linear(width)(x) * width**0.5))


def tied(ids, width):
    embed = haiku_mup.SharedEmbed(20, width)
    x = embed(ids)
    return haiku_mup.SharedReadout()(embed, hk.LayerNorm(-1, True, True)(x + hk.Linear(width)(x)))


def gpt2(ids, width):
    config = models.GPT2Config(vocab_size=50, n_positions=16, n_embd=width, n_layer=2, n_head=4)
    return models.GPT2LMHeadModel(config)(ids)


def bert(ids, width):
    config = models.BertConfig(vocab_size=50, max_position_embeddings=16, hidden_size=width,
                               num_hidden_layers=1, num_attention_heads=4, intermediate_size=4 * width)
    return models.BertForPreTraining(config)(ids)


@pytest.mark.parametrize("function", [
    transformer, stacked, library_attention, more_heads, norms, recurrent, convolutions, experts, rotary,
    positions, normalised_after], ids=lambda function: function.__name__)
def test_right_models_have_none(function):
    assert found(function) == []


@pytest.mark.parametrize("function", [tied, gpt2, bert], ids=lambda function: function.__name__)
def test_right_models_of_ids_have_none(function):
    assert found(function, IDS) == []


# --- wrong models: the line, what is there, and the power ---

def root(x, width):
    x = hk.Linear(width)(x) * width**0.5                                # HERE
    return haiku_mup.Readout(10)(jax.nn.relu(hk.Linear(width)(x)))


def root_by_jax(x, width):
    x = jax.nn.relu(hk.Linear(width)(x))
    x = x * jnp.sqrt(x.shape[-1])                                       # HERE
    return haiku_mup.Readout(10)(x)


def quotient(x, width):
    x = hk.Linear(width)(x)
    x = x + hk.Linear(width)(jax.nn.relu(x)) / width                    # HERE
    return haiku_mup.Readout(10)(x)


def in_a_stack(x, width):
    def residual(x):
        y = hk.Linear(width)(jax.nn.relu(hk.LayerNorm(-1, True, True)(x)))
        return x + y * width**-0.5                                      # HERE
    x = hk.experimental.layer_stack(3)(hk.remat(residual))(hk.Linear(width)(x))
    return haiku_mup.Readout(10)(x)


def root_attention(x, width):
    h = hk.Linear(width)(x)
    logits = h @ jnp.swapaxes(hk.Linear(width)(h), 1, 2)
    logits = logits / jnp.sqrt(width)                                   # HERE
    return haiku_mup.Readout(10)(jax.nn.softmax(logits) @ h)


def haikus_attention(x, width):
    h = hk.Linear(width)(x)
    h = hk.MultiHeadAttention(4, width // 4, w_init=hk.initializers.VarianceScaling())(h, h, h)     # HERE
    return haiku_mup.Readout(10)(h)


def sum_of_features(x, width):
    h = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(1)(h) + h.sum(-1, keepdims=True)           # HERE


def output_mult(x, width):
    h = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(3, output_mult=(64 / width)**0.5)(h)       # HERE


def mask_made_of_the_width(x, width):
    h = hk.Linear(width)(x)
    mask = np.tril(np.ones((6, 6))).astype(np.float32) / width
    return haiku_mup.Readout(3)(h + jnp.einsum("ts,bsd->btd", mask, h))  # HERE


def behind_jit(x, width):
    h = hk.Linear(width)(x)
    h = jax.jit(lambda x: jnp.tanh(x * width**0.5))(h)                  # HERE
    return haiku_mup.Readout(3)(h)


def behind_custom_gradients(x, width):
    @jax.custom_vjp
    def scaled(x):
        return x * width**0.5                                           # HERE

    scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (g,))
    return haiku_mup.Readout(3)(jnp.tanh(scaled(hk.Linear(width)(x))))


def behind_a_condition(x, width):
    h = hk.Linear(width)(x)
    h = jax.lax.cond(x.sum() > 0, lambda h: h * width**0.5,             # HERE
                     lambda h: h, h)
    return haiku_mup.Readout(3)(h)


def unit_norm(x, width):
    """Entries of vectors of length one shrink like the width's root."""
    h = hk.Linear(width)(x)
    h = h / jnp.sqrt((h**2).sum(-1, keepdims=True))                     # HERE
    return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(width)(h)))


@pytest.mark.parametrize("function, action, base, power", [
    (root, "multiplied by", 8, 0.5),
    (root_by_jax, "multiplied by", 8, 0.5),
    (quotient, "divided by", 64, -1),
    (in_a_stack, "multiplied by", 1 / 8, -0.5),
    (root_attention, "divided by", 8, 0.5),
    (haikus_attention, "divided by", 4, 0.5),
    (sum_of_features, "a sum over", 64, 1),
    (output_mult, "multiplied by", 1, -0.5),
    (mask_made_of_the_width, "multiplied by", 1 / 64, -1),
    (behind_jit, "multiplied by", 8, 0.5),
    (behind_custom_gradients, "multiplied by", 8, 0.5),
    (behind_a_condition, "multiplied by", 8, 0.5),
    (unit_norm, "a sum over", 64, -0.5),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_factor_is_found_with_its_line(function, action, base, power):
    [one] = found(function)
    assert pathlib.Path(one.file) == pathlib.Path(__file__) and one.line == line_of(function, "# HERE")
    assert one.action == action and math.isclose(one.base, base, rel_tol=1e-6)
    assert math.isclose(one.power, power, abs_tol=1e-6)         # float32 rounds √n by 6e-8
    assert f"{pathlib.Path(__file__).name}:{one.line}: {action}" in str(one)


def test_attention_names_the_sum_that_its_division_should_take_back():
    [one] = found(root_attention)
    [other] = one.others
    assert (other.action, other.base, other.target) == ("a sum over", 64, 256)
    assert other.line == line_of(root_attention, "swapaxes") and str(other.line) in str(one)


def test_two_factors_are_two_findings():
    def two(x, width):
        x = jnp.tanh(hk.Linear(width)(x) * width**0.5)
        return haiku_mup.Readout(10)(jnp.tanh(x / width))
    assert [one.power for one in found(two)] == pytest.approx([0.5, -1])


def test_factors_that_cancel_are_none():
    def cancelled(x, width):
        x = hk.Linear(width)(x) * width**0.5
        return haiku_mup.Readout(10)(jnp.tanh(jax.nn.relu(x) / width**0.5))
    assert found(cancelled) == []


def test_a_deep_transformer_takes_seconds():
    """12 layers, each a module of its own; measured at 3 s on 2 cores, with a limit for a machine in use."""
    import time

    def deep(ids, width):
        config = models.GPT2Config(vocab_size=50, n_positions=16, n_embd=width, n_layer=12, n_head=4)
        return models.GPT2LMHeadModel(config)(ids)
    start = time.process_time()
    assert found(deep, IDS) == []
    assert time.process_time() - start < 20


def test_a_check_that_fails_names_the_line():
    def loss_fn(apply, params, rng, batch):
        return (apply(params, rng, batch)**2).mean()

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return root(x, width)
        return hk.transform(fn)

    def check(parametrization):
        return haiku_mup.coord_check(make_model, [16, 64], X, loss_fn, optax.sgd(1e-3), adam=False, steps=1,
                                     parametrization=parametrization, progress=False)
    result = check("mup")
    assert not result.ok and [one.line for one in result.factors] == [line_of(root, "# HERE")]
    assert f"test_forward_factors.py:{result.factors[0].line}: multiplied by" in str(result).splitlines()[1]
    assert not check("sp").factors          # where it is no surprise


def own_products(x, width):
    """Multiplies by a weight of its own, and sums: a product, as of scores of an attention over graphs."""
    x = jax.nn.relu(hk.Linear(width)(x))
    score = hk.get_parameter("score", [1, 1, width], init=hk.initializers.RandomNormal())
    scores = (x * score).sum(-1, keepdims=True)
    return haiku_mup.Readout(10)(jax.nn.sigmoid(scores) * x)


def gated_sum(x, width):
    """Sums features times one gate of its own: no product, since the gate has no width."""
    x = jax.nn.relu(hk.Linear(width)(x))
    gate = hk.get_parameter("gate", [1, 1, 1], init=jnp.ones)
    return haiku_mup.Readout(10)(x + (x * gate).sum(-1, keepdims=True))


def test_a_product_with_a_weight_of_ones_own_has_no_factor_and_a_sum_of_gated_features_has():
    assert not found(own_products)
    assert [factor.power for factor in found(gated_sum)] == pytest.approx([1])


def learned_queries(x, width, power):
    """Attends from learned queries, whose projection is made of parameters alone."""
    h = hk.Linear(width)(x)
    latents = hk.get_parameter("latents", [2, width], init=hk.initializers.RandomNormal())
    logits = hk.Linear(width)(latents) @ hk.Linear(width)(h).swapaxes(1, 2)
    return haiku_mup.Readout(3)(jax.nn.softmax(logits / width**power) @ h)


def of_scaled_weights(x, width, power):
    """Multiplies by a weight that parameters alone make, such as a low-rank addition to another."""
    a, b = (hk.get_parameter(name, shape, init=hk.initializers.RandomNormal())
            for name, shape in (("a", [width, 2]), ("b", [2, width])))
    return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(width)(x) @ (a @ b) / width**power))


@pytest.mark.parametrize("function, power, left", [
    (learned_queries, 1, []), (learned_queries, 0.5, [0.5]), (of_scaled_weights, 0, []),
    (of_scaled_weights, 1, [-1])])
def test_what_parameters_alone_make_is_a_weight_or_an_activation(function, power, left):
    assert [f.power for f in found(functools.partial(function, power=power))] == pytest.approx(left)


def test_a_factor_that_no_slope_shows_leaves_the_check_undecided():
    """Positions × 1/√width, beside tokens that keep their size: training would show it, later."""
    def make_model(power):
        def make(width):
            def fn(x):
                with haiku_mup.apply_mup():
                    x = hk.Linear(width)(x)
                    pos = hk.get_parameter("pos", [1, 5, width], init=hk.initializers.RandomNormal(0.1))
                    x = x + width**power * pos
                    return haiku_mup.Readout(3)(jax.nn.relu(x).mean(1))
            return hk.transform(fn)
        return make

    def loss_fn(apply, params, rng, batch):
        return jnp.square(apply(params, rng, batch) - 1).mean()

    batch = jax.random.normal(jax.random.PRNGKey(0), (16, 5, 8))
    wrong, right = (haiku_mup.coord_check(make_model(power), (32, 128), batch, loss_fn, optax.adam(2.0**-8),
                                          steps=1, progress=False) for power in (-0.5, 0.0))
    assert right.ok and not wrong.failures() and wrong.verdict == "undecided"
    first, second, *_ = str(wrong).splitlines()
    assert "no slope is off, but the forward pass has a factor of the width" in first
    assert "test_forward_factors.py" in second and "one over the root of the width" in second


def test_flags_are_not_traced():
    def make_model(width):
        def fn(x, scaled):
            x = hk.Linear(width)(x)
            return haiku_mup.Readout(3)(jnp.tanh(x * width**0.5 if scaled else x))
        return hk.transform(fn)
    assert haiku_mup.forward_factors(make_model, WIDTHS, X, scaled=False) == []
    assert len(haiku_mup.forward_factors(make_model, WIDTHS, X, scaled=True)) == 1


# --- what can't be compared ---

@pytest.mark.parametrize("widths", [(64, 64), (64,), (16, 32, 64)])
def test_two_widths_are_asked_for(widths):
    with pytest.raises(haiku_mup.MupError, match="two that differ"):
        found(root, widths=widths)


def test_programs_that_differ_are_an_error_with_the_line():
    def other_above_a_hundred(x, width):
        h = hk.Linear(width)(x)
        h = jnp.tanh(h) if width > 100 else jnp.exp(h)                  # HERE
        return haiku_mup.Readout(3)(h)
    line = line_of(other_above_a_hundred, "# HERE")
    with pytest.raises(haiku_mup.MupError, match=f"other operations at width 256.*:{line} on"):
        found(other_above_a_hundred)
