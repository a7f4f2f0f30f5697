"""Models that are right in μP, and twelve mistakes in them, for the coordinate check to tell apart."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

WIDTHS, LR = (64, 128, 256, 512), 2.0**-6
IMAGES = jax.random.normal(jax.random.PRNGKey(1), (32, 4, 4))
IDS = jax.random.randint(jax.random.PRNGKey(2), (32, 6), 0, 20)
LABELS = jnp.arange(32) % 10
INIT = hk.initializers.VarianceScaling()


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def mlp(x, width, readout=haiku_mup.Readout, **kwargs):
    x = x.reshape(len(x), -1)
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return readout(10, **kwargs)(x)


def attention(x, width, layer=haiku_mup.MultiHeadAttention):
    x = hk.Linear(width)(x)
    y = hk.LayerNorm(-1, True, True)(x)
    x = x + layer(2, width // 2, w_init=INIT)(y, y, y)
    return haiku_mup.Readout(10)(hk.LayerNorm(-1, True, True)(x).mean(1))


def tied(ids, width, output_mult=1.0):
    embed = haiku_mup.SharedEmbed(20, width, w_init=hk.initializers.RandomNormal(1.0))
    x = embed(ids).mean(1)
    x = x + hk.Linear(width)(jax.nn.relu(hk.Linear(width)(x)))
    return haiku_mup.SharedReadout(output_mult=output_mult)(embed, hk.LayerNorm(-1, True, True)(x))


def ffn(x, width, d_ffn=None):
    x = hk.Linear(width)(x.reshape(len(x), -1))
    y = hk.Linear(d_ffn or 4 * width, name="ffn_in")(hk.LayerNorm(-1, True, True)(x))
    x = x + hk.Linear(width, name="ffn_out")(jax.nn.relu(y))
    return haiku_mup.Readout(10)(x)


def transposed(x, width):
    """Returns logits; its first channels grow as the square root of the width, the second as the width."""
    few = round(8 * (width / 64)**0.5)
    x = jax.nn.relu(hk.Conv2D(few, 3)(x[..., None]))
    x = jax.nn.relu(hk.Conv2DTranspose(width, 3)(x))
    x = jax.nn.relu(hk.Linear(width)(x.mean((1, 2))))
    return haiku_mup.Readout(10)(x)


def stack(x, width):
    def block(x):
        return x + jax.nn.relu(hk.Linear(width)(x))

    x = hk.Linear(width)(x.reshape(len(x), -1))
    return haiku_mup.Readout(10)(hk.experimental.layer_stack(2)(block)(x))


def make(function, **kwargs):
    """Returns make_model(width) of a function of inputs and width; an `output_mult` is a function of width."""
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return function(x, width, **{k: v(width) if k == "output_mult" else v
                                             for k, v in kwargs.items()})
        return hk.transform(fn)
    return make_model


def checked(function, *, optimizer=None, widths=WIDTHS, **kwargs):
    """Runs the coordinate check of a function, or of a make_model, at the default settings."""
    make_model = kwargs.pop("make_model", None) or make(function)
    x = IDS if function is tied else IMAGES
    return haiku_mup.coord_check(make_model, widths, (x, LABELS), loss_fn, optimizer or optax.adam(LR),
                                 progress=False, **kwargs)


# --- wrong in the init or the optimizer ---

def in_mup(mup, model, optimizer):
    return mup.wrap_model(model), mup.wrap_optimizer(optimizer)


def scaled(factor):
    """Returns μP with each parameter's updates multiplied by factor(row of the table)."""
    def parametrize(mup, model, optimizer):
        model, optimizer = in_mup(mup, model, optimizer)
        rows = {row.name: row for row in mup.table()}

        def update(updates, state, params=None):
            return {m: {n: x * factor(rows[f"{m}/{n}"]) for n, x in leaves.items()}
                    for m, leaves in updates.items()}, state

        return model, optax.chain(optimizer, optax.GradientTransformation(lambda params: (), update))
    return parametrize


def root(row):
    """Returns √m, where m is the ratio of the parameter's last axis."""
    return (row.target_shape[-1] / row.base_shape[-1])**0.5


