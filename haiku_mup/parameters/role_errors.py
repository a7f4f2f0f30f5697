"""Errors for roles that a parameter can't have. Each names the code that declares what it may be."""
from collections.abc import Callable

from haiku_mup import rules
from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.haiku_layers import FLAX, NAMED, OUTPUTS, READOUT, TIED, vector
from haiku_mup.parameters.record import Record


def as_vector(target: Record) -> str:
    """Returns the code that declares a parameter to be a bias or a gain."""
    return target.declaration(vector(target.shape))


def as_finite(target: Record, axes: int | str) -> str:
    """Returns the code that declares axes of a parameter not to be widths."""
    return f"{target.call}(finite={{{target.name!r}: {axes!r}}})"


def check_role(target: Record, role: rules.Role, fans: Fans, error: Callable[[str], MupError]) -> None:
    """Raises for a role that the parameter's layer can't have.

    Args:
      target: the parameter.
      role: its role.
      fans: its fan axes, declared, known or guessed.
      error: makes an error about the parameter.

    Raises:
      MupError: a role that can't be right.
    """
    layer = target.layer
    if role != rules.FIXED and not target.inexact:
        raise error("an integer parameter can't grow with the width; keep it out of the parameters "
                    "(hk.get_state), or give it the same shape in both")
    if layer == TIED and role in (rules.HIDDEN, rules.OUTPUT):
        raise error("a tied table has one axis that is a width, and rows that are looked up; if its rows are "
                    f"its first axis, {target.declaration(Fans((), (1,), lookup=(0,)))}")
    if role == rules.OUTPUT and layer not in OUTPUTS:
        raise error(_leaf_is_output(target) if target.of_tree else
                    _LAYER_IS_OUTPUT if target.fans.known else _output_of_ones_own(target, fans))
    if role == rules.INPUT and target.makes_logits and layer != TIED:
        raise error(_attended(target, fans))
    if role == rules.HIDDEN and layer in (READOUT, NAMED):
        raise error(_hidden_readout(target))
    if role == rules.INPUT and layer == NAMED and (not target.fans.known or target.of_tree and fans.fan_in):
        raise error(_input_readout(target, fans))


def check_flax(base: Record, target: Record, error: Callable[[str], MupError]) -> None:
    """Raises for a parameter of Flax's that grows: its layer draws it, and hides how.

    Raises:
      MupError: base (or delta) and target differ in its shape.
    """
    if target.layer == FLAX and len({base.shape, base.delta or base.shape, target.shape}) > 1:
        raise error(_GROWING_FLAX)


_GROWING_FLAX = (
    "hk.experimental.flax.lift makes it, and it grows: Flax draws it, and Haiku knows neither its initializer "
    "nor its fans, so it can't be drawn in μP; write the layers that grow in Haiku, such as hk.Linear for "
    "flax.linen.Dense; Flax layers with the same shapes in base and target may stay")

_DELTA = ("if its other axis is a width, too, and only has one size in base and target, capture a third model "
          "that differs from the base in every width: `with mup.init_delta():`, before init_target")
# Without the parameter's name, so that one error names all parameters that it is about.
_LAYER_IS_OUTPUT = (
    "a layer from a growing to a fixed width is an output; make it haiku_mup.Readout or ConvReadout, or name "
    "it in Mup(readouts=...), or let its output grow, too; if its inputs are not a width, declare that in "
    f"Mup(finite=...); {_DELTA}")


def _leaf_is_output(target: Record) -> str:
    """Returns what to say of a tree's weight that is an output, and that nobody names as one."""
    return (f"a weight from a growing to a fixed width is an output; name it, {target.call}(readouts="
            f"{target.name!r}), or let its output grow, too; if it grows at other widths than these, give a "
            f"tree of one as delta; if its inputs are not a width, {as_finite(target, 'in')}")


def _output_of_ones_own(target: Record, fans: Fans) -> str:
    """Returns what to say of an output of unknown fans: each reading, with its code."""
    name, axis = target.name, fans.fan_in[0]
    rest = tuple(a for a in range(len(target.shape)) if a != axis)
    return ("no layer of Haiku's owns it, and if its axes are (in, out), it is an output, from a growing to a "
            f"fixed width. Declare what it is: an output, as haiku_mup.Readout is, Mup(readouts={name!r}); a "
            f"bias or a gain, {as_vector(target)}; a weight from the fixed to the growing width, "
            f"{target.declaration(Fans(rest, (axis,)))}; where axis {axis} is not a width, such as a number "
            f"of positions, {as_finite(target, axis)}. Or {_DELTA}")


def _hidden_readout(target: Record) -> str:
    glob = f"{target.in_tree}/*" if target.fans.known else target.name
    if target.of_tree:
        return ("a readout from a growing to a growing width is a hidden layer; take it out of haiku_mup.plan("
                "readouts=...), or, if its outputs are not a width, such as classes whose number differs "
                f"between base and target, {as_finite(target, 'out')}")
    return ("a Readout from a growing to a growing width is a hidden layer; make it hk.Linear or a plain "
            "convolution, or take it out of Mup(readouts=...); if its outputs are not a width, such as classes "
            "whose number differs between base and target, say so, as fans are declared: "
            f"Mup(finite={{{glob!r}: 'out'}})")


def _input_readout(target: Record, fans: Fans) -> str:
    rest = tuple(a for a in range(len(target.shape)) if a not in fans.fan_out)
    code = target.declaration(Fans(fans.fan_out, rest))
    return (f"it is named in {target.call}(readouts=...), and its fan-in doesn't grow if its axes are (in, "
            f"out); if it is (out, in), {code[:-1]}, readouts={target.name!r}); if it is looked up, too, "
            f"{target.call}(tied={target.name!r})")


def _attended(target: Record, fans: Fans) -> str:
    return (f"it is looked up, and makes logits, too (attend); name it, {target.call}(tied={target.name!r}), "
            f"and give what makes the logits plan.readout(x, {target.name!r}); or, if they are none, "
            f"{target.declaration(fans)}")
