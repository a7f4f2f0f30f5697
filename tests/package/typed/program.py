"""A user's program, for the type checker: what haiku_mup gives has types that are not Any."""
from collections.abc import Callable
from typing import assert_type

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup


def decoder(ids: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    with haiku_mup.apply_mup() as nothing:
        assert_type(nothing, None)
        embed = haiku_mup.SharedEmbed(100, width)
        x = embed(ids)
        attention = haiku_mup.MultiHeadAttention(
            num_heads=2, key_size=width // 2, w_init=hk.initializers.VarianceScaling(), zero_query=True)
        x += assert_type(attention(x, x, x), jax.Array)
        value = assert_type(haiku_mup.Readout(1, w_init=jnp.zeros, output_mult=2.0)(x), jax.Array)
        assert_type(haiku_mup.SharedReadout()(embed, x), jax.Array)
        weights = assert_type(embed.get_weights(), jax.Array)
        return assert_type(haiku_mup.SharedReadout(use_bias=True)(weights, x), jax.Array), value


def build(width: int) -> hk.Transformed:
    return hk.transform(lambda ids: decoder(ids, width))


key, ids = jax.random.PRNGKey(0), jnp.arange(12)
mup = haiku_mup.Mup()
with mup.init_base() as nothing:
    assert_type(nothing, None)
    jax.eval_shape(build(32).init, key, ids)
with mup.init_target():
    params = build(64).init(key, ids)

model = assert_type(mup.wrap_model(build(64)), hk.Transformed)
plain = hk.transform_with_state(lambda ids: decoder(ids, 64))
assert_type(mup.wrap_model(plain), hk.TransformedWithState)
optimizer = assert_type(mup.wrap_optimizer(optax.adamw(3e-4)), optax.GradientTransformationExtraArgs)
assert_type(mup.wrap_optimizer(optax.MultiSteps(optax.sgd(0.1), 4), adam=False, scale_decay=True),
            optax.GradientTransformationExtraArgs)
scale = assert_type(mup.scale_updates(adam=True), optax.GradientTransformationExtraArgs)
optax.chain(optax.scale_by_adam(), scale, optax.scale(-3e-4))


def loss_fn(params: optax.Params) -> jax.Array:
    logits, _ = model.apply(params, None, ids)
    loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, ids).mean()
    return loss


@jax.jit
def step(params: optax.Params, state: optax.OptState) -> tuple[optax.Params, optax.OptState]:
    updates, state = optimizer.update(jax.grad(loss_fn)(params), state, params)
    return optax.apply_updates(params, updates), state


step(params, optimizer.init(params))

for row in assert_type(mup.table(), list[haiku_mup.Row]):
    assert_type((row.name, row.role), tuple[str, str])
    assert_type((row.base_shape, row.target_shape), tuple[tuple[int, ...], tuple[int, ...]])
    assert_type((row.base_std, row.target_std, row.multiplier), tuple[float, float, float])
    assert_type((row.adam_lr, row.sgd_lr), tuple[float, float])
assert_type(mup.summary(width=80), str)
for module, factors in mup.lr_scales(adam=False).items():
    assert_type((module, list(factors)), tuple[str, list[str]])
assert_type(haiku_mup.get_shapes(params), dict[str, dict[str, tuple[int, ...]]])



def batch_loss(apply: Callable[..., jax.Array], params: optax.Params, rng: jax.Array,
               batch: jax.Array) -> jax.Array:
    return apply(params, rng, batch)[0].mean()


def tuned() -> float:
    make_trial = assert_type(haiku_mup.training(build, ids, batch_loss, optax.adam, steps=3, base_width=32),
                             haiku_mup.Training)
    sweep = assert_type(haiku_mup.lr_sweep({"mup": make_trial}, [64], [0.1], seeds=2, search="adaptive"),
                        haiku_mup.Sweep)
    said = assert_type(sweep.recommend(), haiku_mup.Advice)
    assert_type((said.transfers, sweep.best()["mup"][64].log2_lr), tuple[bool, float])
    return said.lr


try:
    mup.wrap_model(model)
except haiku_mup.MupError as error:
    as_value_error: ValueError = error
make_warning: Callable[[str], UserWarning] = haiku_mup.MupWarning
