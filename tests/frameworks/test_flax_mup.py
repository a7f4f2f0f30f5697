"""The kinds of models that flax-mup shows, written anew on `plan`: its MLP and CNN, cross entropy and L2.

Both take one image, and are mapped over a batch. The MLP has a stack of two layers side by side, the CNN is
rematerialised; each has a boxed kernel and a readout that starts at zero. flax-mup's own checks have Adam at
0.01 and random labels, as here (https://github.com/JesseFarebro/flax-mup, flax_mup/test).
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup

nn = pytest.importorskip("flax.linen")

BOXED = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(32, 28, 28, 1)).astype("float32")
LABELS = RNG.integers(0, 9, size=32)


class MLP(nn.Module):
    width: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(-1)
        for kernel_init in (nn.initializers.lecun_normal(), BOXED, nn.initializers.lecun_normal()):
            x = nn.relu(nn.Dense(self.width, kernel_init=kernel_init)(x))
        side_by_side = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
                               axis_size=2, metadata_params={nn.PARTITION_NAME: None})
        x = nn.relu(side_by_side(self.width // 2, name="both")(x).reshape(-1))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="out")(x)


class CNN(nn.Module):
    width: int
    outputs: int

    @nn.remat
    @nn.compact
    def __call__(self, x):
        for kernel_init in (nn.initializers.lecun_normal(), BOXED, nn.initializers.lecun_normal()):
            x = nn.relu(nn.Conv(self.width // 4, (3, 3), strides=(2, 2), kernel_init=kernel_init)(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="out")(x.reshape(-1))


def cross_entropy(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def squares(apply, params, rng, batch):
    x, y = batch
    return optax.l2_loss(apply(params, rng, x)[:, 0], y.astype("float32")).mean()


LOSSES = {cross_entropy: 10, squares: 1}


def pair(module, outputs, width):
    model = module(width, outputs)

    def apply(params, rng, x):
        return jax.vmap(lambda x: model.apply({"params": params}, x))(x)

    return lambda key: model.init(key, jnp.asarray(IMAGES[0]))["params"], apply


def planned(module, outputs):
    return functools.partial(haiku_mup.plan, readouts="out.kernel",
                             fans=haiku_mup.flax_linen(module(16, outputs), IMAGES[0]))


def check(module, loss, widths, seeds=5, **more):
    outputs = LOSSES[loss]
    with jax.numpy_rank_promotion("allow"):
        return haiku_mup.coord_check(
            functools.partial(pair, module, outputs), widths, (IMAGES, LABELS), loss, optax.adam(0.01),
            plan=planned(module, outputs), seeds=seeds, steps=3, progress=False, **more)


@pytest.mark.parametrize("module", [MLP, CNN])
def test_roles_and_factors(module):
    with jax.numpy_rank_promotion("allow"):
        base, target = (jax.eval_shape(pair(module, 10, width)[0], jax.random.key(0)) for width in (16, 64))
        plan = planned(module, 10)(base, target)
    rows = {row.name: row for row in plan.table() if row.name.endswith("kernel")}
    first, *hidden, out = rows.values()
    assert first.role == "input" and {row.role for row in hidden} == {"hidden"} and out.role == "output"
    assert len(hidden) == (3 if module is MLP else 2)
    assert {row.adam_lr for row in hidden} == {0.25} and (out.multiplier, out.adam_lr) == (0.25, 1.0)
    if module is MLP:
        assert rows["both.kernel"].target_shape == (64, 32)         # the stack of two is no width


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("module", [MLP, CNN])
def test_they_pass_in_mup_and_fail_in_standard(module, loss):
    widths = [16, 64, 256]
    found = check(module, loss, widths)
    assert not found.failures(), str(found)
    assert check(module, loss, widths, parametrization="sp").failures()
