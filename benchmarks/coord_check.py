"""Times a coordinate check, beside mup.coord_check.get_coord_data of PyTorch's mup.

python -m benchmarks.coord_check [--torch PYTHON] [--widths 128,256,512,1024,2048] [--seeds 5] [--layers 2]

PYTHON is one that has torch and mup, in an environment of its own; without it, only ours is measured. Ours also
records parameters, their changes and gradients, and how far activations move, which mup's doesn't. "bare JAX"
is the same training in a loop that records nothing, compiled as JAX does by default, one width at a time.
"""
import argparse
import functools
import json
import os
import subprocess
import sys
import time

BATCH, INPUTS, CLASSES, STEPS, HEADS, LENGTH, LR = 64, 64, 10, 3, 4, 16, 2**-8
MODELS = {"mlp": (128, 256, 512, 1024, 2048), "transformer": (64, 128, 256, 512)}


def make_problem(model, layers):
    """Returns make_model, loss_fn and batch of one of the models, in Haiku."""
    import haiku as hk
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup

    def mlp(x, width):
        x = x.mean(1)
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)

    def transformer(x, width):
        def block(x):
            y = hk.LayerNorm(-1, True, True)(x)
            x = x + haiku_mup.MultiHeadAttention(HEADS, width // HEADS, w_init=init)(y, y, y)
            y = hk.LayerNorm(-1, True, True)(x)
            return x + hk.Linear(width)(jax.nn.relu(hk.Linear(4 * width)(y)))

        init = hk.initializers.VarianceScaling()
        x = hk.experimental.layer_stack(layers)(block)(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x.mean(1))

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return {"mlp": mlp, "transformer": transformer}[model](x, width)
        return hk.transform(fn)

    def loss_fn(apply, params, rng, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()

    x = jax.random.normal(jax.random.PRNGKey(0), (BATCH, LENGTH if model == "transformer" else 1, INPUTS))
    return make_model, loss_fn, (x, jnp.arange(BATCH) % CLASSES)


def ours(model, widths, seeds, layers):
    """Times a check from cold, and its compiled programs again."""
    import jax
    import optax

    import haiku_mup
    from haiku_mup.coordinates.trainer import Trainer

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


def bare(model, widths, seeds, layers):
    """Times a loop in plain JAX, with a jitted init and a jitted step for each width; and its second run."""
    import jax
    import optax

    make_model, loss_fn, batch = make_problem(model, layers)
    optimizer, programs = optax.adam(LR), {}

    def make_program(width):
        model = make_model(width)

        @jax.jit
        def init(key):
            params = model.init(key, batch[0])
            return params, optimizer.init(params)

        @jax.jit
        def step(params, state):
            gradients = jax.grad(lambda params: loss_fn(model.apply, params, None, batch))(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return init, step

    def check():
        for width in widths:
            init, step = programs.setdefault(width, make_program(width))
            for seed in range(seeds):
                carry = init(jax.random.key(seed, impl="rbg"))
                for _ in range(STEPS):
                    carry = step(*carry)
                jax.block_until_ready(carry)

    return {"cold": timed(check), "executed": timed(check)}


def theirs(model, widths, seeds, layers):
    """Times mup's check, and its second run."""
    import mup
    import torch
    from mup.coord_check import get_coord_data
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

        def forward(self, x):
            batch, length, width = x.shape
            q, k, v = (part.reshape(batch, length, HEADS, -1).transpose(1, 2)
                       for part in self.qkv(self.norms[0](x)).chunk(3, -1))
            attention = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1], -1)
            x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, length, width))
            return x + self.mlp(self.norms[1](x))

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    def network(width):
        readout = mup.MuReadout(width, CLASSES)
        if model == "mlp":
            hidden = [part for i in range(3)
                      for part in (nn.Linear(width if i else INPUTS, width), nn.ReLU())]
            return nn.Sequential(Mean(), *hidden, readout)
        return nn.Sequential(nn.Linear(INPUTS, width), *(Block(width) for _ in range(layers)), Mean(), readout)

    def lazy(width):
        def build():
            built = network(width)
            mup.set_base_shapes(built, network(widths[0]), delta=network(2 * widths[0]))
            return built
        return build

    length = LENGTH if model == "transformer" else 1
    data = [(torch.randn(BATCH, length, INPUTS), torch.arange(BATCH) % CLASSES)]
    check = functools.partial(get_coord_data, {width: lazy(width) for width in widths}, data, optimizer="adam",
                              lr=LR, nsteps=STEPS, nseeds=seeds, cuda=False, show_progress=False)
    return {"cold": timed(check), "executed": timed(check)}


def timed(function):
    """Calls the function; returns its seconds on the clock, and of this process's CPU time."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


SIDES = {"ours": ours, "bare": bare, "theirs": theirs}


def measure_in(python, side, model, args):
    """Returns what a fresh process of a Python measures; None if it fails."""
    widths = args.widths or MODELS[model]
    command = [python, __file__, "--side", side, "--model", model, "--seeds", str(args.seeds),
               "--layers", str(args.layers), "--widths", ",".join(map(str, widths))]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": root})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def parse():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coord_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="a Python that has torch and mup")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2, help="of the transformer")
    parser.add_argument("--widths", type=lambda text: [int(width) for width in text.split(",")])
    parser.add_argument("--model", choices=MODELS, help="default: both")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Prints seconds on the clock (and of the process), and ratios."""
    args = parse()
    if args.side:
        print(json.dumps(SIDES[args.side](args.model, args.widths, args.seeds, args.layers)))
        return
    print(f"{'model':<13}{'':<10}{'ours':>16}{'bare JAX':>16}{'mup, torch':>16}{'ours/mup':>10}"
          "     seconds on the clock (of CPU)")
    for model in [args.model] if args.model else MODELS:
        found = {side: measure_in(args.torch if side == "theirs" else sys.executable, side, model, args)
                 for side in SIDES}
        for what in ("cold", "executed"):
            cells = ["skipped" if each is None else "{:.2f} ({:.2f})".format(*each[what])
                     for each in found.values()]
            ratio = "" if None in found.values() else f"{found['ours'][what][0] / found['theirs'][what][0]:.2f}"
            print(f"{model:<13}{what:<10}{''.join(f'{cell:>16}' for cell in cells)}{ratio:>10}", flush=True)


if __name__ == "__main__":
    main()
