"""lr_sweep: trains models of every width at every learning rate, from every seed."""
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal

from haiku_mup.swept import Sweep
from haiku_mup.trials import Trial, points, seeds_of

MakeTrial = Callable[[int], Callable[..., Any]]


def lr_sweep(make_trial: MakeTrial | Mapping[str, MakeTrial], widths: Iterable[int],
             lrs: Iterable[float] | None, seeds: int | Iterable[int], *,
             hyperparameters: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None = None,
             out: str | os.PathLike[str] | None = None, executor: Executor | None = None,
             chunk: int | Literal["auto"] = "auto", progress: bool = True) -> Sweep:
    """Trains models of every width at every learning rate, from every seed.

    Args:
      make_trial: from a width to ``trial(lr, key, **hyperparameters)``, a pure function that JAX can trace, which
        trains a model and gives its losses: an array [steps], a scalar, or a dict of such. `training` makes one of
        a model, data, a loss and an optimizer. To compare parametrizations, ``{name: make_trial}``.
      widths: of the models.
      lrs: learning rates; None where every setting of `hyperparameters` has its own.
      seeds: how many, or which: a trial's key is ``jax.random.key(seed)``.
      hyperparameters: others than the learning rate: ``{name: values}``, to try all their combinations, or a list
        of ``{name: value}``, as `draws` makes at random. The trials get them by name.
      out: a folder for the results.
      executor: what runs the trials.
      chunk: how many trials run beside one another on a device.
      progress: whether to show a bar, if tqdm is installed.

    Returns:
      A `Sweep`. A trial that diverged has a loss of inf.

    Raises:
      MupError: an argument that can't be.

    >>> def make_trial(width):
    ...     return lambda lr, key: (jnp.log2(lr) + 3)**2 + 1 / width + 0.01 * jax.random.normal(key)
    >>> sweep = haiku_mup.lr_sweep({"mup": make_trial}, [64, 128], [2.0**k for k in range(-6, 0)], seeds=2)
    >>> len(sweep.rows()), f"{sweep.best()['mup'][128].log2_lr:.1f}"
    (24, '-3.0')
    """
    from haiku_mup.programs import Program

    if out is not None or executor is not None:
        raise NotImplementedError("out and executor come next")
    makers = dict(make_trial) if isinstance(make_trial, Mapping) else {getattr(make_trial, "name", "trial"): make_trial}
    at, each = points(lrs, hyperparameters), seeds_of(seeds)
    names = [name for name, _ in at[0]]
    losses = {}
    for parametrization, make in makers.items():
        for width in sorted(set(map(int, widths))):
            program = Program(make(width), names)
            trials = [Trial(parametrization, width, point, seed) for point in at for seed in each]
            found = program.run(trials, program.chunk() if chunk == "auto" else chunk)
            losses.update(zip(trials, found))
    return Sweep(losses)
