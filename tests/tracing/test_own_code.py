"""Models as people write them: declarations reach subclasses, tables, params_dict and stacks of one's own."""
import contextlib
import functools
import itertools
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from remedies import codes, followed, told
from small_models import KEY, captured, one
from trees import equal

import haiku_mup
from haiku_mup.parameters.haiku_layers import Attention, LayerType, register, unregister

NORMAL = hk.initializers.RandomNormal(0.1)
IDS = jnp.arange(6).reshape(2, 3)


def rows(mup):
    return {row.name: row for row in mup.table()}


def quiet(make, inputs, **declared):
    """Returns a Mup that has captured a model, where nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return captured(make, inputs, mup=haiku_mup.Mup(**declared))


# --- outputs of one's own in subclasses of Haiku's ---

def with_output(cls):
    """Returns a subclass of a class of Haiku's that makes outputs by a parameter of its own."""
    class Own(cls):
        def output(self, x):
            return jnp.tanh(x) @ hk.get_parameter("out", (x.shape[-1], 3), init=NORMAL)
    return Own


def core(x, width):
    class Core(with_output(hk.RNNCore)):
        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, width))

        def __call__(self, x, state):
            return self.output(hk.Linear(width)(x) + state), state

    made = Core(name="own")
    return made(x, made.initial_state(len(x)))[0]


def in_mlp(x, width):
    class Net(with_output(hk.nets.MLP)):
        def __call__(self, x):
            return self.output(super().__call__(x))

    return Net((width, width), name="own")(x)


def in_attention(x, width):
    class Attends(with_output(hk.MultiHeadAttention)):
        def __call__(self, x):
            return self.output(super().__call__(x, x, x))

    return Attends(width // 4, 4, w_init=NORMAL, name="own")(x)


def in_linear(x, width):
    class Linear(with_output(hk.Linear)):
        def __call__(self, x):
            return self.output(super().__call__(x))

    return Linear(width, name="own")(x)


@pytest.mark.parametrize("layer", [core, in_mlp, in_attention, in_linear], ids=lambda layer: layer.__name__)
def test_an_output_in_a_subclass_is_named_as_the_error_says(layer):
    make, x = one(layer)
    (text,) = told(lambda mup: captured(make, x, mup=mup))
    code = codes(text)[0]
    assert code == "Mup(readouts='own/out')"
    row = followed(lambda mup: captured(make, x, mup=mup), code)["own/out"]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("output", 1 / 4, 1, 4)


# --- tables that are used both ways ---

def both_ways(ids, width, readout=None, transposed=False):
    table = hk.get_parameter("table", (width, 11) if transposed else (11, width), init=NORMAL)
    table = table.T if transposed else table
    x = jnp.tanh(hk.Linear(width)(table[ids]))
    return readout()(table, x) if readout else x @ table.T


def compressed(x, width, readout=None):
    """Written into a stream of 4, and read from it, by one matrix."""
    w = hk.get_parameter("table", (4, width), init=NORMAL)
    stream = readout()(w, jnp.tanh(hk.Linear(width)(x))) if readout else jnp.tanh(hk.Linear(width)(x)) @ w.T
    return haiku_mup.Readout(3)(jnp.tanh(stream @ w))


TABLES = {"looked up": (both_ways, IDS), "compressed": (compressed, jnp.ones((2, 6))),
          "looked up, transposed": (functools.partial(both_ways, transposed=True), IDS)}


@pytest.mark.parametrize("name", ["looked up", "compressed"])
def test_a_table_used_both_ways_is_told_and_what_is_told_is_right(name, x64):
    layer, inputs = TABLES[name]
    (text,) = told(lambda mup: captured(one(layer)[0], inputs, mup=mup))
    (code,) = codes(text)
    assert code == "Mup(tied='~/table')" and "SharedReadout()(table, x)" in text
    make = one(functools.partial(layer, readout=haiku_mup.SharedReadout))[0]
    row = followed(lambda mup: captured(make, inputs, mup=mup), code)["~/table"]
    assert (row.role, row.multiplier, row.adam_lr, row.sgd_lr) == ("input", 1 / 4, 1, 4)
    assert row.target_std == 0.1


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", ["table8", "table9"])
def test_a_tied_table_is_a_shared_embedding(name, form, x64):
    """The logits are a quarter of the plain model's, in each form."""
    layer, inputs = TABLES[name]
    make = one(functools.partial(layer, readout=haiku_mup.SharedReadout))[0]
    mup = quiet(make, inputs, tied="*/table", parametrization=haiku_mup.maximal_update(form))
    model, plain = mup.wrap_model(make(32)), one(layer)[0](32)
    params = model.init(KEY, inputs)
    stored = mup.wrap_model(make(32)).init(KEY, inputs)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, stored))
    if form == "table8" and name != "compressed":
        with pytest.warns(haiku_mup.MupWarning, match="without its multipliers"):
            wanted = plain.apply(params, None, inputs)
        np.testing.assert_allclose(model.apply(params, None, inputs), wanted / 4, rtol=1e-9)


