"""Trains GPT-2, BERT or RoBERTa on text, in μP relative to a base; goes on where it was interrupted."""
import argparse
import math
import pathlib
import shlex
import sys
import time
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import haiku_mup
from demos.common import corpus as corpora
from demos.common import flags, processes
from demos.common import report as reports
from demos.common.checkpoints import Checkpoints
from demos.common.curve import Curve
from demos.common.processes import alone, leads, say
from haiku_mup import models
from haiku_mup.sweep.runner.interrupts import held_back

PROG = "python -m demos.pretrain"
MODELS = {"gpt2": models.GPT2LMHeadModel, "bert": models.BertForMaskedLM, "roberta": models.RobertaForMaskedLM}
CLIP, BETAS = 1.0, (0.9, 0.95)
LAST = 0.2          # of the steps: their training loss is shown at the end
FIGURE = "learning_curve.png"
# What may change as a run goes on; the rest is in its checkpoints. A base is compared by what it says.
FREE = ("out", "base", "save_base", "parametrization", "save_every", "eval_every", "text", "command")
PATHS = ("out", "base", "save_base", "text", "command")     # may differ between the processes of a run


# --- the model ---

def config(args: argparse.Namespace, size: int, width: int) -> models.Config:
    """The configuration of a model of this width, with heads of args.head_size."""
    heads, odd = divmod(width, args.head_size)
    if odd or not heads:
        raise ValueError(f"argument --width: {width} is no multiple of --head-size {args.head_size}")
    common: dict[str, Any] = {"vocab_size": size, "layer_stack": True}
    if args.model == "gpt2":
        return models.GPT2Config(n_embd=width, n_layer=args.layers, n_head=heads, n_positions=args.length,
                                 resid_pdrop=args.dropout, embd_pdrop=args.dropout, attn_pdrop=args.dropout,
                                 **common)
    make, more = (models.BertConfig, 0) if args.model == "bert" else (models.RobertaConfig, corpora.PAD + 1)
    return make(hidden_size=width, num_hidden_layers=args.layers, num_attention_heads=heads,
                intermediate_size=4 * width, max_position_embeddings=args.length + more,
                pad_token_id=corpora.PAD, hidden_dropout_prob=args.dropout,
                attention_probs_dropout_prob=args.dropout, **common)


def transformed(args: argparse.Namespace, size: int, width: int) -> hk.Transformed:
    """The model of this width."""
    made = config(args, size, width)

    def fn(ids, is_training=False):
        with haiku_mup.apply_mup():
            return MODELS[args.model](made)(ids, is_training=is_training)

    return hk.transform(fn)


