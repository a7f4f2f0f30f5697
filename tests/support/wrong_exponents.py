"""Models with one exponent wrong, by a quarter or more, in a layer or a role: for the coordinate check to see.

    python tests/support/wrong_exponents.py                 the whole table: about ten minutes of CPU time
    python tests/support/wrong_exponents.py mlp sgd         the mutants with these words in their names
"""
import fnmatch
import sys
import time
import warnings
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

WIDTHS, NARROW = (64, 512), (32, 256)
SLOW = ("transformer", "tied", "rnn", "mixer")      # to compile: they are checked at the second
IMAGES = jax.random.normal(jax.random.PRNGKey(1), (32, 4, 4))
IDS = jax.random.randint(jax.random.PRNGKey(2), (32, 6), 0, 20)
LABELS = jnp.arange(32) % 10
INIT = hk.initializers.VarianceScaling()


# --- networks ---

def mlp(x, width):
    x = x.reshape(len(x), -1)
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(10)(x)


def zero(x, width):
    x = jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1)))
    return haiku_mup.Readout(10, zero_init=True)(jax.nn.relu(hk.Linear(width)(x)))


def cnn(x, width):
    x = jax.nn.relu(hk.Conv2D(width // 4, 3)(x[..., None]))
    x = jax.nn.relu(hk.Conv2D(width // 2, 3)(x)).mean((1, 2))
    return haiku_mup.Readout(10)(jax.nn.relu(hk.Linear(width)(x)))


def norm(x):
    return hk.LayerNorm(-1, True, True)(x)


def block(x, width):
    y = norm(x)
    x = x + haiku_mup.MultiHeadAttention(2, width // 2, w_init=INIT, name="attention")(y, y, y)
    return x + hk.Linear(width, name="down")(jax.nn.gelu(hk.Linear(2 * width, name="up")(norm(x))))


def transformer(x, width):
    return haiku_mup.Readout(10)(norm(block(hk.Linear(width)(x), width)).mean(1))


def tied(ids, width):
    embed = haiku_mup.SharedEmbed(20, width, w_init=hk.initializers.RandomNormal(1.0))
    return haiku_mup.SharedReadout()(embed, norm(block(embed(ids), width)).mean(1))


def rnn(x, width):
    core = hk.GRU(width)
    x, _ = hk.dynamic_unroll(core, x.swapaxes(0, 1), core.initial_state(len(x)))
    return haiku_mup.Readout(10)(x[-1])


def moe(x, width):
    x = jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1)))
    gate = jax.nn.softmax(haiku_mup.Readout(3, name="router")(x))
    chosen = jax.nn.one_hot(gate.argmax(-1), 3) * gate
    experts = jnp.stack([hk.Linear(width, name=f"expert_{c}")(x) for c in "abc"], -1)
    return haiku_mup.Readout(10)(jax.nn.relu(x + (experts * chosen[:, None]).sum(-1)))


def mixer(x, width):
    x = hk.Linear(width)(x)                                                 # [B, T, d]
    y = hk.Linear(8, name="tokens_in")(norm(x).swapaxes(1, 2))
    x = x + hk.Linear(x.shape[1], name="tokens_out")(jax.nn.gelu(y)).swapaxes(1, 2)
    y = hk.Linear(width, name="channels_in")(norm(x))
    x = x + hk.Linear(width, name="channels_out")(jax.nn.gelu(y))
    return haiku_mup.Readout(10)(norm(x).mean(1))


def heads(x, width):
    x = jax.nn.relu(hk.Linear(width)(x.reshape(len(x), -1)))
    x = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(10, name="policy")(x), haiku_mup.Readout(1, name="value")(x)


NETWORKS = {f.__name__: f for f in (mlp, zero, cnn, transformer, tied, rnn, moe, mixer, heads)}
LR = 2.0**-7
OPTIMIZERS = {          # name -> optimizer, arguments of the check
    "adam": (optax.adam(LR), {}),
    "sgd": (optax.sgd(0.5), {"adam": False}),
    "momentum": (optax.sgd(0.1, momentum=0.9), {"adam": False}),
    "adamw": (optax.adamw(LR, weight_decay=4.0), {}),
    "lamb": (optax.lamb(2.0**-5), {"rule": "lamb"}),
    "adagrad": (optax.adagrad(2.0**-6), {"rule": "any"}),
    "large eps": (optax.adam(LR, eps=1e-3), {"rule": "any"}),
}


def loss_fn(apply, params, rng, batch):
    x, y = batch
    out = apply(params, rng, x)
    logits, *values = out if isinstance(out, tuple) else (out,)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss + sum(jnp.mean((value - 1)**2) for value in values)


# --- what is wrong ---

class Mutant(NamedTuple):
    """A wrong exponent.

    Attributes:
      network, optimizer: keys of the tables above.
      what: "lr", "init", "forward", "decay" or "eps": what is multiplied by the ratio of widths ** power.
      where: a pattern of parameters' names, or a role.
      power: how far the exponent is off.
    """

    network: str
    optimizer: str
    what: str
    where: str
    power: float

    def __str__(self):
        return f"{self.network}, {self.optimizer}: {self.what} of {self.where} × m^{self.power:+g}"

    def hits(self, name, role=None):
        return self.where in (role, "all") or fnmatch.fnmatch(name, self.where)

    def check(self, widths=None, **kwargs):
        widths = widths or (NARROW if self.network in SLOW else WIDTHS)
        optimizer, settings = OPTIMIZERS[self.optimizer]
        x = IDS if self.network == "tied" else IMAGES
        return haiku_mup.coord_check(
            self.make_model(widths[0]), widths, (x, LABELS), loss_fn, optimizer, progress=False,
            parametrization=self.parametrize(settings), **settings, **kwargs)

    def caught(self, check):
        """Returns whether the check fails, and names the layer: for a role, or all, any layer."""
        patterns = [f"*{self.where}*"]
        if self.what == "forward":      # the layer's output shows it
            patterns.append(f"*{self.where.rpartition('/')[0]}*")
        named = self.where in ("input", "hidden", "output", "all") or any(
            fnmatch.fnmatch(f.quantity, pattern) for f in check.failures() for pattern in patterns)
        return check.verdict == "failed" and named

    def make_model(self, base):
        def make_model(width):
            def getter(next_getter, value, context):
                right = self.what != "forward" or not self.hits(context.full_name)
                return next_getter(value if right else value * (width / base)**self.power)

            def fn(x):
                with haiku_mup.apply_mup(), hk.custom_getter(getter):
                    return NETWORKS[self.network](x, width)
            return hk.transform(fn)
        return make_model

    def parametrize(self, settings):
        def wrong(mup, model, optimizer):
            rows = {row.name: row for row in mup.table()}
            m = max(t / b for row in rows.values() for b, t in zip(row.base_shape, row.target_shape))

            def factors(tree):
                return {module: {name: x * m**self.power if self.hits(
                    f"{module}/{name}", rows[f"{module}/{name}"].role) else x for name, x in leaves.items()}
                    for module, leaves in tree.items()}

            wrapped = right = mup.wrap_model(model)
            if self.what == "eps":
                optimizer = optax.adam(LR, eps=1e-3 * m**self.power)
            if self.what == "decay":
                optimizer = optax.adam(LR)
            inner = mup.wrap_optimizer(optimizer, **settings)

            def update(updates, state, params=None):
                if self.what == "decay":
                    decay = factors(jax.tree.map(lambda p: -LR * 4.0 * p, params))
                    return jax.tree.map(jnp.add, updates, decay), state
                return factors(updates) if self.what == "lr" else updates, state

            if self.what == "init":
                wrapped = right._replace(init=lambda key, *args: factors(right.init(key, *args)))
            return wrapped, optax.chain(inner, optax.GradientTransformation(lambda params: (), update))
        return wrong


# network -> what and where
PLACES = {
    "mlp": [("lr", "linear/w"), ("lr", "linear_1/w"), ("lr", "readout/w"), ("lr", "linear_1/b"),
            ("lr", "hidden"), ("init", "linear_1/w"), ("init", "linear/w"), ("init", "readout/w"),
            ("forward", "readout/w"), ("forward", "linear_2/w")],
    "zero": [("lr", "readout/w"), ("forward", "readout/w")],
    "cnn": [("lr", "conv2_d_1/w"), ("lr", "conv2_d/w"), ("init", "conv2_d_1/w"), ("forward", "readout/w")],
    "transformer": [("lr", "attention/query/w"), ("lr", "attention/linear/w"), ("init", "up/w"),
                    ("lr", "down/w"), ("lr", "layer_norm*/scale"), ("forward", "attention/query/w"),
                    ("forward", "readout/w")],
    "tied": [("lr", "shared_embed/embeddings"), ("init", "shared_embed/embeddings"), ("lr", "attention/key/w"),
             ("forward", "attention/value/w")],
    "rnn": [("lr", "gru/w_h"), ("lr", "gru/w_i"), ("init", "gru/w_h"), ("forward", "readout/w")],
    "moe": [("lr", "expert_a/w"), ("lr", "router/w"), ("init", "expert_b/w"), ("forward", "router/w")],
    "mixer": [("lr", "tokens_in/w"), ("lr", "channels_in/w"), ("init", "channels_out/w"),
              ("forward", "readout/w")],
    "heads": [("forward", "value/w"), ("forward", "policy/w"), ("lr", "value/w")],
}
POWERS = (0.25, -0.25, -0.25, 0.25, 0.5, -0.5, 1.0, 0.25, -0.25)


def _mutants():
    number = 0
    for network, places in PLACES.items():
        for i, (what, where) in enumerate(places):
            for optimizer in ("adam", "sgd") if network == "mlp" else (("adam", "sgd")[i % 2],):
                yield Mutant(network, optimizer, what, where, POWERS[number % len(POWERS)])
                number += 1
    for optimizer in ("lamb", "adagrad", "momentum"):
        for what, where, power in (("lr", "linear_1/w", 0.25), ("forward", "readout/w", -0.25),
                                   ("lr", "linear/w", -0.25)):
            yield Mutant("mlp", optimizer, what, where, power)
    for where, power in (("hidden", 0.25), ("linear/w", -0.25), ("readout/w", -0.5)):
        yield Mutant("mlp", "adamw", "decay", where, power)
    for power in (0.5, -0.5, 0.25):
        yield Mutant("mlp", "large eps", "eps", "all", power)


MUTANTS = {str(mutant): mutant for mutant in _mutants()}


def main(words):
    """Prints a line for each check, and what was missed."""
    warnings.simplefilter("ignore")
    missed = []
    for name, mutant in MUTANTS.items():
        if all(word in name for word in words if word != "-v"):
            start = time.process_time()
            check = mutant.check()
            missed += [] if mutant.caught(check) else [name]
            seconds = time.process_time() - start
            print("MISSED" if name in missed else "caught", f"{seconds:5.1f} s", name, flush=True)
            if name in missed or "-v" in words:
                print("\n".join(str(check).splitlines()[:8]), flush=True)
    print(f"{len(missed)} missed: {missed}")


if __name__ == "__main__":
    main(sys.argv[1:])
