"""A GPT-2's training step on a mesh of many devices, compiled and never run: wrapped beside plain.

python -m benchmarks.simulate           # a small one
python -m benchmarks.simulate --full    # 7 billion parameters on 64 devices

Nothing of the model's size is allocated: parameters are `jax.ShapeDtypeStruct`s with shardings, and all devices
are this machine's CPU. Memory and FLOPs are those of one device, as XLA counts them: the body of a loop, such
as a `layer_stack`, counts once.
"""
import argparse
import collections
import re
import sys
import time
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import haiku_mup
from benchmarks.language_model import training_step
from haiku_mup import models

HEAD, TOLERANCE = 128, 1e-3     # size of a head; largest relative difference of the two sides
SMALL = {"width": 512, "layers": 4, "data": 4, "model": 2, "batch": 16, "length": 256, "vocab": 4096}
FULL = {"width": 4096, "layers": 34, "data": 16, "model": 4, "batch": 32, "length": 2048, "vocab": 50304}
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Analysis(NamedTuple):
    """XLA's analysis of a compiled step, for one device.

    Attributes:
      arguments: bytes of parameters, optimizer state and batch.
      temporary: bytes of temporary buffers.
      flops: floating-point operations.
      collectives: {kind: number of instructions}.
      seconds: to trace, and to compile.
      shardings: of the outputs.
    """

    arguments: int
    temporary: int
    flops: float
    collectives: dict[str, int]
    seconds: tuple[float, float]
    shardings: list[Any]


def make_model(args, width):
    """Returns the model of a width."""
    config = models.GPT2Config(vocab_size=args.vocab, n_embd=width, n_head=width // HEAD, n_layer=args.layers,
                               n_positions=args.length, layer_stack=not args.modules, remat=True)

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.GPT2LMHeadModel(config)(ids)

    return hk.without_apply_rng(hk.transform(fn))


def sides(args):
    """Returns {"plain", "wrapped": (model, optimizer)} of the target."""
    mup, ids = haiku_mup.Mup(), jax.ShapeDtypeStruct((1, args.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with mup.init_base():
        jax.eval_shape(make_model(args, args.base).init, key, ids)
    target = make_model(args, args.width)
    with mup.init_target():
        jax.eval_shape(target.init, key, ids)
    adamw, clip = optax.adamw(3e-4, weight_decay=0.1), optax.clip_by_global_norm(1.0)
    return {"plain": (target, optax.chain(clip, adamw)),
            "wrapped": (mup.wrap_model(target), optax.chain(clip, mup.wrap_optimizer(adamw)))}


def partition_spec(name, shape):
    """Shards a parameter fully over "data", and over "model" as in Megatron-LM (arXiv 1909.08053).

    The columns of a branch's first matrices and the rows of its last are sharded over "model", the other axis
    over "data". The axis of layers comes first.
    """
    stack = [None] * (len(shape) - 2)
    if name.endswith("embeddings"):
        return P("model", "data")
    if name.endswith("/w"):
        is_last = name.endswith(("attn/linear/w", "c_proj/w"))
        return P(*stack, "model", "data") if is_last else P(*stack, "data", "model")
    return P()


def compile_step(model, optimizer, args, mesh):
    """Compiles a training step of abstract arrays ahead of time; returns its analysis and the parameters."""
    def abstract(x, spec):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    ids, key = jnp.zeros((1, args.length), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(model.init, key, ids)
    specs = hk.data_structures.map(lambda module, name, x: partition_spec(f"{module}/{name}", x.shape), shapes)
    params = jax.tree.map(abstract, shapes, specs)
    state = optax.tree_map_params(optimizer, abstract, jax.eval_shape(optimizer.init, shapes), specs,
                                  transform_non_params=lambda x: abstract(x, P()))
    batch = jax.ShapeDtypeStruct((args.batch, args.length), jnp.int32, sharding=NamedSharding(mesh, P("data")))
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = jax.jit(training_step(model, optimizer), donate_argnums=(0, 1)).lower(params, state, batch)
        traced = time.perf_counter()
        return analyze(lowered.compile(), traced - start, traced), params


def analyze(program, trace_seconds, compile_start):
    """Returns XLA's analysis of a program that was just compiled."""
    memory = program.memory_analysis()
    kinds = re.findall(rf"({COLLECTIVES})(?:-start)?\(", program.as_text())
    return Analysis(
        arguments=memory.argument_size_in_bytes, temporary=memory.temp_size_in_bytes,
        flops=program.cost_analysis()["flops"], collectives=dict(sorted(collections.Counter(kinds).items())),
        seconds=(trace_seconds, time.perf_counter() - compile_start),
        shardings=[s.spec for s in jax.tree.leaves(program.output_shardings)])


def simulate(args):
    """Returns {side: Analysis}, and the number of parameters; call it before JAX starts."""
    jax.config.update("jax_num_cpu_devices", args.data * args.model)
    mesh = jax.make_mesh((args.data, args.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    compiled = {side: compile_step(*pair, args, mesh) for side, pair in sides(args).items()}
    params = jax.tree.leaves(compiled["plain"][1])
    return {side: analysis for side, (analysis, _) in compiled.items()}, sum(
        int(np.prod(x.shape)) for x in params)


def parse(argv):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help=f"7 billion parameters on 64 devices: {FULL}")
    parser.add_argument("--modules", action="store_true",
                        help="a module for each block, in place of a layer_stack")
    parser.add_argument("--base", type=int, default=256, help="width of the base")
    for name, default in SMALL.items():
        parser.add_argument(f"--{name}", type=int, help=f"{default}, with --full {FULL[name]}")
    args = parser.parse_args(argv)
    for name, value in (FULL if args.full else SMALL).items():
        setattr(args, name, getattr(args, name) or value)
    return args


def main(argv=None):
    """Prints a row for each side, and how they compare; returns 1 if they are not close."""
    args = parse(argv)
    both, count = simulate(args)
    print(f"JAX {jax.__version__}; GPT-2 of width {args.width}, {args.layers} layers, {count:,} parameters; "
          f"{args.data} × {args.model} devices, {args.batch} × {args.length} tokens")
    print(f"{'a device':10}{'arguments':>14}{'temporary':>14}{'FLOPs':>12}{'trace':>9}{'compile':>10}"
          "  collectives")
    for side, it in both.items():
        print(f"{side:10}{it.arguments / 2**30:>10.4f} GiB{it.temporary / 2**30:>10.4f} GiB{it.flops:>12.5g}"
              f"{it.seconds[0]:>7.1f} s{it.seconds[1]:>8.1f} s  "
              + ", ".join(f"{n} {kind}" for kind, n in it.collectives.items()))
    plain, wrapped = both["plain"], both["wrapped"]
    ratios = [a / b for a, b in zip(wrapped[:3], plain[:3])]
    print(f"{'ratio':10}{ratios[0]:>14.6f}{ratios[1]:>14.6f}{ratios[2]:>12.6f}")
    alike = wrapped.collectives == plain.collectives and wrapped.shardings == plain.shardings
    print("the same collectives and shardings" if alike else "other collectives or shardings")
    return 0 if alike and all(abs(ratio - 1) <= TOLERANCE for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
