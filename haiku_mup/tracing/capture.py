"""The scope that captures a model's parameters, and draws them in μP where it has a base."""
import contextlib
import dataclasses
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.branches import branch_multipliers, check_branches
from haiku_mup.parameters.depth import Pair, Pairs
from haiku_mup.parameters.fans import Fans, declared_fans
from haiku_mup.parameters.globs import check_globs, matching, multiplier_of, multipliers_by_name
from haiku_mup.parameters.haiku_layers import (
    NAMED,
    READOUT,
    TIED,
    fans_of,
    is_haikus,
    layer_type,
    record_of,
    weight_leaves,
)
from haiku_mup.parameters.initializers import moments
from haiku_mup.parameters.place import Branch, Site
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ForwardFactors, ParameterScaling, compare
from haiku_mup.parameters.warnings import model_warnings, parameter_warning
from haiku_mup.rules import ONE, Parametrization
from haiku_mup.tracing import context
from haiku_mup.tracing.context import CreatedParameter
from haiku_mup.tracing.getters import Call, enclosing
from haiku_mup.tracing.haiku_internals import (
    check_home,
    in_tree,
    is_lifted_by_user,
    leaf_name,
    place,
    stacks,
    stored_names,
    transforms,
)
from haiku_mup.tracing.wrapped import FactorLookup, make, one_tied

BY_DEPTH = ("this parametrization draws it by the depth, which shows only when all numbered modules are made; "
            "take hk.layer_stack, or a form in which a Mup wraps the optimizer")


class Declarations(NamedTuple):
    """What a user says of a model from outside.

    Attributes:
      fans: {glob over "module/name": Fans}.
      readouts: globs over module names, and over names of parameters of one's own.
      parametrization: of what is captured.
      init_mults, lr_mults: {glob over "module/name": multiplier}.
    """

    fans: Mapping[str, Fans]
    readouts: tuple[str, ...]
    parametrization: Parametrization
    init_mults: Mapping[str, float] = types.MappingProxyType({})
    lr_mults: Mapping[str, float] = types.MappingProxyType({})


