"""Captures a base or a delta: records each parameter that is made in `with mup.init_base()`."""
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk

from haiku_mup.errors import MupError
from haiku_mup.parameters.axis_uses import Use
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.globs import check_globs, matching, multipliers_by_name
from haiku_mup.parameters.haiku_layers import NAMED, READOUT, TIED, layer_type, weight_leaves
from haiku_mup.parameters.place import Branch
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, RuntimeFactors
from haiku_mup.tracing.creation import CreatedParameter, Creation
from haiku_mup.tracing.creation_record import record_creation, record_state
from haiku_mup.tracing.factor_lookup import one_tied_multiplier
from haiku_mup.tracing.getters import PLAIN
from haiku_mup.tracing.haiku_internals import Nesting, check_home
from haiku_mup.tracing.init_program import traced_uses
from haiku_mup.tracing.unwrapped import note_initialized


class Capture:
    """One `with init_base()` or `with init_delta()`: every entry into a context is a new one.

    Errors about parameters are collected, so that `check` raises all of them at once.

    Args:
      declarations: what the user says of the model.
      warned: the kinds of warning that the Mup has given.

    Attributes:
      records: what was captured, by name.
      states: state that is drawn, by name.
      branch_calls: how often the latest init calls haiku_mup.residual, by the path of the module that does.
      errors: what is wrong with a parameter, by name.
      transform_depth: how many of Haiku's transforms run around the model's function, its own included.
    """

    is_in_mup = False

    def __init__(self, declarations: Declarations, warned: set[str]):
        self.declarations, self.warned = declarations, warned
        self.transform_depth = len(Nesting().transforms) + 1
        self.records: dict[str, Record] = {}
        self.states: dict[str, Record] = {}
        self.errors: dict[str, MupError] = {}
        self._lifted: set[tuple[str, tuple[int, ...]]] = set()
        self._tied: set[float] = set()          # multipliers of the SharedEmbeds
        self._ran_wrapped_model = False
        self.branch_calls: dict[str, int] = {}
        self._counted_init: Any = None          # whose calls are being counted, and those so far
        self._counted: collections.Counter[str] = collections.Counter()

    def close(self) -> None:
        """Drops what it captured, since JAX keeps the context forever in the keys of its caches."""
        self.records, self.states, self.errors = {}, {}, {}
        self._counted_init = None

    def check(self, where: str) -> None:
        """Raises for what is wrong with a captured model by itself.

        Args:
          where: the name of the context.

        Raises:
          MupError: all errors about single parameters; nothing captured; a user's glob that matches nothing.
        """
        if self.errors:
            raise MupError.of_all(list(self.errors.values()))
        if not self.records and self._ran_wrapped_model:
            raise MupError(f"{where} captured no parameter: a wrapped model ran in it, which is in μP already; "
                           "inside it, call the init of the plain model that wrap_model was given")
        if not self.records:
            raise MupError(f"{where} captured no parameter: put the layers inside `with "
                           "haiku_mup.apply_mup():`, in the function that is transformed, or in each function "
                           f"of hk.multi_transform, and call the model's init inside {where}")
        self._check_globs()

    def _check_globs(self) -> None:
        """Raises for a glob of the user's that matches nothing."""
        records, declared = self.records, self.declarations
        leaves = weight_leaves()
        weights = {record.in_tree: record for record in records.values() if record.leaf in leaves}
        readouts = [name for name, record in [*weights.items(), *records.items()]
                    if record.layer in (READOUT, NAMED)]
        for argument in ("fans", "finite"):
            check_globs(f"Mup({argument}=...)", getattr(declared, argument), [*records, *self.states], records,
                        "parameter")
        tables = [name for name, record in records.items() if record.layer == TIED]
        check_globs("Mup(tied=...)", declared.tied, tables, records, "parameter of your own")
        check_globs("Mup(readouts=...)", declared.readouts, readouts, weights,
                    "hk.Linear or convolution, or parameter of your own")
        multipliers_by_name(records, declared.lr_mults, "Mup(lr_mults=...)")
        found = multipliers_by_name(records, declared.init_mults, "Mup(init_mults=...)")
        drawn = [name for name, record in records.items() if record.moments.drawn]
        check_globs("Mup(init_mults=...)", declared.init_mults, drawn, found, "parameter that is drawn")

    # --- what a context does as the model runs ---

    def create(self, creation: Creation) -> tuple[Any, CreatedParameter]:
        """Makes a parameter and records it."""
        value: Record | ParameterScaling | MupError
        record = None
        try:
            record = record_creation(creation, self.declarations, self.transform_depth)
            if layer_type(creation.context.module).kinds.get(record.leaf) == TIED:
                check_home(record.name, creation.context.module)
            value = self._value(record, creation.names)
        except MupError as error:               # without its frames, which hold what is traced
            value = error.with_traceback(None).made_at(creation.names[0], creation.nesting.line)
            if record is not None and record.layer == TIED:
                self._tied.add(1.0)             # so that its readouts run on, and this error is told
        factor = value.draw if isinstance(value, ParameterScaling) else 1.0
        return creation.make(value, factor)

    def create_state(self, creation: Creation) -> Any:
        """Makes state, and records it if it is drawn."""
        record = record_state(creation, self.declarations, self.transform_depth)
        if record is None:
            return creation.make(None, 1.0)[0]
        self.states[record.name] = record
        return creation.make(None, self._state_factor(record))[0]

    def _state_factor(self, record: Record) -> float:
        """Returns the factor of a state's draw: 1 at the base."""
        return 1.0

    def adopt(self, record: Record, names: tuple[str, ...], array: Any) -> CreatedParameter:
        """Returns what is known of a parameter that was not made by Haiku."""
        value: Record | ParameterScaling | MupError
        try:
            value = self._value(record, names)
        except MupError as error:
            value = error.with_traceback(None).made_at(names[0], record.line)
        return CreatedParameter(names, record.leaf, array, value)

    def _value(self, record: Record, names: tuple[str, ...]) -> Record | ParameterScaling:
        """Returns what to keep of a parameter, and notes how it is used."""
        self._note_use(record, 1.0)
        return record

    def _note_use(self, record: Record, multiplier: float) -> None:
        """Notes a parameter that is lifted, or tied."""
        if record.lifted_by_user:
            self._lifted.add((record.local, record.shape))
        if record.layer == TIED:
            self._tied.add(multiplier)

    def keep(self, created: Sequence[CreatedParameter]) -> None:
        """Keeps the parameters that are in the tree as apply_mup() ends."""
        for parameter in created:
            if isinstance(parameter.value, MupError):
                self.errors.setdefault(parameter.names[0], parameter.value)
            else:
                self._keep(parameter)
        self._note_uses([parameter for parameter in created if not isinstance(parameter.value, MupError)])

    def _note_uses(self, created: Sequence[CreatedParameter]) -> None:
        """Notes how the program uses the parameters whose fans are a guess, and a layer's weight elsewhere."""
        records = {p.names[0]: self.records[p.names[0]] for p in created}
        arrays = {p.names[0]: (p.array, len(records[p.names[0]].shape)) for p in created
                  if records[p.names[0]].is_guess or records[p.names[0]].is_weight and not matching(
                      p.names[0], self.declarations.fans)}
        weights = {name for name in arrays if not records[name].is_guess}
        found = traced_uses(arrays, weights) if arrays else {}
        if found is None:
            found = self._uses_untraced({name: x for name, x in arrays.items() if name not in weights})
        found = {name: uses for name, uses in found.items() if name not in weights or any(
            use.summed.intersection(records[name].fans.fan_out) for use in uses)}
        for parameter in created:
            for name in parameter.names if parameter.names[0] in found else ():
                self.records[name] = dataclasses.replace(self.records[name], uses=found[parameter.names[0]])

    def _uses_untraced(self, arrays: Mapping[str, tuple[Any, int]]) -> dict[str, frozenset[Use]]:
        """Returns nothing: the target's capture asks, if it is not traced either."""
        return {}

    def _keep(self, parameter: CreatedParameter) -> None:
        """Keeps a parameter under each of its names: a transparent layer_stack gives one to each layer."""
        assert isinstance(parameter.value, Record)
        record = parameter.value
        for name in parameter.names:
            self._keep_record(record if name == record.name else dataclasses.replace(record, name=name))

    def _keep_record(self, record: Record) -> None:
        earlier = self.records.setdefault(record.name, record)
        if earlier.shape != record.shape:
            error = MupError(f"{record.name!r}: first {earlier.shape}, now {record.shape}: one name with two "
                             "shapes in one context; initialise one model in it")
            raise error.made_at(record.name, record.line)

    def runtime_factors(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors:
        """Returns factors of 1, for the base."""
        return PLAIN

    @property
    def has_lifted(self) -> bool:
        """Returns whether a user's function lifts some parameter, of those that were made by now."""
        return bool(self._lifted)

    def is_lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        """Returns whether a user's function may lift this parameter."""
        return (name, shape) in self._lifted

    def uncaptured(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Returns None: the wrapped model warns."""
        return None

    def table_read(self, context: hk.GetterContext) -> None:
        """Does nothing at the base."""

    def branch_multiplier(self, branch: Branch, nesting: Nesting) -> float:
        """Counts the call; returns 1, for the base."""
        self._count_call(branch, nesting)
        note_initialized(self.warned, str(branch.site), (), has_factors=False)
        return 1.0

    def _count_call(self, branch: Branch, nesting: Nesting) -> None:
        """Counts a call of haiku_mup.residual; where a model is initialised twice, once."""
        init = nesting.transforms[-self.transform_depth:][0].context
        if init is not self._counted_init:
            self._counted_init, self._counted = init, collections.Counter()
        self._counted[branch.path] += 1
        self.branch_calls[branch.path] = self._counted[branch.path]

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """Returns 1, for the base."""
        return 1.0

    def tied_multiplier(self) -> float:
        """Returns the multiplier of a readout that was given an embedding's matrix."""
        return one_tied_multiplier(self._tied)

    def note_wrapped_model(self) -> None:
        """Notes it for an error, in case nothing else runs."""
        self._ran_wrapped_model = True
