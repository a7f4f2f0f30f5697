"""`compare`: trains one model in several parametrizations, at each width, learning rate and seed."""
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.per_layer import modified_standard
from haiku_mup.rules.tables import maximal_update, standard
from haiku_mup.sweep.comparison import Comparison
from haiku_mup.sweep.lr_sweep import lr_sweep
from haiku_mup.sweep.training import training


def parametrizations() -> dict[str, Parametrization]:
    """Returns the parametrizations that `compare` trains unless others are given.

    >>> list(parametrizations())
    ['sp', 'sp_embedding', 'modified_sp', 'mup', 'mup_spectral']
    """
    return {"sp": standard(), "sp_embedding": standard(embedding_lr=1.0), "modified_sp": modified_standard(),
            "mup": maximal_update(), "mup_spectral": maximal_update(spectral=True)}


def compare(make_model: Callable[..., Any], data: Any, loss_fn: Callable[..., Any],
            optimizer: Callable[..., Any], *, widths: Iterable[int], lrs: Iterable[float],
            parametrizations: Mapping[str, Parametrization] | None = None, seeds: int | Iterable[int] = 3,
            base_width: int | None = None, target: int | None = None, loss: str | None = None,
            out: str | os.PathLike[str] | None = None, sweep: Mapping[str, Any] | None = None,
            **training_arguments: Any) -> Comparison:
    """Trains a model in several parametrizations, at each width, learning rate and seed, and compares them.

    Which parametrization is best is disputed, and depends on the model, the optimizer and the length of
    training: this measures it on yours. It is `lr_sweep` of `training`, and what the losses say. At the base's
    width all parametrizations are one model. Differences show at the others: let the widest be at least four
    times as wide.

    Args:
      make_model, data, loss_fn, optimizer: see `training`.
      widths: the widths of the models.
      lrs: the learning rates; enough of them that each parametrization's best lies between others.
      parametrizations: {name: `Parametrization`}; by default standard, the same with the embeddings' rate ×
        width, modified standard, μP, and μP with the spectral condition.
      seeds: the number of seeds, or the seeds themselves; three or more tell differences from chance.
      base_width: the width of the base; by default the narrowest.
      target: the width that is to be trained at last, for what the comparison says of it.
      loss: the name of the loss to judge by; by default the first of `evaluate`, or the training loss.
      out: a folder, where an interrupted comparison continues: see `lr_sweep`.
      sweep: further arguments of `lr_sweep`: executor, search, chunk, grow, progress.
      training_arguments: further arguments of `training`, such as steps, batch_size, rule, evaluate and fans.

    Returns:
      A `Comparison`, which prints as a table and a paragraph.

    Raises:
      MupError: no parametrization, or what `training` and `lr_sweep` raise.

    Warns:
      MupWarning: trials are missing.

    >>> def make_model(width):
    ...     def fn(x):
    ...         with haiku_mup.apply_mup():
    ...             return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(x)))
    ...     return hk.transform(fn)
    >>> def loss_fn(apply, params, rng, batch):
    ...     return jnp.mean((apply(params, rng, batch[0]) - batch[1])**2)
    >>> data = jax.random.normal(jax.random.key(0), (64, 4)), jnp.ones((64, 1))
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(1) as here:
    ...     found = haiku_mup.compare(
    ...         make_model, data, loss_fn, optax.adam, widths=[4, 16], lrs=[0.004, 0.06, 1.0], seeds=2,
    ...         parametrizations={"sp": haiku_mup.standard(), "mup": haiku_mup.maximal_update()}, steps=10,
    ...         sweep={"executor": here, "progress": False})
    >>> [row["parametrization"] for row in found.table()]
    ['sp', 'mup']
    """
    widths = sorted(set(map(int, widths)))
    tables = _defaults() if parametrizations is None else dict(parametrizations)
    if not tables or not widths:
        raise MupError("compare: give at least one parametrization and one width")
    make_trials = {name: training(make_model, data, loss_fn, optimizer, parametrization=table,
                                  base_width=widths[0] if base_width is None else base_width,
                                  **training_arguments)
                   for name, table in tables.items()}
    result = lr_sweep(make_trials, widths, lrs, seeds, out=out, **(sweep or {}))
    return Comparison(sweep=result, loss=loss, target=target)


_defaults = parametrizations        # whose name is an argument's, too
