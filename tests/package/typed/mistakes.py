"""A program of wrong calls, read by the type checker alone: it must find each, under the code behind it."""
from typing import assert_type

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

mup = haiku_mup.Mup(readouts=64)                                        # error: arg-type
mup.init_base(hk.transform(jnp.tanh))                                   # error: call-arg
mup.wrap_model(jnp.tanh)                                                # error: type-var
print(mup.wrap_model(hk.transform(jnp.tanh)).applied)                   # error: attr-defined
mup.wrap_optimizer(3e-4)                                                # error: arg-type
mup.wrap_optimizer(optax.adam(3e-4), adam="no")                         # error: arg-type
mup.wrap_optimizer(optax.adam(3e-4), scale_epsilon=True)                # error: call-arg
mup.wrap_optimizer(optax.lamb(3e-4), rule=3)                            # error: arg-type
haiku_mup.adamw(optax.adam, 3e-4)                                      # error: arg-type
print(mup.scale_updates().updates)                                      # error: attr-defined
mup.summary() + 1                                                       # error: operator
print(mup.table()[0].lr)                                                 # error: attr-defined
mup.table()[0].role = "hidden"                                          # error: misc
haiku_mup.apply_mup(hk.transform(jnp.tanh))                             # error: call-arg
haiku_mup.get_shapes(3)                                                 # error: arg-type
haiku_mup.Readout("10")                                                 # error: arg-type
haiku_mup.Readout(10, output_multiplier=2.0)                            # error: call-arg
haiku_mup.SharedEmbed(100, 16).get_weights(0)                           # error: call-arg
haiku_mup.SharedReadout()("embed", jnp.ones(16))                        # error: arg-type
haiku_mup.MultiHeadAttention(2, 8)(jnp.ones((5, 16)))                   # error: call-arg
print(haiku_mup.muP)                                                    # error: attr-defined
assert_type(haiku_mup.Readout(10)(jnp.ones(16)), int)                   # error: assert-type
unused: jax.Array = mup.lr_scales()                                     # error: assignment
haiku_mup.lr_sweep(64, [64], [0.1], 3)                                  # error: arg-type
haiku_mup.lr_sweep(lambda width: jnp.tanh, [64], [0.1], 3, search="all")    # error: arg-type
print(haiku_mup.lr_sweep(lambda width: jnp.tanh, [64], [0.1], 3).recommend().rate)     # error: attr-defined
