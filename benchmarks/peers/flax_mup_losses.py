"""Trains models of Flax Linen by a plan and by flax-mup, from one draw, and compares their losses.

python -m benchmarks.peers.flax_mup_losses FOLDER

FOLDER is where https://github.com/JesseFarebro/flax-mup was cloned. Both compute in double precision, in the
form of Table 3 of Tensor Programs V (arXiv 2203.03466).
"""
import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import haiku_mup
from benchmarks.peers.common import EVEN, UNEVEN, import_from

STEPS, BASE, TARGET = 20, 1, 7          # the widths by which flax-mup tells the two models
Dense = functools.partial(nn.Dense, param_dtype=jnp.float64)


class Case(NamedTuple):
    """A model and its optimizer.

    Attributes:
      body: (inputs, two widths) -> outputs, in a module's compact method.
      optimizer: an optax optimizer.
      adam: whether it follows Adam, and not SGD.
      widths: the two widths of the base, and those of the target.
    """

    body: Callable[..., Any]
    optimizer: optax.GradientTransformation
    adam: bool = True
    widths: Any = EVEN


def mlp(x, w1, w2, **layer):
    x = nn.relu(Dense(w1)(x))
    return Dense(3, name="out")(nn.relu(Dense(w2, **layer)(x)))


def constant(x, w1, w2):
    """Applies an MLP whose hidden weight is drawn with one std at every width."""
    return mlp(x, w1, w2, kernel_init=nn.initializers.normal(0.5))


def attention(x, w1, w2):
    """Applies an attention whose heads are of one size, and grow in number."""
    y = Dense(w1)(x)[None]
    y = nn.MultiHeadDotProductAttention(num_heads=w1 // 2, param_dtype=jnp.float64)(y)[0]
    return Dense(3, name="out")(y)


CASES = {
    "Adam": Case(mlp, optax.adam(0.01)),
    "SGD": Case(mlp, optax.sgd(0.1), False),
    "Adam, widths that grow by 7 and by 3": Case(mlp, optax.adam(0.01), True, UNEVEN),
    "SGD, widths that grow by 7 and by 3": Case(mlp, optax.sgd(0.1), False, UNEVEN),
    "AdamW, decay of 0.5": Case(mlp, optax.adamw(0.01, weight_decay=0.5)),
    "Adam, a hidden weight of constant std": Case(constant, optax.adam(0.01)),
    "Adam, heads that grow in number": Case(attention, optax.adam(0.01)),
}


def differences(folder):
    """Returns, by case, the greatest difference between two losses, relative to the loss."""
    mup = import_from(folder, "flax_mup", "flax_mup")

    class Net(mup.Module):              # flax-mup scales by its models' field `width`
        body: Any
        widths: Any

        @nn.compact
        def __call__(self, x):
            return self.body(x, *self.widths[self.width > BASE])

    def compared(case):
        """Returns the difference of one case."""
        x = jax.random.normal(jax.random.key(1), (32, 8))
        base, model = (Net(case.body, case.widths, width=width) for width in (BASE, TARGET))
        drawn = model.init(jax.random.key(0), x, allow_mup=False)["params"]
        plan = haiku_mup.plan(base.init(jax.random.key(0), x)["params"], drawn, readouts="out.kernel",
                              fans=haiku_mup.flax_linen(base, x),
                              parametrization=haiku_mup.maximal_update("table3"))
        ours = losses(lambda params: model.apply({"params": plan.multiplied(params)}, x), plan.rescaled(drawn),
                      plan.wrap_optimizer(case.optimizer, adam=case.adam))
        scale = mup.scale_adam_by_mup() if case.adam else mup.scale_sgd_by_mup()
        theirs = losses(lambda params: model.apply({"params": params}, x),
                        model.init(jax.random.key(0), x)["params"], optax.chain(case.optimizer, scale))
        return float(jnp.max(jnp.abs(ours - theirs) / ours))

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        return {name: compared(case) for name, case in CASES.items()}


def losses(apply, params, optimizer):
    """Returns the losses of some steps, [STEPS]."""
    y = jnp.arange(32) % 3

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda params: optax.softmax_cross_entropy_with_integer_labels(
            apply(params), y).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), None, STEPS)[1])()


def main(argv=None):
    """Prints a row for each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.flax_mup_losses",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where flax-mup was cloned")
    try:
        found = differences(parser.parse_args(argv).folder)
    except FileNotFoundError as error:
        parser.error(f"{error}: give the folder where flax-mup was cloned")
    print(f"greatest difference between two losses, of {STEPS} steps")
    for name, difference in found.items():
        print(f"{name:40}{'none' if difference < 1e-12 else f'{difference:.1e}':>10}")


if __name__ == "__main__":
    main()
