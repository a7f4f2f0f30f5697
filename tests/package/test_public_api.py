"""Every documented name of version 0.2.0 is there, and can be called as it could be."""
import json
import pathlib
import runpy

import pytest

HERE = pathlib.Path(__file__).parent
described = runpy.run_path(str(HERE / "public_api.py"))["described"]
BEFORE = json.loads((HERE / "api_0_2_0.json").read_text(encoding="utf-8"))
INTERNAL = {        # never documented
    "haiku_mup.ConvReadout.mup_layers", "haiku_mup.Readout.mup_layers", "haiku_mup.SharedEmbed.mup_layers",
    "haiku_mup.MultiHeadAttention.mup_attention", "haiku_mup.MupError.about", "haiku_mup.Row.of",
}


# {name: why its arguments may be others}
ACCEPTED = {
    "haiku_mup.Training": "haiku_mup.training makes it",
    "haiku_mup.rules.Row": "by name alone, as all documentation has it",
    **{f"haiku_mup.optimizer_rules.{rule}": "its one argument has another name"
       for rule in ("adam", "any_entrywise", "by_norm", "by_norm_or_not", "momo", "momo_adam", "muon",
                    "novograd", "sgd", "scales")},
}


def broken(before, now, accepted=()):
    """Returns a line for each name that is gone, or takes other arguments."""
    found = []
    for name, was in before.items():
        if name not in now:
            found.append(f"{name} is gone")
        elif isinstance(was, list) and name not in accepted:
            found += [f"{name}: {text}" for text in other_arguments(was, now[name])]
    return found


def other_arguments(before, now):
    """Yields what keeps a call from working that worked before."""
    if not isinstance(now, list):
        yield "can't be called"
        return
    places = {name: (place, kind, default) for place, (name, kind, default) in enumerate(now)}
    stars = {kind for _, kind, _ in now}
    for place, (name, kind, default) in enumerate(before):
        if name not in places and "**" in stars and ("*" in stars or kind == "keyword"):
            continue
        if name not in places:
            yield f"no {name}"
        elif kind != "keyword" and places[name][:2] != (place, kind):
            yield f"{name} is at another place, or by keyword alone"
        elif places[name][2] != default:
            yield f"{name}={places[name][2]}, which was {default}"
    known = {name for name, _, _ in before}
    for name, kind, default in now:
        if name not in known and default == "required" and not kind.startswith("*"):
            yield f"{name} is required"


def test_every_name_of_version_0_2_0_works():
    before = {name: was for name, was in BEFORE.items() if name not in INTERNAL}
    assert len(before) > 300 and broken(before, described(), ACCEPTED) == []


@pytest.mark.parametrize("now, text", [
    ({}, "f is gone"), ({"f": "value"}, "f: can't be called"),
    ({"f": [["x", "any", "required"]]}, "f: no y"),
    ({"f": [["y", "any", "1"], ["x", "any", "required"], ["z", "keyword", "2"]]}, "f: x is at another place"),
    ({"f": [["x", "any", "required"], ["y", "keyword", "1"], ["z", "keyword", "2"]]},
     "f: y is at another place, or by keyword alone"),
    ({"f": [["x", "any", "required"], ["y", "any", "1"], ["z", "keyword", "3"]]}, "f: z=3, which was 2"),
    ({"f": [["x", "any", "required"], ["y", "any", "1"], ["z", "keyword", "2"], ["w", "any", "required"]]},
     "f: w is required")])
def test_what_breaks_a_program_is_found(now, text):
    before = {"f": [["x", "any", "required"], ["y", "any", "1"], ["z", "keyword", "2"]]}
    assert broken(before, before) == [] and broken(before, now)[0].startswith(text)
    assert broken(before, {"f": [["args", "*", "required"], ["kwargs", "**", "required"]]}) == []
    more = {"f": [["x", "any", "required"], ["y", "any", "1"], ["z", "any", "2"], ["w", "any", "None"]]}
    assert broken(before, more) == []
