"""Published weights: read from a directory as transformers writes it, and written so that it reads them."""
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import haiku as hk
import numpy as np

from haiku_mup import captures
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.models import config_json
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface import names, safetensors_files, tensors
from haiku_mup.models.huggingface.folding import folded
from haiku_mup.models.huggingface.names import FAMILIES, Family, Params
from haiku_mup.mup import Mup
from haiku_mup.parameters.fans import matching

_SHOWN = 8      # names in an error


def load_pretrained(path: str | os.PathLike[str], model: type[hk.Module] | None = None, *,
                    layer_stack: bool = False, ignore: Sequence[str] = (), new: Sequence[str] = (),
                    name: str | None = None) -> tuple[Any, Params]:
    """The configuration and the parameters of a checkpoint in a directory; needs the extra `safetensors`.

    Pickles are not read.

    Args:
      path: a directory with config.json and model.safetensors, or the parts of it that an index names.
      model: one of the models here; by default the one that config.json says.
      layer_stack: whether the model is to have its blocks in a `layer_stack`.
      ignore: globs over names of tensors that the file may have, and that are left out.
      new: globs over names of tensors that the file needn't have: the parameters lack them, to be taken from
        the model's init.
      name: the model's name in the tree of parameters, where it isn't the default one.

    Returns:
      A configuration, and the parameters of `model(configuration)`.

    Raises:
      MupError: no such directory, or one without weights; another architecture; tensors that are missing, left
        over, or of another shape, all of them.

    >>> import tempfile
    >>> config = models.GPT2Config(vocab_size=50, n_embd=16, n_head=2, n_layer=2, n_positions=8)
    >>> model = hk.transform(lambda ids: models.GPT2LMHeadModel(config)(ids))
    >>> params = jax.jit(model.init)(jax.random.PRNGKey(0), jnp.zeros((2, 3), int))
    >>> folder = tempfile.mkdtemp()
    >>> models.save_pretrained(folder, config, params)
    >>> again, same = models.load_pretrained(folder)
    >>> again == config, jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), same, params))
    (True, True)
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").is_file():
        what = "no config.json in it" if folder.is_dir() else "no such directory"
        raise MupError(f"{folder}: {what}; give a directory with config.json and {safetensors_files.FILE}, as "
                       "`hf download NAME --local-dir FOLDER` makes it of a published model's name")
    values = config_json.read_json(folder)
    family = _family(values, str(folder))
    model = model or _model(family, values, str(folder))
    if model not in family.models.values():
        raise MupError(f"{folder}: model_type is {values['model_type']!r}, and {model.__name__} is none of "
                       f"its models: {', '.join(family.models)}")
    config = config_json.from_values(family.config, {**values, "layer_stack": layer_stack},
                                     str(folder / "config.json"))
    wanted = tensors.tensors(family, config, model, name or names.default_name(model))
    found = safetensors_files.read(folder, family, config, wanted, ignore)
    _check(f"{folder}: {model.__name__}", wanted, found, new)
    return config, tensors.read(wanted, found)


def save_pretrained(path: str | os.PathLike[str], config: Config, params: Mapping[str, Mapping[str, Any]], *,
                    mup: Mup | None = None, model: type[hk.Module] | None = None, name: str | None = None,
                    ) -> None:
    """Writes a directory that `load_pretrained` reads, and transformers' from_pretrained; needs `safetensors`.

    Other programs know nothing of μP's multipliers, nor of attn_mult and output_mult. They go into the weights
    (of queries, readouts, or the norm in front of a tied readout), so that all compute the same. To go on
    training in μP, keep the parameters as they are, in a checkpoint of your own.

    Args:
      path: the directory, which is made; config.json and model.safetensors in it are replaced.
      config: the configuration.
      params: the parameters of one of the models here.
      mup: of the wrapped model, if it was one: without it, its multipliers are lost, which nobody can know
        who saves in a process of its own.
      model: whose parameters these are; told by their names, if these are the default ones.
      name: the model's name in the tree of parameters, where it isn't the default one.

    Raises:
      MupError: parameters of no model here, or that don't fit the configuration; multipliers that weights can't
        take, as those of other forms than `maximal_update()`.

    Warns:
      MupWarning: no Mup, where the latest target in this process with just these parameters has multipliers.

    >>> import os, tempfile
    >>> config = models.BertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> model = hk.transform(lambda ids: models.BertForMaskedLM(config)(ids))
    >>> params = jax.jit(model.init)(jax.random.PRNGKey(0), jnp.ones((2, 3), int))
    >>> folder = tempfile.mkdtemp()
    >>> models.save_pretrained(folder, config, params)
    >>> sorted(os.listdir(folder))
    ['config.json', 'model.safetensors']
    """
    family = FAMILIES[config.model_type]
    model, root = _root(family, params, model, name)
    wanted = tensors.tensors(family, config, model, root)
    _check_params(model.__name__, config, wanted, params)
    shapes = {f"{module}/{leaf}": np.shape(x) for module in params for leaf, x in params[module].items()}
    if mup is None and captures.multiplied(shapes):
        warnings.warn("save_pretrained: a target with just these parameters has multipliers, which other "
                      "programs know nothing of, and which are not in these weights; if they are that model's, "
                      "give its Mup: save_pretrained(..., mup=mup)", MupWarning, stacklevel=2)
    found = tensors.write(wanted, folded(family, config, params, root, mup))
    base = f"{root}/{family.base}/"
    inside = {key for key, tensor in wanted.items() if tensor.slots[0].module.startswith(base)}
    for copy, original in family.twin.items():
        if original in found:               # of two that are tied, transformers writes this one
            found[copy] = found.pop(original) if config.tie_word_embeddings else found[original]
    found = {f"{family.base}.{key}" if key in inside else key: x for key, x in found.items()}
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    kept = dataclasses.replace(config, attn_mult=1.0, output_mult=1.0, layer_stack=False, remat=False,
                               readout_zero_init=False, query_zero_init=False)
    config_json.write_json(folder, {**config_json.to_values(kept), "architectures": [model.__name__]})
    safetensors_files.write(folder, found)


# --- which model ---

def _family(values: Mapping[str, Any], source: str) -> Family:
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise MupError(f"{source}: model_type is {kind!r}; there are models here for {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def _model(family: Family, values: Mapping[str, Any], source: str) -> type[hk.Module]:
    """The model that config.json names."""
    named = values.get("architectures") or [None]
    if named[0] not in family.models:
        raise MupError(f"{source}: config.json names the model {named[0]!r}; say which to load: "
                       + ", ".join(f"models.{name}" for name in family.models))
    return family.models[named[0]]


def _root(family: Family, params: Mapping[str, Any], model: type[hk.Module] | None,
          name: str | None) -> tuple[type[hk.Module], str]:
    """The model whose parameters these are, and its name in the tree."""
    defaults = {names.default_name(known): known for known in family.models.values()}
    if model is None:
        heads = {module.partition("/")[0] for module in params}
        found = heads & defaults.keys() if name is None else set()
        if len(found) != 1:
            raise MupError(f"save_pretrained: parameters of {', '.join(sorted(heads)[:_SHOWN])}, where one of "
                           f"{', '.join(defaults)} is to be; say which model they are of, and its name: "
                           f"model=models.{next(iter(family.models))}, name='my_model'")
        model = defaults[found.pop()]
    return model, name or names.default_name(model)


# --- does it fit? ---

def _check(source: str, wanted: Mapping[str, tensors.Tensor], found: Mapping[str, np.ndarray],
           new: Sequence[str]) -> None:
    """Raises with all that is missing, left over or of another shape."""
    missing = [key for key in wanted if key not in found and not matching(key, new)]
    extra = [key for key in found if key not in wanted]
    shapes = [f"{key} {found[key].shape}, where {wanted[key].shape} is wanted" for key in wanted
              if key in found and found[key].shape != wanted[key].shape]
    _complain(f"{source} does not fit the tensors", (
        ("missing", missing), ("left over", extra), ("of another shape", shapes)),
        "load another model, or allow them: with new=[globs] where they are missing, with ignore=[globs] where "
        "they are left over, with both where the shape is another")


def _check_params(model: str, config: Config, wanted: Mapping[str, tensors.Tensor],
                  params: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises with all parameters that are missing, left over or of another shape."""
    layers = names.depth(config)
    shapes = {(slot.module, slot.leaf): tensor.part if slot.layer is None else (layers, *tensor.part)
              for tensor in wanted.values() for slot in tensor.slots}
    found = {(module, leaf): np.shape(x) for module, leaves in params.items() for leaf, x in leaves.items()}
    name = "/".join
    _complain(f"save_pretrained: the parameters are not those of {model} with this configuration", (
        ("missing", [name(key) for key in shapes if key not in found]),
        ("left over", [name(key) for key in found if key not in shapes]),
        ("of another shape", [f"{name(key)} {found[key]}, where {shape} is wanted"
                              for key, shape in shapes.items() if found.get(key, shape) != shape])),
        "give those that the model's init made, and its configuration")


def _complain(what: str, lists: Iterable[tuple[str, Sequence[str]]], remedy: str) -> None:
    said = [f"{kind}: {', '.join(keys[:_SHOWN])}" + f" and {len(keys) - _SHOWN} more" * (len(keys) > _SHOWN)
            for kind, keys in lists if keys]
    if said:
        raise MupError(f"{what}: {'; '.join(said)}; {remedy}")
