"""The contexts that capture base, delta and target; and what was captured, kept in a file."""
import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from haiku_mup.errors import MupError
from haiku_mup.parameters.branches import check_branches
from haiku_mup.parameters.depth import Pairs
from haiku_mup.parameters.fans import Axes, parse_fans
from haiku_mup.parameters.globs import parse_multipliers
from haiku_mup.parameters.place import Site
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, compare
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import maximal_update
from haiku_mup.tracing import context
from haiku_mup.tracing.capture import Capture, Declarations

_multiplied: dict[int, bool] = {}       # trees of parameters that were captured as a target


class Captures:
    """What was captured of a model, at its base, its delta and its target: the first half of `Mup`."""

    def __init__(self, *, fans: Mapping[str, Sequence[Axes]] | None = None,
                 readouts: str | Sequence[str] = (), parametrization: Parametrization | None = None,
                 init_mults: Mapping[str, float] | None = None,
                 lr_mults: Mapping[str, float] | None = None) -> None:
        self._declarations = Declarations(
            parse_fans(fans), _patterns(readouts), _rule(parametrization),
            parse_multipliers("init_mults", init_mults), parse_multipliers("lr_mults", lr_mults))
        parametrization = self._declarations.parametrization
        if parametrization.plain and lr_mults:
            raise MupError(f"lr_mults: in {parametrization.name} a plain optimizer trains the wrapped "
                           "model, and has no factors; take another form")
        self._source = ""                           # where the base was loaded from
        self._base: Mapping[str, Record] | None = None
        self._entries: Mapping[str, ParameterScaling] | None = None
        self._branches: Mapping[Site, float] = {}   # of haiku_mup.residual: their multipliers
        self._open_capture: Capture | None = None        # of the init_target that is open
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        parametrization = self._declarations.parametrization
        parts = [] if parametrization == maximal_update() else [parametrization.name]
        parts += [f"{side}={len(what)} parameters" for side, what in
                  (("base", self._base), ("target", self._entries)) if what is not None]
        return f"Mup({', '.join(parts)})"

    @contextlib.contextmanager
    def init_base(self) -> Iterator[None]:
        """A context in which a model's init is captured as the base; `jax.eval_shape` of it is enough.

        A second one before `init_target` takes the place of the first.

        Raises:
          MupError: after `init_target`; nothing captured; one name with two shapes.

        After the example of `Mup`:

        >>> mup = haiku_mup.Mup()
        >>> with mup.init_base():
        ...     shapes = jax.eval_shape(base.init, key, x)
        >>> mup
        Mup(base=6 parameters)
        """
        if self._entries is not None or self._open_capture is not None:
            raise MupError("init_base after init_target: its factors would no longer hold; make a new "
                           "Mup()")
        with contextlib.closing(Capture(self._declarations, None, self._warned)) as capture:
            with context.entered(capture):
                yield
            capture.check("init_base")
            self._base, self._source = capture.records, ""

    @contextlib.contextmanager
    def init_delta(self) -> Iterator[None]:
        """A context in which a model's init marks, by its shapes, every width that may ever grow.

        It is needed where a width is the same in base and target and still a width: the model here differs
        from the base in every one of them. Between `init_base` and `init_target`.

        Raises:
          MupError: before `init_base` or after `init_target`; what `init_target` raises, for these shapes.

        After the example of `Mup`; here the target is the base itself, whose readout stays a readout:

        >>> mup = haiku_mup.Mup()
        >>> with mup.init_base():
        ...     _ = jax.eval_shape(base.init, key, x)
        >>> with mup.init_delta():
        ...     _ = jax.eval_shape(target.init, key, x)
        >>> with mup.init_target():
        ...     _ = jax.eval_shape(base.init, key, x)
        >>> [row.role for row in mup.table() if row.name.endswith("w")]
        ['input', 'hidden', 'output']
        """
        if self._base is None or self._entries is not None or self._open_capture is not None:
            raise MupError("init_delta belongs after init_base and before init_target; make a new Mup()")
        with contextlib.closing(Capture(self._declarations, None, self._warned)) as capture:
            with context.entered(capture):
                yield
            capture.check("init_delta")
            self._base = _with_delta(self._base, capture.records, self._declarations.parametrization)

    @contextlib.contextmanager
    def init_target(self) -> Iterator[None]:
        """A context in which a model's init is captured as the target, and draws in μP.

        It holds for the thread that enters it, and for what is traced in it: other threads, and programs
        that were compiled ahead of time, don't see it.

        Raises:
          MupError: before `init_base`; nothing captured; parameters that only one of the two has; a
            parameter that can't be right in μP; shapes other than an earlier init_target's.

        After the example of `Mup`, once more under jit:

        >>> with mup.init_target():
        ...     params = jax.jit(target.init)(key, x)
        >>> mup
        Mup(base=6 parameters, target=6 parameters)
        """
        if self._base is None:
            raise MupError("init_target before init_base: initialise the base model first, inside `with "
                           "mup.init_base():`")
        capture, before = Capture(self._declarations, self._base, self._warned), self._open_capture
        self._open_capture = capture
        try:
            with context.entered(capture):
                yield
            entries, branches = self._judge(capture)
        except MupError as error:
            if not self._source:
                raise
            raise MupError(f"{error} (the base is from {self._source!r})") from error
        finally:
            self._open_capture = before
            capture.close()
        self._entries, self._branches = entries, branches
        tree = {name: (*entry.target.stacks, *entry.target.shape) for name, entry in entries.items()}
        _multiplied[_key(tree)] = not (all(entry.forward_factors.plain for entry in entries.values())
                                       and set(branches.values()) <= {1.0})

    def _judge(self, capture: Capture) -> tuple[Mapping[str, ParameterScaling], Mapping[Site, float]]:
        """What a capture captured, if it is whole and the same as before."""
        capture.check("init_target")
        entries, branches = capture.whole()
        earlier = entries if self._entries is None else self._entries
        for name, entry in [*entries.items(), *earlier.items()]:
            now, before = (at[name].target if name in at else None for at in (entries, earlier))
            if now is None or before is None or (now.shape, now.stacks) != (before.shape, before.stacks):
                raise MupError.about(name, entry.base.shape, now and now.shape, "an earlier init_target saw "
                                     f"{before and before.shape}; make a new Mup() for another width or depth")
        return entries, branches

    def _captured(self, what: str) -> Mapping[str, ParameterScaling]:
        return self._whole(what)[0]

    def _whole(self, what: str) -> tuple[Mapping[str, ParameterScaling], Mapping[Site, float]]:
        """The entries, and the multipliers of branches."""
        if self._open_capture is not None:
            return self._judge(self._open_capture)
        if self._entries is None:
            raise MupError(f"{what} before init_target: initialise the base inside `with "
                           "mup.init_base():` and the target inside `with mup.init_target():` first")
        return self._entries, self._branches

    # --- what was captured of the base, kept ---

    def state_dict(self) -> dict[str, Any]:
        """What was captured of the base (and delta), as plain values for inside a checkpoint.

        Returns:
          What JSON has values for. It holds for each parameter its name, shape, the std of its initializer,
          fans, and which dimensions are widths.

        Raises:
          MupError: before `init_base`.

        After the example of `Mup`:

        >>> state = mup.state_dict()
        >>> state["parameters"]["linear_1/w"]["shape"]
        [64, 64]
        """
        if self._base is None:
            raise MupError("nothing to save before init_base: initialise the base inside `with "
                           "mup.init_base():`")
        from haiku_mup.serialization import state_dict as store  # here and below: for those who save

        return store.encode(self._base, self._declarations)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """A Mup that has seen the base of which `state_dict` was taken, ready for `init_target`.

        Args:
          state: what `state_dict` gave.

        Raises:
          MupError: values that `state_dict` never gives, or that were changed; it names the entry.

        After the example of `Mup`:

        >>> import json
        >>> haiku_mup.Mup.from_state_dict(json.loads(json.dumps(mup.state_dict())))
        Mup(base=6 parameters)
        """
        return cls._restored(state, "the state dict")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what was captured of the base to a small JSON file: all of it, or nothing.

        Args:
          path: the file, which is replaced if it exists.

        Raises:
          MupError: before `init_base`.
          OSError: a path that can't be written.

        After the example of `Mup`: tune today, and train next month without the base's code.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "base.json")
        >>> mup.save(path)
        >>> again = haiku_mup.Mup.load(path)
        >>> with again.init_target():
        ...     _ = jax.eval_shape(target.init, key, x)
        >>> again.lr_scales() == mup.lr_scales()
        True
        """
        from haiku_mup.serialization import state_dict as store

        store.write(path, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A Mup that has seen the base that was saved, ready for `init_target`.

        Restored parameters need no new draw: `jax.eval_shape(model.init, ...)` inside `init_target` will do.

        Args:
          path: a file that `save` wrote.

        Raises:
          MupError: a file that is truncated, changed by hand, of a newer version, or no such file of ours; it
            names the file and the entry.
          OSError: a path that can't be read.

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "base.json")
        >>> _ = path.write_text('{"format": "of another program"}')
        >>> haiku_mup.Mup.load(path)                            # doctest: +ELLIPSIS
        Traceback (most recent call last):
        haiku_mup.errors.MupError: ...base.json: format: 'of another program' is not 'haiku_mup base'; ...
        """
        from haiku_mup.serialization import state_dict as store

        return cls._restored(store.read(path), os.fspath(path))

    @classmethod
    def _restored(cls, state: Any, source: str) -> Self:
        from haiku_mup.serialization import state_dict as store

        mup = cls()
        mup._base, mup._declarations = store.decode(state, source)
        mup._source = source
        return mup


