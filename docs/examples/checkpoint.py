"""Training in μP that goes on where it was killed, on whatever devices there are: FOLDER [STEPS]"""
import functools
import pathlib
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

import haiku_mup

FOLDER, STEPS = pathlib.Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 20


def fn(x, width):
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Linear(width)(x))
        x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(4)(x)


def batch(step):
    x = jax.random.normal(jax.random.fold_in(key, step), (8, 16))
    return x, jnp.argmax(x[:, :4], -1)


base, target = (hk.without_apply_rng(hk.transform(functools.partial(fn, width=w))) for w in (16, 64))
key = jax.random.key(0)
inputs = jax.ShapeDtypeStruct((8, 16), jnp.float32)
mup = haiku_mup.Mup()
with mup.init_base():
    jax.eval_shape(base.init, key, inputs)
with mup.init_target():                                 # shapes alone: the parameters may be restored
    jax.eval_shape(target.init, key, inputs)
model, optimizer = mup.wrap_model(target), mup.wrap_optimizer(optax.adamw(2.0**-6))


def start(key):
    params = model.init(key, jnp.zeros(inputs.shape))
    return params, optimizer.init(params)


@functools.partial(jax.jit, donate_argnums=0)
def update(state, x, y):
    params, inner = state

    def loss_fn(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, inner = optimizer.update(grads, inner, params)
    return (optax.apply_updates(params, updates), inner), loss


# --- the checkpoints ---

mesh = jax.make_mesh((jax.device_count(),), ("parts",), axis_types=(jax.sharding.AxisType.Auto,))


def placed(x):                                          # what can be divided among the devices is
    divided = x.ndim > 0 and x.shape[-1] % mesh.size == 0
    axes = [*[None] * (x.ndim - 1), "parts"] if divided else []
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))


shapes = jax.tree.map(placed, jax.eval_shape(start, key))
manager = ocp.CheckpointManager(FOLDER, options=ocp.CheckpointManagerOptions(max_to_keep=2))
done = manager.latest_step() or 0
if done:
    kept = manager.restore(done, args=ocp.args.Composite(mup=ocp.args.JsonRestore()))
    mup.check(kept.mup)                                 # raises for another base, and shows what differs
    state = manager.restore(done, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state
else:
    state = jax.jit(start, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))(key)
for step in range(done, STEPS):
    state, loss = update(state, *batch(step))
    print(step, float(loss), flush=True)
    manager.save(step + 1, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), mup=ocp.args.JsonSave(mup.state_dict())))
manager.close()
