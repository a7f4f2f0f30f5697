"""The model of a guide's example, beside the plain one that it was and the library's own."""
import jax
import jax.numpy as jnp
import numpy as np
from small_models import KEY, captured
from trees import equal

from haiku_mup import models


def assert_same_in_mup(make, library, renamed, ids, *, shift=0.0, rtol=1e-9):
    """Asserts that both have the same table, loss and gradients; call it in x64.

    Args:
      make: width -> the example's model.
      library: width -> the library's.
      renamed: the library's name of a module -> the example's.
      ids: [batch, T + 1].
      shift: added to all parameters, so that biases aren't zero.
      rtol: of gradients, which are sums in another order.
    """
    inputs = ids[:, :-1]
    ours, theirs = (captured(each, inputs, base=64, target=128) for each in (make, library))
    rows = {row.name: row for row in ours.table()}
    assert len(rows) == len(theirs.table())
    for row in theirs.table():
        mine = rows[renamed(row.name)]
        assert (mine.role, mine.target_shape, mine.base_std, mine.target_std, mine.adam_lr, mine.sgd_lr) == (
            row.role, row.target_shape, row.base_std, row.target_std, row.adam_lr, row.sgd_lr)
    params = jax.jit(theirs.wrap_model(library(128)).init)(KEY, inputs)
    params = jax.tree.map(lambda x: x.astype("float64") + shift, params)
    same = {renamed(module): leaves for module, leaves in params.items()}

    def loss_and_grads(mup, make, params):
        apply = mup.wrap_model(make(128)).apply
        return jax.jit(jax.value_and_grad(lambda params: models.cross_entropy(
            apply(params, None, inputs), jnp.asarray(ids[:, 1:]))))(params)

    a, grads_a = loss_and_grads(ours, make, same)
    b, grads_b = loss_and_grads(theirs, library, params)
    np.testing.assert_allclose(a, b, rtol=1e-12)                            # sums in another order
    for module, leaves in grads_b.items():
        for leaf, grad in leaves.items():
            np.testing.assert_allclose(grads_a[renamed(module)][leaf], grad, rtol=rtol, atol=1e-5 * rtol)


def assert_plain_at_the_base(plain, make, inputs):
    """Asserts that a wrapped model and the plain one are the same at the base, bit for bit."""
    plain, model = plain(64), captured(make, inputs, base=64, target=64).wrap_model(make(64))
    params = jax.jit(plain.init)(KEY, inputs)
    assert equal(jax.jit(model.init)(KEY, inputs), params)
    assert equal(jax.jit(model.apply)(params, None, inputs), jax.jit(plain.apply)(params, None, inputs))
