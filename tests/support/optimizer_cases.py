"""Every optimizer of optax: its rule, from the guide, and its update at target and base compared."""
import functools
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
from small_models import KEY, MODELS, captured, mlp
from trees import mapped

import haiku_mup
from haiku_mup import maximal_update

X = MODELS["mlp"][1]
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "optimizers.rst"
MADE = {        # what makes an optimizer, where a learning rate alone doesn't, or isn't enough to see it act
    "adadelta": lambda lr: optax.adadelta(0.01),
    "adafactor": functools.partial(optax.adafactor, min_dim_size_to_factor=1),  # else large ones are factored
    "lars": functools.partial(optax.lars, trust_coefficient=1.0),
    "noisy_sgd": functools.partial(optax.noisy_sgd, eta=1e-14, key=0),
    "fromage": functools.partial(optax.fromage, min_norm=0.0),  # else zeros have a norm that isn't an entry's
    **{name: functools.partial(getattr(optax, name), weight_decay=0.0) for name in (
        "adamaxw", "adamw", "lion", "nadamw")},
    "polyak_sgd": lambda lr: optax.polyak_sgd(1e9),
    "cocob": lambda lr: contrib.cocob(), "prodigy": lambda lr: contrib.prodigy(),
    "dowg": lambda lr: contrib.dowg(),
    "dadapt_adamw": lambda lr: contrib.dadapt_adamw(1.0),
    "dog": lambda lr: contrib.dog(1.0, ("distance", 1e-6)),     # the default's start depends on all norms
    "momo": lambda lr: contrib.momo(1e9), "momo_adam": lambda lr: contrib.momo_adam(1e9),
}
TABLE_8 = maximal_update()
LR, RATIO, STEPS = 1e-6, 4, 8   # so small a rate that norms stay those of the start


def section(title):
    """Returns a section of the guide to optimizers."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(title)}\n-+\n(.*?)(?=^[^\n]+\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1]


def rows():
    """Returns {optimizer: rule} of the guide's table."""
    _, *lines = section("Which rule").split("   * - ")[1:]
    cells = [re.match(r'(.+?)\n +- .*?rule="(\w+)"', line, re.DOTALL).groups() for line in lines]
    return {name: rule for names, rule in cells for name in re.findall(r"\w+", names)}


def optimizer(name, lr=LR):
    """Makes the optimizer of optax that has this name."""
    make = MADE.get(name) or getattr(optax, name, None) or getattr(contrib, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # optimistic_adam
        return optax.with_extra_args_support(make(lr))


def tiled(entry, x):
    """Repeats each entry of the base's array along the axes that grow, up to the target's shape."""
    for axis, (n, m) in enumerate(zip(entry.base.shape, entry.target.shape)):
        x = jnp.repeat(x, m // n, axis)
    return x


def moved(opt, params, grads):
    """Returns what some steps add to the parameters, with gradients whose size changes from step to step."""
    @jax.jit
    def run(params):
        def step(carry, k):
            now, state = carry
            seen = jax.tree.map(lambda g: g * jnp.cos(k), grads)
            update, state = opt.update(seen, state, now, value=1.0)
            return (optax.apply_updates(now, update), state), None

        (last, _), _ = jax.lax.scan(step, (params, opt.init(params)), jnp.arange(STEPS) / STEPS)
        return jax.tree.map(jnp.subtract, last, params)

    return run(params)


def gap(wrap, plain, table=TABLE_8, size=1.0):
    """Returns the largest relative distance of a parameter's update by wrap(mup) from that at the base.

    At the base the plain optimizer runs, on gradients of the given size. At the target parameters and gradients
    are those of the base, tiled, and multiplied by the factors that μP gives them.
    """
    mup = captured(mlp, X, 8, 8 * RATIO, mup=haiku_mup.Mup(parametrization=table))
    wrapped, entries = wrap(mup), mup._captured("")
    parts = {name: entry.row_blocks[0] for name, entry in entries.items()}
    known = {name: TABLE_8.factors(part.role, part.m_in, part.m_out) for name, part in parts.items()}
    theta = {name: part.factors.stored for name, part in parts.items()}
    base = jax.tree.map(lambda p: p.astype(jnp.float64), mlp(8).init(KEY, X))
    waves = jax.tree.map(lambda p: jnp.cos(jnp.arange(1.0, p.size + 1)).reshape(p.shape), base)
    grads = jax.tree.map(lambda p, wave: size * (jnp.sin(10 * p) + wave), base, waves)
    expected = mapped(lambda n, u: tiled(entries[n], u) * known[n].adam, moved(plain, base, grads))
    params = mapped(lambda n, p: tiled(entries[n], p) * known[n].init / theta[n], base)
    seen = {n: known[n].eps * theta[n] * part.factors.gradient for n, part in parts.items()}
    grads = mapped(lambda n, g: tiled(entries[n], g) * seen[n], grads)
    found = mapped(lambda n, u: u * theta[n], moved(wrapped, params, grads))
    gaps = mapped(lambda n, u, v: float(jnp.linalg.norm((u - v).ravel()) / jnp.linalg.norm(v.ravel())),
                  found, expected)
    return np.max(jax.tree.leaves(gaps))
