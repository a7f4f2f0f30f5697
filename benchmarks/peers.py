"""What haiku_mup and three other libraries of μP do: those rows of the README's table that can be measured.

python -m benchmarks.peers [--old FOLDER] [--flax-mup FOLDER]

Measures each that can be imported, and says of the others what to install. Three environments hold them all:

- haiku_mup, and haiku-mup 0.1.5 without its own pins, which are older than today's Python:
  pip install . jax==0.10.2 dm-haiku==0.0.17 optax==0.2.8
  pip install --no-deps --target FOLDER haiku-mup==0.1.5
- microsoft/mup: pip install mup==1.0.0 torch==2.13.0
- flax-mup: pip install flax==0.12.8 jax==0.10.2 optax==0.2.8 chex==0.1.92
  git clone https://github.com/JesseFarebro/flax-mup FOLDER && git -C FOLDER checkout 66e938a
"""
import argparse
import functools
import importlib.util
import pathlib
import pickle
import sys
import tempfile
import textwrap
import warnings
from typing import Any

EVEN = (4, 4), (28, 28)             # two hidden widths of the base, and of the target
UNEVEN = (4, 4), (28, 12)
WIDE = (128, 128), (1024, 256)      # enough numbers for a std
STD, LR, DECAY = 0.02, 0.1, 0.5
ROWS = {
    "init": "hidden std / wanted, m 8 to 2: fan-in, constant, fan-out initializer",
    "adam": "Adam's factor of a hidden weight, m 7 to 3; wanted 0.143",
    "transposed": "… of a transposed convolution",
    "adamw": "AdamW's decay of a hidden weight, m 7 to 7; wanted 1.000",
    "tied": "tied embeddings: multiplier of logits, m 7; wanted 0.143",
    "nested": "… inside a module",
    "output": "plain output layer",
    "conv_output": "plain convolution as output layer",
    "stacked": "Adam's factor in stacked layers, m 7 to 7; wanted 0.143",
    "traced": "… where the init was traced before",
    "file": "… where the base was kept in a file",
}


def haiku(folder=None):
    """haiku_mup; of a folder, an earlier version, with the same names."""
    import haiku as hk
    import jax
    import optax
    if folder is None:
        import haiku_mup as hm
    else:
        if not hasattr(jax, "tree_map"):
            print(f"haiku-mup 0.1.5: jax.tree_map, which JAX {jax.__version__} lacks, is set to jax.tree.map")
            jax.tree_map = jax.tree.map
        hm = unpacked(folder, "haiku_mup", "haiku_mup_old")
    key, (x, image, ids) = jax.random.key(0), inputs()
    draws = [hk.initializers.VarianceScaling(1.0, "fan_in"), hk.initializers.RandomNormal(STD),
             hk.initializers.VarianceScaling(1.0, "fan_out")]

    def mlp(w1, w2, init=None, out=hm.Readout):
        return out(5, name="out")(hk.Linear(w2, w_init=init, name="h")(hk.Linear(w1)(x)))

    def transposed(w1, w2):
        y = hk.Conv2DTranspose(w2, 3, name="h")(hk.Conv2D(w1, 3)(image))
        return hm.Readout(5)(y.mean((1, 2)))

    def tied(w1, _):
        embed = hm.SharedEmbed(11, w1)
        y = embed(ids)
        return hm.SharedReadout()(embed.get_weights(), y)

    def stacked(w1, _):
        return hm.Readout(5)(hk.experimental.layer_stack(2)(hk.Linear(w1, name="h"))(hk.Linear(w1)(x)))

    def built(net, widths=EVEN, traced=False, file=None):
        """The Mup, the target's model, and the parameters of base and target."""
        def inside(*widths):
            with hm.apply_mup():
                return net(*widths)

        base, model = (hk.without_apply_rng(hk.transform(functools.partial(inside, *w))) for w in widths)
        mup, init = hm.Mup(), jax.jit(model.init)
        if traced:
            init(key)
        with mup.init_base():
            first = jax.jit(base.init)(key)
        if file:
            mup.save(file)
            mup = hm.Mup.load(file)
        with mup.init_target():
            params = init(key)
        return mup, model, first, params

    def factor(net, decay=0.0, **options):
        mup, _, _, params = built(net, **options)
        return change(params, decay, mup.wrap_optimizer(optax.adamw(LR, weight_decay=decay)))

    def ratio(init):
        _, _, first, params = built(functools.partial(mlp, init=init), WIDE)
        return float(params["h"]["w"].std() / first["h"]["w"].std()) * 8**0.5

    def multiplier(net):
        mup, model, _, params = built(net)
        return float(mup.wrap_model(model).apply(filled(params, 1.0)).mean()) / EVEN[1][0]

    return {
        "init": lambda: [ratio(init) for init in draws],
        "adam": lambda: factor(mlp, widths=UNEVEN),
        "transposed": lambda: factor(transposed, widths=UNEVEN),
        "adamw": lambda: factor(mlp, DECAY),
        "tied": lambda: multiplier(tied),
        "nested": lambda: multiplier(lambda *widths: hk.to_module(tied)("module")(*widths)),
        "output": lambda: built(functools.partial(mlp, out=hk.Linear)) and "silent",
        "conv_output": lambda: built(lambda w1, _: hk.Conv2D(5, 3)(hk.Conv2D(w1, 3)(image))) and "silent",
        "stacked": lambda: factor(stacked),
        "traced": lambda: factor(mlp, traced=True),
        "file": lambda: in_file(lambda file: factor(mlp, file=file)),
    }


