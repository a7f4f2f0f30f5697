"""A Llama in μP with a billion parameters on a mesh, compiled without any of its arrays.

python launch_llama.py [WIDTH LAYERS DATA MODEL]
"""
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import haiku_mup
from haiku_mup import models

width, layers, data, parts = map(int, sys.argv[1:] or ("2048", "22", "4", "2"))
jax.config.update("jax_num_cpu_devices", data * parts)          # leave out on a pod
HEAD, VOCAB, BATCH, LENGTH = 64, 32000, 8, 2048
BASE_WIDTH = 128                # that was tuned, with the same depth: 2 heads in one group


def make(width):
    config = models.LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=256 * -(-width // 96), num_hidden_layers=layers,
        num_attention_heads=width // HEAD, num_key_value_heads=max(1, width // HEAD // 8),
        max_position_embeddings=LENGTH, layer_stack=True, remat=True)

    def fn(ids):
        with haiku_mup.apply_mup():
            return models.LlamaForCausalLM(config)(ids)

    return hk.without_apply_rng(hk.transform(fn))


def placed(module, name, x):
    """Shards fully over "data", and over "model" as Megatron-LM does; the axis of layers is in front."""
    if name == "embeddings":
        return P("model", "data")
    if name != "w":
        return P()
    stack = () if module.endswith("lm_head") else (None,)
    closes = module.endswith(("self_attn/linear", "down_proj"))         # a branch
    return P(*stack, "model", "data") if closes else P(*stack, "data", "model")


key = jax.eval_shape(lambda: jax.random.key(0))
ids = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
target, mup = make(width), haiku_mup.Mup()
with mup.init_base():
    jax.eval_shape(make(BASE_WIDTH).init, key, ids)
with mup.init_target():
    shapes = jax.eval_shape(target.init, key, ids)
print(mup.summary())                                            # to be read before the first step
model, optimizer = mup.wrap_model(target), mup.wrap_optimizer(optax.adamw(2.0**-8, weight_decay=0.1))

mesh = jax.make_mesh((data, parts), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
specs = hk.data_structures.map(placed, shapes)                  # yours: (module, name, shape) -> PartitionSpec
where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))
state_shapes = jax.eval_shape(optimizer.init, shapes)
state_where = optax.tree_map_params(optimizer, lambda _, sharding: sharding, state_shapes, where,
                                    transform_non_params=lambda _: NamedSharding(mesh, P()))


def step(params, state, ids):
    def loss_fn(params):
        return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


rows = NamedSharding(mesh, P("data"))
compiled = jax.jit(step, donate_argnums=(0, 1), in_shardings=(where, state_where, rows),
                   out_shardings=(where, state_where, None)).lower(shapes, state_shapes, ids).compile()
memory = compiled.memory_analysis()
print(f"{sum(x.size for x in jax.tree.leaves(shapes)):,} parameters on {data} × {parts} devices; on each, "
      f"{memory.argument_size_in_bytes / 2**30:.3f} GiB of parameters and AdamW's state")
