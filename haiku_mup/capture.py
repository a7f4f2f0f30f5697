"""The scopes of a Mup: one that captures a model's parameters, one that puts a captured model in μP."""
import dataclasses
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import haiku as hk
import jax.numpy as jnp

from haiku_mup import context
from haiku_mup.context import Made
from haiku_mup.errors import MupError
from haiku_mup.fans import fans
from haiku_mup.initializers import Rescaled, moments, read
from haiku_mup.shapes import TIED, Entry, Record, compare

_homes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()       # SharedEmbed -> its parameter


class Session:
    """One `with init_base()` or `with init_target()`: every entry into a context is a new one.

    Attributes:
      base: the base's records, by name, where this captures a target; None where it captures a base.
      records: what was captured, by name.
      entries: base beside target, by name.
      warned: the kinds of warning that its Mup has given.
    """

    def __init__(self, base: Mapping[str, Record] | None, warned: set[str]):
        self.base = base
        self.records: dict[str, Record] = {}
        self.entries: dict[str, Entry] = {}
        self.warned = warned
        self._multipliers: dict[tuple[str, tuple[int, ...]], float] = {}    # of all made, in the tree or not
        self._tied: set[float] = set()

    def create(self, next_creator, shape, dtype, init, context_, enclosing):
        record = _record(shape, dtype, init, context_, enclosing)
        value: Record | Entry | MupError
        try:
            _check_home(record.name, record.leaf, context_.module)
            value = record if self.base is None else _compare(self.base, record)
        except MupError as error:
            value = error
        self._note(record, value)
        draw = value.draw if isinstance(value, Entry) else 1.0
        array, value = _make(next_creator, shape, dtype, init, draw, record.name, value, self.warned)
        return array, Made(record.name, record.local, record.leaf, array, value)

    def _note(self, record: Record, value: Any) -> None:
        multiplier = value.multiplier if isinstance(value, Entry) else 1.0
        self._multipliers[record.local, record.shape] = multiplier
        if record.layer == TIED:
            self._tied.add(multiplier)

    def keep(self, made: Made) -> None:
        record = made.value.target if isinstance(made.value, Entry) else made.value
        before = self.records.setdefault(made.name, record)
        if before.shape != record.shape:
            raise MupError(f"{made.name!r}: first {before.shape}, now {record.shape}: one name with two "
                           "shapes in one context; initialise one model in it")
        if isinstance(made.value, Entry):
            self.entries.setdefault(made.name, made.value)
            if made.value.doubt:
                context.warn_once(self.warned, *made.value.doubt)

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        value = self._multipliers.get((name, shape))
        if value is None:           # asked before the parameter is made: as the base foretells
            value = self._foretold(name, shape)
        context.initialised(self.warned, name, shape, value)
        return value

    def matrix_read(self, context_) -> None:
        base = (self.base or {}).get(_stored_name(context_))
        shape = tuple(map(int, context_.original_shape))
        if base is not None and base.shape[1:] != shape[1:] and base.layer != TIED:
            context.warn_once(self.warned, "tied", str(MupError.about(
                base.name, base.shape, shape, "an hk.Embed's matrix is read; if that makes logits, they lack "
                "μP's multiplier: use haiku_mup.SharedEmbed and SharedReadout")))

    def _foretold(self, name: str, shape: tuple[int, ...]) -> float:
        values = set()
        for record in (self.base or {}).values():
            if record.local == name:
                try:
                    values.add(compare(record, dataclasses.replace(record, shape=shape)).multiplier)
                except MupError:    # told in full as the parameter is made
                    pass
        return values.pop() if len(values) == 1 else 1.0

    def tied_multiplier(self) -> float:
        return one_tied(self._tied)


def _compare(base: Mapping[str, Record], record: Record) -> Entry:
    if record.name not in base:
        raise MupError.about(record.name, None, record.shape, "the base has no such parameter; "
                             "build base and target from one function, and capture the base again")
    return compare(base[record.name], record)


