"""The training step of a language model, which benchmarks compile."""
import jax
import optax

from haiku_mup import models


def training_step(model, optimizer):
    """Returns step(params, state, ids) -> (params, state, loss), which predicts each next id."""
    def step(params, state, ids):
        def loss_fn(params):
            return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step
