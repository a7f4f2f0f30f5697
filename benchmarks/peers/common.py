"""The models' sizes and inputs, and helpers that the measurements share."""
import importlib.util
import pathlib
import sys
import tempfile

EVEN = (4, 4), (28, 28)             # two hidden widths of the base, and of the target
UNEVEN = (4, 4), (28, 12)
WIDE = (128, 128), (1024, 256)      # enough numbers for a std
STD, LR, DECAY = 0.02, 0.1, 0.5


def jax_inputs():
    """Returns features, an image and ids."""
    from jax import numpy as jnp
    return jnp.ones((2, 8)), jnp.ones((1, 4, 4, 3)), jnp.ones((1, 2), int)


def fill(params, value):
    """Replaces each number of the parameters; keeps the boxes around them, if there are any."""
    import jax
    return jax.tree.map(lambda a: jax.numpy.full(a.shape, value), params)


def step_size(params, decay, optimizer):
    """Returns what a step takes off weights of layer h that are 1, relative to the rate.

    Args:
      params: the parameters, of which the shapes matter.
      decay: if not 0, gradients are 0, and the decay is measured; else gradients are 1.
      optimizer: an optax optimizer.
    """
    from jax import jit, tree_util
    ones, gradients = fill(params, 1.0), fill(params, float(not decay))
    updates, _ = jit(lambda: optimizer.update(gradients, optimizer.init(ones), ones))()
    leaves = tree_util.tree_leaves_with_path(updates)
    _, weights = (leaf for path, leaf in leaves if "h']" in tree_util.keystr(path))     # the bias comes first
    return -float(weights.mean()) / LR / (decay or 1)


def with_file(measure):
    """Calls `measure` with the path of a file to write."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(str(pathlib.Path(folder, "base")))


def import_from(folder, name, alias):
    """Imports the package of a name from a folder, as `alias`: another of that name may be installed."""
    path = pathlib.Path(folder, name)
    spec = importlib.util.spec_from_file_location(alias, path / "__init__.py",
                                                  submodule_search_locations=[str(path)])
    sys.modules[alias] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package
