"""The place where a parameter is made: the layer_stacks and the branches of `residual` around it."""
from typing import NamedTuple


class Stack(NamedTuple):
    """A layer_stack around a line of a model.

    Attributes:
      prefix: the prefix of its parameters' names, as far as the transform around it knows.
      layers: the number of its layers.
      transparent: whether each layer's parameters have names of their own.
    """

    prefix: str
    layers: int
    transparent: bool


class Site(NamedTuple):
    """A place in a model's code, identified by facts that are known at init and at apply.

    Attributes:
      module: the name of the current module, without the prefix of a lift.
      stacks: the layer_stacks around, outermost first.
    """

    module: str
    stacks: tuple[Stack, ...]


class Branch(NamedTuple):
    """A branch of `haiku_mup.residual` that is being computed.

    Attributes:
      site: the place that called `residual`.
      path: the name of the module that called it in the parameter tree; known at init.
      outer: the branch around it, if any.
    """

    site: Site
    path: str
    outer: "Branch | None"


class Place(NamedTuple):
    """The place where a parameter was made.

    Attributes:
      module: the name of its module in the parameter tree; in a transparent layer_stack, the first layer's.
      varied: the parts of that name, between slashes, in which the layers of transparent stacks differ.
      stacks: the layer_stacks around it, outermost first.
      branch: the branch that made it, if any.
    """

    module: str
    varied: tuple[int, ...]
    stacks: tuple[Stack, ...]
    branch: Branch | None