def multiplied(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the latest target with just these parameters, of any Mup in this process, has multipliers.

    Args:
      shapes: of parameters, by name, with their stack axes in front.

    >>> multiplied({"linear/w": (2, 3)})
    False
    """
    return _multiplied.get(_key(shapes), False)


def _key(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return hash(frozenset(shapes.items()))


def _patterns(readouts: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (readouts,) if isinstance(readouts, str) else readouts
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise MupError(f"readouts: {readouts!r}: give a glob over module names, or several")
    return tuple(patterns)


def _rule(parametrization: Parametrization | None) -> Parametrization:
    found = maximal_update() if parametrization is None else parametrization
    if not isinstance(found, Parametrization):
        raise MupError(f"parametrization: {found!r}: give a haiku_mup.Parametrization, such as "
                       "haiku_mup.maximal_update('table9')")
    return found


def _with_delta(base: Mapping[str, Record], delta: Mapping[str, Record],
                parametrization: Parametrization) -> Mapping[str, Record]:
    """The base's records, with the shapes that the delta has."""
    plain = {name: dataclasses.replace(record, delta=None, delta_row_sizes=()) for name, record in base.items()}
    pairs = Pairs(plain, parametrization)
    found = pairs.find_all(delta, "delta")
    check_branches(pairs, found)
    for pair in found.values():
        compare(pair.base, pair.target, parametrization, pair.depth)
    return {name: dataclasses.replace(record, delta=delta[name].shape, delta_row_sizes=delta[name].row_sizes)
            for name, record in plain.items()}
