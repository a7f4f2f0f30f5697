"""JAX user contexts: which capture or wrapped model is active in a thread, and a number that forces a trace.

JAX puts the values of all user contexts into the keys of its caches, so they must exist before anything is
traced: `import haiku_mup` makes them.
"""
import jax

# A ContextVar is not in the keys of JAX's caches: a function that was traced in one context would be reused in
# another, and its creators would never run. A user context is. None is standard parametrization.
user_context = jax.make_user_context(default_value=None)

# Each value of this one forces a new trace of a function, and of all that is jitted inside it.
trace_number = jax.make_user_context(default_value=None)
