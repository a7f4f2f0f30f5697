"""Right models, which the coordinate check must not fail, whatever the seeds.

    python tests/support/right_models.py                    all, 20 choices of 5 seeds: half an hour of CPU time
    python tests/support/right_models.py --choices 4 tied   those with these words in their names

A model is compiled once for each width, and trained from all seeds. Each choice of seeds is then judged as a
check of its own, at all four widths, and at the first and the last alone.
"""
import argparse
import collections
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import haiku as hk
import jax
import jax.numpy as jnp
import mutants
import optax
from wrong_exponents import IDS, IMAGES, LABELS, LR, NETWORKS, OPTIMIZERS, SLOW, loss_fn, norm

import haiku_mup
from haiku_mup.coordinates import measurements

WIDE, FOUR = (64, 128, 256, 512), (32, 64, 128, 256)      # the second of models that compile slowly
SEEDS = 5                       # of a check, the default
TOKENS = jax.random.normal(jax.random.PRNGKey(3), (32, 5, 16))


# --- networks that are not in `wrong_exponents` ---

class Pool(hk.Module):
    """Pools [B, T, d] to [B, d] by scores of its own."""

    def __call__(self, x):
        scores = x @ hk.get_parameter("score", [x.shape[-1], 1], init=hk.initializers.VarianceScaling())
        return (jax.nn.softmax(haiku_mup.probe("scores", scores), axis=1) * x).sum(1)


def pooled(x, width):
    x = Pool()(jax.nn.relu(hk.Linear(width)(x)))
    return haiku_mup.Readout(10)(jax.nn.relu(hk.Linear(width)(x)))


def zero_branches(x, width):
    """Adds branches whose last weight starts at zero."""
    x = hk.Linear(width)(x.reshape(len(x), -1))
    for _ in range(2):
        y = jax.nn.relu(hk.Linear(width)(norm(x)))
        x = x + hk.Linear(width, w_init=jnp.zeros, name="zero")(y)
    return haiku_mup.Readout(10)(x)


def lstm(x, width):
    core = hk.LSTM(width)
    x, _ = hk.dynamic_unroll(core, x.swapaxes(0, 1), core.initial_state(len(x)))
    return haiku_mup.Readout(10)(x[-1])


def dropped(x, width):
    for _ in range(2):
        x = hk.dropout(hk.next_rng_key(), 0.2, jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1))))
    return haiku_mup.Readout(10)(x)


def small_loss(*args):
    return 1e-3 * loss_fn(*args)


def squares(apply, params, rng, batch):
    x, y = batch
    return jnp.square(apply(params, rng, x) - jax.nn.one_hot(y, 10)).mean()


# --- what is checked ---

