"""The training: the optimizer, the compiled step, and the loop over steps with its checkpoints."""
import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import haiku_mup
from demos.pretrain.checkpoints import Checkpoints
from demos.pretrain.corpus import Batches
from demos.pretrain.learning_curve import LearningCurve
from demos.pretrain.models import make_model
from demos.pretrain.processes import is_leader, is_single, print_once
from haiku_mup import models
from haiku_mup.sweep.interrupt import deferred_interrupt

CLIP, BETAS = 1.0, (0.9, 0.95)


def make_optimizer(args: argparse.Namespace, mup: haiku_mup.Mup) -> optax.GradientTransformation:
    """Returns AdamW that decays only matrices, and a clip of gradients, which belongs outside of the wrap."""
    def is_matrix(params):
        return hk.data_structures.map(lambda module, name, x: name in ("w", "embeddings"), params)

    adamw = optax.adamw(make_schedule(args), *BETAS, weight_decay=args.decay, mask=is_matrix)
    return optax.chain(optax.clip_by_global_norm(CLIP), mup.wrap_optimizer(adamw))


def make_schedule(args: argparse.Namespace) -> optax.Schedule:
    """Returns a warm-up from 0 to the rate, and then a constant, or a cosine down to a tenth."""
    warmup = optax.linear_schedule(0.0, args.lr, args.warmup)
    rest = optax.constant_schedule(args.lr)
    if args.schedule == "cosine":
        rest = optax.cosine_decay_schedule(args.lr, max(1, args.steps - args.warmup), alpha=0.1)
    return optax.join_schedules([warmup, rest], [args.warmup])


class State(NamedTuple):
    """The arrays that an update changes."""

    params: Any
    optimizer: Any


class Trainer:
    """The compiled programs of a run. Each device has all parameters, and a part of the batch."""

    def __init__(self, args: argparse.Namespace, vocab_size: int, mup: haiku_mup.Mup):
        self.model = mup.wrap_model(make_model(args, vocab_size, args.width))
        self.optimizer, self.key = make_optimizer(args, mup), jax.random.key(args.seed)
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.replicated, self.rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        if args.batch % mesh.size:
            raise ValueError(f"argument --batch: {args.batch} rows don't divide among {mesh.size} devices")
        self.step = jax.jit(self._step, donate_argnums=0, out_shardings=(self.replicated, self.replicated))
        self.loss = jax.jit(self._loss, out_shardings=self.replicated)

    def init_state(self, length: int) -> State:
        """Returns the state before the first step."""
        def init(key):
            params = self.model.init(key, jnp.zeros((1, length), jnp.int32))
            return State(params, self.optimizer.init(params))

        return jax.jit(init, out_shardings=self.replicated)(self.key)

    def put(self, batch: tuple[np.ndarray, np.ndarray]) -> list[jax.Array]:
        """Puts a batch on the devices; each process keeps the rows of its own."""
        return [jax.make_array_from_callback(x.shape, self.rows, x.__getitem__) for x in batch]

    def mean_loss(self, params: Any, batches: list[list[jax.Array]]) -> float:
        """Returns the mean loss over batches, without dropout."""
        return float(np.mean([np.asarray(self.loss(params, None, batch)) for batch in batches]))

    def _loss(self, params, key, batch):
        ids, labels = batch
        logits = self.model.apply(params, key, ids, is_training=key is not None)
        return models.cross_entropy(logits, labels)

    def _step(self, state, step, batch):
        key = jax.random.fold_in(self.key, step)
        loss, grads = jax.value_and_grad(self._loss)(state.params, key, batch)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer), loss


def train(args: argparse.Namespace, trainer: Trainer, batches: Batches,
          checkpoints: Checkpoints) -> tuple[State, LearningCurve]:
    """Trains from the newest checkpoint on; returns the last state, and the curve of all steps."""
    start, state = checkpoints.restore(trainer.init_state(args.length), changeable(args))
    curve = LearningCurve(args.out / "learning_curve.csv" if is_leader() else None, start)
    rates = np.asarray(jax.vmap(make_schedule(args))(jnp.arange(args.steps)))
    valid_batches = [trainer.put(batch) for batch in batches.valid()]
    print_once(f"step {start} of {args.steps}" + " is where a checkpoint goes on" * (start > 0))
    with deferred_interrupt() as raise_if_interrupted, progress_bar(args.steps, start) as bar:
        for step in range(start, args.steps):
            row = {"step": step, "lr": rates[step]}
            if step % args.eval_every == 0:
                row["valid_loss"] = trainer.mean_loss(state.params, valid_batches)
            state, loss = trainer.step(state, np.int32(step), trainer.put(batches.train(step)))
            curve.add(**row, train_loss=float(loss))
            bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            bar.update()
            stop = interrupted(raise_if_interrupted)
            # Interrupted, one process of several can't save: the others may be at another step.
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps or (stop and is_single()):
                curve.flush()                       # first: a checkpoint's steps must be in the file
                checkpoints.save(step + 1, state)
            if stop:
                raise KeyboardInterrupt
    curve.add(step=args.steps, valid_loss=trainer.mean_loss(state.params, valid_batches))
    curve.flush()
    return state, curve


def changeable(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the settings of a checkpoint that may change; a constant rate doesn't depend on the last step."""
    return ("temperature", "steps") if args.schedule == "constant" else ("temperature",)


def progress_bar(steps: int, start: int) -> tqdm.tqdm:
    return tqdm.tqdm(total=steps, initial=start, disable=not is_leader(),
                     bar_format="{l_bar}{bar}| {n}/{total}, {elapsed} so far, {remaining} left{postfix}")


def interrupted(raise_if_interrupted: Callable[[], None]) -> bool:
    """Returns whether Ctrl-C was pressed."""
    try:
        raise_if_interrupted()
    except KeyboardInterrupt:
        return True
    return False
