"""Text that the model writes."""
import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demos.pretrain.training import Trainer


def sample(args: argparse.Namespace, trainer: Trainer, params: Any, prompt: np.ndarray) -> np.ndarray:
    """The ids of the prompt and those that the model draws behind it, as many as it has places."""
    ids = jnp.zeros(args.length, jnp.int32).at[:len(prompt)].set(prompt)

    def write(place, ids):
        logits = trainer.model.apply(params, None, ids[None])[0, place - 1]
        key = jax.random.fold_in(trainer.key, place)
        return ids.at[place].set(jax.random.categorical(key, logits / args.temperature).astype(jnp.int32))

    def written(params, ids):
        return jax.lax.fori_loop(len(prompt), args.length, write, ids)

    return np.asarray(jax.jit(written, out_shardings=trainer.whole)(params, ids))
