"""The captured base as plain values and as a JSON file. Decoding checks every value."""
import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.fans import Fans, FanWord, FiniteAxes, parse_finite
from haiku_mup.parameters.globs import parse_multipliers
from haiku_mup.parameters.haiku_layers import LayerKind
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.record import CapturedBase, Record
from haiku_mup.rules import ROLES, Parametrization, Power, RoleExponents
from haiku_mup.rules.run_scale import RunScale
from haiku_mup.serialization import atomic_files

FORMAT, VERSION = "haiku_mup base", 1
EXPONENTS = ("init", "forward", "sgd", "adam", "eps", "gradient", "stored")     # a role's list in a file
MULTS = ("init_mults", "lr_mults")      # only if there are any, so that other files are as in earlier versions
MAX_BYTES = 2**26       # of a file: at 200 a parameter, 300,000 parameters fit
# From an entry of the state, and what is wrong with it.
MakeError: TypeAlias = Callable[[str, str], MupError]


# --- encoding ---

def encode(base: CapturedBase, declared: Declarations) -> dict[str, Any]:
    """Returns dicts, lists, strings, numbers and None. The head and each parameter have a checksum."""
    head = {
        "format": FORMAT, "version": VERSION,
        "fans": {glob: _encode_fans(fans) for glob, fans in declared.fans.items()},
        "readouts": list(declared.readouts),
        "parametrization": _encode_parametrization(declared.parametrization),
    } | {key: dict(getattr(declared, key)) for key in MULTS if getattr(declared, key)}
    if declared.finite:
        head["finite"] = {glob: axes.value if isinstance(axes, FanWord) else list(axes)
                          for glob, axes in declared.finite.items()}
    if declared.tied:
        head["tied"] = list(declared.tied)
    if declared.run_scale is not None:
        head["run_scale"] = dataclasses.asdict(declared.run_scale) | {
            "betas": str(declared.run_scale.betas)}
    parameters, drawn = ({name: with_checksum(_encode_record(record)) for name, record in each.items()}
                         for each in (base.records, base.states))
    if drawn:
        head["states"] = drawn
    if base.branch_calls:
        head["branch_calls"] = dict(base.branch_calls)
    if any(record.of_tree for record in base.records.values()):
        head["tree"] = True             # of haiku_mup.plan
    return with_checksum(head | {"names": list(parameters)}) | {"parameters": parameters}


def _encode_record(record: Record) -> dict[str, Any]:
    """Returns the values of a record. Blocks of rows are called "parts" in files, as in version 0.2.0."""
    stacks = {"stacks": list(record.stacks)} if record.stacks else {}
    return stacks | {
        "leaf": record.leaf, "local": record.local, "shape": list(record.shape),
        "std": None if math.isnan(record.moments.std) else record.moments.std,
        "mean": None if math.isnan(record.moments.mean) else record.moments.mean,
        "drawn": record.moments.drawn, "error": record.moments.error,
        "fans": _encode_fans(record.fans), "known": record.fans.known,
        "layer": "" if record.layer is None else record.layer.value,
        "inexact": record.inexact, "key_size": record.key_size,
        "scaled_attention": record.scaled_attention, "parts": list(record.row_sizes),
        "delta": None if record.delta is None else list(record.delta),
        "delta_parts": list(record.delta_row_sizes),
    }


def _encode_parametrization(parametrization: Parametrization) -> dict[str, Any]:
    """Returns its fields, with a role's exponents as a list of powers in the order of `EXPONENTS`."""
    def plain(x: Any) -> Any:
        if isinstance(x, RoleExponents):
            return [plain(getattr(x, name)) for name in EXPONENTS]
        return list(x) if isinstance(x, Power) else x

    found = {field.name: plain(getattr(parametrization, field.name))
             for field in dataclasses.fields(parametrization)}
    return {name: x for name, x in found.items() if name not in _OPTIONAL or x != _OPTIONAL[name]}


def _encode_fans(fans: Fans) -> list[list[int]]:
    return [list(fans.fan_in), list(fans.fan_out), list(fans.lookup)]


