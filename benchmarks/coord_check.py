"""How long does a coordinate check take, beside mup.coord_check.get_coord_data of PyTorch's mup?

python -m benchmarks.coord_check [--torch PYTHON] [--widths 128,256,512,1024,2048] [--seeds 5]

PYTHON is one that has torch and mup, in an environment of its own; without it, ours alone is measured. Ours
also records parameters, their changes and gradients, and how far activations move, which mup's doesn't.
"""
import argparse
import functools
import json
import os
import subprocess
import sys
import time

BATCH, INPUTS, CLASSES, STEPS, LAYERS, HEADS, LENGTH = 64, 64, 10, 3, 2, 4, 16
MODELS = {"mlp": (128, 256, 512, 1024, 2048), "transformer": (64, 128, 256, 512)}


def ours(model, widths, seeds):
    """Seconds, on the clock and of the process, of a check from cold and of running it compiled."""
    import haiku as hk
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup
    from haiku_mup import measured

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
        x = hk.experimental.layer_stack(LAYERS)(block)(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x.mean(1))

    network = {"mlp": mlp, "transformer": transformer}[model]

    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return network(x, width)
        return hk.transform(fn)

    def loss_fn(apply, params, rng, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()

    x = jax.random.normal(jax.random.PRNGKey(0), (BATCH, LENGTH if model == "transformer" else 1, INPUTS))
    batch = x, jnp.arange(BATCH) % CLASSES
    programs, run = {}, measured.Program.run

    def kept(self, seed, batches):
        programs.setdefault(id(self), (self, batches))
        return run(self, seed, batches)

    measured.Program.run = kept
    cold = timed(functools.partial(haiku_mup.coord_check, make_model, widths, batch, loss_fn, optax.adam(2**-8),
                                   steps=STEPS, seeds=seeds, progress=False))

    def again():
        for program, batches in programs.values():
            jax.block_until_ready([run(program, seed, batches) for seed in range(seeds)])

    return {"cold": cold, "executed": timed(again)}


def theirs(model, widths, seeds):
    """The same of mup's own, and a second time."""
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
        return nn.Sequential(nn.Linear(INPUTS, width), *(Block(width) for _ in range(LAYERS)), Mean(), readout)

    def lazy(width):
        def build():
            built = network(width)
            mup.set_base_shapes(built, network(widths[0]), delta=network(2 * widths[0]))
            return built
        return build

    length = LENGTH if model == "transformer" else 1
    data = [(torch.randn(BATCH, length, INPUTS), torch.arange(BATCH) % CLASSES)]
    check = functools.partial(get_coord_data, {width: lazy(width) for width in widths}, data, optimizer="adam",
                              lr=2**-8, nsteps=STEPS, nseeds=seeds, cuda=False, show_progress=False)
    return {"cold": timed(check), "executed": timed(check)}


def timed(function):
    """Seconds on the clock, and of this process."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measured_in(python, side, model, widths, seeds):
    """What a fresh process of this Python measures; None where it can't."""
    command = [python, __file__, "--side", side, "--model", model, "--seeds", str(seeds),
               "--widths", ",".join(map(str, widths))]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": root})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def parse():
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--torch", default=sys.executable, help="a Python that has torch and mup")
    it.add_argument("--seeds", type=int, default=5)
    it.add_argument("--widths", type=lambda text: [int(width) for width in text.split(",")])
    it.add_argument("--model", choices=MODELS, help="default: both")
    it.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return it.parse_args()


def main():
    """Prints seconds on the clock (and of the process), and ratios."""
    args = parse()
    if args.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[args.side](args.model, args.widths, args.seeds)))
        return
    print(f"{'model':<13}{'':<10}{'ours':>16}{'mup, torch':>16}{'ratio':>8}     seconds on the clock (of CPU)")
    for model in [args.model] if args.model else MODELS:
        widths = args.widths or MODELS[model]
        found = {side: measured_in(python, side, model, widths, args.seeds)
                 for side, python in (("ours", sys.executable), ("theirs", args.torch))}
        for what in ("cold", "executed"):
            cells = ["skipped" if found[side] is None else "{:.2f} ({:.2f})".format(*found[side][what])
                     for side in ("ours", "theirs")]
            ratio = "" if None in found.values() else f"{found['ours'][what][0] / found['theirs'][what][0]:.2f}"
            print(f"{model:<13}{what:<10}{cells[0]:>16}{cells[1]:>16}{ratio:>8}")


if __name__ == "__main__":
    main()
