"""The same training in a loop in plain JAX, which records nothing."""
import jax
import optax

from benchmarks.coord_check.problem import make_problem
from benchmarks.coord_check.settings import LR, STEPS, timed


def measure(model, widths, seeds, layers):
    """Times the loop, and its second run; a width has one compiled program."""
    make_model, loss_fn, batch = make_problem(model, layers)
    programs = {}

    def train():
        for width in widths:
            init, step = programs.setdefault(width, make_program(make_model(width), loss_fn, batch))
            for seed in range(seeds):
                carry = init(jax.random.key(seed, impl="rbg"))
                for _ in range(STEPS):
                    carry = step(*carry)
                jax.block_until_ready(carry)

    return {"cold": timed(train), "executed": timed(train)}


def make_program(model, loss_fn, batch):
    """Returns a jitted init and a jitted step."""
    optimizer = optax.adam(LR)

    @jax.jit
    def init(key):
        params = model.init(key, batch[0])
        return params, optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda params: loss_fn(model.apply, params, None, batch))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return init, step
