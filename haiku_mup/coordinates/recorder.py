"""Records every module's output, attention logits and probed arrays while a model runs."""
import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.coordinates.array_stats import Stat, measure_function
from haiku_mup.coordinates.dependents import Dependents
from haiku_mup.coordinates.model_inputs import check_model
from haiku_mup.coordinates.multipliers import measured_sizes, traced_sizes
from haiku_mup.coordinates.quantities import RecordKind
from haiku_mup.coordinates.state_records import WITHOUT_BIAS, RecordInfo, is_record, records_in
from haiku_mup.errors import MupError
from haiku_mup.frameworks.module_outputs import call_and_record
from haiku_mup.layers import SharedEmbed, SharedReadout
from haiku_mup.parameters.haiku_layers import TIED, Attention, layer_type
from haiku_mup.tracing.haiku_internals import Nesting, is_lift, lacks_state, leaf_name, original_function
from haiku_mup.tracing.jax_internals import trace_of, trace_state

T = TypeVar("T")

_recorder: contextvars.ContextVar["Recorder | None"] = contextvars.ContextVar("recorder", default=None)


def probe(name: str, x: T) -> T:
    """Marks an array for coordinate checks, which record it; elsewhere it does nothing.

    Use it inside a transformed function, for arrays that no module returns. (Tensor Programs V,
    arXiv 2203.03466, Appendix D.1.)

    Args:
      name: what to call the array; the name of the current module is put in front.
      x: an array, or a tree of arrays.

    Returns:
      `x`.

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         return hk.Linear(3)(haiku_mup.probe("squares", x**2))
    >>> hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones(2))["linear"]["w"].shape
    (2, 3)
    """
    recorder = _recorder.get()
    if recorder is not None:
        module = hk.experimental.current_name()
        recorder.record(RecordKind.PROBE, module, x, f"/{name}")
    return x


def recording_pair(apply: Callable[..., Any], params: Any, queries: Mapping[str, str],
                   readouts: Mapping[str, Sequence[Any]]) -> Callable[..., Any]:
    """Returns the apply of a pair with its parameters, which also records its modules' outputs in a check.

    Args:
      apply: the function.
      params: its parameters, or a module.
      queries: by the path of a module that makes queries, the name of its weight.
      readouts: the weights of readouts among the parameters, under "~"; tables that make logits, under TIED.
    """
    recorder = _recorder.get()
    if recorder is None:
        return functools.partial(apply, params)

    def record(path: str, value: Any) -> None:
        """Records what a module returned."""
        recorder.record(RecordKind.ACTIVATION, sys.intern(path), value, f"/{path}", weight=queries.get(path))

    def recording(*args: Any, **kwargs: Any) -> Any:
        with recorder.pair_apply(params, readouts):
            return call_and_record(apply, params, record, *args, **kwargs)
    return recording


def transformed_function(model: Any) -> Callable[..., Any]:
    """Returns the function that Haiku transformed into a model, or that a wrapped model has inside.

    Raises:
      MupError: a model that Haiku didn't transform, or a multi-transform.
    """
    check_model(model)
    function = original_function(model.apply)
    if function is None:
        raise MupError(f"make_model returned {type(model).__name__}; a coordinate check needs what "
                       "hk.transform or hk.transform_with_state returns")
    return function


