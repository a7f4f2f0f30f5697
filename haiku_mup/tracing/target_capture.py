"""Captures a target: compares each parameter with the base's as it is made, and draws it in μP."""
import contextlib
import dataclasses
import types
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import haiku as hk

from haiku_mup.errors import MupError
from haiku_mup.parameters.axis_uses import Use
from haiku_mup.parameters.branches import branch_multipliers, call_ratio, check_branches, check_calls
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.depth import Pair, Pairing
from haiku_mup.parameters.globs import multiplier_of
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.place import Branch, Site
from haiku_mup.parameters.record import CapturedBase, Compared, Record
from haiku_mup.parameters.scaling import ParameterScaling, RuntimeFactors, scaling_of
from haiku_mup.parameters.state_draws import state_draw
from haiku_mup.parameters.warnings import model_warnings, parameter_warning
from haiku_mup.rules import ONE, Parametrization
from haiku_mup.tracing.capture import Capture
from haiku_mup.tracing.creation import CreatedParameter
from haiku_mup.tracing.creation_record import row_sizes
from haiku_mup.tracing.factor_lookup import FactorLookup
from haiku_mup.tracing.getters import PLAIN, enclosing
from haiku_mup.tracing.haiku_internals import Nesting, leaf_name
from haiku_mup.tracing.init_program import retraced_uses
from haiku_mup.tracing.unwrapped import note_initialized
from haiku_mup.tracing.warn_once import warn_once

BY_DEPTH = ("this parametrization draws it by the depth, which is known only once all numbered modules are "
            "made; use hk.layer_stack, or a form in which a Mup wraps the optimizer")


