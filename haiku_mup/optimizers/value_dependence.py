"""Finds optimizers whose updates have sizes that depend on the values of parameters."""
import numpy as np

_TOLERANCE = 0.02
_ROUNDING = 2 * float(np.finfo(np.float32).eps)     # of parameters, and of decays, beside updates


def depends_on_value(updates: np.ndarray, params: np.ndarray) -> bool:
    """Returns whether gradients make updates of other sizes at other parameters.

    Those sizes must depend on the parameter at gradients of both signs: a decay that acts only where it agrees
    with the gradient (a cautious one), and a bound on one side, show at one of them.

    Args:
      updates: [3, 3, n]; without a gradient, with one, and with minus that, at each of the parameters.
      params: three sizes of parameters, none of them zero: what leaves zeros as they are (as pruning does)
        acts alike at every scale.

    >>> params = np.array([0.01, 1.0, 10.0])
    >>> decay = -0.1 * params
    >>> depends_on_value(np.stack([decay, decay - 0.1, decay + 0.1])[..., None], params)
    False
    >>> depends_on_value(np.stack([decay, decay - params**2, decay + params**2])[..., None], params)
    True
    """
    if not np.isfinite(updates).all():
        return False
    none, with_gradient = updates[0].astype(float), updates[1:].astype(float)
    if not _on_a_line(none, params):            # a clip behind the decay acts on the largest
        none, with_gradient, params = none[:-1], with_gradient[:, :-1], params[:-1]
    sizes = np.abs(with_gradient - none).sum(axis=-1)
    rounding = _ROUNDING * (np.abs(none) + np.abs(params)[:, None]).sum(axis=-1)
    largest, least = (sizes - rounding).max(axis=-1), (sizes + rounding).min(axis=-1)
    return bool(np.all((1 - _TOLERANCE) * largest > least))


def _on_a_line(none: np.ndarray, params: np.ndarray) -> bool:
    """Returns whether updates without a gradient, at three parameters, are a number plus a decay."""
    slope = (none[1] - none[0]) / (params[1] - params[0])
    return np.allclose(none[2], none[0] + slope * (params[2] - params[0]), rtol=0.05)
