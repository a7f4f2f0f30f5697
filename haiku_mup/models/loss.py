"""The loss of a language model, and its labels."""
import jax
import jax.numpy as jnp

IGNORED = -100      # a label that counts for nothing

def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean of -log p over labels; a label of -100 counts for nothing.

    For a model that predicts the next token, the labels are `next_tokens(ids)`.

    Args:
      logits: [..., classes].
      labels: whole numbers [...].

    Returns:
      A scalar; 0 where no label counts.

    >>> logits, labels = jnp.zeros((2, 3, 8)), jnp.array([[0, 1, -100], [-100, -100, 7]])
    >>> float(models.cross_entropy(logits, labels)) == float(jnp.log(8.0))
    True
    """
    counts = labels != IGNORED
    safe = jnp.where(counts, labels, 0)
    picked = jnp.take_along_axis(logits, safe[..., None], -1)[..., 0]
    losses = jnp.where(counts, jax.nn.logsumexp(logits, -1) - picked, 0)
    return losses.sum() / jnp.maximum(counts.sum(), 1)


def next_tokens(ids: jax.Array, attention_mask: jax.Array | None = None) -> jax.Array:
    """The labels of a model that predicts the next token: the last place of a sequence has none.

    Cheaper than to cut the logits by one, which copies them.

    Args:
      ids: [..., T].
      attention_mask: of the same shape: tokens with 0 are no labels.

    Returns:
      Labels for `cross_entropy`, [..., T].

    >>> models.next_tokens(jnp.array([[5, 6, 7, 0]]), jnp.array([[1, 1, 1, 0]]))
    Array([[   6,    7, -100, -100]], dtype=int32)
    """
    labels = jnp.asarray(ids)
    if attention_mask is not None:
        labels = jnp.where(jnp.asarray(attention_mask) != 0, labels, IGNORED)
    return jnp.pad(labels[..., 1:], [(0, 0)] * (labels.ndim - 1) + [(0, 1)], constant_values=IGNORED)
