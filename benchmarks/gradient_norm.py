"""Measures how the gradients' global norm depends on the width in μP, and so what a clip by it does.

python -m benchmarks.gradient_norm
"""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup

WIDTHS = (64, 256, 1024)
BATCH, PIXELS, CLASSES, SEEDS, STEPS = 128, 64, 10, 4, 20


def network(x, width):
    """Maps x to logits [BATCH, CLASSES]."""
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)


def capture(width, x):
    """Returns the Mup of a width, relative to WIDTHS[0], and the wrapped model."""
    base, target = (hk.without_apply_rng(hk.transform(functools.partial(network, width=w)))
                    for w in (WIDTHS[0], width))
    mup, key = haiku_mup.Mup(), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    return mup, mup.wrap_model(target)


def mean_norms(width):
    """Returns the global norms of the raw gradients and of those with scale_eps=True, as means over steps."""
    x = jax.random.normal(jax.random.key(1), (BATCH, PIXELS))
    y = jnp.arange(BATCH) % CLASSES
    mup, model = capture(width, x)
    optimizer = optax.chain(record_norm(), optax.adam(2**-9))
    raw, scaled = mup.wrap_optimizer(optimizer), mup.wrap_optimizer(optimizer, scale_eps=True)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    @jax.jit
    def run(key):
        def step(carry, _):
            params, raw_state, scaled_state = carry
            gradients = jax.grad(loss)(params)
            updates, raw_state = raw.update(gradients, raw_state, params)
            _, scaled_state = scaled.update(gradients, scaled_state, params)
            params = optax.apply_updates(params, updates)
            return (params, raw_state, scaled_state), (raw_state[0], scaled_state[0])

        params = model.init(key, x)
        return jax.lax.scan(step, (params, raw.init(params), scaled.init(params)), None, STEPS)[1]

    return [float(np.mean([run(jax.random.key(seed))[i] for seed in range(SEEDS)])) for i in range(2)]


def record_norm():
    """Returns a transformation that leaves updates unchanged; its state is their global norm."""
    def update(updates, state, params=None):
        return updates, optax.global_norm(updates)

    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


def main():
    """Prints the norms relative to the base's."""
    norms = {width: mean_norms(width) for width in WIDTHS}
    print(f"{'width':>6}{'raw gradients':>16}{'with scale_eps':>16}      (relative to width {WIDTHS[0]})")
    for width, values in norms.items():
        print(f"{width:>6}" + "".join(f"{v / b:>16.2f}" for v, b in zip(values, norms[WIDTHS[0]])))


if __name__ == "__main__":
    main()
