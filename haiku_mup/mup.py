"""Mup: captures the base's and the target's shapes, and puts a model and its optimizer in μP."""
import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import haiku as hk
import jax
import optax

from haiku_mup import behaviour, context, optim
from haiku_mup.capture import Session, Wrapped
from haiku_mup.errors import MupError
from haiku_mup.shapes import Entry, Record
from haiku_mup.summary import Row, as_text

Model = TypeVar("Model", hk.Transformed, hk.TransformedWithState, hk.MultiTransformed,
                hk.MultiTransformedWithState)
_MARK, _ORIGINAL = "_haiku_mup", "_original_fn"      # attributes of functions: ours, Haiku's


class Mup:
    """The μP of one model: what its widths are at a base, and at the target that is to be trained.

    Rules: Tensor Programs V (arXiv 2203.03466), Table 8; at base width nothing changes, bit for bit.

    >>> def fn(x, width):
    ...     with haiku_mup.apply_mup():
    ...         x = jax.nn.relu(hk.Linear(width)(x))
    ...         return haiku_mup.Readout(10)(x)
    >>> base, target = (hk.transform(functools.partial(fn, width=w)) for w in (64, 256))
    >>> key, x = jax.random.PRNGKey(0), jax.numpy.ones((1, 784))
    >>> mup = haiku_mup.Mup()
    >>> with mup.init_base():
    ...     _ = jax.eval_shape(base.init, key, x)
    >>> with mup.init_target():
    ...     params = target.init(key, x)
    >>> model = mup.wrap_model(target)
    >>> optimizer = mup.wrap_optimizer(optax.adam(3e-4), adam=True)
    >>> mup.lr_scales()["linear"]
    {'b': 1.0, 'w': 1.0}
    """

    def __init__(self) -> None:
        self._base: Mapping[str, Record] | None = None
        self._entries: Mapping[str, Entry] | None = None
        self._session: Session | None = None        # of the init_target that is open
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        captured = ", ".join(f"{side}={len(what)} parameters" for side, what in
                             (("base", self._base), ("target", self._entries)) if what is not None)
        return f"Mup({captured})"

    @contextlib.contextmanager
    def init_base(self) -> Iterator[None]:
        """A context in which a model's init is captured as the base; `jax.eval_shape` of it is enough.

        A second one before `init_target` takes the place of the first.

        Raises:
          MupError: after `init_target`; nothing captured; one name with two shapes.
        """
        if self._entries is not None or self._session is not None:
            raise MupError("init_base after init_target: its factors would no longer hold; make a new "
                           "Mup()")
        session = Session(None, self._warned)
        with context.entered(session):
            yield
        _check_captured(session, "init_base")
        self._base = session.records

    @contextlib.contextmanager
    def init_target(self) -> Iterator[None]:
        """A context in which a model's init is captured as the target, and draws in μP.

        It holds for the thread that enters it, and for what is traced in it: other threads, and programs
        that were compiled ahead of time, don't see it.

        Raises:
          MupError: before `init_base`; nothing captured; parameters that only one of the two has; a
            parameter that can't be right in μP; shapes other than an earlier init_target's.
        """
        if self._base is None:
            raise MupError("init_target before init_base: initialise the base model first, inside `with "
                           "mup.init_base():`")
        session, before = Session(self._base, self._warned), self._session
        self._session = session
        try:
            with context.entered(session):
                yield
            entries = self._judge(session)
        finally:
            self._session = before
        self._entries = entries

    def _judge(self, session: Session) -> Mapping[str, Entry]:
        """What a session captured, if it is whole and the same as before."""
        _check_captured(session, "init_target")
        for name, record in (self._base or {}).items():
            if name not in session.entries:
                raise MupError.about(name, record.shape, None, "the target has no such parameter; build "
                                     "base and target from one function, and capture the base again")
        for name, entry in (self._entries or {}).items():
            if entry.target.shape != session.records[name].shape:
                raise MupError.about(name, entry.base.shape, session.records[name].shape, "an earlier "
                                     f"init_target saw {entry.target.shape}; make a new Mup() for "
                                     "another width")
        return dict(session.entries)

    def _captured(self, what: str) -> Mapping[str, Entry]:
        if self._session is not None:
            return self._judge(self._session)
        if self._entries is None:
            raise MupError(f"{what} before init_target: initialise the base inside `with "
                           "mup.init_base():` and the target inside `with mup.init_target():` first")
        return self._entries

    def wrap_model(self, model: Model) -> Model:
        """The model with init and apply in μP, of the type that was given.

        Args:
          model: an hk.Transformed, TransformedWithState, MultiTransformed or MultiTransformedWithState.

        Returns:
          The same kind of model; the plain one is as it was.

        Raises:
          MupError: before `init_target`; a model that is wrapped already, or that is none of these; in its
            init or apply, a layer that was not captured.

        Warns:
          MupWarning: later, once, if the plain model is applied after an init in `init_target`.
        """
        scope = Wrapped(self._captured("wrap_model"))
        if not (hasattr(model, "_replace") and hasattr(model, "init") and hasattr(model, "apply")):
            raise MupError(f"wrap_model: a {type(model).__name__} is not a transformed model; give it "
                           "what hk.transform returns")
        if any(map(_is_wrapped, jax.tree.leaves((model.init, model.apply)))):
            raise MupError("wrap_model: this model is wrapped already; wrap the plain one, once")
        wrap = functools.partial(_in_scope, scope)
        return model._replace(init=wrap(model.init), apply=jax.tree.map(wrap, model.apply))

    def wrap_optimizer(self, optimizer: optax.GradientTransformation | optax.MultiSteps, adam: bool = True, *,
                       scale_decay: bool = False, scale_eps: bool = False,
                       ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with each parameter's learning rate in μP. Its state is the inner one's.

        Gradient clipping by the global norm belongs outside: `optax.chain(clip, wrapped)`. So does what
        evaluates the loss at its parameters (line searches, SAM) and what averages parameters: inside, an
        optimizer sees each parameter divided by its factor, which makes the decay come out right. Optimizers
        that scale by a parameter's norm (adafactor, lamb, lars) or by whole matrices (muon) have rules of
        their own, which these factors are not. Wrap once: `scale_updates` in the same chain acts again.

        Args:
          optimizer: any optax optimizer, of Adam's kind (entrywise normalised) or SGD's.
          adam: which of the two it is.
          scale_decay: False leaves what weight decay takes from a parameter in a step independent of
            the width; True multiplies it by the learning rate's factor, as haiku-mup 0.1.5 did.
          scale_eps: multiply the gradients that the optimizer sees by what they shrink with the width (by
            m_out for inputs and hidden weights, by m_in for outputs), so that ε, or a starting value of an
            accumulator, acts alike at every width. Then one pair of factors
            is exact for SGD, Adam and all between, and `adam` has no effect; but a clip inside the
            optimizer sees gradients that grow with the width.

        Returns:
          An optax transformation, with the inner optimizer's state.

        Raises:
          MupError: before `init_target`; an optimizer that is wrapped already; when it meets them,
            parameters of other names or shapes than the target's.

        Warns:
          MupWarning: an optimizer that behaves like SGD with adam=True, or like Adam with adam=False; one
            whose update of an entry depends on other entries.
        """
        entries = self._captured("wrap_optimizer")
        if optim.is_wrapped(optimizer):
            raise MupError("wrap_optimizer: this optimizer is wrapped already; wrap the plain one, once")
        lr = _by_name(entries, lambda e: e.factors.adam if adam or scale_eps else e.factors.sgd)
        one = _by_name(entries, lambda e: 1.0)
        gradient = _by_name(entries, lambda e: 1 / e.factors.eps) if scale_eps else one
        shapes = _tree(entries, lambda e: jax.ShapeDtypeStruct(e.target.shape, "float32"))
        kind = behaviour.Check(self._warned, optimizer, adam, both=scale_eps)
        kind(behaviour.one_matrix(shapes), shapes)

        def check(params):
            _check_params(entries, params)
            kind(params)

        return optim.scale_optimizer(optimizer, lr, gradient, one if scale_decay else lr, check)

    def scale_updates(self, adam: bool = True) -> optax.GradientTransformationExtraArgs:
        """The bare factors as an optax transform, to place in a chain of one's own.

        Put it behind what makes updates from gradients, and before the decay:
        `optax.chain(optax.scale_by_adam(), mup.scale_updates(), optax.add_decayed_weights(λ),
        optax.scale(-lr))`.

        Args:
          adam: Adam's factors, or SGD's.
        """
        return optim.scale_by_name(_by_name(self._captured("scale_updates"), _lr(adam)))

    def lr_scales(self, adam: bool = True) -> dict[str, dict[str, float]]:
        """The factors of the learning rate.

        Args:
          adam: Adam's factors, or SGD's.

        Returns:
          A tree shaped like the parameters, of Python floats.

        Raises:
          MupError: before `init_target`.
        """
        entries = self._captured("lr_scales")
        return _tree(entries, _lr(adam))

    def table(self) -> list[Row]:
        """One record a parameter, in the order of its creation: see `Row`."""
        return self._rows("table")

    def summary(self, width: int = 100) -> str:
        """The table as text, aligned; names that don't fit in `width` columns lose their middle."""
        return as_text(self._rows("summary"), width)

    def _rows(self, what: str) -> list[Row]:
        return [Row.of(entry) for entry in self._captured(what).values()]


def _lr(adam: bool):
    return lambda entry: entry.factors.adam if adam else entry.factors.sgd


def _tree(entries: Mapping[str, Entry], value) -> dict[str, dict[str, Any]]:
    """value(entry) of each parameter, as Haiku nests them: {"module": {"name": …}}."""
    tree: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(entries.items()):
        leaf = entry.target.leaf
        tree.setdefault(name[:-len(leaf) - 1], {})[leaf] = value(entry)
    return tree


def _by_name(entries: Mapping[str, Entry], value):
    """A function from a parameter's name to a number; it raises for names that nobody captured."""
    values: dict[str, float] = {name: value(entry) for name, entry in entries.items()}

    def factor(name: str) -> float:
        if name not in values:
            raise _foreign(name, values)
        return values[name]

    return factor


def _foreign(name: str, known: Mapping[str, Any]) -> MupError:
    return MupError(f"{name!r}: not among the target's parameters ({', '.join(list(known)[:3])}, …); give "
                    "the optimizer the parameters of the model that init_target captured, and make them "
                    "all inside apply_mup()")


def _check_params(entries: Mapping[str, Entry], params: Any) -> None:
    """Raises for parameters that are not the target's: other names, or other widths."""
    for name, leaf in optim.named_leaves(params):
        if isinstance(leaf, optax.MaskedNode):
            continue
        if name not in entries:
            raise _foreign(name, entries)
        shape, target = tuple(leaf.shape), entries[name].target.shape
        axes = iter(shape)
        if not all(n in axes for n in target):          # a stack may put axes before, behind, between
            raise MupError.about(name, entries[name].base.shape, target, f"the optimizer was given {shape}; "
                                 "give it the target's parameters, or make a new Mup() for this width")


def _check_captured(session: Session, where: str) -> None:
    if not session.records:
        raise MupError(f"{where} captured no parameter: call the model's init inside it, and put the "
                       "layers inside `with haiku_mup.apply_mup():`, in the function that is transformed")


def _in_scope(scope: Wrapped, function):
    """`function` with the scope in force, and so whatever Haiku transforms anew from it."""
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with context.entered(scope):
            return function(*args, **kwargs)

    original = getattr(function, _ORIGINAL, None)
    if original is not None:
        setattr(wrapped, _ORIGINAL, _in_scope(scope, original))
    setattr(wrapped, _MARK, True)
    return wrapped


def _is_wrapped(function: Any) -> bool:
    return hasattr(function, _MARK) or hasattr(getattr(function, _ORIGINAL, None), _MARK)


