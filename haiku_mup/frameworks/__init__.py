"""Adapters: the fan axes of the layers of Equinox, Flax NNX and Flax Linen, for `haiku_mup.plan`.

Each imports its framework as it is called, so that the library needs none of them.

- leaf_specs: what an adapter knows of one parameter of a layer.
- adapters: `equinox`, `flax_nnx` and `flax_linen`, which import the modules below.
- module_outputs: what modules of Linen and NNX return as a model runs, for coordinate checks.
- equinox_layers, nnx_layers, linen_layers: the tables of layers, one record for each class.
"""
