"""The coordinate check of any version of haiku_mup, from cold."""
import optax

import haiku_mup
from benchmarks.coord_check.problem import make_problem
from benchmarks.coord_check.settings import LR, STEPS, timed


def measure(model, widths, seeds, layers):
    """Times a check from cold, and what it answers: 0.2.0 judges its slopes only then."""
    make_model, loss_fn, batch = make_problem(model, layers)

    def check():
        return haiku_mup.coord_check(make_model, widths, batch, loss_fn, optax.adam(LR), steps=STEPS,
                                     seeds=seeds, progress=False).ok

    return {"cold": timed(check), "package": haiku_mup.__file__}