def microsoft():
    """microsoft/mup."""
    import mup
    import torch
    from torch import nn
    draws = [("kaiming_normal_", {"mode": "fan_in"}), ("normal_", {"std": STD}),
             ("kaiming_normal_", {"mode": "fan_out"})]

    def mlp(w1, w2, out=mup.MuReadout):
        return nn.Sequential(nn.Linear(8, w1), nn.Linear(w1, w2), out(w2, 5))

    def transposed(w1, w2):
        return nn.Sequential(nn.Conv2d(3, w1, 3), nn.ConvTranspose2d(w1, w2, 3), mup.MuReadout(w2, 5))

    def tied(w1, _):
        embed = nn.Embedding(11, w1)
        return nn.Sequential(embed, mup.MuSharedReadout(embed.weight, bias=False))

    def conv_output(w1, _):
        return nn.Sequential(nn.Conv2d(3, w1, 3), nn.Conv2d(w1, 5, 3))

    def built(net, widths=EVEN, file=None):
        base, target = (net(*w) for w in widths)
        if file:
            mup.make_base_shapes(base, target, savefile=file)
        return mup.set_base_shapes(target, file or base)

    def factor(net, decay=0.0, **options):
        model = built(net, **options)
        for param in model.parameters():
            param.data.fill_(1.0)
            param.grad = torch.full_like(param, float(not decay))
        mup.MuAdamW(model.parameters(), lr=LR, weight_decay=decay).step()
        return float(1 - model[1].weight.detach().mean()) / LR / (decay or 1)

    def ratio(own, name, options):
        base, target = (mlp(*w) for w in WIDE)
        for model in base, target:
            getattr(nn.init, name)(model[1].weight, **options)
        mup.set_base_shapes(target, base)
        if own:
            getattr(mup.init, name)(target[1].weight, **options)
        return float(target[1].weight.detach().std() / base[1].weight.detach().std()) * 8**0.5

    def init():
        plain, own = (shown([ratio(own, *draw) for draw in draws]) for own in (False, True))
        return f"torch.nn.init {plain}; mup.init {own}"

    def multiplier():
        base, target = (tied(*w) for w in EVEN)
        before = target[0].weight.detach().clone()
        mup.set_base_shapes(target, base)
        grown = (target[0].weight.detach() / before).mean()
        target[0].weight.data.fill_(1.0)
        logits = target(torch.arange(4)).detach().mean() / EVEN[1][0]
        return f"{logits:.3f}; set_base_shapes multiplies the embedding by {grown:.3f}"

    return {
        "init": init,
        "adam": lambda: factor(mlp, widths=UNEVEN),
        "transposed": lambda: factor(transposed, widths=UNEVEN),
        "adamw": lambda: factor(mlp, DECAY),
        "tied": multiplier,
        "output": lambda: built(functools.partial(mlp, out=nn.Linear)) and "silent",
        "conv_output": lambda: built(conv_output) and "silent",
        "file": lambda: in_file(lambda file: factor(mlp, file=file)),
    }