def with_checksum(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values and their checksum."""
    return values | {"crc": _checksum(values)}


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


# --- decoding ---

def decode(state: Any, source: str) -> tuple[CapturedBase, Declarations]:
    """Returns the base, and the user's declarations.

    Args:
      state: what `encode` returned, or what JSON made of it.
      source: the name of the file, for errors.

    Raises:
      MupError: any value that `encode` doesn't make; it names the source and the entry.
    """
    def error(entry: str, text: str) -> MupError:
        return MupError(f"{source}: {entry}: {text}; save the base again: mup.save(path)")

    try:
        state = json.loads(json.dumps(state))           # tuples are lists from here on
    except (TypeError, ValueError, RecursionError):
        raise error("the file", "holds what JSON has no values for") from None
    state = _dict(state, "the file", error)
    _check_version(state, error)
    parameters = _dict(state.get("parameters"), "parameters", error)
    _check_checksum({key: value for key, value in state.items() if key != "parameters"}, "the head", error)
    names = _strings(state.get("names"), "names", error)
    if sorted(parameters) != sorted(names):
        raise error("parameters", "they are not those that were saved")
    declared = _decode_declarations(state, error)
    states, of_tree = _dict(state.get("states", {}), "states", error), bool(state.get("tree"))
    branch_calls = _dict(state.get("branch_calls", {}), "branch_calls", error)      # earlier files have none
    if not all(map(_int(1, 2**62), branch_calls.values())):
        raise error("branch_calls", f"numbers should be here, and {str(branch_calls)[:60]} is")
    return CapturedBase(
        {name: _decode_parameter(name, parameters[name], of_tree, error) for name in names},
        {name: _decode_parameter(name, values, False, error) for name, values in states.items()},
        branch_calls), declared


def _check_version(state: Mapping[str, Any], error: MakeError) -> None:
    if state.get("format") != FORMAT:
        raise error("format", f"{str(state.get('format'))[:40]!r} is not {FORMAT!r}")
    version = state.get("version")
    if version != VERSION or isinstance(version, bool):
        newer = ", but newer: upgrade haiku_mup" * (isinstance(version, int) and version > VERSION)
        raise error("version", f"{str(version)[:40]} is not {VERSION}{newer}")


def _check_checksum(values: Mapping[str, Any], entry: str, error: MakeError) -> None:
    rest = {key: value for key, value in values.items() if key != "crc"}
    if values.get("crc") != _checksum(rest):
        raise error(entry, "was changed since it was saved, or damaged")


def _decode_declarations(state: Mapping[str, Any], error: MakeError) -> Declarations:
    init_mults, lr_mults = (_decode_multipliers(key, state.get(key, {}), error) for key in MULTS)
    return Declarations(
        fans={glob: _decode_fans(axes, f"fans: {glob}", error)
              for glob, axes in _dict(state.get("fans"), "fans", error).items()},
        readouts=tuple(_strings(state.get("readouts"), "readouts", error)),
        finite=_decode_finite(state.get("finite", {}), error),
        tied=tuple(_strings(state.get("tied", []), "tied", error)),
        parametrization=_decode_parametrization(state.get("parametrization"), error),
        init_mults=init_mults, lr_mults=lr_mults,
        run_scale=_decode_run_scale(state.get("run_scale"), error))


def _decode_parameter(name: str, values: Any, of_tree: bool, error: MakeError) -> Record:
    entry = f"{name[:200]!r}"
    values = _dict(values, entry, error)
    _check_checksum(values, entry, error)
    values = {"stacks": []} | values                        # earlier files have none
    if set(values) != _KEYS:
        raise error(entry, f"keys {sorted(set(values) ^ _KEYS)[:5]} are missing or unknown")
    for key, is_valid in _VALID.items():
        if not is_valid(values[key]):
            raise error(entry, f"{key} is {str(values[key])[:60]}")
    if problem := _contradiction(name, values, of_tree):
        raise error(entry, problem)
    return _decode_record(name, values, of_tree)


def _contradiction(name: str, values: Mapping[str, Any], of_tree: bool) -> str | None:
    """Returns a contradiction between a parameter's values, each valid by itself; None if there is none."""
    shape, parts, delta, delta_parts = (values[key] for key in ("shape", "parts", "delta", "delta_parts"))
    rank, axes = len(shape), [axis for group in values["fans"] for axis in group]
    leaf = values["leaf"] if of_tree else "/" + values["leaf"]
    if not name.endswith(leaf) or not values["local"].endswith(leaf):
        return f"leaf is {values['leaf']!r}, which is not the end of the name"
    if any(axis >= rank for axis in axes) or len(set(axes)) < len(axes):
        return f"fans {values['fans']} don't fit shape {shape}"
    if delta is not None and len(delta) != rank:
        return f"delta {delta} and shape {shape} differ in rank"
    if parts and (not rank or sum(parts) != shape[0]):
        return f"parts {parts} don't add up to the rows of {shape}"
    if delta_parts and (delta is None or len(delta_parts) != len(parts)):
        return f"delta_parts is {delta_parts}"
    return None


def _decode_record(name: str, values: Mapping[str, Any], of_tree: bool) -> Record:
    fan_in, fan_out, lookup = map(tuple, values["fans"])
    std, mean = (math.nan if values[key] is None else float(values[key]) for key in ("std", "mean"))
    return Record(
        name=name, leaf=values["leaf"], local=values["local"], shape=tuple(values["shape"]),
        moments=Moments(std, mean, values["drawn"], float(values["error"])),
        fans=Fans(fan_in, fan_out, values["known"], lookup),
        layer=LayerKind(values["layer"]) if values["layer"] else None,
        inexact=values["inexact"], key_size=values["key_size"],
        scaled_attention=values["scaled_attention"], row_sizes=tuple(values["parts"]),
        stacks=tuple(values["stacks"]),
        delta=None if values["delta"] is None else tuple(values["delta"]),
        delta_row_sizes=tuple(values["delta_parts"]), of_tree=of_tree)


def _decode_fans(x: Any, entry: str, error: MakeError) -> Fans:
    if not (isinstance(x, list) and len(x) == 3 and all(map(_int_list(-64, 63), x))):
        raise error(entry, f"{str(x)[:60]} are no axes")
    fan_in, fan_out, lookup = map(tuple, x)
    return Fans(fan_in, fan_out, lookup=lookup)


def _decode_parametrization(x: Any, error: MakeError) -> Parametrization:
    """Returns the parametrization. A role's exponents are a list of powers: lists of two numbers, or None."""
    entry = "parametrization"
    values = _EARLIER | _OPTIONAL | _dict(x, entry, error)
    if set(values) != {field.name for field in dataclasses.fields(Parametrization)}:
        raise error(entry, f"keys {sorted(values)} are not a parametrization's")
    try:
        exponents = {role: _decode_exponents(values[role]) for role in (*ROLES, "block")}
        if values["embedding"] is not None:
            exponents["embedding"] = _decode_exponents(values["embedding"])
        powers = {name: values[name] and Power._make(values[name]) for name in ("tied", "step_decay")}
        return Parametrization(**values | exponents | powers)
    except (TypeError, ValueError) as problem:
        raise error(entry, str(problem)[:200]) from None


def _decode_exponents(powers: Any) -> RoleExponents:
    return RoleExponents(**{name: power and Power._make(power)
                            for name, power in zip(EXPONENTS, powers, strict=True)})


def _decode_finite(x: Any, error: MakeError) -> dict[str, FiniteAxes]:
    try:
        return parse_finite(_dict(x, "finite", error))
    except MupError as problem:
        raise error("finite", str(problem)[:200]) from None


def _decode_run_scale(x: Any, error: MakeError) -> RunScale | None:
    """Returns the batch size and the length of a run; None in files that say nothing of them, as in 0.2.0."""
    if x is None:
        return None
    try:
        return RunScale(**_dict(x, "run_scale", error))
    except (MupError, TypeError) as problem:
        raise error("run_scale", str(problem)[:200]) from None


def _decode_multipliers(key: str, x: Any, error: MakeError) -> dict[str, float]:
    try:
        return parse_multipliers(key, _dict(x, key, error))
    except MupError as problem:
        raise error(key, str(problem)[:200]) from None


# --- checks of values ---

def _dict(x: Any, entry: str, error: MakeError) -> dict[str, Any]:
    if not isinstance(x, Mapping) or not all(isinstance(key, str) for key in x):
        raise error(entry, f"a mapping should be here, and {type(x).__name__} is")
    return dict(x)


def _strings(x: Any, entry: str, error: MakeError) -> list[str]:
    if not isinstance(x, list) or not all(isinstance(name, str) for name in x):
        raise error(entry, f"a list of names should be here, and {str(x)[:60]} is")
    return x


def _int(low: int, high: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _int_list(low: int, high: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, list) and len(x) <= 64 and all(map(_int(low, high), x))


def _is_size(x: Any) -> bool:
    return (isinstance(x, (int, float)) and not isinstance(x, bool)) and 0 <= x < math.inf


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, kind)


def _or_none(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: x is None or is_valid(x)


# Of files from before numbers of blocks could differ.
_EARLIER = {"depth_alpha": None, "block": [[0.0, 0.0]] * len(EXPONENTS)}
# In a file only where they differ from these, so that other files are as in earlier versions.
_OPTIONAL: dict[str, Any] = {"embedding": None, "step_decay": [0.0, 0.0]}
_SHAPE = _int_list(0, 2**62)
_VALID: dict[str, Callable[[Any], bool]] = {
    "leaf": _is(str), "local": _is(str), "shape": _SHAPE, "std": _or_none(_is_size), "mean": _or_none(_is_size),
    "drawn": _is(bool), "error": _is_size, "known": _is(bool), "layer": lambda x: x in ("", *LayerKind),
    "fans": lambda x: isinstance(x, list) and len(x) == 3 and all(map(_int_list(0, 63), x)),
    "inexact": _is(bool), "key_size": _or_none(_int(1, 2**62)), "scaled_attention": _is(bool),
    "parts": _SHAPE, "stacks": _SHAPE, "delta": _or_none(_SHAPE), "delta_parts": _SHAPE,
}
_KEYS = {*_VALID, "crc"}


# --- the file ---

def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes the state as a JSON file: all of it, or nothing."""
    atomic_files.write(path, json.dumps(state, indent=1, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str]) -> Any:
    """Returns the values of a JSON file of at most `MAX_BYTES`.

    Raises:
      MupError: no JSON, too much of it, or values that JSON doesn't have; it names the file.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise MupError(f"{name}: more than {MAX_BYTES} bytes; this is no file of Mup.save")
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise MupError(f"{name}: not readable as JSON ({type(error).__name__}: {str(error)[:200]}); it is "
                       "truncated, or no file of Mup.save; save the base again: mup.save(path)") from None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON's")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found
