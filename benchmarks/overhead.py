"""The costs of μP in tracing, compiling and running: AdamW on a wrapped model, beside the plain one.

python -m benchmarks.overhead [--quick] [--models mlp,gpt2,…]

Both sides take turns. A plain step is timed before and after each wrapped one, whose ratio is to their mean;
the ratio of the two plain ones shows the noise.
"""
import argparse
import contextlib
import functools
import gc
import os
import re
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup
from haiku_mup import models

STEP_SECONDS, STEP_ROUNDS = 30, 20      # to time steps of a model, and the least number of rounds
BUILD_SECONDS, BUILD_ROUNDS = 60, 7     # to time tracing and compiling


class Layers(NamedTuple):
    """The layers that differ between the two sides."""

    readout: Callable
    attention: Callable


OURS = Layers(haiku_mup.Readout, haiku_mup.MultiHeadAttention)
PLAIN = Layers(functools.partial(hk.Linear, name="readout"), hk.MultiHeadAttention)


class Case(NamedTuple):
    """A model and its data.

    Attributes:
      fn: (inputs, width, layers) -> logits.
      widths: of base and target.
      inputs: examples, along the first axis.
      classes: number of labels.
      readouts: for Mup(readouts=...).
    """

    fn: Callable
    widths: tuple[int, int]
    inputs: jax.Array
    classes: int = 10
    readouts: tuple[str, ...] = ()


def mlp(x, width, layers):
    for _ in range(4):
        x = jax.nn.relu(hk.Linear(width)(x))
    return layers.readout(10)(x)


def transformer(tokens, width, layers, *, blocks=12, heads=4, vocab=256):
    """Applies a stack of pre-LN blocks."""
    init = hk.initializers.VarianceScaling(1 / blocks)
    causal = jnp.tril(jnp.ones((1, 1, tokens.shape[-1], tokens.shape[-1]), bool))

    def block(x):
        y = norm()(x)
        x = x + layers.attention(heads, width // heads, w_init=init)(y, y, y, mask=causal)
        return x + hk.Linear(width, w_init=init)(jax.nn.gelu(hk.Linear(4 * width)(norm()(x))))

    def norm():
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)

    places = jnp.arange(tokens.shape[-1])[None]
    x = hk.Embed(vocab, width)(tokens) + hk.Embed(tokens.shape[-1], width)(places)
    return layers.readout(vocab)(norm()(hk.experimental.layer_stack(blocks)(block)(x)))


def gpt2(ids, width, layers, blocks=4):
    """Applies this library's GPT-2, on both sides: outside of μP all factors are 1."""
    del layers
    config = models.GPT2Config(vocab_size=256, n_embd=width, n_head=width // 32, n_layer=blocks,
                               n_positions=ids.shape[-1])
    return models.GPT2LMHeadModel(config)(ids)


def resnet(x, width, layers, blocks=1):
    """Applies Haiku's ResNet, its head unchanged. With 2 blocks a group it is a ResNet-18."""
    del layers
    return hk.nets.ResNet(
        (blocks,) * 4, 10, bottleneck=False, channels_per_group=(width, 2 * width, 4 * width, 8 * width),
        use_projection=(False, True, True, True), initial_conv_config={"output_channels": width},
        logits_config={"w_init": None})(x, is_training=True)


def cases():
    """Returns the models, by name."""
    key = jax.random.key(1)
    return {
        "mlp": Case(mlp, (64, 1024), jax.random.normal(key, (256, 64))),
        "transformer": Case(transformer, (64, 256), jax.random.randint(key, (8, 64), 0, 256), 256),
        "gpt2": Case(gpt2, (64, 256), jax.random.randint(key, (8, 64), 0, 256), 256),
        "resnet18": Case(functools.partial(resnet, blocks=2), (8, 32), jax.random.normal(key, (32, 32, 32, 3)),
                         readouts=("*/logits",)),
    }


class Step(NamedTuple):
    """A compiled training step, and its arguments.

    Attributes:
      function: (params, model state, optimizer state, inputs, labels) -> the first three, updated.
      compiled: the same, compiled.
      carry: params, model state, optimizer state.
      batch: inputs and labels.
      mup: the Mup of a wrapped model, or None.
    """

    function: Any
    compiled: Any
    carry: tuple
    batch: tuple
    mup: haiku_mup.Mup | None

    @property
    def flops(self):
        return self.compiled.cost_analysis()["flops"]

    @property
    def memory(self):
        return self.compiled.memory_analysis().temp_size_in_bytes

    def count(self, kind=None):
        """Returns the number of instructions of a kind, or of all, in the compiled program's computations."""
        pattern = rf"^ *(?:ROOT )?%?[\w.-]+ = .*? {kind or '[a-z][a-z-]*'}\("
        return len(re.findall(pattern, self.compiled.as_text(), re.MULTILINE))

    def seconds(self):
        """Returns the seconds of one step."""
        start = time.perf_counter()
        jax.block_until_ready(self.compiled(*self.carry, *self.batch))
        return time.perf_counter() - start

    def build_seconds(self):
        """Returns seconds to trace and to compile the step, without JAX's caches."""
        jax.clear_caches()
        gc.collect()
        start = time.perf_counter()
        with warnings.catch_warnings():         # that a plain model is applied after a wrapped one's init
            warnings.simplefilter("ignore", haiku_mup.MupWarning)
            lowered = jax.jit(self.function).lower(*self.carry, *self.batch)
        traced = time.perf_counter()
        lowered.compile()
        return traced - start, time.perf_counter() - traced