class Recorder:
    """A model that also records what its modules return: under jit, remat, scan and layer_stack.

    It transforms the model's function anew, with a state, intercepts all modules' calls, and adds what it
    measures of their outputs to entries of the state. `prepare` makes these entries, and `apply` fills them.

    Args:
      model: what hk.transform or hk.transform_with_state returns, wrapped in μP or not.
      stats: the statistics to take of every array.
      readouts: the names of readout modules, without the prefix of a lift.

    Attributes:
      records: what is known of each record, by module and name in the state.
      unkept: the modules of another framework whose outputs are inside a scan, a jit or a remat.

    Raises:
      MupError: a model that Haiku didn't transform, or a multi-transform.
    """

    def __init__(self, model: Any, stats: Sequence[Stat], readouts: Sequence[str] = ()):
        function = transformed_function(model)
        self.records: dict[tuple[str, str], RecordInfo] = {}
        self._readouts = readouts
        self._measure = measure_function(stats)
        self._prepared = False
        self._current: RecordInfo | None = None                     # of the entry that is being written
        # Of the trace that is going on:
        self._calls: list[tuple[Any, Any, Any]] = []                # of each record: name, owner, JAX's trace
        self._outputs_of_readouts: dict[int, tuple[Any, str]] = {}  # id of an array: itself, and the readout
        self._active_modules: list[Any] = []
        self._read: dict[str, Any] = {}                             # by the module that is active: w and b
        self._weight: jax.Array | None = None                       # to be read in place of the stored one
        self._projections: list[tuple[str, dict[str, Any]]] = []    # active attentions: name, {layer: output}
        # Of a pair's apply, from whose inner traces nothing can be kept:
        self._pair_trace: Any = None                                # that of its parameters' measurements
        self._behind: dict[str, Dependents] = {}                    # what is computed from its readouts
        self.unkept: dict[str, None] = {}                           # the modules in inner ones
        self._model = hk.transform_with_state(self._recording(function))

    def prepare(self, key: Any, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        """Returns the entries in which to record, filled with zeros; computes only their shapes.

        Args:
          key: a random key.
          *args, **kwargs: the model's inputs.

        Raises:
          MupError: modules in a plain hk.transform that is lifted, which has no state.
        """
        try:
            _, state = jax.eval_shape(lambda key: self._model.init(key, *args, **kwargs), key)
        except ValueError as error:
            if not lacks_state(error):
                raise
            raise MupError("a coordinate check can't record inside hk.lift(hk.transform(f).init), which has no "
                           "state; make it hk.transform_with_state(f) and hk.lift_with_state") from error
        entries = records_in(state)
        # Only names that are in the state are right: a second trace below a stack notes names without the
        # stack's prefix. And apply knows no prefixes at all, so from now on nothing is noted.
        self.records = {key: info for key, info in self.records.items() if key[1] in entries.get(key[0], ())}
        self._prepared = True
        return {module: {name: np.zeros(x.shape, x.dtype) for name, x in names.items()}
                for module, names in entries.items()}

    def apply(self, params: Any, state: Any, rng: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Returns the model's output, and its state with the records added to those in `state`."""
        return self._model.apply(params, state, rng, *args, **kwargs)

    def record(self, kind: RecordKind, owner: Any, value: Any, name: str = "", *,
               queries: str | None = None, weight: str | None = None) -> None:
        """Adds the arrays of a tree to the state of the current module.

        Args:
          kind: the kind of the arrays; those of a multiplier are what `measured_sizes` returns.
          owner: the module that is called, or a name; it tells the second call from the first.
          value: a tree of arrays.
          name: tells it from others of the module.
          queries: of logits, the name of the layer that projects the attention's queries.
          weight: of a pair's queries, the parameter that multiplies them.
        """
        number = self._count_calls((kind, name), owner)
        outputs = [readout for _, readout in self._outputs_of_readouts.values()]
        for path, x in _arrays(value):
            _, readout = self._outputs_of_readouts.get(id(x), (None, None))
            measured = x if kind == RecordKind.MULTIPLIER else self._measure(x)
            preceding = dict.fromkeys([*self._top_level_readouts(measured), *outputs])
            info = self._current = RecordInfo(
                kind=kind, suffix=f"{name}{path}" + f"@{number}" * (number > 0), order=len(self.records),
                shape=tuple(x.shape), eps=float(jnp.finfo(x.dtype).eps), readout=readout,
                preceding_readouts=tuple(preceding), queries=queries, weight=weight)
            if self._pair_trace is not None and trace_of(measured) not in (None, self._pair_trace):
                self._not_kept(kind, name)
                continue
            sums = hk.get_state(info.entry, measured.shape, measured.dtype, init=jnp.zeros)
            hk.set_state(info.entry, sums + measured)

    def _top_level_readouts(self, measured: Any) -> list[str]:
        """Returns the readouts that are no module's, and that an array may be computed from.

        Those of a pair are its weights, by whose names nothing is called; its program tells.
        """
        return [readout for readout in ("~", TIED) if readout in self._readouts and (
            readout not in self._behind or self._behind[readout].has(measured))]

    def _not_kept(self, kind: RecordKind, name: str) -> None:
        """Notes a module whose output is inside another trace than the pair's apply; raises for a probe."""
        if kind == RecordKind.PROBE:
            marked = name.removeprefix("/")
            raise MupError(f"probe({marked!r}, ...) is in a function that JAX traces by itself, as those of "
                           "jax.lax.scan, jax.jit and jax.checkpoint, and a check can't take it from there; "
                           "return the array from that function, and give it to probe outside")
        self.unkept[name.removeprefix("/")] = None

    @contextlib.contextmanager
    def pair_apply(self, params: Any, readouts: Mapping[str, Sequence[Any]]) -> Iterator[None]:
        """Keeps, as long as it is open, no array from another trace of JAX than that of these parameters.

        Args:
          params: the parameters of a pair.
          readouts: as `recording_pair` takes them.
        """
        self._pair_trace = next((trace_of(self._measure(x)) for _, x in _arrays(params)), None)
        if not self._prepared:
            self._behind = {name: Dependents(some, tables=name == TIED) for name, some in readouts.items()}
        try:
            yield
        finally:
            self._pair_trace, self._behind = None, {}

    # --- within a trace of the model ---

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the model's function, so that a trace of it records."""
        @functools.wraps(function)
        def recording(*args: Any, **kwargs: Any) -> Any:
            token = _recorder.set(self)
            try:
                with hk.intercept_methods(self._intercept), hk.custom_setter(self._setter), \
                        hk.custom_getter(self._getter):
                    out = function(*args, **kwargs)
                    self.record(RecordKind.OUTPUT, "~", out)
                return out
            finally:
                _recorder.reset(token)
                self._read = {}
                for of_this_trace in (self._calls, self._outputs_of_readouts, self._projections):
                    of_this_trace.clear()
        return recording

    def _intercept(self, next_method: Any, args: Any, kwargs: Any, call: Any) -> Any:
        """Records what a module's `__call__` returns: Haiku's interceptor of method calls."""
        module = call.module
        # Not for a superclass's __call__, nor for a lift, whose call returns parameters.
        if call.method_name != "__call__" or any(module is active for active in self._active_modules) \
                or is_lift(module):
            return next_method(*args, **kwargs)
        attention = layer_type(module).attention
        self._read = {}
        with self._active(module, attends=attention is not None):
            out = next_method(*args, **kwargs)
            if attention is not None:
                self._record_logits(module, attention, self._projections[-1][1])
        if self._projections:
            name, outputs = self._projections[-1]
            outputs[module.module_name.removeprefix(f"{name}/")] = out
        readout = TIED if isinstance(module, SharedReadout) else module.module_name
        if readout == TIED or readout in self._readouts:
            # By identity, since anything computed from an output is another array. Keeping the array keeps its
            # id from being used again.
            self._outputs_of_readouts.update((id(x), (x, readout)) for _, x in _arrays(out))
        self.record(RecordKind.ACTIVATION, module, out)
        if isinstance(module, SharedReadout):
            self._record_tied_multiplier(module, out, *args, **kwargs)
        elif isinstance(module, hk.Linear | hk.ConvND):
            self._record_product(module, out, *args, **kwargs)
        return out

    def _record_product(self, module: Any, out: jax.Array, inputs: Any = None, *args: Any,
                        **kwargs: Any) -> None:
        """Records what a readout makes of its inputs apart from its bias, and a layer's multiplier."""
        read, self._read = self._read, {}
        product = out - jnp.broadcast_to(read["b"], out.shape) if "b" in read else out
        if "b" in read and module.module_name in self._readouts:
            self._outputs_of_readouts[id(product)] = product, module.module_name
            self.record(RecordKind.ACTIVATION, module, product, WITHOUT_BIAS)
        if not isinstance(module, hk.Linear) or "w" not in read or inputs is None:
            return
        self.record(RecordKind.MULTIPLIER, module, self._sizes_of_product(
            module, inputs, read["w"], product, lambda x: module(x, *args, **kwargs)))

    def _sizes_of_product(self, module: Any, inputs: jax.Array, weight: jax.Array, product: jax.Array,
                          layer: Callable[[jax.Array], jax.Array]) -> Any:
        """Returns the sizes of a product with and without what else is in it: traced alone, or measured."""
        if not self._prepared:
            return np.zeros(3, np.float32)          # only its shape is asked for
        sizes = None
        # A class of the user's own may do other things when it is called, which must not happen twice.
        if type(module).__module__.partition(".")[0] in ("haiku", "haiku_mup"):
            sizes = traced_sizes(functools.partial(self._product_alone, module, layer), inputs, weight)
        return measured_sizes(inputs, weight, product) if sizes is None else sizes

    def _product_alone(self, module: Any, layer: Callable[[jax.Array], jax.Array], x: jax.Array,
                       w: jax.Array) -> jax.Array:
        """Returns what a layer makes of inputs and a weight in place of its own, without its bias.

        The layer is called anew: Haiku gives each interceptor of a call to it only once.
        """
        self._weight = w
        try:
            with self._active(module, attends=False):
                return layer(x)
        finally:
            self._weight = None

    def _record_tied_multiplier(self, module: SharedReadout, out: jax.Array, weight: Any, x: Any,
                                **kwargs: Any) -> None:
        """Records the multiplier of logits that an embedding makes."""
        del kwargs
        read, self._read = self._read, {}
        product = out - jnp.broadcast_to(read["b"], out.shape) if "b" in read else out
        weights = weight.get_weights() if isinstance(weight, SharedEmbed) else jnp.asarray(weight)
        found = measured_sizes(x, weights.T, product)
        self._outputs_of_readouts[id(found)] = found, TIED
        self.record(RecordKind.MULTIPLIER, module, found)

    def _getter(self, next_getter: Any, value: Any, context: Any) -> Any:
        """Notes a weight as stored, and a bias as added: Haiku's custom getter, around all others."""
        is_own = self._active_modules and context.module is self._active_modules[-1]
        if not is_own or context.name not in ("w", "b"):
            return next_getter(value)
        if self._weight is not None:
            return next_getter(self._weight if context.name == "w" else jnp.zeros(value.shape, value.dtype))
        used = next_getter(value)
        self._read[context.name] = value if context.name == "w" else used
        return used

    @contextlib.contextmanager
    def _active(self, module: Any, *, attends: bool) -> Iterator[None]:
        """Keeps a module, and the projections of an attention, on their stacks during its call."""
        if attends:
            self._projections.append((module.module_name, {}))
        self._active_modules.append(module)
        try:
            yield
        finally:
            self._active_modules.pop()
            if attends:
                self._projections.pop()

    def _record_logits(self, module: Any, attention: Attention, outputs: Mapping[str, Any]) -> None:
        """Records the logits of an attention's softmax before any mask, [..., H, T', T].

        Args:
          module: the module that attends.
          attention: what the table of layer types says of it.
          outputs: what its projections returned, by their names below its own.
        """
        sides, size = (attention.queries, attention.keys), int(attention.key_size(module))
        if not outputs.keys() >= set(sides):
            return
        # [..., T', H, D] and [..., T, H, D], where heads may share keys in groups
        query, key = (outputs[side].reshape(*outputs[side].shape[:-1], -1, size) for side in sides)
        key = jnp.repeat(key, query.shape[-2] // key.shape[-2], -2)
        logits = jnp.einsum("...thd,...Thd->...htT", query, key) / np.sqrt(size).astype(query.dtype)
        self.record(RecordKind.LOGITS, module, logits, queries=attention.queries)

    def _count_calls(self, what: Any, owner: Any) -> int:
        """Returns how many records of this name and owner there were before in this trace, and counts one more.

        A scan, a remat or a stack traces its body several times for one call. Each has a trace of its own.
        """
        trace = trace_state()
        earlier = [call for call in self._calls if call[0] == what and call[1] is owner and call[2] == trace]
        self._calls.append((what, owner, trace))
        return len(earlier)

    def _setter(self, next_setter: Any, value: Any, context: Any) -> Any:
        """Notes under which full names a record is stored: Haiku's custom setter of state."""
        entry = leaf_name(context)
        if not self._prepared and is_record(entry) and self._current is not None:
            for name in Nesting().stored_names(context, entry):
                self.records.setdefault((name[:-len(entry) - 1], entry), self._current)
        return next_setter(value)


def _arrays(tree: Any) -> Iterator[tuple[str, jax.Array]]:
    """Yields (path, array) of each array of real or complex numbers in a tree; the path of the root is ""."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact) and x.size:
            yield "".join(f".{_key(part)}" for part in path), x


def _key(part: Any) -> str:
    """Returns the name, the key or the index that an entry of a tree's path holds."""
    for attribute in ("name", "key", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)
