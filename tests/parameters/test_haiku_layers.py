"""Layer types that a user adds from outside: their roles, factors and training; and what is lost without."""
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import KEY, captured, one

import haiku_mup
from haiku_mup.parameters.haiku_layers import (
    READOUT,
    Attention,
    LayerType,
    Weight,
    is_haikus,
    layer_type,
    record_of,
    register,
    unregister,
    vector,
)

X = jnp.linspace(-1, 1, 4 * 6).reshape(4, 6)
NORMAL = hk.initializers.RandomNormal(0.3)


class Mixer(hk.Module):
    """Gates [x, h] by one matrix [x + h, gate, out], and projects the result by another, [out, in]."""

    def __init__(self, width, size, name=None):
        super().__init__(name=name)
        self.width, self.size = width, size

    def __call__(self, x, h):
        w = hk.get_parameter("w", (x.shape[-1] + h.shape[-1], 2, self.width), x.dtype, NORMAL)
        v = hk.get_parameter("v", (self.size, self.width), x.dtype, NORMAL)
        gate, out = jnp.moveaxis(jnp.einsum("bi,igo->bgo", jnp.concatenate([x, h], -1), w), 1, 0)
        return (jax.nn.sigmoid(gate) * out) @ v.T


class Linears(Mixer):
    """The same function by hk.Linear, with a layer for each block of rows."""

    def __call__(self, x, h):
        each = {"w_init": NORMAL, "with_bias": False}
        both = hk.Linear(2 * self.width, name="x", **each)(x) + hk.Linear(2 * self.width, name="h", **each)(h)
        gate, out = jnp.split(both, 2, axis=-1)
        return hk.Linear(self.size, name="v", **each)(jax.nn.sigmoid(gate) * out)


def as_linears(params):
    """Returns the parameters of a Mixer as those of Linears."""
    params = dict(params)
    mixer = params.pop("mixer")
    x, h = jnp.split(mixer["w"].reshape(len(mixer["w"]), -1), [6])
    return params | {"mixer/x": {"w": x}, "mixer/h": {"w": h}, "mixer/v": {"w": mixer["v"].T}}


def model(cls):
    def layer(x, width):        # inputs stay, h grows × 4, outputs × 16
        y = cls(width, width**2, name="mixer")(x, jnp.tanh(hk.Linear(width, w_init=NORMAL, name="first")(x)))
        return haiku_mup.Readout(3)(jax.nn.relu(y))
    return one(layer, X.shape)[0]


MIXER, LINEARS = model(Mixer), model(Linears)
RECORD = LayerType(Mixer, fans={"w": (0, (1, 2)), "v": (-1, -2)},
                   row_sizes={"w": lambda module, x, h: (x.shape[-1], h.shape[-1])})


@pytest.fixture
def registered():
    """Registers records for the length of a test, in place of earlier ones."""
    classes = set()

    def add(*records):
        for record in records:
            if record.cls in classes:
                unregister(record.cls)
            classes.add(record.cls)
            register(record)

    yield add
    for cls in classes:
        unregister(cls)


def test_roles_and_factors(registered):
    """By hand, at width 8 -> 32 with 6 inputs: x's rows are an input's, those of h hidden; v is transposed."""
    registered(RECORD)
    x, h, v = (row for row in captured(MIXER, X).table() if row.name.startswith("mixer/"))
    assert (x.name, x.role, x.base_shape, x.target_shape) == ("mixer/w[0:6]", "input", (6, 2, 8), (6, 2, 32))
    assert (h.name, h.role, h.base_shape, h.target_shape) == ("mixer/w[6:38]", "hidden", (8, 2, 8), (32, 2, 32))
    assert (v.name, v.role, v.base_shape, v.target_shape) == ("mixer/v", "hidden", (64, 8), (1024, 32))
    assert [(row.adam_lr, row.sgd_lr, row.target_std / row.base_std) for row in (x, h, v)] == [
        (1.0, 4.0, 1.0), (0.25, 1.0, 0.5), (0.25, 4.0, 0.5)]
    assert not any(row.inferred for row in (x, h, v))


def test_without_a_record_they_are_guessed_or_refused():
    """One block of rows, and v the other way round, told; with a third axis that grows, nothing is guessed."""
    with pytest.warns(haiku_mup.MupWarning) as told:
        rows = captured(MIXER, X).table()
    w, v = (row for row in rows if row.name.startswith("mixer/"))
    assert sorted(str(warning.message).partition(":")[0] for warning in told) == ["'mixer/v'", "'mixer/w'"]
    assert (w.role, w.adam_lr, w.inferred) == ("hidden", 14 / 38, True)
    assert (v.role, v.adam_lr, v.inferred) == ("hidden", 1 / 16, True)
    heads = one(lambda x, width: Heads(width)(hk.Linear(width)(x)))[0]
    with pytest.raises(haiku_mup.MupError, match=r"'heads/w'.*axes \(0, 1, 2\) grow, and nothing says which"):
        captured(heads, X)


