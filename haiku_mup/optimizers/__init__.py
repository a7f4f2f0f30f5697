"""Wraps optax optimizers, and tells from trials what an optimizer does."""