class Capture:
    """One `with init_base()` or `with init_target()`: every entry into a context is a new one.

    Attributes:
      declared: what the user says of the model.
      base: the base's records, by name, where this captures a target; None where it captures a base.
      records: what was captured, by name.
      entries: base beside target, by name.
      warned: the kinds of warning that its Mup has given.
      transform_depth: how many of Haiku's transforms are around the model's, and it itself.
    """

    def __init__(self, declared: Declarations, base: Mapping[str, Record] | None, warned: set[str]):
        self.declared = declared
        self.base = base
        self.transform_depth = transforms() + 1
        self.branches: dict[Site, Branch] = {}          # those of haiku_mup.residual that were computed
        self.records: dict[str, Record] = {}
        self.entries: dict[str, ParameterScaling] = {}
        self.warned = warned
        self._factors = FactorLookup()     # of all made, in the tree or not
        self._lifted_by_user: set[tuple[str, tuple[int, ...]]] = set()
        self._tied: set[float] = set()
        self._ties_used = False
        self._local: dict[str, list[Record]] = {}       # of the base, by the names that layers know
        self._pairs = None if base is None else Pairs(base, declared.parametrization)
        self._within: dict[Site, Record] = {}           # some parameter that each branch makes

    def close(self) -> None:
        """Lets go of what it captured: JAX keeps the session itself for ever, in the keys of its caches."""
        self.base, self.records, self.entries, self._factors = self.base and {}, {}, {}, FactorLookup()
        self.branches, self._local, self._pairs, self._within = {}, {}, None, {}

    def check(self, where: str) -> None:
        """Raises if nothing was captured, or if a glob of the user's matched nothing."""
        if not self.records:
            raise MupError(f"{where} captured no parameter: call the model's init inside it, and put the "
                           "layers inside `with haiku_mup.apply_mup():`, in the function that is transformed")
        leaves = weight_leaves()
        weights = {record.in_tree: record for record in self.records.values() if record.leaf in leaves}
        readouts = [name for name, record in [*weights.items(), *self.records.items()]
                    if record.layer in (READOUT, NAMED)]
        check_globs("Mup(fans=...)", self.declared.fans, self.records, self.records, "parameter")
        check_globs("Mup(readouts=...)", self.declared.readouts, readouts, weights,
                    "hk.Linear or convolution, or parameter of your own")
        multipliers_by_name(self.records, self.declared.lr_mults, "Mup(lr_mults=...)")
        found = multipliers_by_name(self.records, self.declared.init_mults, "Mup(init_mults=...)")
        drawn = [name for name, record in self.records.items() if record.moments.drawn]
        check_globs("Mup(init_mults=...)", self.declared.init_mults, drawn, found, "parameter that is drawn")

    def create(self, next_creator, shape, dtype, init, context_, enclosing):
        names = stored_names(context_)
        value: Record | ParameterScaling | MupError
        try:
            record = _record(self.declared, names, dtype, init, context_, enclosing,
                             is_lifted_by_user(self.transform_depth))
            if self._pairs:
                self._pairs.add_modules(name[:-len(record.leaf) - 1] for name in names)
            if record.layer == TIED:
                check_home(record.name, context_.module)
            value = record if self.base is None else self._compared(record)
            self._note(record, value)
        except MupError as error:
            value = error
        draw = value.draw if isinstance(value, ParameterScaling) else 1.0
        array, value = make(next_creator, shape, dtype, init, draw, names[0], value, self.warned)
        return array, CreatedParameter(names, leaf_name(context_), array, value)

    def _note(self, record: Record, value: Any) -> None:
        factors = value.forward_factors if isinstance(value, ParameterScaling) else ForwardFactors()
        self._factors.add(record, factors)
        self._lifted_by_user |= {(record.local, record.shape)} if record.lifted_by_user else set()
        if record.layer == TIED:
            self._tied.add(factors.multiplier)
        if record.place and record.place.branch:
            self._within.setdefault(record.place.branch.site, record)

    def keep(self, created: CreatedParameter) -> None:
        for name in created.names:      # several in a transparent layer_stack, which are alike
            value = created.value if name == created.names[0] else self._alike(created.value, name)
            if getattr(value, "init_mult", 1.0) != getattr(created.value, "init_mult", 1.0):
                raise MupError(f"init_mults: {name!r} is drawn together with {created.names[0]!r}; give both "
                               "one multiplier")
            self._keep(name, value.target if isinstance(value, ParameterScaling) else value, value)

    def _alike(self, value: ParameterScaling | Record, name: str) -> ParameterScaling | Record:
        record = value.target if isinstance(value, ParameterScaling) else value
        record = dataclasses.replace(record, name=name)
        return record if self.base is None else self._compared(record)

    def _compared(self, record: Record) -> ParameterScaling:
        assert self._pairs is not None
        pair = self._pairs.find(record)
        if self.declared.parametrization.block.init != ONE and pair.may_gain_blocks:
            raise pair.error(BY_DEPTH)
        return self._entry(pair, whole=self.declared.parametrization.depth_alpha is None)

    def _entry(self, pair: Pair, earlier: ParameterScaling | None = None,
               whole: bool = True) -> ParameterScaling:
        """A pair with what follows, and the user's multiplier; the earlier one, where nothing is new."""
        if earlier and self.declared.parametrization.depth_alpha is None and pair.base is earlier.base:
            return earlier
        entry = compare(pair.base, pair.target, self.declared.parametrization, pair.depth, whole)
        mult = multiplier_of(pair.target.name, self.declared.init_mults, "Mup(init_mults=...)")
        return entry.with_init_mult(mult)

    def _keep(self, name: str, record: Record, value: ParameterScaling | Record) -> None:
        before = self.records.setdefault(name, record)
        if before.shape != record.shape:
            raise MupError(f"{name!r}: first {before.shape}, now {record.shape}: one name with two "
                           "shapes in one context; initialise one model in it")
        if isinstance(value, ParameterScaling):
            self.entries.setdefault(name, value)
            if warning := parameter_warning(value, self.declared.parametrization):
                context.warn_once(self.warned, *warning)

    def branch(self, branch: Branch) -> float:
        """The multiplier of a branch, as far as the depth is known: numbered modules count as they are made."""
        self.branches.setdefault(branch.site, branch)
        inner, outer = (self._pairs.find(self._within[at.site]).depth if self._pairs and at and
                        at.site in self._within else 1.0 for at in (branch, branch.outer))
        value = self.declared.parametrization.branch(inner / outer)
        context.initialised(self.warned, str(branch.site), (), value)
        return value

    def forward_factors(self, name: str, shape: tuple[int, ...]) -> ForwardFactors:
        found = self._factors.get(name, shape)
        return self._foretold(name, shape) if found is None else found

    @property
    def lifts(self) -> bool:
        return bool(self._lifted_by_user)

    def lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        return (name, shape) in self._lifted_by_user

    def stray(self, name: str, shape: tuple[int, ...]) -> str:
        """Nothing: the wrapped model says it."""
        return ""

    def whole(self) -> tuple[dict[str, ParameterScaling], dict[Site, float]]:
        """All that was captured of a target beside its base, and the multiplier of each branch.

        Raises:
          MupError: what only the whole shows, such as blocks that the other of the two doesn't have.

        Warns:
          MupWarning: of what is probably not meant, once for each kind.
        """
        parametrization = self.declared.parametrization
        pairs = Pairs(self.base or {}, parametrization)
        found = pairs.find_all(self.records, "target")
        check_branches(pairs, found)
        entries = {name: self._entry(pair, self.entries[name]) for name, pair in found.items()}
        for name, entry in entries.items():
            if entry.draw != self.entries[name].draw:
                raise found[name].error(BY_DEPTH)
        for kind, text in model_warnings(entries, self._ties_used) if parametrization.draws else ():
            context.warn_once(self.warned, kind, text)
        return entries, branch_multipliers(pairs, found, self.branches.values())

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        self._ties_used |= name.endswith("/embeddings")
        return self.forward_factors(name, shape).multiplier

    def matrix_read(self, context_) -> None:
        base = (self.base or {}).get(stored_names(context_)[0])
        shape = tuple(map(int, context_.original_shape))
        ties = self.declared.parametrization.tied != ONE
        if ties and base is not None and base.shape[1:] != shape[1:] and base.layer != TIED:
            context.warn_once(self.warned, "tied", str(MupError.about(
                base.name, base.shape, shape, "an hk.Embed's matrix is read; if that makes logits, they lack "
                "μP's multiplier: use haiku_mup.SharedEmbed and SharedReadout")))

    def _foretold(self, name: str, shape: tuple[int, ...]) -> ForwardFactors:
        """Of a parameter that is not made yet: as the base tells."""
        values = set()
        if self.base and not self._local:
            for record in self.base.values():
                self._local.setdefault(record.local, []).append(record)
        module, _, leaf = name.rpartition("/")
        known = None
        if self._pairs:
            known = (self.base or {}).get(f"{self._pairs.base_module(in_tree(module))}/{leaf}")
        for record in [known] if known else self._local.get(name, []):
            with contextlib.suppress(MupError):     # told in full as the parameter is made
                values.add(self._compared(_resized(record, name, shape)).forward_factors)
        return values.pop() if len(values) == 1 else ForwardFactors()

    def tied_multiplier(self) -> float:
        self._ties_used = True
        return one_tied(self._tied)


