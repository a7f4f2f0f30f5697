"""The coordinate check of any version of haiku_mup, from cold."""
import functools

import optax

import haiku_mup
from benchmarks.coord_check.problem import make_problem
from benchmarks.coord_check.settings import LR, STEPS, timed


def measure(model, widths, seeds, layers):
    """Times a check from cold."""
    make_model, loss_fn, batch = make_problem(model, layers)
    check = functools.partial(haiku_mup.coord_check, make_model, widths, batch, loss_fn, optax.adam(LR),
                              steps=STEPS, seeds=seeds, progress=False)
    return {"cold": timed(check), "package": haiku_mup.__file__}
