"""Values that a trace hides, though they depend on constants alone, such as jnp.sqrt(64) under jit."""
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from haiku_mup.parameters.jaxprs import ClosedJaxpr

MAX_OPERATIONS = 2**6        # operations in one value


def traced_value(x: Any) -> Any:
    """Returns the value of a traced array that is computed from constants; None for any other.

    Under a trace, JAX stages jnp.sqrt of a plain number, too. What it was computed from is followed back, and
    computed anew.

    >>> seen = []
    >>> _ = jax.eval_shape(lambda x: seen.extend(map(traced_value, (jnp.sqrt(16.0) / 2, x))), 1.0)
    >>> float(seen[0]), seen[1]
    (2.0, None)
    """
    with jax.ensure_compile_time_eval():
        value = _value(x, [MAX_OPERATIONS])
    return None if isinstance(value, jax.core.Tracer) else value


def _value(x: Any, left: list[int]) -> Any:
    """Returns the value of an operand; None if it depends on an argument, or takes too many operations."""
    lowered = x.full_lower() if isinstance(x, jax.core.Tracer) else x       # a constant of the trace
    if not isinstance(lowered, jax.core.Tracer):
        return lowered
    made_by: Any = getattr(x, "parent", None)   # JAX has no public name for the operation that made a tracer
    inputs, left[0] = getattr(made_by, "in_tracers", None), left[0] - 1
    if inputs is None or left[0] < 0 or made_by.effects or len(made_by.outvars) != 1:
        return None
    values = [_value(each, left) for each in inputs]
    if any(value is None for value in values):
        return None
    inner = made_by.params.get("jaxpr", made_by.params.get("call_jaxpr"))
    if isinstance(inner, ClosedJaxpr):
        return jaxpr_as_fun(inner)(*values)[0]
    out = made_by.primitive.bind(*values, **made_by.params)
    return out[0] if made_by.primitive.multiple_results else out