def test_tied_names_a_table_of_ones_own():
    make = one(lambda ids, width: hk.Linear(width)(hk.Embed(11, width)(ids)))[0]
    says = r"Mup\(tied=...\): 'embed/embeddings' matches the name of no"
    with pytest.raises(haiku_mup.MupError, match=says):
        quiet(make, IDS, tied="embed/embeddings")


def test_a_tied_table_of_two_widths():
    make, x = one(lambda x, width: haiku_mup.SharedReadout()(
        hk.get_parameter("table", (width, width), init=NORMAL), hk.Linear(width)(x)))
    (text,) = told(lambda mup: captured(make, x, mup=mup), haiku_mup.Mup(tied="*/table"))
    (code,) = codes(text)
    row = followed(lambda mup: captured(make, x, mup=mup), f"{code[:-1]}, tied='*/table')")["~/table"]
    assert (row.role, row.multiplier, row.sgd_lr) == ("input", 1 / 4, 4)


# --- weights that are read through params_dict() ---

def test_a_readouts_weight_read_through_params_dict(x64):
    def layer(x, width, by_dict):
        x = jnp.tanh(hk.Linear(width)(x))
        head = hk.Linear(3, False, name="head")
        y = head(x)
        return x @ head.params_dict()["head/w"] if by_dict else y

    outputs = []
    for by_dict in (False, True):
        make, x = one(functools.partial(layer, by_dict=by_dict))
        mup = quiet(make, x, readouts="head")
        model = mup.wrap_model(make(32))
        outputs.append(model.apply(model.init(KEY, x), None, x))
    np.testing.assert_allclose(*outputs, rtol=1e-12)


def test_an_embeddings_matrix_read_through_params_dict_warns():
    def layer(ids, width):
        embed = hk.Embed(11, width)
        return jnp.tanh(embed(ids)) @ embed.params_dict()["embed/embeddings"].T

    (text,) = told(lambda mup: captured(one(layer)[0], IDS, mup=mup))
    assert "'embed/embeddings'" in text and "SharedEmbed" in text


# --- outputs inside a growing layer ---

def split_outputs(x, width, logits=10, times=2):
    both = hk.Linear(times * width + logits, name="both")(jax.nn.relu(hk.Linear(width)(x)))
    return both[:, :logits] + haiku_mup.Readout(logits)(jax.nn.relu(both[:, logits:]))


@pytest.mark.parametrize("logits, times", [(10, 2), (1, 1), (4, 3)])
def test_logits_inside_a_growing_layer_are_told(logits, times):
    make, x = one(functools.partial(split_outputs, logits=logits, times=times))
    (text,) = told(lambda mup: captured(make, x, mup=mup))
    assert "'both/w'" in text and f"as if {logits} of its outputs stay" in text


@pytest.mark.parametrize("layer", [
    lambda x, w: hk.nets.MLP((w, 3 * w, w))(x), lambda x, w: hk.Linear(w + 5)(hk.Linear(w)(x)),
    lambda x, w: hk.Linear(w)(jax.nn.glu(hk.Linear(2 * w)(x))),
    lambda x, w: hk.Linear(w)(hk.Linear(w + 8)(hk.Linear(w)(x)))], ids=["mlp", "last", "glu", "two widths"])
def test_fan_outs_that_are_used_whole_are_quiet(layer):
    assert quiet(*one(layer))


# --- initializers ---

