"""What a model computes inside, written down as it runs: every module's output, and whatever is probed."""
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.coordinates.array_stats import Stat, measurer
from haiku_mup.errors import MupError
from haiku_mup.layers import SharedReadout
from haiku_mup.parameters.haiku_layers import TIED, Attention, layer_type
from haiku_mup.tracing.haiku_internals import leaf_name, stored_names

T = TypeVar("T")
Tree: TypeAlias = Mapping[str, Mapping[str, Any]]       # module -> name -> array, as Haiku nests them

ACTIVATION, LOGITS, PROBE, OUTPUT = "activation", "logits", "probe", "output"
_MARK = "haiku_mup recorded "
_recorder: contextvars.ContextVar["Recorder | None"] = contextvars.ContextVar("recorder", default=None)


class Seen(NamedTuple):
    """What is known of a recorded array as it is traced.

    Attributes:
      kind: `ACTIVATION`, `LOGITS`, `PROBE` or `OUTPUT`.
      rest: what tells it from others of its module: a probe's name, a path in a tree, the number of the call.
      order: its place among all, as they were computed.
      shape: its shape, in one layer.
      eps: the relative rounding error of its dtype.
      readout: the readout whose output it is, without the prefix of a lift; TIED for a SharedReadout; or "".
      after: the readouts that were computed before it.
    """

    kind: str
    rest: str
    order: int
    shape: tuple[int, ...]
    eps: float
    readout: str
    after: tuple[str, ...]


