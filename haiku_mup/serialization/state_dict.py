"""What was captured of a base, as plain values and as a JSON file; and back, trusting nothing."""
import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.globs import parse_multipliers
from haiku_mup.parameters.haiku_layers import LayerKind
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.record import Record
from haiku_mup.rules import ROLES, Parametrization, Power, RoleExponents
from haiku_mup.serialization import atomic_files
from haiku_mup.tracing.capture import Declarations

FORMAT, VERSION = "haiku_mup base", 1
_EXPONENTS = ("init", "forward", "sgd", "adam", "eps", "gradient", "stored")    # a role's list in a file
MULTS = ("init_mults", "lr_mults")        # where there are any: files without them are as they were
LIMIT = 2**26       # bytes: of 200 a parameter, so that 300,000 parameters fit


# --- to plain values ---

def encode(records: Mapping[str, Record], declared: Declarations) -> dict[str, Any]:
    """Dicts, lists, strings, numbers and None; each parameter carries a checksum."""
    head = {
        "format": FORMAT, "version": VERSION,
        "fans": {glob: _axes(fans) for glob, fans in declared.fans.items()},
        "readouts": list(declared.readouts),
        "parametrization": _encode_parametrization(declared.parametrization),
    } | {key: dict(getattr(declared, key)) for key in MULTS if getattr(declared, key)}
    parameters = {name: _sealed(_encode(record)) for name, record in records.items()}
    return _sealed(head | {"names": list(parameters)}) | {"parameters": parameters}


def _encode(record: Record) -> dict[str, Any]:
    stacks = {"stacks": list(record.stacks)} if record.stacks else {}
    return stacks | {
        "leaf": record.leaf, "local": record.local, "shape": list(record.shape),
        "std": None if math.isnan(record.moments.std) else record.moments.std,
        "mean": None if math.isnan(record.moments.mean) else record.moments.mean,
        "drawn": record.moments.drawn, "error": record.moments.error,
        "fans": _axes(record.fans), "known": record.fans.known,
        "layer": "" if record.layer is None else record.layer.value,
        "inexact": record.inexact, "key_size": record.key_size,
        "scaled_attention": record.scaled_attention, "parts": list(record.row_sizes),
        "delta": None if record.delta is None else list(record.delta),
        "delta_parts": list(record.delta_row_sizes),
    }


def _encode_parametrization(parametrization: Parametrization) -> dict[str, Any]:
    """Returns its fields; a role's exponents as a list of powers, in the order of `_EXPONENTS`."""
    def plain(x: Any) -> Any:
        if isinstance(x, RoleExponents):
            return [plain(getattr(x, name)) for name in _EXPONENTS]
        return list(x) if isinstance(x, Power) else x

    return {field.name: plain(getattr(parametrization, field.name))
            for field in dataclasses.fields(parametrization)}


def _axes(fans: Fans) -> list[list[int]]:
    return [list(fans.fan_in), list(fans.fan_out), list(fans.lookup)]


def _sealed(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"crc": _crc(values)}


