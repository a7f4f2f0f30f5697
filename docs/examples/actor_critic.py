"""An actor-critic with an LSTM core, in μP."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

ACTIONS = 4


def network(observations, width):
    """Maps observations [time, batch, features] to logits [time, batch, ACTIONS] and values [time, batch]."""
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.BatchApply(hk.Linear(width))(observations))
        core = hk.LSTM(width)
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        logits = hk.BatchApply(haiku_mup.Readout(ACTIONS, name="policy"))(x)
        values = hk.BatchApply(haiku_mup.Readout(1, name="value"))(x)
        return logits, values[..., 0]


def make_model(width):
    return hk.transform(functools.partial(network, width=width))


def loss_fn(apply, params, rng, batch):
    """Returns the loss of advantage actor-critic, on recorded actions and returns."""
    observations, actions, returns = batch
    logits, values = apply(params, rng, observations)
    advantages = jax.lax.stop_gradient(returns - values)
    cost = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
    return jnp.mean(cost * advantages) + 0.5 * jnp.mean((returns - values)**2)
