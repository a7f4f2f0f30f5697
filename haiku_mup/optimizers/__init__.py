"""Wraps optax optimizers in the factors of a parametrization, and checks what kind of optimizer each is."""
