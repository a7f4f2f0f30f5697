"""Describes the documented names of the library: `public_api.py > api_of_a_version.json`.

api_0_2_0.json was written so from version 0.2.0; test_public_api.py holds the library to it.
"""
import importlib
import inspect
import json

import haiku_mup
from haiku_mup import models

NAMES = {
    "haiku_mup": haiku_mup.__all__,
    "haiku_mup.models": models.__all__,
    "haiku_mup.rules": ["Factors", "Power", "Row"],
    "haiku_mup.optimizer_rules": ["Known", "Matrix", "RULES", "Scales", "adam", "any_entrywise", "by_norm",
                                  "by_norm_or_not", "momo", "momo_adam", "muon", "novograd", "scales", "sgd"],
    "haiku_mup.sweep": ["Curve", "Optimum", "curves", "drift", "setback"],
    "haiku_mup.plot": ["coordinates", "lr_transfer"],
    "haiku_mup.expectation": ["Range"],
    "haiku_mup.initializers": ["Initializer"],
}
KINDS = {inspect.Parameter.POSITIONAL_ONLY: "positional", inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
         inspect.Parameter.KEYWORD_ONLY: "keyword", inspect.Parameter.VAR_POSITIONAL: "*",
         inspect.Parameter.VAR_KEYWORD: "**"}
PLAIN = bool, int, float, str, type(None)


def described(names=NAMES):
    """Returns {dotted name: what it is}: parameters of functions and methods, "property", or "value"."""
    found = {}
    for module, inner in names.items():
        for name in inner:
            value = getattr(importlib.import_module(module), name)
            found[f"{module}.{name}"] = parameters(value)
            if inspect.isclass(value):
                found |= {f"{module}.{name}.{member}": kind for member, kind in members(value)}
    return found


def members(cls):
    """Yields (name, what it is) of a class's own public members, and of those that it has from the library."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("haiku_mup")]
    for name in sorted({name for base in own for name in (*vars(base), *inspect.get_annotations(base))}):
        if not name.startswith("_"):
            value = inspect.getattr_static(cls, name, None)
            is_method = isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value)
            yield name, parameters(getattr(cls, name)) if is_method else "property"


def parameters(value):
    """Returns [[name, kind, default], ...] of what can be called, "value" for the rest."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "value"
    return [[p.name, KINDS[p.kind], default(p.default)] for p in signature.parameters.values()]


def default(value):
    """Returns a plain default as it is written, "required" for none, "…" for one that isn't plain."""
    if value is inspect.Parameter.empty:
        return "required"
    return repr(value) if isinstance(value, PLAIN) else "…"


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(what, ensure_ascii=False)}"
             for name, what in described().items())
    print("{\n" + ",\n".join(lines) + "\n}")
