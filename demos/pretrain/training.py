"""The training."""
import argparse
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import haiku_mup
from demos.pretrain import corpus as corpora
from demos.pretrain.checkpoints import Checkpoints
from demos.pretrain.learning_curve import Curve
from demos.pretrain.model import transformed
from demos.pretrain.processes import alone, leads, say
from haiku_mup import models
from haiku_mup.sweep.runner.interrupts import held_back

CLIP, BETAS = 1.0, (0.9, 0.95)


def optimizer(args: argparse.Namespace, mup: haiku_mup.Mup) -> optax.GradientTransformation:
    """AdamW, whose decay is of matrices alone, behind a clip, which belongs outside of the wrap."""
    def matrices(params):
        return hk.data_structures.map(lambda module, name, x: name in ("w", "embeddings"), params)

    adamw = optax.adamw(schedule(args), *BETAS, weight_decay=args.decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(CLIP), mup.wrap_optimizer(adamw))


def schedule(args: argparse.Namespace) -> optax.Schedule:
    """From 0 to the rate in a warm-up, then on, or down to a tenth."""
    warm = optax.linear_schedule(0.0, args.lr, args.warmup)
    rest = optax.constant_schedule(args.lr)
    if args.schedule == "cosine":
        rest = optax.cosine_decay_schedule(args.lr, max(1, args.steps - args.warmup), alpha=0.1)
    return optax.join_schedules([warm, rest], [args.warmup])


class State(NamedTuple):
    """All that an update changes."""

    params: Any
    optimizer: Any


class Trainer:
    """The programs of a run. Each device of each process has all parameters, and a part of the batch."""

    def __init__(self, args: argparse.Namespace, size: int, mup: haiku_mup.Mup):
        self.model = mup.wrap_model(transformed(args, size, args.width))
        self.optimizer, self.key = optimizer(args, mup), jax.random.key(args.seed)
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.whole, self.rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        if args.batch % mesh.size:
            raise ValueError(f"argument --batch: {args.batch} rows don't divide among {mesh.size} devices")
        self.train = jax.jit(self._train, donate_argnums=0, out_shardings=(self.whole, self.whole))
        self.loss = jax.jit(self._loss, out_shardings=self.whole)

    def state(self, length: int) -> State:
        """Before the first step."""
        def new(key):
            params = self.model.init(key, jnp.zeros((1, length), jnp.int32))
            return State(params, self.optimizer.init(params))

        return jax.jit(new, out_shardings=self.whole)(self.key)

    def placed(self, batch: tuple[np.ndarray, np.ndarray]) -> list[jax.Array]:
        """A batch, of which each process keeps the rows of its own devices."""
        return [jax.make_array_from_callback(x.shape, self.rows, x.__getitem__) for x in batch]

    def valid(self, params: Any, batches: list[list[jax.Array]]) -> float:
        """The mean loss of batches."""
        return float(np.mean([np.asarray(self.loss(params, None, batch)) for batch in batches]))

    def _loss(self, params, key, batch):
        ids, labels = batch
        logits = self.model.apply(params, key, ids, is_training=key is not None)
        return models.cross_entropy(logits, labels)

    def _train(self, state, step, batch):
        key = jax.random.fold_in(self.key, step)
        loss, grads = jax.value_and_grad(self._loss)(state.params, key, batch)
        updates, inner = self.optimizer.update(grads, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), inner), loss


def run(args: argparse.Namespace, trainer: Trainer, batches: corpora.Batches, checkpoints: Checkpoints,
        free: tuple[str, ...]) -> tuple[State, Curve]:
    """Trains from the newest checkpoint on; returns the last state, and the curve of all steps."""
    start, state = checkpoints.restored(trainer.state(args.length), free)
    curve = Curve(args.out / "learning_curve.csv" if leads() else None, start)
    rates = np.asarray(jax.vmap(schedule(args))(jnp.arange(args.steps)))
    held = [trainer.placed(batch) for batch in batches.valid()]
    say(f"step {start} of {args.steps}" + " is where a checkpoint goes on" * (start > 0))
    with held_back() as check, progress(args.steps, start) as bar:
        for step in range(start, args.steps):
            valid = {"valid_loss": trainer.valid(state.params, held)} if step % args.eval_every == 0 else {}
            state, loss = trainer.train(state, np.int32(step), trainer.placed(batches.train(step)))
            curve.add(step=step, lr=rates[step], train_loss=float(loss), **valid)
            bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            bar.update()
            pressed = ended(check)
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps or (pressed and alone()):
                curve.flush()                       # first: a checkpoint's steps must be in the file
                checkpoints.save(step + 1, state)
            if pressed:
                raise KeyboardInterrupt
    curve.add(step=args.steps, valid_loss=trainer.valid(state.params, held))
    curve.flush()
    return state, curve


def progress(steps: int, start: int) -> tqdm.tqdm:
    return tqdm.tqdm(total=steps, initial=start, disable=not leads(),
                     bar_format="{l_bar}{bar}| {n}/{total}, {elapsed} so far, {remaining} left{postfix}")


def ended(check: Any) -> bool:
    """Whether Ctrl-C was pressed."""
    try:
        check()
    except KeyboardInterrupt:
        return True
    return False