class Heads(hk.Module):
    """Maps [..., d] to [..., heads, size] by a weight [heads, d, size]."""

    def __init__(self, width):
        super().__init__(name="heads")
        self.width = width

    def __call__(self, x):
        w = hk.get_parameter("w", (self.width // 4, x.shape[-1], self.width), x.dtype, NORMAL)
        return jnp.einsum("bd,hdk->bhk", x, w)


def test_three_axes_that_grow(registered):
    registered(LayerType(Heads, fans={"w": (1, (0, 2))}))
    mup = captured(one(lambda x, width: Heads(width)(hk.Linear(width)(x)))[0], X)
    assert [(row.role, row.adam_lr, row.sgd_lr) for row in mup.table()][-1] == ("hidden", 0.25, 4.0)


def trained(make, params, optimizer, form, **settings):
    """Returns the losses of 8 steps at width 32."""
    mup = captured(make, X, mup=haiku_mup.Mup(parametrization=form))
    model, opt = hk.without_apply_rng(mup.wrap_model(make(32))), mup.wrap_optimizer(optimizer, **settings)
    loss = jax.jit(jax.value_and_grad(lambda p: ((model.apply(p, X.astype(jnp.float64)) - 1)**2).mean()))
    state, losses = opt.init(params), []
    for _ in range(8):
        value, grads = loss(params)
        updates, state = opt.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses


def initial(make, form):
    mup = captured(make, X, mup=haiku_mup.Mup(parametrization=form))
    return mup.wrap_model(make(32)).init(KEY, X.astype(jnp.float64))


@pytest.mark.parametrize("optimizer, settings", [
    (optax.sgd(0.1), {"adam": False}), (optax.adamw(0.01, weight_decay=0.3), {}),
    (optax.adam(0.01, eps=1e-3), {"scale_eps": True})], ids=["sgd", "adamw", "scale_eps"])
@pytest.mark.parametrize("form", ["table8", "table9"])
def test_it_trains_as_haikus_layers_do(x64, registered, optimizer, settings, form):
    form = haiku_mup.maximal_update(form)
    registered(RECORD)
    params = initial(MIXER, form)
    ours = trained(MIXER, params, optimizer, form, **settings)
    np.testing.assert_allclose(
        ours, trained(LINEARS, as_linears(params), optimizer, form, **settings), rtol=1e-9)
    assert ours[-1] < ours[0]


def test_without_a_record_it_trains_otherwise(x64):
    form = haiku_mup.maximal_update()
    with pytest.warns(haiku_mup.MupWarning, match="'mixer/"):
        params = initial(MIXER, form)
    with pytest.warns(haiku_mup.MupWarning, match="'mixer/"):
        ours = trained(MIXER, params, optax.adam(0.01), form)
    haikus = trained(LINEARS, as_linears(params), optax.adam(0.01), form)
    assert ours[0] == pytest.approx(haikus[0], rel=1e-9)
    assert abs(ours[-1] / haikus[-1] - 1) > 0.01


def test_both_forms_have_one_trajectory(x64, registered):
    """Table 9 multiplies parameters in the forward pass, rows by rows: abc-symmetry."""
    registered(RECORD)
    table_8, table_9 = map(haiku_mup.maximal_update, ("table8", "table9"))
    params = initial(MIXER, table_8)
    other = initial(MIXER, table_9)
    losses = [trained(MIXER, p, optax.adam(0.01, eps=0), form) for form, p in (
        (table_8, params), (table_9, other))]
    np.testing.assert_allclose(*losses, rtol=1e-9)


# --- multiplied inputs, readouts, attention ---

class Transposed(hk.Module):
    """A linear layer with a weight "kernel" [out, in], and inputs that come second."""

    def __init__(self, size, name=None):
        super().__init__(name=name)
        self.size = size

    def __call__(self, scale, x):
        kernel = hk.get_parameter("kernel", (self.size, x.shape[-1]), x.dtype, NORMAL)
        return scale * (x @ kernel.T) + hk.get_parameter("bias", (1, self.size), x.dtype, jnp.ones)


TRANSPOSED = LayerType(
    Transposed, fans={"kernel": (1, 0), "bias": vector},
    scaled_inputs=Weight("kernel", lambda module, x: (module.size, x.shape[-1]), argument=1, keyword="x"))


def operands(function, *args):
    """Returns the names of the operations that made the operands of each product, transposes left out."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    made = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}

    def origin(x):
        name = made[x].primitive.name if x in made else None
        return origin(made[x].invars[0]) if name == "transpose" else name

    return [[*map(origin, eqn.invars)] for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]


@pytest.mark.parametrize("by_keyword", [False, True])
def test_inputs_are_multiplied_in_place_of_the_weight(registered, by_keyword):
    """Where a form multiplies hidden weights, here by 1/2: without a record the weight itself is multiplied."""
    def layer(x, width):
        x = jnp.tanh(hk.Linear(width, with_bias=False)(x))
        return Transposed(width)(2.0, x=x) if by_keyword else Transposed(width)(2.0, x)

    make, found = one(layer, X.shape)[0], []
    for records in ((), (TRANSPOSED,)):
        registered(*records)
        mup = captured(make, X, mup=haiku_mup.Mup(
            parametrization=haiku_mup.maximal_update("mean_field"), fans={"*/kernel": (1, 0)}))
        wrapped = mup.wrap_model(make(32))
        params = wrapped.init(KEY, X)
        found.append((operands(wrapped.apply, params, None, X)[-1], wrapped.apply(params, None, X)))
    assert [made for made, _ in found] == [["tanh", "mul"], ["mul", None]]
    np.testing.assert_allclose(*(out for _, out in found), rtol=1e-5)


def test_readouts_by_the_names_of_modules(registered):
    """`Mup(readouts=...)` takes modules of a type that has a weight; without one, only parameters."""
    make = one(lambda x, width: Transposed(3, name="head")(1.0, hk.Linear(width)(x)), X.shape)[0]
    with pytest.raises(haiku_mup.MupError, match="'head' matches the name of no hk.Linear or convolution"):
        captured(make, X, mup=haiku_mup.Mup(readouts="head", fans={"*/kernel": (1, 0)}))
    registered(TRANSPOSED)
    row = captured(make, X, mup=haiku_mup.Mup(readouts="head")).table()[2]
    assert (row.name, row.role, row.multiplier, row.sgd_lr) == ("head/kernel", "output", 0.25, 4.0)


class Attends(hk.Module):
    """One head whose layers have names of their own."""

    def __init__(self, size, name=None):
        super().__init__(name=name)
        self.size = size

    def __call__(self, x):
        q, k, v = (hk.Linear(self.size, name=name)(x) for name in "qkv")
        return jax.nn.softmax(q @ k.T / self.size**0.5) @ v


def test_an_attention_of_ones_own(registered):
    make = one(lambda x, width: Attends(width)(x), X.shape)[0]
    assert captured(make, X).table()[0].multiplier == 1         # nothing is known of it
    own = Attention(lambda module: module.size, queries="q", keys="k")
    registered(LayerType(Attends, attention=own))
    with pytest.warns(haiku_mup.MupWarning, match="'attends/q/w'.*key size grows from 8 to 32"):
        captured(make, X)
    registered(LayerType(Attends, attention=Attention(own.key_size, "q", "k", scales_logits=True)))
    assert captured(make, X).table()[0].multiplier == 0.5


# --- the table ---

def test_records_are_inherited_and_added_to():
    class Own(hk.Linear):
        pass

    class Sub(Own):
        pass

    own, sub = Own(3), Sub(3)
    assert layer_type(own) is layer_type(hk.Linear(3)) is record_of(hk.Linear)
    register(LayerType(Own, fans={"gain": vector}, kinds={"w": READOUT}))
    assert set(layer_type(sub).fans) == {"w", "b", "gain"} and layer_type(sub).kinds == {"w": READOUT}
    assert layer_type(sub).scaled_inputs == record_of(hk.Linear).scaled_inputs
    assert record_of(Sub) is None and record_of(Own).scaled_inputs is None
    unregister(Own)
    assert layer_type(sub) is record_of(hk.Linear)


test_records_are_inherited_and_added_to = hk.testing.transform_and_run(test_records_are_inherited_and_added_to)


def test_a_record_that_can_not_be_right(registered):
    with pytest.raises(haiku_mup.MupError, match="int.*not a subclass of hk.Module"):
        register(LayerType(int))
    with pytest.raises(haiku_mup.MupError, match=r"fans: 0: give \(fan_in_axes, fan_out_axes\)"):
        register(LayerType(Mixer, fans={"w": 0}))
    with pytest.raises(haiku_mup.MupError, match="Linear has a record already; unregister it first"):
        register(LayerType(hk.Linear))
    with pytest.raises(haiku_mup.MupError, match="Mixer'> has no record"):
        unregister(Mixer)
    assert record_of(Mixer) is None
    registered(LayerType(Mixer, fans={"v": (0, 2)}))
    with pytest.raises(haiku_mup.MupError, match="'Mixer/v'.*name an axis that it doesn't have"):
        captured(MIXER, X)


@pytest.mark.slow
def test_classes_are_not_kept(registered):
    """A model may define its classes each time that it is traced."""
    import gc
    import weakref

    def layer(x, width):
        class Local(hk.Module):
            def __call__(self, x):
                return x * hk.get_parameter("w", (1, width), init=NORMAL)

        seen.append(weakref.ref(Local))
        assert not is_haikus(Local())
        return Local()(hk.Linear(width)(x))

    seen = []
    captured(one(layer, X.shape)[0], X)
    jax.clear_caches()
    gc.collect()
    assert len(seen) == 2 and not any(ref() for ref in seen)
