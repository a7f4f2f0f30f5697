"""Captures a network at three widths, with more and more of its declarations, beside its table by hand."""
import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax

import haiku_mup
from benchmarks.zoo.hand_table import Mistake, mistakes, parse
from benchmarks.zoo.network import Network


class Captured(NamedTuple):
    """A network, captured with some declarations.

    Attributes:
      declarations: arguments of `Mup`.
      error: what was raised, or "".
      told: the warnings.
      mistakes: where roles and factors differ from those by hand; none where there was an error.
      mup: of the captures.
    """

    declarations: Mapping[str, Any]
    error: str
    told: list[str]
    mistakes: list[Mistake]
    mup: haiku_mup.Mup


def make_model(network: Network, width: int) -> hk.TransformedWithState:
    """Returns the model of a width, in `apply_mup`."""
    function = network.make(width)

    def fn(*inputs):
        with haiku_mup.apply_mup():
            return function(*inputs)

    return hk.transform_with_state(fn)


def capture(network: Network, declarations: Mapping[str, Any]) -> Captured:
    """Captures base, delta and target by their shapes, and compares the target with the table."""
    mup, key, inputs, error, found = haiku_mup.Mup(**declarations), jax.random.key(0), network.inputs(), "", []
    with _warnings() as told:
        try:
            for context, width in zip((mup.init_base, mup.init_delta, mup.init_target), network.widths):
                with context():
                    jax.eval_shape(make_model(network, width).init, key, *inputs)
        except haiku_mup.MupError as raised:
            error = str(raised)
    if not error:
        found = mistakes(parse(network.table), mup.table(), network.widths[-1] / network.widths[0])
    return Captured(declarations, error, told, found, mup)


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects the library's warnings, as text; leaves others out."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told += [str(w.message) for w in caught if issubclass(w.category, haiku_mup.MupWarning)]


def stages(network: Network) -> list[Captured]:
    """Captures a network without declarations, with its readouts alone, and with all of them."""
    readouts = {key: value for key, value in network.declarations.items() if key == "readouts"}
    found: list[Captured] = []
    for declarations in ({}, readouts, network.declarations):
        if not found or declarations != found[-1].declarations:
            found.append(capture(network, declarations))
    return found


def guesses(found: list[Captured]) -> dict[str, list[str]]:
    """Returns the parameters that are wrong without declarations, by what the library makes of them.

    Args:
      found: the stages of a network, the last of them without an error.

    Returns:
      {"refused": named in an error, "told": wrong, and named in a warning, "quiet": wrong, and not named}, each
      parameter as in the first stage in which it is any of these.
    """
    names = {row.name for row in found[-1].mup.table()}
    classes: dict[str, list[str]] = {"refused": [], "told": [], "quiet": []}
    for stage in found[:-1]:
        here = {"refused": _named(stage.error, names), **mistaken(stage)}
        for how, which in here.items():
            classes[how] += which.difference(*classes.values())
    return {how: sorted(which) for how, which in classes.items()}


def mistaken(stage: Captured) -> dict[str, set[str]]:
    """Returns the parameters that are wrong in a stage, by whether a warning names them: "told" or "quiet"."""
    wrong = {mistake.name for mistake in stage.mistakes}
    told = set().union(*(_named(text, wrong) for text in stage.told))
    return {"told": told, "quiet": wrong - told}


def _named(text: str, names: set[str]) -> set[str]:
    """Returns which parameters a text names; a block of rows counts as its parameter."""
    return {name for name in names if f"'{_whole(name)}'" in text}


def _whole(name: str) -> str:
    """Returns the name of the parameter that a row of a table is of, or is a block of."""
    return name.partition("[")[0]
