"""Multipliers, put into weights: for programs that know nothing of them."""
from collections.abc import Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.names import Family, Params
from haiku_mup.mup import Mup
from haiku_mup.parameters.table import Row


def folded(family: Family, config: Config, params: Mapping[str, Mapping[str, Any]], root: str,
           mup: Mup | None) -> Params:
    """The parameters of the plain model, with both multipliers 1, that computes the same.

    Args:
      family: the model's.
      config: the configuration, with `attn_mult` and `output_mult`.
      params: the parameters.
      root: the model's name in them.
      mup: of the wrapped model, or None.

    Raises:
      MupError: multipliers of other parameters than of queries, readouts, a tied embedding and branches; a Mup
        of another model.
    """
    rows = [] if mup is None else mup.table()
    factors = {row.name: row.multiplier for row in rows}
    names = {f"{module}/{leaf}" for module, leaves in params.items() for leaf in leaves}
    if mup is not None and names != factors.keys():
        raise MupError("save_pretrained: the Mup is of another model: it has not captured "
                       f"{min(names ^ factors.keys())!r}, or nothing else has; give the one whose wrap_model "
                       "made the model that these parameters are of")
    found: Params = {module: dict(leaves) for module, leaves in params.items()}
    for module in found:
        if module.endswith("/query"):
            factor = factors.pop(f"{module}/w", 1.0) * config.attn_mult
            found[module] = {leaf: x * factor for leaf, x in found[module].items()}
    for module, factor in _ends(family, rows, mup).items():
        found[module] = {leaf: x * factor for leaf, x in found[module].items()}
    for name, norm in family.readouts.items():
        module = f"{root}/{name}"
        if "w" in found.get(module, {}):
            factor = factors.pop(f"{module}/w", 1.0) * config.output_mult
            found[module]["w"] = found[module]["w"] * factor
        elif module in found or (norm and f"{root}/{norm}" in found and config.tie_word_embeddings):
            factor = config.output_mult
            for key in [key for key in factors if key.endswith("/embeddings") and factors[key] != 1]:
                factor *= factors.pop(key)
            found[f"{root}/{norm}"] = {leaf: x * factor for leaf, x in found[f"{root}/{norm}"].items()}
    for name, factor in factors.items():
        if factor != 1:
            raise MupError(f"save_pretrained: {name!r} is multiplied by {factor:g} where it is used, which no "
                           "other program does; save a model in maximal_update(), whose weights take them")
    return found


def _ends(family: Family, rows: list[Row], mup: Mup | None) -> dict[str, float]:
    """The layers that branches of haiku_mup.residual end with, and what these are multiplied by."""
    parametrization = mup and mup._declarations.parametrization
    modules = {row.name.rpartition("/")[0]: row.depth for row in rows if row.depth != 1}
    return {module: parametrization.branch(depth)       # type: ignore[union-attr]
            for module, depth in modules.items() if module.endswith(family.branches)}