STDS = {"sqrt": lambda n: 1 / jnp.sqrt(n), "array": lambda n: jnp.asarray(n)**-0.5,
        "two steps": lambda n: jnp.exp(-0.5 * jnp.log(jnp.float32(n)))}


@pytest.mark.parametrize("name", STDS)
@pytest.mark.parametrize("within", [lambda f: f, hk.remat, lambda f: hk.experimental.layer_stack(2)(f)],
                         ids=["plain", "remat", "layer_stack"])
def test_a_std_made_by_jax_numpy_is_known(name, within):
    def layer(x, width):
        x = hk.Linear(width)(x)
        block = within(lambda x: jnp.tanh(hk.Linear(width, w_init=hk.initializers.RandomNormal(
            STDS[name](width)), name="block")(x)))
        return haiku_mup.Readout(3)(block(x))

    row = next(row for row in quiet(*one(layer)).table() if row.name.endswith("block/w"))
    np.testing.assert_allclose((row.base_std, row.target_std), (8**-0.5, 32**-0.5), rtol=1e-5)


def test_an_initializer_of_ones_own_with_such_a_std():
    def layer(x, width):
        std = 1 / jnp.sqrt(width)

        def init(shape, dtype):
            return std * jax.random.normal(hk.next_rng_key(), shape, dtype)

        return hk.Linear(width, w_init=init)(hk.Linear(width)(x))

    row = rows(quiet(*one(layer)))["linear/w"]
    np.testing.assert_allclose((row.base_std, row.target_std), (8**-0.5, 32**-0.5), rtol=0.02)     # 5 errors


# --- creators of one's own ---

def stack(count, function, change=lambda x: x):
    """Returns a function that applies layers one after the other; a custom creator stacks their parameters."""
    def creator(next_creator, shape, dtype, init, context):
        def all_layers(shape, dtype):
            def draw(key):
                with hk.with_rng(key):
                    return init(shape[1:], dtype)
            return change(jax.vmap(draw)(jax.random.split(hk.next_rng_key(), count)))
        return next_creator((count, *shape), dtype, all_layers)

    def run(x):
        for i in range(1 if hk.running_init() else count):
            with hk.custom_getter(lambda next_getter, value, context, i=i: next_getter(value[i])):
                if hk.running_init():
                    with hk.custom_creator(creator):
                        x = function(x)
                else:
                    x = function(x)
        return x
    return run


def own_stack(x, width, change=lambda x: x):
    x = hk.Linear(width)(x)
    block = stack(3, lambda x: jnp.tanh(hk.Linear(width, name="block", w_init=NORMAL)(x)), change)
    return haiku_mup.Readout(10)(block(x))


def test_a_stack_of_ones_own_is_drawn_in_mup():
    make, x = one(own_stack)
    mup = quiet(make, x)
    w = mup.wrap_model(make(32)).init(KEY, x)["block"]["w"]
    assert w.shape == (3, 32, 32) and w.std() == pytest.approx(0.05, rel=0.05)      # 3072 entries: 1.3 %


def test_a_stack_that_changes_its_draws_is_in_mup():
    make, x = one(functools.partial(own_stack, change=lambda x: jnp.tanh(10 * x)))
    mup = quiet(make, x)
    base = make(8).init(KEY, x)["block"]["w"]
    w = mup.wrap_model(make(32)).init(KEY, x)["block"]["w"]
    assert float(w.std()) == pytest.approx(float(base.std()) / 2, rel=0.15)       # 192 entries at the base: 5 %


def test_a_layer_made_in_remat_hides_no_use_of_a_parameter_of_ones_own():
    def network(x, width):
        w = hk.get_parameter("w", [1, width], init=jnp.zeros)
        return hk.remat(lambda x: jnp.einsum("zij,ij->z", jnp.tanh(hk.Linear(width)(x)[:, None]), w))(x)

    make, x = one(network)
    mup = haiku_mup.Mup()
    with pytest.warns(haiku_mup.MupWarning, match="the program uses it as an output"):
        with mup.init_base():
            jax.eval_shape(make(8).init, KEY, x)
        with mup.init_target():
            jax.eval_shape(make(32).init, KEY, x)


# --- means over the width ---

def total(x, v, **options):
    return (x[:, None] * v[None]).sum(-1, **options)


