"""Folds μP's multipliers into weights, for programs that know nothing of them."""
from collections.abc import Mapping, Sequence
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Architecture
from haiku_mup.models.huggingface.tensors import Params
from haiku_mup.mup import Mup, captured_model
from haiku_mup.parameters.summary_table import Row


def fold_multipliers(architecture: Architecture, config: Config, params: Mapping[str, Mapping[str, Any]],
                     root: str, mup: Mup | None) -> Params:
    """Returns the parameters with which the plain model, its attn_mult and output_mult 1, computes the same.

    Args:
      architecture: the model's.
      config: its configuration, with `attn_mult` and `output_mult`.
      params: its parameters.
      root: its name in the tree of parameters.
      mup: the wrapped model's Mup, or None.

    Raises:
      MupError: another model's Mup; multipliers of parameters other than queries, keys, values, readouts, a
        tied embedding and the last layers of branches.
    """
    rows = [] if mup is None else mup.table()
    multipliers = {} if mup is None else _multipliers(rows, params)
    folded: Params = {module: dict(leaves) for module, leaves in params.items()}
    for module in folded:
        if module.endswith("/query"):           # logits are linear in queries
            _multiply(folded, module, multipliers.pop(f"{module}/w", 1.0) * config.attn_mult)
        elif module.endswith(("/key", "/value")):       # Projection multiplies its inputs: not the bias
            folded[module]["w"] = _times(folded[module]["w"], multipliers.pop(f"{module}/w", 1.0))
    if mup is not None:
        for module, factor in _branch_multipliers(architecture, mup, rows).items():
            _multiply(folded, module, factor)
    for name, norm in architecture.readouts.items():
        _fold_readout(folded, multipliers, f"{root}/{name}", norm and f"{root}/{norm}", config)
    for name, factor in multipliers.items():
        if factor != 1:
            raise MupError(f"save_pretrained: {name!r} is multiplied by {factor:g} where it is used, which no "
                           "other program does; save a model in maximal_update(), whose weights take them")
    return folded


def _multipliers(rows: Sequence[Row], params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the forward multiplier of each parameter, by name.

    Raises:
      MupError: rows of a Mup that has not captured just these parameters.
    """
    multipliers = {row.name: row.multiplier for row in rows}
    names = {f"{module}/{leaf}" for module, leaves in params.items() for leaf in leaves}
    if names != multipliers.keys():
        name = min(names ^ multipliers.keys())
        what = "it has not captured" if name in names else "these parameters lack"
        raise MupError(f"save_pretrained: the Mup is of another model: {what} {name!r}; give the Mup whose "
                       "wrap_model made the model of these parameters")
    return multipliers


def _branch_multipliers(architecture: Architecture, mup: Mup, rows: Sequence[Row]) -> dict[str, float]:
    """Returns the multiplier of each branch of haiku_mup.residual, by the module that ends it."""
    depths = {row.name.rpartition("/")[0]: row.depth for row in rows if row.depth != 1}
    parametrization = captured_model(mup, "save_pretrained").parametrization
    return {module: parametrization.branch(depth) for module, depth in depths.items()
            if module.endswith(architecture.branch_outputs)}


def _fold_readout(folded: Params, multipliers: dict[str, Any], readout: str, norm: str | None,
                  config: Config) -> None:
    """Folds the multiplier of a readout into its matrix, or into the norm before it if the matrix is tied.

    A tied matrix is also the embedding, whose use as an input isn't multiplied. A readout's bias isn't, either.
    """
    if "w" in folded.get(readout, {}):
        factor = multipliers.pop(f"{readout}/w", 1.0) * config.output_mult
        folded[readout]["w"] = _times(folded[readout]["w"], factor)
    elif readout in folded or (norm in folded and config.tie_word_embeddings):
        factor = config.output_mult
        for name in [name for name in multipliers if name.endswith("/embeddings") and multipliers[name] != 1]:
            factor *= multipliers.pop(name)
        assert norm is not None
        _multiply(folded, norm, factor)


def _multiply(folded: Params, module: str, factor: Any) -> None:
    """Multiplies all parameters of a module."""
    folded[module] = {leaf: _times(x, factor) for leaf, x in folded[module].items()}


def _times(x: Any, factor: float) -> Any:
    """Returns an array times a factor, in its own dtype, which NumPy's bfloat16 would not keep."""
    return x if factor == 1 else (x * factor).astype(x.dtype)
