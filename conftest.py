"""Names that the examples in docstrings use, and the settings of every test."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import haiku_mup

collect_ignore = ["tests/golden/make_microsoft_mup.py"]     # it needs PyTorch


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace):
    doctest_namespace.update(
        functools=functools, haiku_mup=haiku_mup, hk=hk, jax=jax, jnp=jnp, optax=optax)


@pytest.fixture(autouse=True)
def _no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
