"""A jitted step of the wrapped model and optimizer, in a plain loop over steps."""
import functools

import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.sweep.problem import loss_fn, make_model
from benchmarks.sweep.settings import BASE, TRIALS, batches, make_data, timed

DATA = make_data()


def measure(widths, trials):
    """Times the loop, from the second trial of a width on; the whole includes compilation."""
    seconds, compiling = {}, 0
    for width in widths:
        programs = make_programs(width)
        first = timed(train, *programs, 0)
        mean = sum(timed(train, *programs, seed) for seed in range(trials)) / trials
        seconds[width] = mean * TRIALS
        compiling += max(first - mean, 0)
    return seconds | {"whole": sum(seconds.values()) + compiling}


def make_programs(width):
    """Returns a jitted init, one of the optimizer, and a jitted step; the rate is an argument of the step."""
    base, target = make_model(BASE), make_model(width)
    mup, key, x = haiku_mup.Mup(), jax.random.key(0), DATA[0][:1]
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    model = mup.wrap_model(target)
    optimizer = mup.wrap_optimizer(optax.inject_hyperparams(optax.adam)(learning_rate=0.1))

    @jax.jit
    def step(params, state, batch):
        loss_of_params = functools.partial(loss_fn, model.apply)
        loss, gradients = jax.value_and_grad(loss_of_params)(params, None, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    return jax.jit(lambda key: model.init(key, x)), jax.jit(optimizer.init), step


def train(init, init_optimizer, step, seed):
    """Trains one trial; returns the losses."""
    params, losses = init(jax.random.key(seed)), []
    state = init_optimizer(params)
    for batch in batches(seed):
        params, state, loss = step(params, state, tuple(jnp.asarray(x[batch]) for x in DATA))
        losses.append(loss)
    return jax.device_get(losses)