def probe(name: str, x: T) -> T:
    """Has a coordinate check record `x`, too; elsewhere it does nothing.

    Use it inside a transformed function for what is no module's output. (Tensor Programs V,
    arXiv 2203.03466, Appendix D.1.)

    Args:
      name: what to call it; the module that it is in stands before it.
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
        recorder.record(PROBE, module, x, f"/{name}")
    return x


def original(model: Any) -> Callable[..., Any]:
    """The function that Haiku transformed, as it is in a wrapped model.

    Raises:
      MupError: a model that Haiku didn't transform, or a multi-transform.
    """
    function: Callable[..., Any] | None = getattr(getattr(model, "apply", None), "_original_fn", None)
    if function is None:
        raise MupError(f"make_model returned {type(model).__name__}; a coordinate check needs what "
                       "hk.transform or hk.transform_with_state returns")
    return function


class Recorder:
    """A model that records what its modules return, in Haiku's state: under jit, remat, scan, a stack.

    Args:
      model: what hk.transform returns, in μP or not.
      stats: what to take of every array.
      readouts: names of modules whose output is a readout's, without the prefix of a lift.

    Attributes:
      seen: what was recorded, by module and name in the state.

    Raises:
      MupError: a model that Haiku didn't transform, or a multi-transform.
    """

    def __init__(self, model: Any, stats: Sequence[Stat], readouts: Sequence[str] = ()):
        function = original(model)
        self.seen: dict[tuple[str, str], Seen] = {}
        self._readouts = readouts
        self._measure = measurer(stats)
        self._calls: list[tuple[Any, Any, int]] = []
        self._made: dict[int, tuple[Any, str]] = {}     # id of a readout's output: itself, and its name
        self._pending: Seen | None = None
        self._prepared = False
        self._active: list[Any] = []                    # modules that are being called
        self._attention: list[tuple[str, dict[str, Any]]] = []
        self._model = hk.transform_with_state(self._recording(function))

    def prepare(self, key: Any, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        """The state in which to record, filled with zeros; only shapes are computed.

        Args:
          key: a random key.
          *args, **kwargs: the model's inputs.

        Raises:
          MupError: modules in a plain hk.transform that is lifted, which has no state.
        """
        try:
            _, state = jax.eval_shape(lambda key: self._model.init(key, *args, **kwargs), key)
        except ValueError as error:
            if type(error).__name__ != "NonEmptyStateError":
                raise
            raise MupError("a coordinate check can't record inside hk.lift(hk.transform(f).init), which has no "
                           "state; make it hk.transform_with_state(f) and hk.lift_with_state") from error
        records = _recorded(state)
        # Below a stack a second trace knows nothing of its prefix; and apply knows none.
        self.seen = {key: seen for key, seen in self.seen.items() if key[1] in records.get(key[0], ())}
        self._prepared = True
        return {module: {name: np.zeros(x.shape, x.dtype) for name, x in names.items()}
                for module, names in records.items()}

    def apply(self, params: Any, state: Any, rng: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The model's output and its state, with the records added to those in `state`."""
        return self._model.apply(params, state, rng, *args, **kwargs)

    def _recording(self, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            token = _recorder.set(self)
            try:
                with hk.intercept_methods(self._intercept), hk.custom_setter(self._setter):
                    out = function(*args, **kwargs)
                    self.record(OUTPUT, "~", out)
                return out
            finally:
                _recorder.reset(token)
                self._forget()
        return wrapped

    def _forget(self) -> None:
        for kept in (self._calls, self._made, self._attention):
            kept.clear()

    def _intercept(self, next_method, args, kwargs, call):
        module = call.module
        if call.method_name != "__call__" or any(module is outer for outer in self._active) \
                or type(module).__module__ == "haiku._src.lift":
            return next_method(*args, **kwargs)                 # a superclass's; a lift, which gives parameters
        attention = layer_type(module).attention
        if attention:
            self._attention.append((module.module_name, {}))
        self._active.append(module)
        try:
            out = next_method(*args, **kwargs)
            if attention:
                self._logits(module, attention, self._attention[-1][1])
        finally:
            self._active.pop()
            if attention:
                self._attention.pop()
        if self._attention:
            name, projected = self._attention[-1]
            projected[module.module_name.removeprefix(f"{name}/")] = out
        readout = TIED if isinstance(module, SharedReadout) else module.module_name
        if readout == TIED or readout in self._readouts:
            self._made.update((id(x), (x, readout)) for _, x in _arrays(out))
        self.record(ACTIVATION, module, out)
        return out

    def _logits(self, module: Any, attention: Attention, projected: Mapping[str, Any]) -> None:
        """Those of an attention's softmax, before any mask: [..., H, T', T]."""
        sides, size = (attention.queries, attention.keys), int(attention.key_size(module))
        if not projected.keys() >= set(sides):
            return
        query, key = (projected[side].reshape(*projected[side].shape[:-1], -1, size) for side in sides)
        logits = jnp.einsum("...thd,...Thd->...htT", query, key) / np.sqrt(size).astype(query.dtype)
        self.record(LOGITS, module, logits)

    def record(self, kind: str, owner: Any, value: Any, leaf: str = "") -> None:
        """Adds the arrays of a tree to the state of the module that is current.

        Args:
          kind: see `Seen`.
          owner: what tells one call from the next: a module, or a name.
          value: a tree of arrays.
          leaf: what tells it from others of the module's.
        """
        number = self._number((kind, leaf), owner)
        top = [name for name in self._readouts if name == "~"]          # of parameters at top level
        after = tuple(dict.fromkeys([*top, *(name for _, name in self._made.values())]))
        for path, x in _arrays(value):
            rest = f"{leaf}{path}" + f"@{number}" * (number > 0)
            _, readout = self._made.get(id(x), (None, ""))
            self._pending = Seen(kind, rest, len(self.seen), tuple(x.shape), float(jnp.finfo(x.dtype).eps),
                                 readout, after)
            fresh, entry = self._measure(x), f"{_MARK}{kind} {rest}"
            before = hk.get_state(entry, fresh.shape, fresh.dtype, init=jnp.zeros)
            hk.set_state(entry, before + fresh)

    def _number(self, what: Any, owner: Any) -> int:
        """How many calls there were before this one, in this trace."""
        trace = trace_state()
        same = [n for known, at, n in self._calls
                if known[1] is owner and known[0] == what and at == trace]
        self._calls.append(((what, owner), trace, len(same)))
        return len(same)

    def _setter(self, next_setter, value, context):
        if not self._prepared and leaf_name(context).startswith(_MARK) and self._pending is not None:
            for name in stored_names(context):
                entry = leaf_name(context)
                self.seen.setdefault((name[:-len(entry) - 1], entry), self._pending)
        return next_setter(value)


def trace_state() -> Any:
    """What is equal within one trace, and differs from any other's."""
    import jax.extend.core  # slow to import

    name = "get_opaque_trace_state"                     # in jax.core before JAX 0.10
    find = getattr(jax.extend.core, name, None) or getattr(jax.core, name)
    return find(convention="haiku_mup")


def _arrays(tree: Any) -> Iterator[tuple[str, jax.Array]]:
    """(path, array) of each array of real or complex numbers in a tree: "" for a single one."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact) and x.size:
            yield "".join(f".{_key(part)}" for part in path), x


def _key(part: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _recorded(state: Tree) -> dict[str, dict[str, Any]]:
    """What of a state is records."""
    found = {module: {k: v for k, v in names.items() if k.startswith(_MARK)} for module, names in state.items()}
    return {module: names for module, names in found.items() if names}


def split(state: Tree) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The model's own state, and the records in it."""
    own = {module: {k: v for k, v in names.items() if not k.startswith(_MARK)}
           for module, names in state.items()}
    return {module: names for module, names in own.items() if names}, _recorded(state)


def merged(own: Tree, records: Tree) -> dict[str, dict[str, Any]]:
    """The state that both are part of."""
    return {module: {**own.get(module, {}), **records.get(module, {})} for module in {**own, **records}}
