"""A GPT-2 in μP on a mesh: python launch.py BASE.json WIDTH LAYERS DATA MODEL"""
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import haiku_mup
from haiku_mup import models

HEAD, VOCAB, BATCH, LENGTH, STEPS = 16, 64, 8, 32, 3
base, (width, layers, data, parts) = sys.argv[1], map(int, sys.argv[2:])
config = models.GPT2Config(vocab_size=VOCAB, n_embd=width, n_head=width // HEAD, n_layer=layers,
                           n_positions=LENGTH, layer_stack=True, remat=True)
key, ids = jax.random.key(0), jnp.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % VOCAB


def fn(ids):
    with haiku_mup.apply_mup():
        return models.GPT2LMHeadModel(config)(ids)


def placed(module, name, x):
    """Shards fully over "data", and over "model" as Megatron-LM does; the axis of layers is in front."""
    if name == "embeddings":
        return P("model", "data")
    if name != "w":
        return P()
    closes = module.endswith(("attn/linear", "c_proj"))         # a branch
    return P(None, "model", "data") if closes else P(None, "data", "model")


target = hk.without_apply_rng(hk.transform(fn))
adamw = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2.0**-8, 1, STEPS), weight_decay=0.1)

# --- from here on, as on a pod ---

mesh = jax.make_mesh((data, parts), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
mup = haiku_mup.Mup.load(base)
with mup.init_target():
    shapes = jax.eval_shape(target.init, key, ids)              # shapes only
print(mup.summary(), file=sys.stderr)                           # to be read before the first step
model = mup.wrap_model(target)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), mup.wrap_optimizer(adamw))

specs = hk.data_structures.map(placed, shapes)                  # yours: (module, name, shape) -> PartitionSpec
where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))
state_where = optax.tree_map_params(
    optimizer, lambda _, sharding: sharding, jax.eval_shape(optimizer.init, shapes), where,
    transform_non_params=lambda _: NamedSharding(mesh, P()))
with jax.set_mesh(mesh):
    params = jax.jit(model.init, out_shardings=where)(key, ids)
    state = jax.jit(optimizer.init, out_shardings=state_where)(params)

# --- a training loop, as ever ---


def step(params, state, ids):
    def loss_fn(params):
        return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(where, state_where, None))
with jax.set_mesh(mesh):
    batch = jax.device_put(ids, NamedSharding(mesh, P("data")))
    for _ in range(STEPS):
        params, state, loss = step(params, state, batch)
        print(float(loss))