@pytest.mark.parametrize("pooled, warns", [
    (lambda x, v: (x[:, None] * v[None]).mean(-1), False),
    (lambda x, v: (x[:, None] * v[None]).mean(-1, keepdims=True), False),
    (lambda x, v: total(x, v) / v.shape[-1], False), (lambda x, v: total(x, v) * (1 / v.shape[-1]), False),
    (lambda x, v: x @ v.T / v.shape[-1], False),
    (total, True), (lambda x, v: total(x, v) / 8.0, True), (lambda x, v: x @ v.T, True)])
def test_a_mean_over_the_width_needs_no_multiplier(pooled, warns):
    """As it is, μP's output: it divides by the width, its std stays, and Adam's rate."""
    def network(x, width):
        x = jnp.tanh(hk.Linear(width)(jnp.tanh(hk.Linear(width)(x))))
        return pooled(x, hk.get_parameter("v", [3, width], init=NORMAL))

    make, x = one(network)
    texts = told(lambda mup: captured(make, x, mup=mup))
    assert ["the program uses it as an output" in text for text in texts] == [True] * warns


# --- weights of layers that are read twice ---

class Autoencoder(hk.Linear):
    """A layer that also decodes by its weight."""

    def decode(self, x):
        return x @ hk.get_parameter("w", [self.input_size, self.output_size], init=NORMAL).T


def decodes_by_params_dict(x, width):
    encoder = hk.Linear(width, name="encoder")
    return jnp.tanh(encoder(x)) @ encoder.params_dict()["encoder/w"].T


def decodes_in_a_method(x, width):
    encoder = Autoencoder(width, name="encoder")
    return encoder.decode(jnp.tanh(encoder(x)))


def decodes_a_table(x, width):
    w = hk.get_parameter("w", [x.shape[-1], width], init=NORMAL)
    return haiku_mup.SharedReadout()(w, jnp.tanh(x @ w))


def calls_twice(x, width):
    layer = hk.Linear(width)
    return haiku_mup.Readout(3)(layer(x) + layer(2 * x))


def decodes_what_remat_makes(x, width):
    encoder = hk.Linear(width, name="encoder")
    return hk.remat(encoder)(x) @ encoder.params_dict()["encoder/w"].T


def decodes_in_remat(x, width):
    encoder = hk.Linear(width, name="encoder")
    return hk.remat(lambda x: jnp.tanh(encoder(x)) @ encoder.params_dict()["encoder/w"].T)(x)


def decodes_and_divides(x, width):
    encoder = hk.Linear(width, name="encoder")
    return jnp.tanh(encoder(x)) @ encoder.params_dict()["encoder/w"].T / width


def energy(x, width):
    layer, readout = hk.Linear(width), haiku_mup.Readout(1)
    return lambda x: readout(jnp.tanh(layer(x))).sum()


def forces(x, width):
    return hk.value_and_grad(energy(x, width))(x)[1]


def penalizes_the_gradient(x, width):
    value, gradient = hk.value_and_grad(energy(x, width))(x)
    return value + (gradient**2).sum()


def normalizes(x, width):
    layer = hk.Linear(width)
    return haiku_mup.Readout(3)(layer(x) / jnp.linalg.norm(layer.params_dict()["linear/w"]))


def reads_a_hidden_weight(x, width):
    hidden = hk.Linear(width, name="hidden")
    x = hidden(jnp.tanh(hk.Linear(width)(x)))
    return haiku_mup.Readout(3)(x @ hidden.params_dict()["hidden/w"].T)


@pytest.mark.parametrize("network, tied, warns", [
    (decodes_by_params_dict, (), True), (decodes_in_a_method, (), True),
    (decodes_what_remat_makes, (), True), (decodes_a_table, "~/w", False),
    (decodes_and_divides, (), False), (forces, (), False), (penalizes_the_gradient, (), False),
    (calls_twice, (), False), (normalizes, (), False), (reads_a_hidden_weight, (), False)])
def test_a_layers_weight_that_also_makes_outputs_warns(network, tied, warns):
    make, x = one(network)
    texts = told(lambda mup: captured(make, x, mup=mup), haiku_mup.Mup(tied=tied))
    assert ["'encoder/w'" in text and "another product reads this layer's weight" in text
            for text in texts] == [True] * warns