def flax(folder):
    """JesseFarebro/flax-mup: its models have a field `width`, here 1 for the base."""
    import jax
    import optax
    from flax import linen as nn
    mup = unpacked(folder, "flax_mup", "flax_mup")
    key, (x, image, ids) = jax.random.key(0), inputs()
    draws = [nn.initializers.variance_scaling(1.0, "fan_in", "normal"), nn.initializers.normal(STD),
             nn.initializers.variance_scaling(1.0, "fan_out", "normal")]

    class Net(mup.Module):
        body: Any
        widths: Any = EVEN

        @nn.compact
        def __call__(self):
            return self.body(*self.widths[self.width > 1])

    def mlp(w1, w2, init=draws[0]):
        return nn.Dense(5, name="out")(nn.Dense(w2, kernel_init=init, name="h")(nn.Dense(w1)(x)))

    def transposed(w1, w2):
        y = nn.ConvTranspose(w2, (3, 3), name="h")(nn.Conv(w1, (3, 3))(image))
        return nn.Dense(5)(y.mean((1, 2)))

    def tied(w1, _):
        embed = nn.Embed(11, w1)
        return embed.attend(embed(ids))

    def conv_output(w1, _):
        return nn.Conv(5, (3, 3), name="out")(nn.Conv(w1, (3, 3))(image))

    def stacked(w1, _):
        scan = nn.scan(lambda layer, y, _: (layer(y), None), variable_axes={"params": 0},
                       split_rngs={"params": True}, length=2)
        return nn.Dense(5)(scan(nn.Dense(w1, name="h"), nn.Dense(w1)(x), None)[0])

    def built(body, widths=EVEN, width=7, times=1, **options):
        init = jax.jit(functools.partial(Net(body, widths, width=width).init, **options))
        return [init(key) for _ in range(times)][-1]

    def factor(params, decay=0.0):
        optimizer = optax.adamw(LR, weight_decay=decay)
        return change(params, decay, optax.chain(optimizer, mup.scale_adam_by_mup()))

    def std(name, *args, **options):
        return float(nn.unbox(built(*args, **options))["params"][name]["kernel"].std())

    def ratio(init):
        base, target = (std("h", functools.partial(mlp, init=init), WIDE, width) for width in (1, 8))
        return target / base * 8**0.5

    def found(body):
        return f"found: drawn times {std('out', body) / std('out', body, allow_mup=False):.3f}"

    return {
        "init": lambda: [ratio(init) for init in draws],
        "adam": lambda: factor(built(mlp, UNEVEN)),
        "transposed": lambda: factor(built(transposed, UNEVEN)),
        "adamw": lambda: factor(built(mlp), DECAY),
        "tied": lambda: float(Net(tied, width=7).apply(filled(built(tied), 1.0)).mean()) / EVEN[1][0],
        "output": lambda: found(mlp),
        "conv_output": lambda: found(conv_output),
        "stacked": lambda: factor(built(stacked)),
        "traced": lambda: factor(built(mlp, times=2)),
        "file": lambda: f"{factor(pickle.loads(pickle.dumps(built(mlp)))):.3f}, of pickled parameters",
    }


def inputs():
    """Features, an image and ids."""
    from jax import numpy as jnp
    return jnp.ones((2, 8)), jnp.ones((1, 4, 4, 3)), jnp.ones((1, 2), int)


def filled(params, value):
    """The parameters, in their boxes if they have any, with each number replaced."""
    import jax
    return jax.tree.map(lambda a: jax.numpy.full(a.shape, value), params)


def change(params, decay, optimizer):
    """What a step takes off weights of layer h that are 1: by decay if there is some, or by gradients of 1."""
    from jax import jit, tree_util
    ones, gradients = filled(params, 1.0), filled(params, float(not decay))
    updates, _ = jit(lambda: optimizer.update(gradients, optimizer.init(ones), ones))()
    leaves = tree_util.tree_leaves_with_path(updates)
    _, weights = (leaf for path, leaf in leaves if "h']" in tree_util.keystr(path))     # the bias comes first
    return -float(weights.mean()) / LR / (decay or 1)


def in_file(measure):
    """What is measured with a file that can be written."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(str(pathlib.Path(folder, "base")))


def unpacked(folder, name, alias):
    """The package of this name in the folder, imported as `alias`."""
    path = pathlib.Path(folder, name)
    spec = importlib.util.spec_from_file_location(alias, path / "__init__.py",
                                                  submodule_search_locations=[str(path)])
    sys.modules[alias] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


def shown(value):
    """A cell of the table."""
    if isinstance(value, list):
        return ", ".join(f"{number:.1f}" for number in value)
    return value if isinstance(value, str) else f"{value:.3f}"


def cells(measures):
    """Each row's: what is measured, or the error or the warning in its place."""
    found = {}
    for row in ROWS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                found[row] = shown(measures.get(row, lambda: "–")())
        except Exception as error:      # whatever it raises is what it does
            text = f"{type(error).__name__}: {error}".replace("|", "/")
            found[row] = textwrap.shorten(text, 80, placeholder=" …")
    return found


def main(argv=None):
    """Prints the table of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--old", metavar="FOLDER", help="where haiku-mup 0.1.5 was installed")
    parser.add_argument("--flax-mup", metavar="FOLDER", help="where flax-mup was cloned")
    args = parser.parse_args(argv)
    peers = [("haiku_mup", haiku, (), "pip install ."),
             ("haiku-mup 0.1.5", haiku, (args.old,), "pip install --target FOLDER, and --old FOLDER"),
             ("microsoft/mup", microsoft, (), "pip install mup torch"),
             ("flax-mup", flax, (args.flax_mup,), "pip install flax optax chex, and --flax-mup FOLDER")]
    table = {}
    for name, peer, folder, install in peers:
        try:
            if None in folder:
                raise ImportError("no folder")
            table[name] = cells(peer(*folder))
        except (ImportError, FileNotFoundError) as error:
            print(f"{name} is skipped ({error}): {install}")
    print("\n| |" + "".join(f" {name} |" for name in table) + "\n| --- |" + " --- |" * len(table))
    for row, title in ROWS.items():
        print(f"| {title} |" + "".join(f" {found[row]} |" for found in table.values()))


if __name__ == "__main__":
    main()
