"""Rotary position embeddings (Su et al., arXiv 2104.09864), with transformers' settings."""
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError

# Settings of each type beside rope_type and rope_theta: those that must be given, and those that may be.
_SETTINGS: Mapping[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
    "yarn": ({"factor", "original_max_position_embeddings"},
             {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}),
}
_DEFAULT_THETA = 10000.0


class RopeParameters(Mapping[str, Any]):
    """Settings of rotary position embeddings, by transformers' names; hashable, and not to be changed.

    >>> config = models.LlamaConfig(rope_theta=500000.0, rope_scaling={"type": "linear", "factor": 2.0})
    >>> dict(config.rope_parameters)
    {'factor': 2.0, 'rope_theta': 500000.0, 'rope_type': 'linear'}
    """

    def __init__(self, settings: Mapping[str, Any]):
        self._settings = dict(sorted(settings.items()))

    def __getitem__(self, name: str) -> Any:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __hash__(self) -> int:
        return hash((self.get("rope_type"), self.get("rope_theta")))     # values may be lists

    def __repr__(self) -> str:
        return repr(self._settings)


def parse_rope(parameters: Mapping[str, Any] | None, theta: float | None, scaling: Mapping[str, Any] | None,
               max_position_embeddings: int, original_max_position_embeddings: int | None = None,
               ) -> RopeParameters:
    """Returns the settings that a configuration gives in either form.

    Args:
      parameters: `rope_parameters`, as transformers 5 writes them; None for none.
      theta: `rope_theta`, of earlier versions. It replaces that of `parameters` only if these have been parsed.
      scaling: `rope_scaling`, of earlier versions; None for none.
      max_position_embeddings: the default of `original_max_position_embeddings`.
      original_max_position_embeddings: one that is given beside the settings; None for none.

    Raises:
      MupError: a type that the models here don't implement; settings that are missing, unknown or invalid;
        two forms that contradict each other.
    """
    parsed = isinstance(parameters, RopeParameters)
    given = _settings("rope_parameters", parameters) | _settings("rope_scaling", scaling)
    if scaling is not None and parameters is not None:
        old, new = ({name: value for name, value in _settings("", form).items() if name != "rope_theta"}
                    for form in (scaling, parameters))
        if not parsed and old != new:
            raise MupError(f"rope_scaling={dict(scaling)!r} and rope_parameters={dict(parameters)!r} "
                           "contradict each other; give one of them")
        given = old | {name: given[name] for name in given if name == "rope_theta"}
    if theta is not None and (parsed or "rope_theta" not in given):
        given["rope_theta"] = theta
    if given.get("rope_theta") is None:
        given["rope_theta"] = _DEFAULT_THETA
    given.setdefault("rope_type", "default")
    if "original_max_position_embeddings" in _SETTINGS.get(given["rope_type"], [()])[0]:
        beside = original_max_position_embeddings
        length = given.setdefault("original_max_position_embeddings", beside or max_position_embeddings)
        if beside is not None and beside != length:         # versions of transformers differ in what they take
            raise MupError(f"original_max_position_embeddings is {length} in the settings of rope, and "
                           f"{beside} beside them; give one of them")
    _check(given)
    return RopeParameters(given)


