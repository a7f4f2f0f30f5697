"""Notes what is asked of a plan: whether a model's forward pass has the multipliers, each of them once.

A plan sees its arguments alone, and not the loss. So it notes which multipliers are asked for while a model is
traced or runs, and by which of its methods.
"""
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.plans.forward_pass import multiplier_of, needs_factor
from haiku_mup.tracing.jax_internals import no_trace_state, trace_state
from haiku_mup.tracing.warn_once import warn_once

MULTIPLIED, READOUT, MULTIPLIER = "multiplied", "readout", "multiplier"     # methods of `Plan`


class Asked:
    """The parameters whose multipliers were asked for, by method, with the trace in which it was called last.

    >>> asked = Asked()
    >>> with asked.during() as found:
    ...     asked.note("out.w", MULTIPLIED)
    >>> found, asked.names
    ({'out.w'}, {'out.w'})
    """

    def __init__(self) -> None:
        self._traces: dict[str, dict[str, Any]] = {}
        self._warned: set[str] = set()

    @property
    def names(self) -> set[str]:
        """Returns the parameters."""
        return set(self._traces)

    def note(self, name: str, method: str) -> None:
        """Notes that a method was asked for a parameter's multiplier."""
        self._traces.setdefault(name, {})[method] = trace_state()
        for asked, found in _listeners.get():
            if asked is self:
                found.add(name)

    @contextlib.contextmanager
    def during(self) -> Iterator[set[str]]:
        """Yields a set of the parameters that are asked for as long as it is open, in this thread."""
        found: set[str] = set()
        token = _listeners.set((*_listeners.get(), (self, found)))
        try:
            yield found
        finally:
            _listeners.reset(token)

    def check_once(self, name: str) -> None:
        """Raises, or warns, if a weight was multiplied, and its inputs, too.

        In one trace of JAX the same forward pass does both. Elsewhere it may be two, as in a notebook.

        Raises:
          MupError: both were in the trace that goes on.

        Warns:
          MupWarning: both were, at any time; once for a parameter.
        """
        traces = self._traces.get(name, {})
        if MULTIPLIED not in traces or READOUT not in traces:
            return
        text = (f"{name!r}: plan.multiplied has multiplied the weight, and plan.readout its inputs: in one "
                "forward pass its factor would act twice; leave one of them out")
        if traces[MULTIPLIED] == traces[READOUT] != no_trace_state():
            raise MupError(text)
        warn_once(self._warned, name, text)


_listeners: contextvars.ContextVar[tuple[tuple[Asked, set[str]], ...]] = contextvars.ContextVar(
    "listeners", default=())
_lock = threading.Lock()
_by_content: weakref.WeakValueDictionary[Any, Asked] = weakref.WeakValueDictionary()


def shared(content: Any) -> Asked:
    """Returns what was asked of all plans of this content, one object as long as any of them lives.

    Plans may be static arguments of jax.jit, whose traces equal arguments share. So a plan may train without a
    trace of its own: that of an equal one was asked in its place.

    >>> first = shared("content")
    >>> shared("content") is first
    True
    """
    with _lock:
        return _by_content.setdefault(content, Asked())


def forgotten(scalings: Mapping[str, ParameterScaling], asked: Collection[str], when: str) -> str:
    """Returns a message about parameters with a factor that nothing has asked for; "" if there are none.

    Args:
      scalings: the plan's parameters.
      asked: those that were asked for.
      when: the event by which they should have been.
    """
    names = [name for name, scaling in scalings.items() if needs_factor(scaling) and name not in asked]
    if not names:
        return ""
    name, more = names[0], f" (nor for {len(names) - 1} others')" if len(names) > 1 else ""
    scaling = scalings[name]
    factor = multiplier_of(scaling)
    use = f"give what makes its logits plan.readout(x, {name!r})" if scaling.target.layer == TIED else (
        f"compute the loss with plan.multiplied(params), or give the layer plan.readout(x, {name!r})")
    shown = f"{factor:.4g}" if isinstance(factor, float) else "of its rows"
    return f"{name!r}: {when}, and nothing has asked for its forward multiplier, {shown}{more}; {use}"
