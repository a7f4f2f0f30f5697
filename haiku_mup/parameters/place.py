"""The place where a parameter is made: the layer_stacks and the branches of `residual` around it."""
from typing import NamedTuple


class Stack(NamedTuple):
    """A layer_stack around a line of a model.

    Attributes:
      prefix: what it puts before the names of its parameters, as far as the transform that it is in knows.
      layers: how many it has.
      transparent: whether its parameters have names of their own for each layer.
    """

    prefix: str
    layers: int
    transparent: bool


class Site(NamedTuple):
    """A place in a model's code, by what is known of it at init and at apply.

    Attributes:
      module: the name of the module that is current, without the prefix of a lift.
      stacks: the layer_stacks around, outermost first.
    """

    module: str
    stacks: tuple[Stack, ...]


class Branch(NamedTuple):
    """A branch of `haiku_mup.residual` that is being computed.

    Attributes:
      site: where it was called.
      path: the name in the tree of the module that called it; known at init.
      outer: the branch that it is in, if any.
    """

    site: Site
    path: str
    outer: "Branch | None"


class Place(NamedTuple):
    """Where a parameter was made.

    Attributes:
      module: the name of its module in the tree; of the first layer's, in a transparent layer_stack.
      varied: which parts of that name, between slashes, such stacks give each layer.
      stacks: the layer_stacks around.
      branch: the branch that it was made in, if any.
    """

    module: str
    varied: tuple[int, ...]
    stacks: tuple[Stack, ...]
    branch: Branch | None