def _settings(field: str, form: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings of one form that are given, with the type as `rope_type`.

    Raises:
      MupError: no mapping; settings for each type of layer.
    """
    if form is None:
        return {}
    if not isinstance(form, Mapping):
        raise MupError(f"{field}={form!r}: give a mapping, such as {{'rope_type': 'linear', 'factor': 2.0}}")
    found = {name: value for name, value in form.items() if value is not None}
    nested = [name for name, value in found.items() if isinstance(value, Mapping)]
    if nested:
        raise MupError(f"{field} has settings for {nested[0]!r}: the layers of these models share theirs; "
                       "take transformers' own model")
    old_name = found.pop("type", None)
    return {"rope_type": old_name} | found if old_name is not None else found


def _check(settings: Mapping[str, Any]) -> None:
    """Raises MupError for settings that can't be."""
    rope_type = settings["rope_type"]
    if rope_type not in _SETTINGS:
        raise MupError(f"rope_type={rope_type!r}: these models have {', '.join(_SETTINGS)}; take a checkpoint "
                       "with one of them, or transformers' own model")
    if settings.get("partial_rotary_factor", 1.0) != 1:
        raise MupError(f"partial_rotary_factor={settings['partial_rotary_factor']!r}: these models rotate all "
                       "dimensions of a head; take transformers' own model")
    required, optional = _SETTINGS[rope_type]
    missing = sorted(required - settings.keys())
    if missing:
        raise MupError(f"rope_type={rope_type!r} needs {missing[0]}; give it in rope_parameters, as published "
                       "with the model")
    elsewhere = set().union(*(names for both in _SETTINGS.values() for names in both)) - required - optional
    if elsewhere & settings.keys():
        raise MupError(f"rope_type={rope_type!r} has no {min(elsewhere & settings.keys())}; leave it out, or "
                       "give the rope_type that it belongs to")
    for name in ((required | optional) & settings.keys() | {"rope_theta"}) - {"truncate"}:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise MupError(f"rope_parameters: {name}={value!r}: give a number above 0")
    if rope_type == "llama3" and settings["high_freq_factor"] <= settings["low_freq_factor"]:
        raise MupError("rope_parameters: high_freq_factor is at most low_freq_factor; give a larger one")


# --- angles ---

def cos_and_sin(settings: RopeParameters, size: int, positions: jax.Array, max_position_embeddings: int,
                dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of the angles at positions [..., T], both [..., T, size / 2].

    Args:
      settings: of the configuration.
      size: of a head.
      positions: whole numbers.
      max_position_embeddings: the length up to which `dynamic` changes nothing.
      dtype: of the result; angles are computed in single precision at least.
    """
    precise = jnp.promote_types(dtype, jnp.float32)
    if settings["rope_type"] == "dynamic":
        frequencies = _dynamic_frequencies(settings, size, positions, max_position_embeddings, precise)
    else:
        frequencies = jnp.asarray(_FREQUENCIES[settings["rope_type"]](settings, size), precise)
    angles = jnp.expand_dims(positions, -1) * frequencies.reshape((1,) * positions.ndim + (-1,))
    scale = _attention_factor(settings)
    return (jnp.cos(angles) * scale).astype(dtype), (jnp.sin(angles) * scale).astype(dtype)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates pairs of entries of x [..., T, H, size], the i-th of each half, by angles [..., T, size / 2]."""
    a, b = jnp.split(x, 2, -1)
    cos, sin = (jnp.expand_dims(y, -2) for y in (cos, sin))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _default(settings: Mapping[str, Any], size: int) -> np.ndarray:
    """Returns the frequencies θ^(-2i / size)."""
    return np.asarray(settings["rope_theta"] ** -(np.arange(0, size, 2) / size))


def _linear(settings: Mapping[str, Any], size: int) -> np.ndarray:
    """Returns lower frequencies, as if positions were divided by the factor (arXiv 2306.15595)."""
    return np.asarray(_default(settings, size) / settings["factor"])


def _llama3(settings: Mapping[str, Any], size: int) -> np.ndarray:
    """Returns frequencies of which low ones are divided, and middle ones interpolated (arXiv 2407.21783)."""
    frequencies = _default(settings, size)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    turns = settings["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(frequencies * (kept + (1 - kept) / settings["factor"]))


def _yarn(settings: Mapping[str, Any], size: int) -> np.ndarray:
    """Returns frequencies interpolated between kept and divided ones, by dimension (arXiv 2309.00071)."""
    def dimension(turns: float) -> float:
        """Returns the dimension whose frequency makes so many turns over the original length."""
        length, theta = settings["original_max_position_embeddings"], settings["rope_theta"]
        return size * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = dimension(settings.get("beta_fast") or 32), dimension(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    divided = np.clip((np.arange(size // 2) - low) / (high - low or 0.001), 0, 1)
    frequencies = _default(settings, size)
    return np.asarray(frequencies * (1 - divided + divided / settings["factor"]))


_FREQUENCIES: Mapping[str, Callable[[Mapping[str, Any], int], np.ndarray]] = {
    "default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}


def _dynamic_frequencies(settings: Mapping[str, Any], size: int, positions: jax.Array, max_length: int,
                         dtype: Any) -> jax.Array:
    """Returns the frequencies of a larger θ for sequences that are longer than `max_length`.

    They depend on this input alone. transformers' model keeps those of the longest input it was given.
    """
    length = jnp.maximum(jnp.max(positions) + 1, max_length).astype(dtype)
    stretch = settings["factor"] * length / max_length - (settings["factor"] - 1)
    theta = settings["rope_theta"] * stretch**(size / (size - 2))
    return jnp.asarray(theta ** -jnp.asarray(np.arange(0, size, 2) / size, dtype))


def _attention_factor(settings: Mapping[str, Any]) -> float:
    """Returns the factor of queries and keys, which only `yarn` has (arXiv 2309.00071, equation 22)."""
    if settings["rope_type"] != "yarn":
        return 1.0
    if "attention_factor" in settings:
        return float(settings["attention_factor"])

    def factor(mscale: float) -> float:
        return 0.1 * mscale * math.log(settings["factor"]) + 1 if settings["factor"] > 1 else 1.0

    if "mscale" in settings and "mscale_all_dim" in settings:
        return factor(settings["mscale"]) / factor(settings["mscale_all_dim"])
    return factor(1.0)