class RightModel(NamedTuple):
    """A model in μP, with what its check is given.

    Attributes:
      network: a function of the inputs and the width.
      optimizer: a plain optimizer.
      settings: arguments of the check.
      inputs: of the model.
      widths: four.
      loss: the loss function.
    """

    network: Callable[..., Any]
    optimizer: Any
    settings: dict[str, Any] = {}
    inputs: Any = IMAGES
    widths: Sequence[int] = WIDE
    loss: Callable[..., Any] = loss_fn

    def check(self, **kwargs):
        labels = LABELS[:len(self.inputs)]
        return haiku_mup.coord_check(
            mutants.make(self.network), self.widths, (self.inputs, labels), self.loss, self.optimizer,
            progress=False, **self.settings, **kwargs)

    def checks(self, choices, first=0):
        """Yields (widths, check) of each choice of seeds: of all widths, and of the first and the last.

        Args:
          choices: how many choices of SEEDS there are.
          first: the first seed of all.
        """
        kept = {}

        def keep(trainers, trials, **kwargs):
            kept.update(trainers=trainers, trials=trials, kwargs=kwargs)
            return []

        with mock.patch("haiku_mup.coordinates.check.as_points", keep):
            self.check(seeds=range(first, first + choices * SEEDS))
        for number in range(choices):
            for widths in (self.widths, (self.widths[0], self.widths[-1])):
                trials = {(width, seed): steps for (width, seed), steps in kept["trials"].items()
                          if width in widths and (seed - first) // SEEDS == number}
                trainers = {width: kept["trainers"][width] for width in widths}
                yield len(widths), haiku_mup.CoordCheck(
                    measurements.as_points(trainers, trials, **kept["kwargs"]))


def _models():
    pairs = [(network, optimizer) for network in NETWORKS for optimizer in ("adam", "sgd")]
    pairs += [("mlp", optimizer) for optimizer in ("momentum", "adamw", "lamb", "adagrad", "large eps")]
    pairs += [("tied", "adagrad"), ("transformer", "lamb"), ("rnn", "momentum")]
    for network, optimizer in pairs:
        yield f"{network}, {optimizer}", RightModel(
            NETWORKS[network], *OPTIMIZERS[optimizer], inputs=IDS if network == "tied" else IMAGES,
            widths=FOUR if network in SLOW else WIDE)
    adam, sgd = OPTIMIZERS["adam"], OPTIMIZERS["sgd"]
    fast = optax.adam(mutants.LR), {}
    yield "attention, fast adam", RightModel(mutants.attention, *fast)
    yield "tied mlp, fast adam", RightModel(mutants.tied, *fast, inputs=IDS)
    yield "feed-forward, fast adam", RightModel(mutants.ffn, *fast)
    yield "transposed, fast adam", RightModel(mutants.transposed, *fast)
    yield "stack, fast adam", RightModel(mutants.stack, *fast)
    pool = {"readouts": "pool/score"}
    yield "pooled, adam", RightModel(pooled, adam[0], pool, TOKENS)
    yield "pooled, sgd", RightModel(pooled, sgd[0], sgd[1] | pool, TOKENS)
    yield "zero branches, adam", RightModel(zero_branches, *adam)
    yield "zero branches, sgd", RightModel(zero_branches, *sgd)
    yield "lstm, adam", RightModel(lstm, *adam, widths=FOUR)
    yield "dropped, adam", RightModel(dropped, *adam)
    yield "few tokens, adam", RightModel(NETWORKS["moe"], *adam, inputs=IMAGES[:16], widths=(16, 32, 64, 128))
    yield "small loss, adam", RightModel(
        NETWORKS["zero"], optax.adam(LR), {"rule": "any"}, loss=small_loss)
    yield "squares, sgd", RightModel(NETWORKS["mlp"], optax.sgd(2.0), {"adam": False}, loss=squares)


RIGHT_MODELS = dict(_models())


def main():
    """Prints, for each model, how many checks passed, failed and were undecided; and the slopes that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choices", type=int, default=20, help="of seeds, five each")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("words", nargs="*", help="in the names of models")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    total = collections.Counter()
    for name, model in RIGHT_MODELS.items():
        if not all(word in name for word in args.words):
            continue
        start, found, shown = time.process_time(), collections.Counter(), {}
        for widths, check in model.checks(args.choices, args.first):
            found[widths, str(check.verdict)] += 1
            failed = check.failures() if check.verdict == "failed" else check.undecided()
            for f in failed:
                what = f"{widths} widths, {check.verdict}: {f.quantity}, step {f.step}, expected {f.expected}:"
                shown.setdefault(what, []).append(f"{f.slope:.2f} ± {f.error:.2f}")
        total.update(found)
        print(f"{name:<26}{time.process_time() - start:6.1f} s   " + "   ".join(
            f"{widths} widths: " + ", ".join(f"{found[widths, v]} {v}" for v in haiku_mup.Verdict
                                             if found[widths, v])
            for widths in (len(model.widths), 2)), flush=True)
        for what, slopes in sorted(shown.items(), key=lambda item: -len(item[1]))[:8]:
            print(f"     {len(slopes):>3} × {what}", ", ".join(slopes[:4]), flush=True)
    print(dict(total))


if __name__ == "__main__":
    main()