def _crc(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


# --- and back ---

def decode(state: Any, source: str) -> tuple[dict[str, Record], Declarations]:
    """The records and what the user declared.

    Raises:
      MupError: whatever `encode` doesn't make; it names the source and the entry.
    """
    def wrong(entry: str, what: str) -> MupError:
        return MupError(f"{source}: {entry}: {what}; save the base again: mup.save(path)")

    try:
        state = json.loads(json.dumps(state))           # tuples are lists from here on
    except (TypeError, ValueError, RecursionError):
        raise wrong("the file", "holds what JSON has no values for") from None
    state = _dict(state, "the file", wrong)
    if state.get("format") != FORMAT:
        raise wrong("format", f"{str(state.get('format'))[:40]!r} is not {FORMAT!r}")
    version = state.get("version")
    if version != VERSION or isinstance(version, bool):
        newer = ", but newer: upgrade haiku_mup" * (isinstance(version, int) and version > VERSION)
        raise wrong("version", f"{str(version)[:40]} is not {VERSION}{newer}")
    parameters = _dict(state.get("parameters"), "parameters", wrong)
    _check_seal({key: value for key, value in state.items() if key != "parameters"}, "the head", wrong)
    names = _strings(state.get("names"), "names", wrong)
    if sorted(parameters) != sorted(names):
        raise wrong("parameters", "they are not those that were saved")
    declared = Declarations(
        {glob: _fans(axes, f"fans: {glob}", wrong)
         for glob, axes in _dict(state.get("fans"), "fans", wrong).items()},
        tuple(_strings(state.get("readouts"), "readouts", wrong)), _rule(state.get("parametrization"), wrong),
        *(_mults(key, state.get(key, {}), wrong) for key in MULTS))
    return {name: _decode(name, parameters[name], wrong) for name in names}, declared


def _decode(name: str, values: Any, wrong: Callable[[str, str], MupError]) -> Record:
    entry = f"{name[:200]!r}"
    values = _dict(values, entry, wrong)
    _check_seal(values, entry, wrong)
    values = {"stacks": []} | values                        # earlier files have none
    if set(values) != _KEYS:
        raise wrong(entry, f"keys {sorted(set(values) ^ _KEYS)[:5]} are missing or unknown")
    return _record(name, values, lambda what: wrong(entry, what))


def _record(name: str, values: dict[str, Any], wrong: Callable[[str], MupError]) -> Record:
    for key, good in _GOOD.items():
        if not good(values[key]):
            raise wrong(f"{key} is {str(values[key])[:60]}")
    shape, rank = tuple(values["shape"]), len(values["shape"])
    fan_in, fan_out, lookup = map(tuple, values["fans"])
    every = [*fan_in, *fan_out, *lookup]
    if not name.endswith("/" + values["leaf"]) or not values["local"].endswith("/" + values["leaf"]):
        raise wrong(f"leaf is {values['leaf']!r}, which is not the end of the name")
    if any(axis >= rank for axis in every) or len(set(every)) < len(every):
        raise wrong(f"fans {values['fans']} don't fit shape {list(shape)}")
    if values["delta"] is not None and len(values["delta"]) != rank:
        raise wrong(f"delta {values['delta']} and shape {list(shape)} differ in rank")
    if values["parts"] and (not rank or sum(values["parts"]) != shape[0]):
        raise wrong(f"parts {values['parts']} don't add up to the rows of {list(shape)}")
    if values["delta_parts"] and (
            values["delta"] is None or len(values["delta_parts"]) != len(values["parts"])):
        raise wrong(f"delta_parts is {values['delta_parts']}")
    std, mean = (math.nan if values[key] is None else float(values[key]) for key in ("std", "mean"))
    return Record(
        name=name, leaf=values["leaf"], local=values["local"], shape=shape,
        moments=Moments(std, mean, values["drawn"], float(values["error"])),
        fans=Fans(fan_in, fan_out, values["known"], lookup),
        layer=LayerKind(values["layer"]) if values["layer"] else None,
        inexact=values["inexact"], key_size=values["key_size"],
        scaled_attention=values["scaled_attention"], row_sizes=tuple(values["parts"]),
        stacks=tuple(values["stacks"]),
        delta=None if values["delta"] is None else tuple(values["delta"]),
        delta_row_sizes=tuple(values["delta_parts"]))


def _check_seal(values: Mapping[str, Any], entry: str, wrong: Callable[[str, str], MupError]) -> None:
    rest = {key: value for key, value in values.items() if key != "crc"}
    if values.get("crc") != _crc(rest):
        raise wrong(entry, "was changed since it was saved, or damaged")


def _dict(x: Any, entry: str, wrong: Callable[[str, str], MupError]) -> dict[str, Any]:
    if not isinstance(x, Mapping) or not all(isinstance(key, str) for key in x):
        raise wrong(entry, f"a mapping should be here, and {type(x).__name__} is")
    return dict(x)


def _fans(x: Any, entry: str, wrong: Callable[[str, str], MupError]) -> Fans:
    if not (isinstance(x, list) and len(x) == 3 and all(map(_whole_list(-64, 63), x))):
        raise wrong(entry, f"{str(x)[:60]} are no axes")
    fan_in, fan_out, lookup = map(tuple, x)
    return Fans(fan_in, fan_out, lookup=lookup)


def _strings(x: Any, entry: str, wrong: Callable[[str, str], MupError]) -> list[str]:
    if not isinstance(x, list) or not all(isinstance(name, str) for name in x):
        raise wrong(entry, f"a list of names should be here, and {str(x)[:60]} is")
    return x


def _rule(x: Any, wrong: Callable[[str, str], MupError]) -> Parametrization:
    """The parametrization: rows are lists of powers, which are lists of two numbers, or None."""
    entry = "parametrization"
    values = _EARLIER | _dict(x, entry, wrong)
    if set(values) != {field.name for field in dataclasses.fields(Parametrization)}:
        raise wrong(entry, f"keys {sorted(values)} are not a parametrization's")
    try:
        rows = {role: RoleExponents(**{name: power and Power._make(power)
                                       for name, power in zip(_EXPONENTS, values[role], strict=True)})
                for role in (*ROLES, "block")}
        return Parametrization(**values | rows | {"tied": values["tied"] and Power._make(values["tied"])})
    except (TypeError, ValueError) as error:
        raise wrong(entry, str(error)[:200]) from None


def _mults(key: str, x: Any, wrong: Callable[[str, str], MupError]) -> dict[str, float]:
    try:
        return parse_multipliers(key, _dict(x, key, wrong))
    except MupError as error:
        raise wrong(key, str(error)[:200]) from None


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _whole_list(low: int, high: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, list) and len(x) <= 64 and all(map(_whole(low, high), x))


def _size(x: Any) -> bool:
    return (isinstance(x, (int, float)) and not isinstance(x, bool)) and 0 <= x < math.inf


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, kind)


def _or_none(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: x is None or good(x)


_EARLIER = {"depth_alpha": None, "block": [[0.0, 0.0]] * len(_EXPONENTS)}     # from before there was a depth
_SHAPE = _whole_list(0, 2**62)
_GOOD: dict[str, Callable[[Any], bool]] = {
    "leaf": _is(str), "local": _is(str), "shape": _SHAPE, "std": _or_none(_size), "mean": _or_none(_size),
    "drawn": _is(bool), "error": _size, "known": _is(bool), "layer": lambda x: x in ("", *LayerKind),
    "fans": lambda x: isinstance(x, list) and len(x) == 3 and all(map(_whole_list(0, 63), x)),
    "inexact": _is(bool), "key_size": _or_none(_whole(1, 2**62)), "scaled_attention": _is(bool),
    "parts": _SHAPE, "stacks": _SHAPE, "delta": _or_none(_SHAPE), "delta_parts": _SHAPE,
}
_KEYS = {*_GOOD, "crc"}


# --- the file ---

def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes the state as a JSON file: all of it, or nothing."""
    atomic_files.write(path, json.dumps(state, indent=1, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str]) -> Any:
    """The values of a JSON file, of at most `LIMIT` bytes.

    Raises:
      MupError: no JSON, too much of it, or values that JSON doesn't have; it names the file.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise MupError(f"{name}: more than {LIMIT} bytes; this is no file of Mup.save")
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise MupError(f"{name}: not readable as JSON ({type(error).__name__}: {str(error)[:200]}); it is "
                       "truncated, or no file of Mup.save") from None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON's")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found