class CapturedModel(NamedTuple):
    """A target beside its base.

    Attributes:
      scalings: of its parameters, by name.
      branches: the multiplier of each branch of haiku_mup.residual, relative to those that it is not in.
      parametrization: its parametrization.
      states: the factor of each state's draw that has one, by name.
    """

    scalings: Mapping[str, ParameterScaling]
    branches: Mapping[Site, float]
    parametrization: Parametrization
    states: Mapping[str, float] = types.MappingProxyType({})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes that parameters have in the tree, by name."""
        return {name: (*s.target.stacks, *s.target.shape) for name, s in self.scalings.items()}

    @property
    def has_multipliers(self) -> bool:
        """Returns whether the model is wrong without its wrapper."""
        return not (all(scaling.runtime_factors.plain for scaling in self.scalings.values())
                    and set(self.branches.values()) <= {1.0})

    def check_same_shapes(self, earlier: "CapturedModel") -> None:
        """Raises where an earlier capture saw other parameters, or the same with other shapes."""
        for name, scaling in [*self.scalings.items(), *earlier.scalings.items()]:
            now, before = (model.scalings[name].target if name in model.scalings else None
                           for model in (self, earlier))
            if now is None or before is None or (now.shape, now.stacks) != (before.shape, before.stacks):
                raise MupError.about(
                    name, scaling.base.shape, now and now.shape, f"an earlier init_target saw "
                    f"{before and before.shape}; make a new Mup() for another width or depth",
                    scaling.target.line)


class TargetCapture(Capture):
    """One `with init_target()`.

    Args:
      declarations: what the user says of the model.
      warned: the kinds of warning that the Mup has given.
      base: the base.

    Attributes:
      base: the base's records, by name.
      scalings: each parameter beside the base's, by name, as far as the depth was known as it was made.
    """

    is_in_mup = True

    def __init__(self, declarations: Declarations, warned: set[str], base: CapturedBase):
        super().__init__(declarations, warned)
        self.base, self._base_states = base.records, base.states
        self._base_branch_calls = base.branch_calls
        self._state_factors: dict[str, float] = {}
        self.scalings: dict[str, ParameterScaling] = {}
        self._pairing = Pairing(self.base, declarations.parametrization)
        self._factors = FactorLookup()                      # of all that were made, in the tree or not
        self._base_by_local: dict[str, list[Record]] = {}   # by the names that layers know
        for record in self.base.values():
            self._base_by_local.setdefault(record.local, []).append(record)
        self._multiplies_readouts_alone = declarations.parametrization.multiplies_readouts_alone
        self._branches: dict[Site, Branch] = {}             # those that were computed
        self._made_in: dict[Site, Record] = {}              # some parameter that each branch makes
        self._by_content: dict[Hashable, ParameterScaling] = {}
        self._ties_used = False

    def close(self) -> None:
        """Drops what it captured."""
        super().close()
        self.base, self._base_states, self.scalings, self._factors = {}, {}, {}, FactorLookup()
        self._pairing = Pairing({}, self.declarations.parametrization)
        self._base_by_local, self._branches, self._made_in, self._by_content = {}, {}, {}, {}

    # --- parameters that are made ---

    def _value(self, record: Record, names: tuple[str, ...]) -> ParameterScaling:
        """Returns a parameter beside the base's."""
        self._pairing.add_modules(name[:-len(record.leaf) - 1] for name in names)
        scaling = self._compared(record)
        self._note_use(record, scaling.multiplier)
        self._factors.add(record, scaling.runtime_factors)
        if record.place and record.place.branch:
            self._made_in.setdefault(record.place.branch.site, record)
        return scaling

    def _state_factor(self, record: Record) -> float:
        """Returns the factor of a state's draw, as its axes are declared or known."""
        draw = state_draw(self._base_states.get(record.name), record, self.declarations.parametrization)
        if draw.warning:
            warn_once(self.warned, f"state {record.name}", draw.warning, record.line)
        if draw.factor != 1:
            self._state_factors[record.name] = draw.factor
        return draw.factor

    def _compared(self, record: Record) -> ParameterScaling:
        """Returns a parameter beside the base's, as far as the depth is known."""
        pair = self._pairing.find(record)
        parametrization = self.declarations.parametrization
        if pair.may_gain_blocks and parametrization.block.init != ONE:
            raise pair.error(BY_DEPTH)
        return self._scaling(pair, whole=parametrization.depth_alpha is None)

    def _scaling(self, pair: Pair, whole: bool) -> ParameterScaling:
        """Returns the scaling of a pair, with the user's multiplier of its draw."""
        # Thousands of parameters are of a few kinds; each is worked out once.
        key = pair.base.content, pair.target.content, pair.depth, whole
        if (like := self._by_content.get(key)) is None:
            like = self._by_content[key] = scaling_of(
                pair.base, pair.target, self.declarations.parametrization, pair.depth, whole)
        scaling = like.of(pair.base, pair.target)
        mult = multiplier_of(pair.target.name, self.declarations.init_mults, "Mup(init_mults=...)")
        return scaling.with_init_mult(mult)

    def _keep(self, parameter: CreatedParameter) -> None:
        """Keeps a parameter, beside the base's that has its name, under each of its names."""
        value = parameter.value
        assert isinstance(value, ParameterScaling)
        for name in parameter.names:
            scaling = value if name == value.target.name else self._compared(
                dataclasses.replace(value.target, name=name))
            if scaling.init_mult != value.init_mult:
                raise MupError(f"init_mults: {name!r} is drawn together with {value.target.name!r}; give both "
                               "the same multiplier")
            self._keep_record(scaling.target)
            self.scalings.setdefault(name, scaling)
            if warning := parameter_warning(scaling, self.declarations.parametrization):
                warn_once(self.warned, *warning)

    def _uses_untraced(self, arrays: Mapping[str, tuple[Any, int]]) -> dict[str, frozenset[Use]]:
        """Returns the uses that a trace of the running init shows, unless the base's was traced."""
        records = {name: self.records[name] for name in arrays}
        if not records or any(self.scalings[name].base.uses for name in records):
            return {}
        return retraced_uses({name: (record.local, record.shape, arrays[name][0].dtype)
                              for name, record in records.items() if not record.stacks})

    # --- factors, while the model runs ---

    def runtime_factors(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors:
        """Returns the factors of a parameter; those predicted from the base if it is not made yet."""
        is_one = len(self._base_by_local.get(name, ())) < 2     # else one that looks the same may be made first
        found = self._factors.get(name, shape) if is_one else self._factors.get_here(name, shape)
        return self._predicted(name, shape) if found is None else found

    def _predicted(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors:
        """Returns the factors of a parameter that is to be made."""
        alike = self._base_by_local.get(name)
        if self._multiplies_readouts_alone and alike and all(
                record.layer is None and not record.scaled_attention for record in alike):
            return PLAIN
        nesting, values = Nesting(), set()
        module, _, leaf = name.rpartition("/")
        known = self.base.get(f"{self._pairing.base_module(nesting.modules_in_tree(module)[0])}/{leaf}")
        for record in [known] if known else alike or ():
            with contextlib.suppress(MupError):     # which is kept in full as the parameter is made
                values.add(self._compared(dataclasses.replace(
                    record, shape=shape, stacks=nesting.stacked_layers,
                    row_sizes=row_sizes(name, enclosing.get()))).runtime_factors)
        return values.pop() if len(values) == 1 else PLAIN

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """Returns the multiplier that a layer applies to its product."""
        self._ties_used |= name.endswith("/embeddings")
        return self.runtime_factors(name, shape).multiplier

    def tied_multiplier(self) -> float:
        """Returns the multiplier of a readout that was given an embedding's matrix."""
        self._ties_used = True
        return super().tied_multiplier()

    def branch_multiplier(self, branch: Branch, nesting: Nesting) -> float:
        """Returns the multiplier of a branch, as far as the depth is known.

        Numbered modules count as they are made, and calls of one module as they are.
        """
        self._count_call(branch, nesting)
        self._branches.setdefault(branch.site, branch)
        outer = self._depth_ratio(branch.outer) if branch.outer else 1.0
        value = self.declarations.parametrization.branch(self._depth_ratio(branch) / outer)
        note_initialized(self.warned, str(branch.site), (), value != 1)
        return value

    def _depth_ratio(self, branch: Branch) -> float:
        """Returns the ratio of the numbers of blocks that a branch is in, target / base."""
        record = self._made_in.get(branch.site)
        calls = call_ratio(branch, self._pairing, self._base_branch_calls, self.branch_calls)
        return (self._pairing.find(record).depth if record else 1.0) * max(1.0, calls)

    def table_read(self, context: hk.GetterContext) -> None:
        """Warns where an embedding's matrix is read, which may be to make logits.

        Warns:
          MupWarning: its width grows, and it is no SharedEmbed.
        """
        nesting = Nesting()
        base = self.base.get(nesting.stored_names(context, leaf_name(context))[0])
        shape = tuple(map(int, context.original_shape))
        ties = self.declarations.parametrization.tied != ONE
        if ties and base is not None and base.shape[1:] != shape[1:] and base.layer != TIED:
            warn_once(self.warned, "tied", str(MupError.about(
                base.name, base.shape, shape, "an hk.Embed's matrix is read; if that makes logits, they lack "
                "μP's multiplier: use haiku_mup.SharedEmbed and SharedReadout")), nesting.line)

    # --- the whole model ---

    def captured(self, earlier: CapturedModel | None) -> CapturedModel:
        """Returns all that was captured, beside the base.

        Args:
          earlier: what an earlier init_target of the same Mup captured.

        Raises:
          MupError: what `check` raises; what only the whole shows, such as blocks that one of the two lacks;
            other shapes than earlier.

        Warns:
          MupWarning: of what is probably not meant, once for each kind.
        """
        self.check("init_target")
        parametrization = self.declarations.parametrization
        pairing = Pairing(self.base, parametrization)
        found = pairing.find_all(self.records, Compared.TARGET)
        check_branches(pairing, found)
        calls = self._base_branch_calls, self.branch_calls
        check_calls(pairing, found, self._branches.values(), *calls)
        scalings = {name: self._final(pair) for name, pair in found.items()}
        uses = {name: self.records[name].uses or pair.base.uses for name, pair in found.items()}
        for warning in model_warnings(scalings, self._ties_used, uses, parametrization):
            warn_once(self.warned, *warning)
        branches = branch_multipliers(pairing, found, self._branches.values(), *calls)
        model = CapturedModel(scalings, branches, parametrization, dict(self._state_factors))
        if earlier is not None:
            model.check_same_shapes(earlier)
        return model

    def _final(self, pair: Pair) -> ParameterScaling:
        """Returns a parameter's scaling, now that the depth is known; as it was, where no depth has a say.

        Raises:
          MupError: it was drawn by another depth.
        """
        earlier = self.scalings[pair.target.name]
        if self.declarations.parametrization.depth_alpha is None and pair.base is earlier.base:
            return earlier
        scaling = self._scaling(pair, whole=True)
        if scaling.draw != earlier.draw:
            raise pair.error(BY_DEPTH)
        return scaling


def with_delta(base: CapturedBase, delta: Mapping[str, Record],
               parametrization: Parametrization) -> CapturedBase:
    """Returns the base, with the shapes that a delta has.

    Raises:
      MupError: a parameter that can't be right between the two, or that one of them lacks.
    """
    errors: list[MupError] = []
    plain = {name: dataclasses.replace(record, delta=None, delta_row_sizes=())
             for name, record in base.records.items()}
    delta = {name: dataclasses.replace(record, model=Compared.DELTA) for name, record in delta.items()}
    pairing = Pairing(plain, parametrization)
    found = pairing.find_all(delta, Compared.DELTA)
    check_branches(pairing, found)
    for pair in found.values():
        try:
            scaling_of(pair.base, pair.target, parametrization, pair.depth)
        except MupError as error:
            errors.append(error)
    if errors:
        raise MupError.of_all(errors)
    return base._replace(records={
        name: dataclasses.replace(record, delta=delta[name].shape, delta_row_sizes=delta[name].row_sizes)
        for name, record in plain.items()})
