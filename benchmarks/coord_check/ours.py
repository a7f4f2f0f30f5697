"""haiku_mup's coordinate check."""
import functools

import jax
import optax

import haiku_mup
from benchmarks.coord_check.problem import make_problem
from benchmarks.coord_check.settings import LR, STEPS, timed
from haiku_mup.coordinates.trainer import Trainer


def measure(model, widths, seeds, layers):
    """Times a check from cold, and its compiled programs again."""
    make_model, loss_fn, batch = make_problem(model, layers)
    trainers, train = {}, Trainer.train

    def train_and_keep(self, seed, batches):
        trainers.setdefault(id(self), (self, batches))
        return train(self, seed, batches)

    Trainer.train = train_and_keep
    cold = timed(functools.partial(haiku_mup.coord_check, make_model, widths, batch, loss_fn, optax.adam(LR),
                                   steps=STEPS, seeds=seeds, progress=False))

    def train_again():
        for trainer, batches in trainers.values():
            jax.block_until_ready([train(trainer, seed, batches) for seed in range(seeds)])

    return {"cold": cold, "executed": timed(train_again)}