def steps(case):
    """Returns the training steps of the plain model and of the wrapped one."""
    return build(case, PLAIN), build(case, OURS)


def build(case, layers):
    """Returns a step of AdamW on the target, in μP if the layers are ours."""
    def fn(width, x):
        with haiku_mup.apply_mup() if layers is OURS else contextlib.nullcontext():
            return case.fn(x, width, layers)

    base, model = (hk.without_apply_rng(hk.transform_with_state(functools.partial(fn, width)))
                   for width in case.widths)
    optimizer, mup = optax.adamw(1e-3, weight_decay=0.1), None
    if layers is OURS:
        mup = capture(case, base, model)
        model, optimizer = mup.wrap_model(model), mup.wrap_optimizer(optimizer)
    params, state = jax.jit(model.init)(jax.random.key(0), case.inputs)
    logits, _ = jax.eval_shape(model.apply, params, state, case.inputs)
    labels = jnp.arange(np.prod(logits.shape[:-1])).reshape(logits.shape[:-1]) % case.classes

    def loss(params, state, x, y):
        logits, state = model.apply(params, state, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def step(params, state, opt_state, x, y):
        grads, state = jax.grad(loss, has_aux=True)(params, state, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    carry, batch = (params, state, optimizer.init(params)), (case.inputs, labels)
    return Step(step, jax.jit(step).lower(*carry, *batch).compile(), carry, batch, mup)


def capture(case, base, target):
    """Returns the Mup of base and target."""
    mup, key = haiku_mup.Mup(readouts=case.readouts), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, case.inputs)
    with mup.init_target():
        jax.eval_shape(target.init, key, case.inputs)
    return mup


def time_builds(pair, rounds):
    """Returns seconds to trace and to compile [rounds, plain and wrapped, 2]; which is first alternates."""
    orders = ([1, -1] * rounds)[:rounds]
    return np.array([[step.build_seconds() for step in pair[::order]][::order] for order in orders])


def time_steps(pair, budget=STEP_SECONDS):
    """Returns seconds of single steps [rounds, 3]: plain, wrapped, plain again, after a warm-up."""
    plain, wrapped = pair
    turn = plain, wrapped, plain
    count = int(budget / sum(step.seconds() for step in turn * 3) * 3)
    return np.array([[step.seconds() for step in turn] for _ in range(max(count, STEP_ROUNDS))])


def quartiles(ratios):
    """Formats the median and the middle half."""
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def row(name, case, quick):
    """Measures a model; formats the ratios of its two sides."""
    plain, wrapped = pair = steps(case)
    rounds = 3 if quick else max(BUILD_ROUNDS, int(BUILD_SECONDS / time_builds(pair, 1).sum()))
    builds = time_builds(pair, rounds)                                  # [rounds, side, trace or compile]
    before, between, after = time_steps(pair, STEP_SECONDS / 10 if quick else STEP_SECONDS).T
    traced, compiled = np.median(builds[:, 1] / builds[:, 0], axis=0)
    plain_traced, plain_compiled = np.median(builds[:, 0], axis=0)
    return (f"{name:12}{sum(x.size for x in jax.tree.leaves(plain.carry[0])):>12,}"
            f"{wrapped.flops / plain.flops:>10.6f}{wrapped.memory / plain.memory:>11.4f}"
            f"{wrapped.count('fusion') / plain.count('fusion'):>9.3f}{wrapped.count() / plain.count():>14.3f}"
            f"{traced:>7.2f}{compiled:>9.3f}{quartiles(2 * between / (before + after)):>21}"
            f"{quartiles(after / before):>21}{plain_traced:>8.2f} s{plain_compiled:>6.2f} s"
            f"{1e3 * np.median(before):>8.1f} ms")


def main(argv=None):
    """Prints a row for each model: ratios of the wrapped step to the plain one, and the plain one's seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--models", default=",".join(cases()), help="which of them, between commas")
    args = parser.parse_args(argv)
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores; wrapped / plain")
    print(f"{'model':12}{'parameters':>12}{'FLOPs':>10}{'temporary':>11}{'fusions':>9}{'instructions':>14}"
          f"{'trace':>7}{'compile':>9}{'step (quartiles)':>21}{'noise: plain / plain':>21}"
          f"{'trace':>10}{'compile':>8}{'step':>11}")
    for name in args.models.split(","):
        print(row(name, cases()[name], args.quick), flush=True)


if __name__ == "__main__":
    main()
