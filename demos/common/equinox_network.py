"""The model of docs/guides/equinox.rst, in a module that processes can import, as Equinox's classes must be."""
import equinox as eqx
import jax


class Network(eqx.Module):
    """Maps the pixels of one image to logits."""

    layers: list
    out: eqx.nn.Linear

    def __init__(self, width, key, *, pixels, classes):
        keys = jax.random.split(key, 3)
        self.layers = [eqx.nn.Linear(pixels, width, key=keys[0]), eqx.nn.Linear(width, width, key=keys[1])]
        self.out = eqx.nn.Linear(width, classes, key=keys[2])

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.out(x)