def captured(args: argparse.Namespace, size: int) -> haiku_mup.Mup:
    """The Mup of the model: relative to the base in a file, or else with itself as the base.

    With itself as the base nothing is scaled, and what it saves says that every width is one.
    """
    ids = jax.ShapeDtypeStruct((1, args.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def shapes(width):
        jax.eval_shape(transformed(args, size, width).init, key, ids)

    rule = haiku_mup.standard() if args.parametrization == "sp" else haiku_mup.maximal_update()
    mup = haiku_mup.Mup.load(args.base) if args.base else haiku_mup.Mup(parametrization=rule)
    if not args.base:
        with mup.init_base():
            shapes(args.width)
        with mup.init_delta():
            shapes(2 * args.width)
    with mup.init_target():
        shapes(args.width)
    return mup


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


# --- the training ---

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


# --- what is shown and kept ---

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


def report(args: argparse.Namespace, data: corpora.Corpus, params: Any, curve: Curve, seconds: float) -> None:
    """Writes summary.json and the figure, and prints the losses."""
    last = [loss for step, loss in curve.losses("train_loss") if step >= args.steps * (1 - LAST)]
    train, valid = float(np.mean(last)), curve.losses("valid_loss")[-1][1]
    found = {"train_loss": reports.known(train), "valid_loss": reports.known(valid),
             "parameters": sum(x.size for x in jax.tree.leaves(params))}
    reports.write(args, data, seconds, {"clip": CLIP, "betas": BETAS}, {"found": found})
    title = f"{args.model}, width {args.width}, {args.layers} layers, {data.source}"
    curve.plot(args.out / FIGURE, title, args.command)
    unit = f"perplexity {math.exp(valid):.1f}" if data.words else f"{valid / math.log(2):.3f} bits a byte"
    print(f"loss {train:.4f} in the last fifth of {args.steps} steps, {valid:.4f} held out ({unit})\n"
          f"learning_curve.csv, {FIGURE}, summary.json and checkpoints are in {args.out}")


# --- the command line ---

def rate(text: str) -> float:
    """'0.1' -> 0.1"""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return found


def share(text: str) -> float:
    """'0.1' -> 0.1, '0' -> 0.0"""
    found = 0.0 if text.strip() == "0" else rate(text)
    if found >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to less than 1")
    return found


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def parser() -> flags.Parser:
    it = flags.Parser(prog=PROG, description=__doc__, formatter_class=Help)
    it.add_argument("--model", choices=MODELS, default="gpt2", help="what is trained")
    it.add_argument("--width", type=flags.count, default="128", help="of the residual stream")
    it.add_argument("--layers", type=flags.count, default="4", help="blocks")
    it.add_argument("--head-size", type=flags.count, default="32", help="a wider model has more heads")
    it.add_argument("--text", type=pathlib.Path, metavar="FILE", help="in UTF-8; without, the King James Bible")
    it.add_argument("--level", choices=("byte", "word"), default="byte", help="what an id stands for")
    it.add_argument("--base", type=pathlib.Path, metavar="FILE",
                    help="in μP relative to the base in this file; without, the model is itself the base")
    it.add_argument("--save-base", type=pathlib.Path, metavar="FILE", help="writes this model as a base")
    it.add_argument("--parametrization", choices=("mup", "sp"), default="mup", help="sp: standard")
    it.add_argument("--steps", type=flags.count, default="600", help="updates")
    it.add_argument("--batch", type=flags.count, default="16", help="rows, of all devices together")
    it.add_argument("--length", type=flags.count, default="128", help="ids of a row")
    it.add_argument("--lr", type=rate, default="0.004", help="the highest learning rate")
    it.add_argument("--schedule", choices=("cosine", "constant"), default="cosine", help="behind the warm-up")
    it.add_argument("--warmup", type=int, default="50", help="steps up to that rate")
    it.add_argument("--decay", type=share, default="0.1", help="AdamW's, of matrices")
    it.add_argument("--dropout", type=share, default="0", help="rate of all of them")
    it.add_argument("--seed", type=int, default="0", help="of parameters, batches and masks")
    it.add_argument("--eval-every", type=flags.count, default="100", help="steps, held-out loss")
    it.add_argument("--save-every", type=flags.count, default="100", help="steps, checkpoints")
    it.add_argument("--temperature", type=rate, default="0.8", help="of the sample that GPT-2 writes")
    it.add_argument("--out", type=pathlib.Path, help="folder for the results; an interrupted run goes on where "
                    "it was; results/pretrain-MODEL, if not given")
    return it


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, and the command that gave them."""
    it = parser()
    args = it.parse_args(argv)
    if args.base and args.parametrization == "sp":
        it.error("argument --base: it puts the model in μP; leave it out with --parametrization sp")
    if args.base and args.save_base:
        it.error("argument --save-base: with --base, the base is in a file already")
    if args.warmup < 0 or args.seed < 0:
        it.error("arguments --warmup and --seed: give whole numbers from 0 on")
    args.out = args.out or pathlib.Path("results", f"pretrain-{args.model}")
    args.command = flags.command(PROG, argv)
    return args


def settings(args: argparse.Namespace, data: corpora.Corpus, free: tuple[str, ...] = FREE) -> dict[str, Any]:
    """What a run was asked for, that of its checkpoints if no other things are free."""
    return {name: value for name, value in vars(args).items() if name not in free} | {"checksum": data.checksum}


def train(args: argparse.Namespace) -> None:
    """All of it.

    Raises:
      ImportError, OSError, ValueError: what can't be; MupError is a ValueError.
    """
    start, masked = time.perf_counter(), args.model != "gpt2"
    data = corpora.corpus(args.text, args.level, masked)
    batches = corpora.Batches(data, args.batch, args.length, masked, args.seed)
    batches.check()
    mup = captured(args, data.size)
    if not alone():
        processes.agree([settings(args, data, PATHS), mup.state_dict()])
    if args.save_base and leads():
        mup.save(args.save_base)
    args.out.mkdir(parents=True, exist_ok=True)
    say(f"data: {data.source}, {len(data.train):,} ids")
    trainer = Trainer(args, data.size, mup)
    checkpoints = Checkpoints(args.out / "checkpoints", settings(args, data), mup)
    try:
        state, curve = run(args, trainer, batches, checkpoints,
                           ("temperature", *["steps"] * (args.schedule == "constant")))
    finally:
        checkpoints.close()
    if args.model == "gpt2":
        ids = sample(args, trainer, state.params, data.valid[:args.length // 4])
        say(f"\n{data.text(ids)}\n")
    if leads():
        report(args, data, state.params, curve, time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Runs the demo; returns its exit code, or exits with what is wrong."""
    args = parse(argv)
    with processes.together():
        try:
            processes.join()
            train(args)
        except KeyboardInterrupt:
            given = sys.argv[1:] if argv is None else argv
            print(f"\ninterrupted; to go on: {shlex.join([*PROG.split(), *given])}", file=sys.stderr)
            sys.exit(130)
        except processes.SAID as error:
            parser().error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
