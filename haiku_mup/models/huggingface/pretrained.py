"""`load_pretrained` and `save_pretrained`: checkpoints in the layout of Hugging Face's transformers."""
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import haiku as hk
import numpy as np

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.models import config_json
from haiku_mup.models.config import Config
from haiku_mup.models.huggingface.folding import fold_multipliers
from haiku_mup.models.huggingface.names import ARCHITECTURES, Architecture, default_name, num_blocks
from haiku_mup.models.huggingface.other_files import read_other_files, write_other_files
from haiku_mup.models.huggingface.safetensors_files import (
    FILE,
    read_state_dict,
    remove_shards,
    write_state_dict,
)
from haiku_mup.models.huggingface.tensors import (
    Layout,
    Params,
    params_from_state_dict,
    state_dict_from_params,
    state_dict_layout,
)
from haiku_mup.mup import Mup
from haiku_mup.parameters.globs import matching
from haiku_mup.serialization.atomic_folders import replaced_together
from haiku_mup.tracing.unwrapped import has_multipliers

_SHOWN = 8      # names in an error


def load_pretrained(path: str | os.PathLike[str], model: type[hk.Module] | None = None, *,
                    layer_stack: bool = False, ignore: Sequence[str] = (), new: Sequence[str] = (),
                    name: str | None = None) -> tuple[Any, Params]:
    """Loads a configuration and parameters from a checkpoint's folder; needs the extra `safetensors`.

    Pickles are not read. What changes nothing here is kept in the configuration, for `save_pretrained`: fields
    of config.json as `other_fields`; generation_config.json and the tokenizer's files (tokenizer.json,
    tokenizer.model, vocab.json, … and chat templates) as `other_files`.

    Args:
      path: a folder with config.json and model.safetensors, or with the shards that an index lists.
      model: the class of a model here; by default the one that config.json names.
      layer_stack: whether the model has its blocks in a `layer_stack`.
      ignore: globs over names of tensors to leave out.
      new: globs over names of tensors that may be missing; take these parameters from the model's init.
      name: the model's name in the tree of parameters, if it isn't the default one.

    Returns:
      A configuration, and the parameters of `model(configuration)`.

    Raises:
      MupError: no such folder, or no weights in it; another architecture; tensors that are missing, left over,
        or of another shape, all in one error.

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
        raise MupError(f"{folder}: {what}; give a directory with config.json and {FILE}, as "
                       "`hf download NAME --local-dir FOLDER` makes it of a published model's name")
    values = config_json.read_json(folder)
    architecture = _architecture(values, str(folder))
    model = model or _named_model(architecture, values, str(folder))
    if model not in architecture.model_classes.values():
        raise MupError(f"{folder}: model_type is {values['model_type']!r}, and {model.__name__} is none of "
                       f"its models: {', '.join(architecture.model_classes)}")
    config = config_json.from_values(architecture.config_class, {**values, "layer_stack": layer_stack},
                                     str(folder / "config.json"))
    config = dataclasses.replace(config, other_files=read_other_files(folder))
    layout = state_dict_layout(architecture, config, model, name or default_name(model))
    state_dict = read_state_dict(folder, architecture, config, layout, ignore)
    _check_state_dict(f"{folder}: {model.__name__}", layout, state_dict, new)
    return config, params_from_state_dict(layout, state_dict)


def save_pretrained(path: str | os.PathLike[str], config: Config, params: Mapping[str, Mapping[str, Any]], *,
                    mup: Mup | None = None, model: type[hk.Module] | None = None, name: str | None = None,
                    ) -> None:
    """Writes a folder that `load_pretrained` and transformers' from_pretrained read; needs `safetensors`.

    Other programs know nothing of μP's multipliers, attn_mult and output_mult. These go into the weights (of
    queries, readouts, or the norm before a tied readout), so that all programs compute the same. To continue
    training in μP, save the parameters themselves, in a checkpoint of your own.

    The configuration's `other_fields` and `other_files` are written, too. A tokenizer's file or a
    generation_config.json that is in the folder already stays as it is. All files are replaced together: if
    writing fails, the folder stays as it was.

    Args:
      path: the folder, created if needed; config.json and the weights in it are replaced.
      config: the configuration.
      params: the parameters of one of the models here.
      mup: the wrapped model's Mup. Without it, its multipliers are lost; if this process didn't capture the
        model, nothing can warn of that.
      model: the class of the model; found from the parameters' names if these are the default ones.
      name: the model's name in the tree of parameters, if it isn't the default one.

    Raises:
      MupError: parameters that are of no model here or don't fit the configuration; multipliers that weights
        can't take, such as those of other forms than `maximal_update()`.

    Warns:
      MupWarning: no Mup, and the latest target in this process with these parameters has multipliers.

    >>> import os, tempfile
    >>> config = models.BertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, num_hidden_layers=2)
    >>> model = hk.transform(lambda ids: models.BertForMaskedLM(config)(ids))
    >>> params = jax.jit(model.init)(jax.random.PRNGKey(0), jnp.ones((2, 3), int))
    >>> folder = tempfile.mkdtemp()
    >>> models.save_pretrained(folder, config, params)
    >>> sorted(os.listdir(folder))
    ['config.json', 'model.safetensors']
    """
    architecture = ARCHITECTURES[config.model_type]
    model, root = _model_of_params(architecture, params, model, name)
    layout = state_dict_layout(architecture, config, model, root)
    _check_params(model.__name__, config, layout, params)
    shapes = {f"{module}/{leaf}": np.shape(x) for module in params for leaf, x in params[module].items()}
    if mup is None and has_multipliers(shapes):
        warnings.warn("save_pretrained: a target with just these parameters has multipliers, which other "
                      "programs know nothing of, and which are not in these weights; if they are that model's, "
                      "give its Mup: save_pretrained(..., mup=mup)", MupWarning, stacklevel=2)
    state_dict = state_dict_from_params(layout, fold_multipliers(architecture, config, params, root, mup))
    folder = pathlib.Path(path)
    plain = dataclasses.replace(config, attn_mult=1.0, output_mult=1.0, layer_stack=False, remat=False,
                                readout_zero_init=False, query_zero_init=False)
    values = {**config_json.to_values(plain), "architectures": [model.__name__], **_dtype(state_dict)}
    with replaced_together(folder) as staging:
        config_json.write_json(staging, values)
        write_state_dict(staging, _with_transformers_keys(state_dict, architecture, config, layout, root))
        write_other_files(staging, folder, plain)
    remove_shards(folder)


def _dtype(state_dict: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the field of config.json that tells the tensors' dtype, if they have one."""
    dtypes = {x.dtype.name for x in state_dict.values()}
    return {"dtype": dtypes.pop()} if len(dtypes) == 1 else {}


