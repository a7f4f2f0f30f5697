"""A GPT-2's training step on a mesh of many devices, compiled and never run: wrapped beside plain.

python -m benchmarks.simulate           # a small one
python -m benchmarks.simulate --full    # 7 billion parameters on 64 devices

Nothing of the model's size is allocated: parameters are `jax.ShapeDtypeStruct`s with shardings, and the devices
are this machine's CPU, so many times. Memory and FLOPs are those of one device, as XLA counts them: the body of
a loop, such as that of a `layer_stack`, once.
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
from haiku_mup import models

HEAD, CLOSE = 128, 1e-3     # head size; how close the two sides must be
SMALL = {"width": 512, "layers": 4, "data": 4, "model": 2, "batch": 16, "length": 256, "vocab": 4096}
FULL = {"width": 4096, "layers": 34, "data": 16, "model": 4, "batch": 32, "length": 2048, "vocab": 50304}
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Found(NamedTuple):
    """What XLA says of a compiled step, for one device.

    Attributes:
      arguments: bytes of parameters, optimizer state and batch.
      temporary: bytes that it needs beside.
      flops: floating point operations.
      collectives: {kind: how many}.
      seconds: to trace, and to compile.
      shardings: of what comes out.
    """

    arguments: int
    temporary: int
    flops: float
    collectives: dict[str, int]
    seconds: tuple[float, float]
    shardings: list[Any]


def transformed(args, width):
    """The model of this width."""
    config = models.GPT2Config(vocab_size=args.vocab, n_embd=width, n_head=width // HEAD, n_layer=args.layers,
                               n_positions=args.length, layer_stack=not args.modules, remat=True)

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.GPT2LMHeadModel(config)(ids)

    return hk.without_apply_rng(hk.transform(fn))


def sides(args):
    """{"plain", "wrapped": (model, optimizer)} of the target."""
    mup, ids = haiku_mup.Mup(), jax.ShapeDtypeStruct((1, args.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with mup.init_base():
        jax.eval_shape(transformed(args, args.base).init, key, ids)
    target = transformed(args, args.width)
    with mup.init_target():
        jax.eval_shape(target.init, key, ids)
    adamw, clip = optax.adamw(3e-4, weight_decay=0.1), optax.clip_by_global_norm(1.0)
    return {"plain": (target, optax.chain(clip, adamw)),
            "wrapped": (mup.wrap_model(target), optax.chain(clip, mup.wrap_optimizer(adamw)))}


def placed(name, shape):
    """Where a parameter is: fully sharded over "data", and over "model" as in Megatron-LM (arXiv 1909.08053).

    What opens a branch is cut by its columns over "model", what closes it by its rows; the other side is cut
    over "data". The axis of layers is in front.
    """
    stack = [None] * (len(shape) - 2)
    if name.endswith("embeddings"):
        return P("model", "data")
    if name.endswith("/w"):
        closes = name.endswith(("attn/linear/w", "c_proj/w"))
        return P(*stack, "model", "data") if closes else P(*stack, "data", "model")
    return P()


def compiled(model, optimizer, args, mesh):
    """A training step of abstract arrays, compiled ahead of time."""
    def abstract(x, spec):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    def step(params, state, ids):
        def loss(params):
            return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    ids, key = jnp.zeros((1, args.length), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(model.init, key, ids)
    specs = hk.data_structures.map(lambda module, name, x: placed(f"{module}/{name}", x.shape), shapes)
    params = jax.tree.map(abstract, shapes, specs)
    state = optax.tree_map_params(optimizer, abstract, jax.eval_shape(optimizer.init, shapes), specs,
                                  transform_non_params=lambda x: abstract(x, P()))
    batch = jax.ShapeDtypeStruct((args.batch, args.length), jnp.int32, sharding=NamedSharding(mesh, P("data")))
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch)
        traced = time.perf_counter()
        return found(lowered.compile(), traced - start, traced), params


def found(program, traced, since):
    """What XLA says of it."""
    memory = program.memory_analysis()
    kinds = re.findall(rf"({COLLECTIVES})(?:-start)?\(", program.as_text())
    return Found(memory.argument_size_in_bytes, memory.temp_size_in_bytes, program.cost_analysis()["flops"],
                 dict(sorted(collections.Counter(kinds).items())), (traced, time.perf_counter() - since),
                 [s.spec for s in jax.tree.leaves(program.output_shardings)])


def simulated(args):
    """{side: Found}, and how many parameters there are. It sets how many devices JAX has, before it starts."""
    jax.config.update("jax_num_cpu_devices", args.data * args.model)
    mesh = jax.make_mesh((args.data, args.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    both = {side: compiled(*pair, args, mesh) for side, pair in sides(args).items()}
    params = jax.tree.leaves(both["plain"][1])
    return {side: one for side, (one, _) in both.items()}, sum(int(np.prod(x.shape)) for x in params)


def parse(argv):
    """The arguments."""
    it = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__.splitlines()[0])
    it.add_argument("--full", action="store_true", help=f"7 billion parameters on 64 devices: {FULL}")
    it.add_argument("--modules", action="store_true", help="a module for each block, in place of a layer_stack")
    it.add_argument("--base", type=int, default=256, help="width of the base")
    for name, default in SMALL.items():
        it.add_argument(f"--{name}", type=int, help=f"{default}, with --full {FULL[name]}")
    args = it.parse_args(argv)
    for name, value in (FULL if args.full else SMALL).items():
        setattr(args, name, getattr(args, name) or value)
    return args


def main(argv=None):
    """Prints a row for each side, and how they compare; returns 1 where they are not close."""
    args = parse(argv)
    both, count = simulated(args)
    print(f"JAX {jax.__version__}; GPT-2 of width {args.width}, {args.layers} layers, {count:,} parameters; "
          f"{args.data} × {args.model} devices, {args.batch} × {args.length} tokens")
    print(f"{'a device':10}{'arguments':>14}{'temporary':>14}{'FLOPs':>12}{'trace':>9}{'compile':>10}"
          "  collectives")
    for side, one in both.items():
        print(f"{side:10}{one.arguments / 2**30:>10.4f} GiB{one.temporary / 2**30:>10.4f} GiB{one.flops:>12.5g}"
              f"{one.seconds[0]:>7.1f} s{one.seconds[1]:>8.1f} s  "
              + ", ".join(f"{n} {kind}" for kind, n in one.collectives.items()))
    plain, wrapped = both["plain"], both["wrapped"]
    ratios = [a / b for a, b in zip(wrapped[:3], plain[:3])]
    print(f"{'ratio':10}{ratios[0]:>14.6f}{ratios[1]:>14.6f}{ratios[2]:>12.6f}")
    alike = wrapped.collectives == plain.collectives and wrapped.shardings == plain.shardings
    print("the same collectives and shardings" if alike else "other collectives or shardings")
    return 0 if alike and all(abs(ratio - 1) <= CLOSE for ratio in ratios) else 1


if __name__ == "__main__":
    sys.exit(main())