def _resized(record: Record, name: str, shape: tuple[int, ...]) -> Record:
    """The record of another width, as far as its name, its shape and the call around it tell."""
    counts = tuple(stack.layers for stack in stacks() if not stack.transparent)
    return dataclasses.replace(record, shape=shape, stacks=counts, row_sizes=_row_sizes(
        name, enclosing.get()))


def _record(declared: Declarations, names: tuple[str, ...], dtype, init, context_, call: Call | None,
            lifted_by_user: bool) -> Record:
    name, leaf, module = names[0], leaf_name(context_), context_.module
    spot = place(names, leaf, context.branch())
    shape = tuple(map(int, context_.original_shape))
    dtype = jnp.dtype(dtype)
    layer = layer_type(module)
    kind, key_size = layer.kinds.get(leaf), _key_size(context_.full_name, call)
    product = layer.scaled_inputs is not None and layer.scaled_inputs.leaf == leaf
    named = product or not is_haikus(module)
    if named and not kind and matching(name[:-len(leaf) - 1] if product else name, declared.readouts):
        kind = NAMED
    return Record(
        name=name, leaf=leaf, local=context_.full_name, shape=shape, moments=moments(init, shape, dtype),
        fans=declared_fans(declared.fans, name, shape) or fans_of(module, leaf, shape), layer=kind,
        inexact=bool(jnp.issubdtype(dtype, jnp.inexact)), lifted_by_user=lifted_by_user, place=spot,
        stacks=tuple(stack.layers for stack in spot.stacks if not stack.transparent),
        row_sizes=_row_sizes(context_.full_name, call), key_size=key_size,
        scaled_attention=key_size is not None and layer_type(call.module).attention.scales_logits)


def _row_sizes(name: str, call: Call | None) -> tuple[int, ...]:
    """The sizes of the blocks of rows that a parameter has, as the layer that is called around it tells."""
    if call is None:
        return ()
    sizes = layer_type(call.module).row_sizes.get(name.removeprefix(f"{call.module.module_name}/"))
    return tuple(map(int, sizes(call.module, *call.args, **call.kwargs))) if sizes else ()


def _key_size(name: str, call: Call | None) -> int | None:
    """The key size of the attention whose queries a parameter makes, or None."""
    attention = layer_type(call.module).attention if call else None
    if attention is None or name != f"{call.module.module_name}/{attention.queries}/w":
        return None
    record = record_of(call.orig_class)     # a subclass with a `__call__` of its own may scale in any way
    known = attention.scales_logits or (record is not None and record.attention is not None)
    return int(attention.key_size(call.module)) if known else None
