"""The states of JAX's that say which context is active in a thread, and that a trace must be a new one.

`import haiku_mup` makes them, before anything is traced: JAX has the values of all such states in the keys of
its caches, and must know them before a trace begins.
"""
import jax

# A ContextVar is not in the keys of JAX's caches: a function that was traced in one context would be reused in
# another, and its creators would never run. A user context is. None is standard parametrization.
user_context = jax.make_user_context(default_value=None)

# A function is traced anew under each value of this one, and what is jitted inside it, too.
trace_number = jax.make_user_context(default_value=None)
