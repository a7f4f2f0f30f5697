"""Hooks into Haiku: contexts, creators, getters and interceptors.

- haiku_internals, jax_internals: read private names of Haiku and JAX, and Python's frames; no other modules do.
- user_context, scope: which capture or wrapped model is active, in a way that JAX's caches see.
- context: `apply_mup()`, which installs the hooks.
- creation, creation_record: makes and records a parameter.
- capture, target_capture: keep these records, and compare them with the base's.
- init_program: the uses of parameters in the program of the init that runs.
- wrapped_model: models whose init draws, and whose apply multiplies, as μP requires.
- getters, layer_multipliers, factor_lookup: apply the factors of the forward pass.
- flax_lifts: records the parameters of hk.experimental.flax.lift.
- unwrapped, draws, warn_once: warnings where a model runs without its factors; which parameters are standard.
"""
