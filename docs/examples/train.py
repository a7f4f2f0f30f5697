"""GPT-2 in μP, tuned at width 64 and trained at width 256."""
import functools
import sys

import haiku as hk
import jax
import numpy as np
import optax
from gpt2_mup import gpt2

import haiku_mup

base, delta, target = (hk.transform(functools.partial(gpt2, width=width)) for width in (64, 128, 256))
ids = np.frombuffer(sys.version.encode()[:33], np.uint8)[None] % 64
key, inputs = jax.random.key(0), ids[:, :-1]

mup = haiku_mup.Mup()
with mup.init_base():                           # shapes alone: nothing is allocated
    jax.eval_shape(base.init, key, inputs)
with mup.init_delta():
    jax.eval_shape(delta.init, key, inputs)
with mup.init_target():
    params = target.init(key, inputs)
model = mup.wrap_model(target)
adamw = mup.wrap_optimizer(optax.adamw(2.0**-8))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)


@jax.jit
def step(params, state):
    def loss_fn(params):
        logits = model.apply(params, None, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


state = optimizer.init(params)
for _ in range(20):
    params, state, loss = step(params, state)
print(f"loss {loss:.3f}")
