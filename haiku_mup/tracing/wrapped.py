"""The scope of a captured model in μP: it rescales draws, and tells layers their multipliers."""
from collections.abc import Hashable, Mapping

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import TIED, layer_type
from haiku_mup.parameters.initializers import Rescaled, known_moments
from haiku_mup.parameters.place import Branch, Site, Stack
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ForwardFactors, ParameterScaling
from haiku_mup.tracing import context
from haiku_mup.tracing.context import CreatedParameter
from haiku_mup.tracing.haiku_internals import check_home, leaf_name, stacks, stored_names


class FactorLookup:
    """What happens to parameters where they are used, by what a layer knows of them there."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[int, ...]], dict[tuple[Stack, ...], ForwardFactors]] = {}

    def add(self, record: Record, factors: ForwardFactors) -> ForwardFactors:
        """Takes one in; gives what is known of one that looks the same, or else itself."""
        around = record.place.stacks if record.place else ()
        return self._found.setdefault((record.local, record.shape), {}).setdefault(around, factors)

    def get(self, name: str, shape: tuple[int, ...]) -> ForwardFactors | None:
        """Of the parameter with this name (without a lift's prefix) and shape, in the stacks that are around.

        Raises:
          MupError: there are several, and none in these stacks.
        """
        found = self._found.get((name, shape), {})
        if len(set(found.values())) < 2:
            return next(iter(found.values()), None)
        if (around := stacks()) not in found:
            raise MupError.about(name, None, shape, "other layers have this name and shape, and this one was "
                                 "not captured where it is; capture the model that is wrapped")
        return found[around]

    def has(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether there is a parameter with this name and shape."""
        return (name, shape) in self._found

    def key(self) -> Hashable:
        """What is equal where all is."""
        return frozenset((*at, around, factors) for at, found in self._found.items()
                         for around, factors in found.items())


class WrappedModel:
    """A captured model in μP, for its init and its apply. Equal content is one key in JAX's caches.

    Args:
      entries: base beside target, by name.
      branches: the multiplier of each branch of haiku_mup.residual, relative to those that it is not in.
      plain: whether plain optimizers train it, which meet no check of what was captured.

    Raises:
      MupError: two layers that look alike from inside and have different multipliers.
    """

    transform_depth = 0     # its functions know where they run

    def __init__(self, entries: Mapping[str, ParameterScaling], branches: Mapping[Site, float],
                 plain: bool = False):
        self._draws = {name: (e.target.shape, e.draw, e.target.moments, e.target.stacks)
                       for name, e in entries.items()}
        self._branches = dict(branches)
        self.warned: set[str] = set()
        self._factors = FactorLookup()
        self._lifted_by_user = {(e.target.local, e.target.shape) for e in entries.values()
                                if e.target.lifted_by_user}
        self._plain = plain
        self._tied = {e.multiplier for e in entries.values() if e.target.layer == TIED}
        for entry in entries.values():
            if self._factors.add(entry.target, entry.forward_factors) != entry.forward_factors:
                raise MupError.about(entry.target.name, entry.base.shape, entry.target.shape, "another layer "
                                     "has this name and shape within its lift, and another multiplier; rename "
                                     "one")
        self._key: Hashable = self._factors.key(), *map(frozenset, (
            self._draws.items(), self._tied, self._branches.items(), self._lifted_by_user, {plain}))
        self._hash = hash(self._key)

    def __eq__(self, other):
        return isinstance(other, WrappedModel) and self._key == other._key

    def __hash__(self):
        return self._hash

    def create(self, next_creator, shape, dtype, init, context_, enclosing):
        names, shape_ = stored_names(context_), tuple(map(int, context_.original_shape))
        name = names[0]
        known, draw, moments_, layers = self._draws.get(name, (None, 1.0, None, None))
        value, now = None, known_moments(init, shape_)
        try:
            if layer_type(context_.module).kinds.get(leaf_name(context_)) == TIED:
                check_home(name, context_.module)
        except MupError as error:
            value = error
        if known != shape_:
            value, draw = MupError.about(name, None, shape_, "not captured in init_target"
                                         + f", which saw {known}" * (known is not None)
                                         + "; capture the model that is wrapped"), 1.0
        elif now and moments_ and abs(now.std - moments_.std) > 1e-6 * now.std:
            value = MupError.about(name, None, shape_, f"the initializer's std is {now.std:.3g}, and "
                                   f"init_target saw {moments_.std:.3g}; capture the model that is wrapped")
        elif layers != (found := tuple(stack.layers for stack in stacks() if not stack.transparent)):
            value = MupError.about(name, None, shape_, f"it is in stacks of {found} layers, and init_target "
                                   f"saw {layers}; capture the model that is wrapped")
        array, value = make(next_creator, shape, dtype, init, draw, name, value, self.warned)
        return array, CreatedParameter(names, leaf_name(context_), array, value)

    def keep(self, created: CreatedParameter) -> None:
        """All is known already."""

    def branch(self, branch: Branch) -> float:
        if branch.site not in self._branches:
            if set(self._branches.values()) <= {1.0}:
                return 1.0
            raise MupError(f"{branch.path!r}: this haiku_mup.residual was not captured in init_target, or with "
                           "other numbers of layers; capture the model that is wrapped")
        outer = self._branches.get(branch.outer.site, 1.0) if branch.outer else 1.0
        return self._branches[branch.site] / outer

    def forward_factors(self, name: str, shape: tuple[int, ...]) -> ForwardFactors:
        return self._factors.get(name, shape) or ForwardFactors()

    @property
    def lifts(self) -> bool:
        return bool(self._lifted_by_user)

    def lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        return (name, shape) in self._lifted_by_user

    def stray(self, name: str, shape: tuple[int, ...]) -> str:
        if not self._plain or self._factors.has(name, shape):
            return ""
        return str(MupError.about(name, None, shape, "not captured in init_target, and so not in μP, where no "
                                  "wrapped optimizer would say so; make it inside apply_mup()"))

    def matrix_read(self, context_) -> None:
        """Said as the target was captured."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        factors = self._factors.get(name, shape)
        if factors is None:
            raise MupError.about(name, None, shape, "this layer was not captured with this shape; put it "
                                 "inside apply_mup(), and capture base and target again")
        return factors.multiplier

    def tied_multiplier(self) -> float:
        return one_tied(self._tied)


def one_tied(values: set[float]) -> float:
    """The multiplier of the one SharedEmbed that there is."""
    if not values:
        raise MupError("a SharedReadout has no SharedEmbed: make the embedding a haiku_mup.SharedEmbed, "
                       "inside apply_mup() and before the readout")
    if len(values) > 1:
        raise MupError("a SharedReadout was given an array, and the SharedEmbeds of this model grow by "
                       "different ratios; give it the SharedEmbed itself: SharedReadout()(embed, x)")
    return next(iter(values))


def make(next_creator, shape, dtype, init, draw, name, value, warned):
    """The parameter, rescaled; loud where another creator took the rescaled draw away, or changed it."""
    if draw == 1 or isinstance(value, MupError):
        return next_creator(shape, dtype, init), value
    rescaled = Rescaled(init, draw)
    array = next_creator(shape, dtype, rescaled)
    text = (f"{name!r}: shape {tuple(shape)}: a custom creator inside apply_mup() {{}}, so that it may not "
            "be in μP; put the creator around apply_mup()")
    if rescaled.result is None:
        value = MupError(text.format("replaced its initializer"))
    elif rescaled.result is not array:
        context.warn_once(warned, "creator", text.format("changed its draw"))
    return array, value