class Wrapped:
    """A captured model in μP, for its init and its apply. Equal content is one key in JAX's caches.

    Args:
      entries: base beside target, by name.

    Raises:
      MupError: two layers that look alike from inside and have different multipliers.
    """

    def __init__(self, entries: Mapping[str, Entry]):
        self._draws = {name: (e.target.shape, e.draw, e.target.moments) for name, e in entries.items()}
        self._warned: set[str] = set()
        self._multipliers: dict[tuple[str, tuple[int, ...]], float] = {}
        self._tied = {e.multiplier for e in entries.values() if e.target.layer == TIED}
        for entry in entries.values():
            key, name = (entry.target.local, entry.target.shape), entry.target.name
            if self._multipliers.setdefault(key, entry.multiplier) != entry.multiplier:
                raise MupError.about(name, entry.base.shape, entry.target.shape, "another layer has this "
                                     "name and shape within its lift, and another multiplier; rename one")
        self._key: Hashable = tuple(map(frozenset, (
            self._draws.items(), self._multipliers.items(), self._tied)))
        self._hash = hash(self._key)

    def __eq__(self, other):
        return isinstance(other, Wrapped) and self._key == other._key

    def __hash__(self):
        return self._hash

    def create(self, next_creator, shape, dtype, init, context_, enclosing):
        name, shape_ = _stored_name(context_), tuple(map(int, context_.original_shape))
        if name not in self._draws:             # a wrapped model that is lifted itself
            name = context_.full_name
        known, draw, moments_ = self._draws.get(name, (None, 1.0, None))
        value, now = None, read(init, shape_)
        try:
            _check_home(name, _leaf(context_), context_.module)
        except MupError as error:
            value = error
        if known != shape_:
            value, draw = MupError.about(name, None, shape_, "not captured in init_target"
                                         + f", which saw {known}" * (known is not None)
                                         + "; capture the model that is wrapped"), 1.0
        elif now and moments_ and abs(now.std - moments_.std) > 1e-6 * now.std:
            value = MupError.about(name, None, shape_, f"the initializer's std is {now.std:.3g}, and "
                                   f"init_target saw {moments_.std:.3g}; capture the model that is wrapped")
        array, value = _make(next_creator, shape, dtype, init, draw, name, value, self._warned)
        return array, Made(name, context_.full_name, _leaf(context_), array, value)

    def keep(self, made: Made) -> None:
        """All is known already."""

    def matrix_read(self, context_) -> None:
        """Said as the target was captured."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        if (name, shape) not in self._multipliers:
            raise MupError.about(name, None, shape, "this layer was not captured with this shape; put it "
                                 "inside apply_mup(), and capture base and target again")
        return self._multipliers[name, shape]

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


def _make(next_creator, shape, dtype, init, draw, name, value, warned):
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


def _stored_name(context_: hk.GetterContext) -> str:
    return (context_.lifted_prefix_name or "") + context_.full_name


def _leaf(context_: hk.GetterContext) -> str:
    """The parameter's own name, which may hold slashes."""
    module = context_.module
    owner = "~" if module is None else module.module_name
    full = context_.full_name
    return full[len(owner) + 1:] if full.startswith(owner + "/") else full.rpartition("/")[2]


def _record(shape, dtype, init, context_, enclosing) -> Record:
    name = _leaf(context_)
    shape = tuple(map(int, context_.original_shape))
    dtype = jnp.dtype(dtype)
    return Record(
        name=_stored_name(context_), leaf=name, local=context_.full_name, shape=shape,
        moments=moments(init, shape, dtype), fans=fans(context_.module, name, shape),
        layer=_layer(context_.module, name), inexact=bool(jnp.issubdtype(dtype, jnp.inexact)),
        **_enclosed(context_, enclosing))


def _layer(module: Any, name: str) -> str:
    """`READOUT`, `TIED` or "": layers.py says it in an attribute of its classes."""
    layers: dict[str, str] = getattr(module, "mup_layers", {})
    return layers.get(name, "")


def _enclosed(context_, enclosing) -> dict[str, Any]:
    """What an attention or an LSTM around a parameter tells of it."""
    if enclosing is None:
        return {}
    call, inputs = enclosing
    module = call.module
    if isinstance(module, hk.LSTM) and context_.full_name == f"{module.module_name}/linear/w":
        return {"parts": (inputs.shape[-1], module.hidden_size)}
    if isinstance(module, hk.MultiHeadAttention) and \
            context_.full_name == f"{module.module_name}/query/w":
        ours = getattr(module, "mup_attention", False)
        if ours or call.orig_class is hk.MultiHeadAttention:
            return {"key_size": module.key_size, "scaled_attention": ours}
    return {}


def _check_home(name: str, leaf: str, module: Any) -> None:
    """A SharedEmbed that is asked for its matrix inside a layer_stack would silently make another."""
    if _layer(module, leaf) != TIED:
        return
    home = _homes.setdefault(module, name)
    if home != name:
        raise MupError(f"{name!r}: this SharedEmbed has its matrix at {home!r} already, and would make "
                       "an untied copy here; read it outside of the layer_stack or lift, and close over "
                       "it: weights = embed.get_weights()")