def _with_transformers_keys(state_dict: Mapping[str, np.ndarray], architecture: Architecture, config: Config,
                            layout: Layout, root: str) -> dict[str, np.ndarray]:
    """Adds the bare model's prefix and the copies, as transformers writes them."""
    found = dict(state_dict)
    for copy, original in architecture.ignored_keys.items():
        if original in found:               # of two that are tied, transformers writes this one
            found[copy] = found.pop(original) if config.tie_word_embeddings else found[original]
    prefix, base = architecture.base_model_prefix, f"{root}/{architecture.base_model_prefix}/"
    in_base = {key for key, tensor in layout.items() if tensor.slices[0].module.startswith(base)}
    return {f"{prefix}.{key}" if key in in_base else key: x for key, x in found.items()}


# --- which model ---

def _architecture(values: Mapping[str, Any], source: str) -> Architecture:
    """Returns the architecture of a config.json."""
    model_type = values.get("model_type")
    if model_type not in ARCHITECTURES:
        raise MupError(f"{source}: model_type is {model_type!r}; there are models here for "
                       f"{', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model_type]


def _named_model(architecture: Architecture, values: Mapping[str, Any], source: str) -> type[hk.Module]:
    """Returns the model that a config.json names."""
    name = (values.get("architectures") or [None])[0]
    if name not in architecture.model_classes:
        raise MupError(f"{source}: config.json names the model {name!r}; say which to load: "
                       + ", ".join(f"models.{known}" for known in architecture.model_classes))
    return architecture.model_classes[name]


def _model_of_params(architecture: Architecture, params: Mapping[str, Any], model: type[hk.Module] | None,
                     name: str | None) -> tuple[type[hk.Module], str]:
    """Returns the model that the parameters are of, and its name in their tree."""
    if model is None:
        by_name = {default_name(known): known for known in architecture.model_classes.values()}
        roots = {module.partition("/")[0] for module in params}
        matches = roots & by_name.keys() if name is None else set()
        if len(matches) != 1:
            raise MupError(f"save_pretrained: parameters of {', '.join(sorted(roots)[:_SHOWN])}, where one of "
                           f"{', '.join(by_name)} is to be; say which model they are of, and its name: "
                           f"model=models.{next(iter(architecture.model_classes))}, name='my_model'")
        model = by_name[matches.pop()]
    return model, name or default_name(model)


# --- does it fit? ---

def _check_state_dict(source: str, layout: Layout, state_dict: Mapping[str, np.ndarray],
                      new: Sequence[str]) -> None:
    """Raises MupError with all tensors that are missing, left over or of another shape."""
    missing = [key for key in layout if key not in state_dict and not matching(key, new)]
    left_over = [key for key in state_dict if key not in layout]
    shapes = [f"{key} {state_dict[key].shape}, where {layout[key].shape} is wanted" for key in layout
              if key in state_dict and state_dict[key].shape != layout[key].shape]
    _raise_misfits(f"{source} does not fit the tensors", missing, left_over, shapes,
                   "load another model, or allow them: with new=[globs] where they are missing, with "
                   "ignore=[globs] where they are left over, with both where the shape is another")


def _check_params(model: str, config: Config, layout: Layout, params: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises MupError with all parameters that are missing, left over or of another shape."""
    layers = num_blocks(config)
    wanted = {f"{part.module}/{part.leaf}":
              tensor.slice_shape if part.layer_idx is None else (layers, *tensor.slice_shape)
              for tensor in layout.values() for part in tensor.slices}
    given = {f"{module}/{leaf}": np.shape(x) for module, leaves in params.items() for leaf, x in leaves.items()}
    shapes = [f"{name} {given[name]}, where {shape} is wanted" for name, shape in wanted.items()
              if given.get(name, shape) != shape]
    missing = [name for name in wanted if name not in given]
    left_over = [name for name in given if name not in wanted]
    _raise_misfits(f"save_pretrained: the parameters are not those of {model} with this configuration", missing,
                   left_over, shapes, "give those that the model's init made, and its configuration")


def _raise_misfits(what: str, missing: Sequence[str], left_over: Sequence[str], shapes: Sequence[str],
                   remedy: str) -> None:
    """Raises MupError with the names, unless there are none."""
    lists: Iterable[tuple[str, Sequence[str]]] = (
        ("missing", missing), ("left over", left_over), ("of another shape", shapes))
    texts = [f"{kind}: {', '.join(names[:_SHOWN])}" + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
             for kind, names in lists if names]
    if texts:
        raise MupError(f"{what}: {'; '.join(texts)}; {remedy}")
