"""Measurements of haiku_mup, and of an earlier version with the same names."""
import functools

import haiku as hk
import jax
import optax

from benchmarks.peers.common import (
    DECAY,
    EVEN,
    LR,
    STD,
    UNEVEN,
    WIDE,
    fill,
    import_from,
    jax_inputs,
    step_size,
    with_file,
)

KEY, (X, IMAGE, IDS) = jax.random.key(0), jax_inputs()
INITIALIZERS = [hk.initializers.VarianceScaling(1.0, "fan_in"), hk.initializers.RandomNormal(STD),
                hk.initializers.VarianceScaling(1.0, "fan_out")]


def measures(folder=None):
    """Returns {row: function of nothing} of haiku_mup, or of the version that is installed in a folder."""
    if folder is None:
        import haiku_mup
        return HaikuMup(haiku_mup).measures()
    if not hasattr(jax, "tree_map"):
        print(f"haiku-mup 0.1.5: jax.tree_map, which JAX {jax.__version__} lacks, is set to jax.tree.map")
        jax.tree_map = jax.tree.map
    return HaikuMup(import_from(folder, "haiku_mup", "haiku_mup_old")).measures()


class HaikuMup:
    """Models and measurements with one version of the package."""

    def __init__(self, package):
        self.package = package

    def measures(self):
        """Returns {row: function of nothing}."""
        factor, plain_mlp = self.factor, functools.partial(self.mlp, out=hk.Linear)
        return {
            "init": lambda: [self.std_ratio(init) for init in INITIALIZERS],
            "adam": lambda: factor(self.mlp, widths=UNEVEN),
            "transposed": lambda: factor(self.transposed, widths=UNEVEN),
            "adamw": lambda: factor(self.mlp, DECAY),
            "tied": lambda: self.logit_multiplier(self.tied),
            "nested": lambda: self.logit_multiplier(lambda *widths: hk.to_module(self.tied)("module")(*widths)),
            "output": lambda: self.capture(plain_mlp) and "silent",
            "conv_output": lambda: self.capture(self.conv_output) and "silent",
            "stacked": lambda: factor(self.stacked),
            "traced": lambda: factor(self.mlp, traced=True),
            "file": lambda: with_file(lambda file: factor(self.mlp, file=file)),
        }

    def mlp(self, w1, w2, init=None, out=None):
        y = hk.Linear(w2, w_init=init, name="h")(hk.Linear(w1)(X))
        return (out or self.package.Readout)(5, name="out")(y)

    def transposed(self, w1, w2):
        y = hk.Conv2DTranspose(w2, 3, name="h")(hk.Conv2D(w1, 3)(IMAGE))
        return self.package.Readout(5)(y.mean((1, 2)))

    def tied(self, w1, _):
        embed = self.package.SharedEmbed(11, w1)
        y = embed(IDS)
        return self.package.SharedReadout()(embed.get_weights(), y)

    def conv_output(self, w1, _):
        return hk.Conv2D(5, 3)(hk.Conv2D(w1, 3)(IMAGE))

    def stacked(self, w1, _):
        stack = hk.experimental.layer_stack(2)(hk.Linear(w1, name="h"))
        return self.package.Readout(5)(stack(hk.Linear(w1)(X)))

    def capture(self, net, widths=EVEN, traced=False, file=None):
        """Returns the Mup, the target's model, and the parameters of base and target.

        Args:
          net: maps the two widths to outputs.
          widths: of the base, and of the target.
          traced: whether the target's init was traced before.
          file: where to save the base, and to load it from; None for neither.
        """
        def inside(*widths):
            with self.package.apply_mup():
                return net(*widths)

        base, target = (hk.without_apply_rng(hk.transform(functools.partial(inside, *w))) for w in widths)
        mup, init = self.package.Mup(), jax.jit(target.init)
        if traced:
            init(KEY)
        with mup.init_base():
            base_params = jax.jit(base.init)(KEY)
        if file:
            mup.save(file)
            mup = self.package.Mup.load(file)
        with mup.init_target():
            params = init(KEY)
        return mup, target, base_params, params

    def factor(self, net, decay=0.0, **options):
        """Returns the factor of a hidden weight's step, or of its decay."""
        mup, _, _, params = self.capture(net, **options)
        return step_size(params, decay, mup.wrap_optimizer(optax.adamw(LR, weight_decay=decay)))

    def std_ratio(self, init):
        """Returns the std of a hidden weight relative to what is wanted."""
        _, _, base_params, params = self.capture(functools.partial(self.mlp, init=init), WIDE)
        return float(params["h"]["w"].std() / base_params["h"]["w"].std()) * 8**0.5

    def logit_multiplier(self, net):
        """Returns what the logits are multiplied by."""
        mup, target, _, params = self.capture(net)
        return float(mup.wrap_model(target).apply(fill(params, 1.0)).mean()) / EVEN[1][0]