def constant_init(mup, model, optimizer):
    """Draws hidden weights with the std that they have at the base."""
    wrapped, optimizer = in_mup(mup, model, optimizer)
    rows = {row.name: row for row in mup.table()}

    def init(key, *args):
        params = wrapped.init(key, *args)
        return {m: {n: x * (root(rows[f"{m}/{n}"]) if rows[f"{m}/{n}"].role == "hidden" else 1.0)
                    for n, x in leaves.items()} for m, leaves in params.items()}

    return wrapped._replace(init=init), optimizer


def sgd_factors(mup, model, optimizer):
    return mup.wrap_model(model), mup.wrap_optimizer(optimizer, adam=False)


def scaled_decay(mup, model, optimizer):
    return mup.wrap_model(model), mup.wrap_optimizer(optimizer, scale_decay=True)


def plain_model(mup, model, optimizer):
    """Applies the model without multipliers, as where a readout is an hk.Linear."""
    return mup.wrap_model(model)._replace(apply=model.apply), mup.wrap_optimizer(optimizer)


RIGHT = {
    "mlp": lambda **kw: checked(mlp, **kw),
    "zero readout": lambda **kw: checked(mlp, make_model=make(mlp, zero_init=True), **kw),
    "attention": lambda **kw: checked(attention, **kw),
    "tied": lambda **kw: checked(tied, **kw),
    "ffn": lambda **kw: checked(ffn, **kw),
    "transposed": lambda **kw: checked(transposed, **kw),
    "stack": lambda **kw: checked(stack, **kw),
    "decay": lambda **kw: checked(mlp, optimizer=optax.adamw(LR, weight_decay=4.0), **kw),
    "sgd": lambda **kw: checked(mlp, optimizer=optax.sgd(0.5), adam=False, **kw),
}
# name -> the check, what it names, words of the cause
WRONG = {
    "multiplier squared": (lambda **kw: checked(
        mlp, make_model=make(mlp, output_mult=lambda width: 64 / width), **kw), "readout", "twice"),
    "no multiplier": (lambda **kw: checked(
        mlp, make_model=make(mlp, output_mult=lambda width: width / 64), **kw), "readout", "Readout"),
    "1/√d attention": (lambda **kw: checked(attention, make_model=make(
        attention, layer=hk.MultiHeadAttention), **kw), "multi_head_attention", "√d"),
    "hidden lr": (lambda **kw: checked(mlp, parametrization=scaled(
        lambda row: root(row)**2 if row.role == "hidden" else 1.0), **kw), "linear_1/w", "lacks its factor"),
    "SGD's factors": (lambda **kw: checked(mlp, parametrization=sgd_factors, **kw), "linear/w", "SGD's"),
    "constant init": (lambda **kw: checked(mlp, parametrization=constant_init, **kw),
                      "linear_1/w", "too large"),
    "embedding lr": (lambda **kw: checked(tied, parametrization=scaled(
        lambda row: 1 / root(row) if row.name.endswith("embeddings") else 1.0), **kw),
        "shared_embed/embeddings", "one factor too many"),
    "tied readout": (lambda **kw: checked(tied, make_model=make(
        tied, output_mult=lambda width: width / 64), **kw), "shared_readout", "training moves"),
    "axes swapped": (lambda **kw: checked(transposed, fans={"conv2_d_transpose/w": (-2, -1)}, **kw),
                     "conv2_d_transpose", ""),
    "decay scaled": (lambda **kw: checked(mlp, optimizer=optax.adamw(LR, weight_decay=4.0),
                                          parametrization=scaled_decay, **kw), "linear_1/w", "decay"),
    "stack as input": (lambda **kw: checked(stack, fans={"*layer_stack*/linear/w": ((), (0, 1))}, **kw),
                       "__layer_stack_no_per_layer/linear[1]", ""),
}
# name -> the check, what its error names
REFUSED = {
    "linear readout": (lambda: checked(mlp, make_model=make(mlp, readout=hk.Linear)), "'linear_3/w'.*Readout"),
    "d_ffn not varied": (lambda: checked(ffn, make_model=make(ffn), base_model=lambda width: make(
        functools.partial(ffn, d_ffn=4 * width))(64)), "'ffn_(in|out)/w'"),
}