# --- creators inside of apply_mup ---

NORMAL_CREATOR = lambda create, shape, dtype, init, context: create(  # noqa: E731
    shape, dtype, hk.initializers.RandomNormal(0.1) if len(shape) == 2 else init)
GLOROT = lambda create, shape, dtype, init, context: create(  # noqa: E731
    shape, dtype, hk.initializers.VarianceScaling(1.0, "fan_avg", "normal") if len(shape) == 2 else init)
DOUBLE = lambda create, *args: 2.0 * create(*args[:-1])  # noqa: E731
CUT = lambda create, *args: jnp.clip(create(*args[:-1]), -0.1, 0.1)  # noqa: E731


@pytest.mark.parametrize("how", ["eager", "shapes"])
@pytest.mark.parametrize("creator", [NORMAL_CREATOR, GLOROT, DOUBLE, CUT])
def test_a_creator_inside_is_part_of_the_initializer(creator, how):
    """Whatever draws, the target's std is the base's times the factor: 1, √(8/128) for hidden weights, 1."""
    def network(x, width):
        with hk.custom_creator(creator):
            for _ in range(2):
                x = jnp.tanh(hk.Linear(width)(x))
            return haiku_mup.Readout(64)(x)

    make, x = one(network, (2, 64))
    base, mup = make(8).init(KEY, x), haiku_mup.Mup()
    with mup.init_base():
        assert equal(make(8).init(KEY, x), base) if how == "eager" else jax.eval_shape(make(8).init, KEY, x)
    with mup.init_target():
        params = make(128).init(KEY, x)
    wrapped = mup.wrap_model(make(128)).init(KEY, x)
    assert equal(params, wrapped)
    for name, factor in {"linear": 1, "linear_1": 16**-0.5, "readout": 1}.items():
        found, was = (float(p[name]["w"].std()) for p in (params, base))
        assert found / was == pytest.approx(factor, rel=0.25), name     # 64 entries of the hidden base: 9 %


def test_a_creator_inside_that_only_looks_leaves_draws_as_they_are():
    seen = []

    def look(create, shape, dtype, init, context):
        seen.append((context.full_name, init))
        return create(shape, dtype, init)

    def network(x, width, inside):
        with hk.custom_creator(look) if inside else contextlib.nullcontext():
            return haiku_mup.Readout(3)(hk.Linear(width, b_init=jnp.zeros)(x))

    draws = []
    for inside in (False, True):
        make, x = one(functools.partial(network, inside=inside))
        draws.append(quiet(make, x).wrap_model(make(32)).init(KEY, x))
    assert equal(*draws)
    assert ("linear/b", jnp.zeros) in seen      # it is given the initializer itself


def counter():
    """Returns a creator that draws by a key of each call's number."""
    count = itertools.count()

    def creator(create, shape, dtype, init, context):
        with hk.with_rng(jax.random.fold_in(jax.random.PRNGKey(7), next(count))):
            return create(shape, dtype, init)
    return creator


def with_companion(create, shape, dtype, init, context):
    if len(shape) == 2:
        hk.get_parameter("g", shape[-1:], init=jnp.ones)
    return create(shape, dtype, init)


def counting_in_state(create, shape, dtype, init, context):
    hk.set_state("made", hk.get_state("made", [], init=jnp.zeros) + 1)
    return create(shape, dtype, init)


def without_zeros(create, shape, dtype, init, context):
    return create(shape, dtype, init if init is jnp.zeros or isinstance(init, hk.initializers.TruncatedNormal)
                  and init.stddev > 0 else None)


def scaled_by_state(create, shape, dtype, init, context):
    return create(shape, dtype, init) * hk.get_state("scale", [], init=lambda *_: jnp.float32(3.0))


def doubled_with_companion(create, *args):
    return 2.0 * with_companion(create, *args)


@pytest.mark.parametrize("make_creator", [
    counter, *(functools.partial(lambda creator: creator, creator) for creator in (
        with_companion, counting_in_state, without_zeros, scaled_by_state, doubled_with_companion))])
