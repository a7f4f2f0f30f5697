"""Trees of parameters: equality, and a map by name."""
import jax


def equal(a, b):
    """Returns True where two trees agree in structure, dtypes and every bit."""
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, a, b))


def mapped(function, *trees):
    """Maps function("module/name", *leaves) over trees of parameters."""
    return {m: {n: function(f"{m}/{n}", *(t[m][n] for t in trees)) for n in trees[0][m]} for m in trees[0]}
