"""Text that a trained GPT-2 or Llama writes."""
import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demos.pretrain.training import Trainer


def sample(args: argparse.Namespace, trainer: Trainer, params: Any, prompt: np.ndarray) -> np.ndarray:
    """Returns the prompt's ids and those that the model draws after it, as many as it has positions."""
    ids = jnp.zeros(args.length, jnp.int32).at[:len(prompt)].set(prompt)

    def write_all(params, ids):
        def write(position, ids):
            logits = trainer.model.apply(params, None, ids[None])[0, position - 1]
            key = jax.random.fold_in(trainer.key, position)
            drawn = jax.random.categorical(key, logits / args.temperature)
            return ids.at[position].set(drawn.astype(jnp.int32))

        return jax.lax.fori_loop(len(prompt), args.length, write, ids)

    return np.asarray(jax.jit(write_all, out_shardings=trainer.replicated)(params, ids))
