"""Parameters of one's own: what is told of a guess, and that what is told is right when it is followed."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from remedies import codes, followed, told
from small_models import KEY, captured, one

import haiku_mup

NORMAL, ZEROS, ONES = hk.initializers.RandomNormal(0.1), jnp.zeros, jnp.ones
IDS = jnp.arange(6).reshape(2, 3)


def own(shape, init, name="own"):
    return hk.get_parameter(name, shape, init=init)


def heads_and_size(width):
    """(2, 4) at width 8, (4, 8) at width 32: both grow × 2."""
    return {8: (2, 4), 32: (4, 8)}[width]


def split(x, width, of=heads_and_size):
    return hk.Linear(width)(x).reshape(-1, *of(width))


def out(x):
    return haiku_mup.Readout(3)(jax.nn.relu(x.reshape(len(x), -1)))


# --- one row a parameter: layer(x, width), which makes "~/own"; (role, multiplier, Adam's and SGD's rates) ---

def bias(init, x, width):
    return out(split(x, width) + own(heads_and_size(width), init)[None])


def gain(init, x, width):
    return out(split(x, width) * own(heads_and_size(width), init)[None])


def few_heads(width):
    return width // 4, 4


def bias_of_more_heads(init, x, width):
    return out(split(x, width, few_heads) + own(few_heads(width), init)[None])


def bias_of_an_ensemble(init, x, width):
    return out(hk.Linear(width)(x)[..., None] + own((width, 5), init)[None])


def gate(init, x, width):
    x = hk.Linear(width)(x)
    return out(x * jax.nn.sigmoid(x @ own((width, width), init)))


def bias_of_three_axes(init, x, width):
    x = jnp.broadcast_to(split(x, width)[:, None], (len(x), 3, *heads_and_size(width)))
    return out(x + own((3, *heads_and_size(width)), init)[None])


def bias_of_four_axes(init, x, width):
    x = split(x, width)[:, None, :, None]
    heads, size = heads_and_size(width)
    return out(x + own((1, heads, 1, size), init)[None])


def vector_to_a_number(init, x, width):
    return jnp.tanh(hk.Linear(width)(x)) @ own((width,), init)


def transposed_readout(init, x, width):
    return jnp.tanh(hk.Linear(width)(x)) @ own((3, width), init).T


def readout(init, x, width):
    return jnp.tanh(hk.Linear(width)(x)) @ own((width, 3), init)


def expansion(init, x, width):
    """From the fixed to the growing width, by a matrix [width, fixed]."""
    return out(x @ own((width, x.shape[-1]), init).T)


def transposed(init, x, width):
    """From width to width², by a matrix [width², width]."""
    return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(width)(x) @ own((width * width, width), init).T))


INPUT, BOTH = ("input", 1, 1, 4), ("input", 1, 1, 4)        # × 4 by one axis, × 2 · 2 by two
CASES = {
    "bias of zeros": (bias, ZEROS, BOTH), "bias drawn": (bias, NORMAL, BOTH),
    "gain of ones": (gain, ONES, BOTH), "gain of zeros": (gain, ZEROS, BOTH),
    "gain drawn": (gain, NORMAL, BOTH),
    "bias whose heads alone grow": (bias_of_more_heads, ZEROS, INPUT),
    "bias whose heads alone grow, drawn": (bias_of_more_heads, NORMAL, INPUT),
    "gain of an ensemble": (bias_of_an_ensemble, ONES, INPUT),
    "bias of an ensemble": (bias_of_an_ensemble, ZEROS, INPUT),
    "bias of three axes": (bias_of_three_axes, ZEROS, BOTH),
    "bias of three axes, drawn": (bias_of_three_axes, NORMAL, BOTH),
    "bias of four axes": (bias_of_four_axes, ZEROS, BOTH),
    "gate of zeros": (gate, ZEROS, ("hidden", 1, 1 / 4, 1)),
    "vector to a number": (vector_to_a_number, NORMAL, ("output", 1 / 4, 1, 4)),
    "vector of zeros to a number": (vector_to_a_number, ZEROS, ("output", 1 / 4, 1, 4)),
    "transposed readout": (transposed_readout, NORMAL, ("output", 1 / 4, 1, 4)),
    "transposed readout of zeros": (transposed_readout, ZEROS, ("output", 1 / 4, 1, 4)),
    "readout": (readout, NORMAL, ("output", 1 / 4, 1, 4)),
    "expansion": (expansion, NORMAL, INPUT),
    "transposed hidden weight": (transposed, NORMAL, ("hidden", 1, 1 / 4, 4)),
}


@pytest.mark.parametrize("eager", [False, True], ids=["traced", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_told_names_what_is_right(name, eager):
    layer, init, wanted = CASES[name]
    make, x = one(functools.partial(layer, init), (4, 6))

    def capture(mup):
        if not eager:
            return captured(make, x, mup=mup)
        for context, width in ((mup.init_base, 8), (mup.init_target, 32)):
            with context():
                make(width).init(KEY, x)

    if eager and name not in ("bias drawn", "vector to a number", "gate of zeros", "transposed readout"):
        pytest.skip("one of each kind is enough")
    (text,) = told(capture)
    assert text.startswith("'~/own': ")
    found = [followed(capture, code)["~/own"] for code in codes(text)]
    assert wanted in [(row.role, row.multiplier, row.adam_lr, row.sgd_lr) for row in found]
    assert not any(row.inferred for row in found if row.role != "output" or "readouts" not in text)


def test_each_family_of_parameters_is_told_of_once():
    def fn(x, width):
        x = split(x, width)
        for i in range(3):
            x = x + own(heads_and_size(width), ZEROS, f"b_{i}")[None]
        return out(x + own(heads_and_size(width), ZEROS, "c")[None])

    make, x = one(fn)
    texts = told(lambda mup: captured(make, x, mup=mup))
    assert sorted(text.partition(":")[0] for text in texts) == ["'~/b_0'", "'~/c'"]


# --- right guesses, of which only the mark tells ---

def drawn_weight(x, width):
    return out(hk.Linear(width)(x) @ own((width, 2 * width), NORMAL))


def positions(ids, width):
    return out(hk.Embed(7, width)(ids) + own((8, width), NORMAL)[:3][None])


def positions_by_index(ids, width):
    return out(hk.Embed(7, width)(ids) + own((8, width), NORMAL)[jnp.arange(3)][None])


def class_token(ids, width):
    token = jnp.broadcast_to(own((1, 1, width), NORMAL), (2, 1, width))
    x = jnp.concatenate([token, hk.Embed(7, width)(ids)], 1)
    return out(hk.Linear(width)(x)[:, 0])


def latents(ids, width):
    queries = hk.Linear(width, name="query")(own((5, width), NORMAL))
    keys = hk.Linear(width, name="key")(hk.Embed(7, width)(ids))
    return out(jax.nn.softmax(jnp.einsum("nd,btd->bnt", queries, keys) / width) @ keys)


def low_rank(x, width):
    x = hk.Linear(width)(x)
    return out(x @ (own((width, 2), NORMAL, "a") @ own((2, width), NORMAL, "b")))


def normalised(x, width):
    w = own((width, width), NORMAL)
    w = (w - w.mean(0, keepdims=True)) / jnp.linalg.norm(w, axis=0, keepdims=True)
    return out(hk.Linear(width)(x) @ w)


def gained(x, width):
    w = own((width, width), NORMAL) * jnp.broadcast_to(own((width,), ONES, "g"), (width, width))
    return out(hk.Linear(width)(x) @ w)


def gain_and_norm(x, width):
    x = hk.Linear(width)(x) * own((width,), ONES)[None]
    return out(hk.LayerNorm(-1, False, False)(x))


def masked(x, width):
    return out(hk.Linear(width)(x) @ (own((width, width), NORMAL) * jnp.tril(jnp.ones((width, width)))))


def in_a_stack(x, width):
    block = hk.experimental.layer_stack(2, name="s")(lambda x: jnp.tanh(x @ own((width, width), NORMAL)))
    return out(block(hk.Linear(width)(x)))


def checkpointed(x, width):
    return out(hk.remat(lambda x: jnp.tanh(x @ own((width, width), NORMAL)))(hk.Linear(width)(x)))


def in_bfloat16(x, width):
    w = own((width, 2 * width), NORMAL).astype(jnp.bfloat16)
    return out(hk.Linear(width)(x).astype(jnp.bfloat16) @ w).astype(jnp.float32)


@pytest.mark.parametrize("layer", [
    drawn_weight, positions, positions_by_index, class_token, latents, normalised, gained, gain_and_norm,
    masked, in_a_stack, checkpointed, in_bfloat16], ids=lambda layer: layer.__name__)
def test_right_guesses_are_quiet(layer):
    make, x = one(layer)[0], IDS if "ids" in layer.__code__.co_varnames else jnp.ones((2, 6))
    mup = haiku_mup.Mup()
    assert told(lambda mup: captured(make, x, mup=mup), mup) == []
    assert any(row.inferred for row in mup.table())


def test_a_transposed_readout_in_a_stack_is_told():
    """Its axis of layers is none of the parameter's."""
    def fn(x, width):
        block = hk.experimental.layer_stack(2, name="s")(
            lambda x: x + hk.Linear(width)(x @ own((3, width), NORMAL).T))
        return out(block(hk.Linear(width)(x)))

    make, x = one(fn)
    (text,) = told(lambda mup: captured(make, x, mup=mup))
    (code,) = codes(text)[1:]
    row = followed(lambda mup: captured(make, x, mup=mup), code)["s/~/own"]
    assert (row.role, row.multiplier) == ("output", 1 / 4)
