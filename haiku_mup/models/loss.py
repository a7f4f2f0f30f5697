"""The cross-entropy of language models, and the labels it takes."""
import jax
import jax.numpy as jnp

IGNORE_INDEX = -100     # a label that the loss leaves out, as in PyTorch and transformers


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean of -log p over labels, and leaves out labels of -100.

    For a model that predicts the next token, the labels are `next_tokens(ids)`.

    Args:
      logits: [..., classes].
      labels: integers [...].

    Returns:
      A scalar; 0 if every label is -100.

    >>> logits, labels = jnp.zeros((2, 3, 8)), jnp.array([[0, 1, -100], [-100, -100, 7]])
    >>> float(models.cross_entropy(logits, labels)) == float(jnp.log(8.0))
    True
    """
    is_label = labels != IGNORE_INDEX
    classes = jnp.where(is_label, labels, 0)        # valid indices for the gather; masked below
    label_logits = jnp.take_along_axis(logits, classes[..., None], -1)[..., 0]
    losses = jnp.where(is_label, jax.nn.logsumexp(logits, -1) - label_logits, 0)
    return losses.sum() / jnp.maximum(is_label.sum(), 1)


def next_tokens(ids: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
    """Shifts ids by one, to the labels of a model that predicts the next token; the last label is -100.

    This is cheaper than slicing the logits, which copies them.

    Args:
      ids: [..., T].
      attention_mask: [..., T]; tokens with 0 are left out of the labels.

    Returns:
      Labels for `cross_entropy`, [..., T].

    >>> models.next_tokens(jnp.array([[5, 6, 7, 0]]), jnp.array([[1, 1, 1, 0]]))
    Array([[   6,    7, -100, -100]], dtype=int32)
    """
    labels = jnp.asarray(ids)
    if attention_mask is not None:
        labels = jnp.where(jnp.asarray(attention_mask) != 0, labels, IGNORE_INDEX)
    last_axis = [(0, 0)] * (labels.ndim - 1) + [(0, 1)]
    return jnp.pad(labels[..., 1:], last_axis, constant_values=IGNORE_INDEX)