def test_at_base_width_creators_inside_make_the_plain_model(make_creator):
    """Those with side effects, too: parameters and state of their own, numbers of calls."""
    def network(x):
        with hk.custom_creator(make_creator()):
            return haiku_mup.Readout(3)(jnp.tanh(hk.Linear(8)(jnp.tanh(hk.Linear(8)(x)))))

    def fn(x):
        with haiku_mup.apply_mup():
            return network(x)

    model, x, mup = hk.transform_with_state(fn), jnp.ones((2, 6)), haiku_mup.Mup()
    plain = hk.transform_with_state(network).init(KEY, x)
    with mup.init_base():
        assert equal(model.init(KEY, x), plain)
    with mup.init_target():
        assert equal(model.init(KEY, x), plain)
    assert equal(mup.wrap_model(model).init(KEY, x), plain)


class LayerWithState(hk.Linear):
    """A layer that makes state before its weight."""

    def __call__(self, x):
        hk.set_state("scale", jnp.float32(3.0))
        return super().__call__(x)


def test_a_creator_that_needs_the_models_state_belongs_around():
    def scaled(create, *args):
        return create(*args[:-1]) * hk.get_state("scale")

    def fn(x, width, inside):
        with contextlib.nullcontext() if inside else hk.custom_creator(scaled):
            with haiku_mup.apply_mup():
                with hk.custom_creator(scaled) if inside else contextlib.nullcontext():
                    return LayerWithState(width, with_bias=False)(x).mean(-1)

    x = jnp.ones((2, 6))
    for inside in (True, False):
        mup = haiku_mup.Mup()
        with pytest.raises(haiku_mup.MupError, match="put the creator around apply_mup") if inside \
                else contextlib.nullcontext():
            with mup.init_base():
                hk.transform_with_state(functools.partial(fn, width=8, inside=inside)).init(KEY, x)
            with mup.init_target():
                hk.transform_with_state(functools.partial(fn, width=32, inside=inside)).init(KEY, x)


def test_a_creator_inside_that_replaces_a_bias_and_state():
    def ones(create, shape, dtype, init, context):
        return create(shape, dtype, jnp.ones)

    def network(x, width):
        with hk.custom_creator(ones, params=False, state=True):
            hk.get_state("count", (), init=jnp.zeros)
        with hk.custom_creator(lambda create, shape, dtype, init, context: create(
                shape, dtype, jnp.ones if len(shape) == 1 else init)):
            return haiku_mup.Readout(3)(hk.Linear(width)(x))

    def fn(x, width):
        with haiku_mup.apply_mup():
            return network(x, width)

    def make(width):
        return hk.transform_with_state(functools.partial(fn, width=width))

    x, mup = jnp.ones((2, 6)), haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, x)
    with mup.init_target():
        params, state = make(32).init(KEY, x)
    assert (params["linear"]["b"] == 1).all() and state["~"]["count"] == 1


# --- attention that overrides __call__ ---

class Attends(hk.MultiHeadAttention):
    """Attention with a bias on its logits."""

    def __call__(self, query, key, value, mask=None):
        q, k, v = (self._linear_projection(x, self.key_size, name)
                   for x, name in ((query, "query"), (key, "key"), (value, "value")))
        logits = jnp.einsum("...thd,...Thd->...htT", q, k) / np.sqrt(self.key_size) + 1.0
        out = jnp.einsum("...htT,...Thd->...thd", jax.nn.softmax(logits), v)
        return hk.Linear(self.model_size, w_init=self.w_init)(out.reshape(*query.shape[:-1], -1))


def attends(x, width, heads=2):
    return Attends(heads or width // 4, width // 2 if heads else 4, w_init=NORMAL, name="own")(*[x[None]] * 3)


def test_attention_that_overrides_call_warns():
    make, x = one(attends)
    (text,) = told(lambda mup: captured(make, x, mup=mup))
    assert "'own/query/w'" in text and "key size grows from 4 to 16" in text


def test_it_is_quiet_where_heads_grow_and_where_its_record_says_that_it_scales():
    assert quiet(one(functools.partial(attends, heads=0))[0], jnp.ones((2, 6)))
    register(LayerType(Attends, attention=Attention(lambda module: module.key_size, scales_logits=True)))
    try:
        assert rows(quiet(*one(attends)))["own/query/w"].multiplier == 0.5
    finally:
        unregister(Attends)
