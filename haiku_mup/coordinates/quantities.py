"""Names of the quantities that a coordinate check records, such as "activation mlp/linear" or "Δparam mlp/w".

A name is a kind, a space, and the name of a module or of a parameter. That of a model's output is the kind
alone, or the kind and a path: "output", "output.logits".
"""
import enum

CHANGE_MARK = "Δ"       # in front of a kind: how far it moved since initialization


class RecordKind(enum.StrEnum):
    """Kinds of arrays that are recorded in the forward pass.

    Attributes:
      ACTIVATION: what a module returns.
      LOGITS: what an attention's softmax gets, before any mask.
      PROBE: what the user gives to `haiku_mup.probe`.
      OUTPUT: what the model returns.
      MULTIPLIER: the factor between a linear layer's weight and the product that it returns.
    """

    ACTIVATION = "activation"
    LOGITS = "logits"
    PROBE = "probe"
    OUTPUT = "output"
    MULTIPLIER = "multiplier"


class ParameterKind(enum.StrEnum):
    """Kinds of quantities that are recorded of each parameter.

    Attributes:
      VALUE: the parameter itself.
      UPDATE: the difference that one update made.
      CHANGE: the difference from the initial value.
      RATE: what SGD's learning rate is: how large an update is beside its gradient.
      DECAY: the part of an update that is weight decay.
      GRADIENT: the loss's gradient, which only tells rounding noise, and is not judged.
      MOVED: the share of entries that an update moved, of those with a gradient; of numbers with less precision
        than float32, and not judged.
    """

    VALUE = "param"
    UPDATE = "update"
    CHANGE = f"{CHANGE_MARK}param"
    RATE = "rate"
    DECAY = "decay"
    GRADIENT = "gradient"
    MOVED = "moved"


def kind_of(quantity: str) -> str:
    """Returns the kind of a quantity; of an output with a path, the whole.

    >>> kind_of("Δparam mlp/w") == ParameterKind.CHANGE, kind_of("activation mlp")
    (True, 'activation')
    """
    return quantity.partition(" ")[0]


def title(module: str, suffix: str = "") -> str:
    """Returns the name of a module's array; "~" stands for the top level, where no module is.

    >>> title("mlp", "@1"), title("~", "/inputs")
    ('mlp@1', 'inputs')
    """
    return suffix.removeprefix("/") if module == "~" else module + suffix
