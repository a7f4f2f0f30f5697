"""Mup: captures the base's and the target's shapes, and puts a model and its optimizer in μP."""
import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import optax

from haiku_mup import behaviour, context, optim
from haiku_mup.capture import Session, Wrapped
from haiku_mup.errors import MupError
from haiku_mup.shapes import Entry, Record
from haiku_mup.summary import Row, as_text

Model = TypeVar("Model")


class Mup:
    """The μP of one model: what its widths are at a base, and at the target that is to be trained.

    Rules: Tensor Programs V (arXiv 2203.03466), Table 8; at base width nothing changes, bit for bit.

    >>> def fn(x, width):
    ...     with haiku_mup.apply_mup():
    ...         x = jax.nn.relu(hk.Linear(width)(x))
    ...         x = jax.nn.relu(hk.Linear(width)(x))
    ...         return haiku_mup.Readout(10)(x)
    >>> base, target = (hk.transform(functools.partial(fn, width=w)) for w in (64, 256))
    >>> key, x = jax.random.PRNGKey(0), jnp.ones((1, 784))
    >>> mup = haiku_mup.Mup()
    >>> with mup.init_base():
    ...     _ = jax.eval_shape(base.init, key, x)
    >>> with mup.init_target():
    ...     params = target.init(key, x)
    >>> model = mup.wrap_model(target)
    >>> optimizer = mup.wrap_optimizer(optax.adam(3e-4), adam=True)
    >>> state = optimizer.init(params)
    >>> model.apply(params, None, x).shape      # from here on, train as ever
    (1, 10)
    """

    def __init__(self):
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

        After the example of `Mup`:

        >>> mup = haiku_mup.Mup()
        >>> with mup.init_base():
        ...     shapes = jax.eval_shape(base.init, key, x)
        >>> mup
        Mup(base=6 parameters)
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

        After the example of `Mup`, once more under jit:

        >>> with mup.init_target():
        ...     params = jax.jit(target.init)(key, x)
        >>> mup
        Mup(base=6 parameters, target=6 parameters)
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
        for name, record in self._base.items():
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

        After the example of `Mup`:

        >>> model = mup.wrap_model(target)
        >>> params = jax.jit(model.init)(key, x)                # the draws are in μP
        >>> logits = jax.jit(model.apply)(params, None, x)      # and so are the multipliers
        """
        scope = Wrapped(self._captured("wrap_model"))
        if not (hasattr(model, "_replace") and hasattr(model, "init") and hasattr(model, "apply")):
            raise MupError(f"wrap_model: a {type(model).__name__} is not a transformed model; give it "
                           "what hk.transform returns")
        if any(map(context.is_bound, jax.tree.leaves((model.init, model.apply)))):
            raise MupError("wrap_model: this model is wrapped already; wrap the plain one, once")
        wrap = functools.partial(context.bound, scope)
        return model._replace(init=wrap(model.init), apply=jax.tree.map(wrap, model.apply))

    def wrap_optimizer(self, optimizer: Any, adam: bool = True, *, scale_decay: bool = False,
                       scale_eps: bool = False) -> optax.GradientTransformationExtraArgs:
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

        After the example of `Mup`, with a clip, which belongs outside:

        >>> wrapped = mup.wrap_optimizer(optax.adamw(0.1, weight_decay=0.0))
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), wrapped)
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> [f"{updates[layer]['w'].min():.3f}" for layer in ("linear", "linear_1", "readout")]
        ['-0.100', '-0.025', '-0.100']
        """
        entries = self._captured("wrap_optimizer")
        if optim.is_wrapped(optimizer):
            raise MupError("wrap_optimizer: this optimizer is wrapped already; wrap the plain one, once")
        lr = optim.by_name(entries, lambda e: e.factors.adam if adam or scale_eps else e.factors.sgd)
        one = optim.by_name(entries, lambda e: 1.0)
        gradient = optim.by_name(entries, lambda e: 1 / e.factors.eps) if scale_eps else one
        shapes = _tree(entries, lambda e: jax.ShapeDtypeStruct(e.target.shape, "float32"))
        kind = behaviour.Check(self._warned, optimizer, adam, both=scale_eps)
        kind(behaviour.one_matrix(shapes), shapes)

        def check(params):
            optim.check_params(entries, params)
            kind(params)

        return optim.scale_optimizer(optimizer, lr, gradient, one if scale_decay else lr, check)

    def scale_updates(self, adam: bool = True) -> optax.GradientTransformationExtraArgs:
        """The bare factors as an optax transform, to place in a chain of one's own.

        Put it behind what makes updates from gradients, and before the decay.

        Args:
          adam: Adam's factors, or SGD's.

        Returns:
          An optax transformation without state.

        Raises:
          MupError: before `init_target`; when it meets them, parameters of other names than the
            target's; in a chain that is wrapped, too.

        After the example of `Mup`:

        >>> optimizer = optax.chain(optax.scale_by_adam(), mup.scale_updates(),
        ...                         optax.add_decayed_weights(1e-4), optax.scale(-3e-4))
        >>> state = optimizer.init(params)
        """
        return optim.scale_by_name(optim.by_name(self._captured("scale_updates"), _lr(adam)))

    def lr_scales(self, adam: bool = True) -> dict[str, dict[str, float]]:
        """The factors of the learning rate.

        Args:
          adam: Adam's factors, or SGD's.

        Returns:
          A tree like the parameters, modules of names, with a Python float for each.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`, where the width grows from 64 to 256:

        >>> mup.lr_scales()["linear_1"]
        {'b': 1.0, 'w': 0.25}
        >>> mup.lr_scales(adam=False)["linear_1"]
        {'b': 4.0, 'w': 1.0}
        """
        entries = self._captured("lr_scales")
        return _tree(entries, _lr(adam))

    def table(self) -> list[Row]:
        """What μP made of each parameter.

        Returns:
          A `Row` for each parameter, in the order of their creation.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`:

        >>> [row.name for row in mup.table() if row.role == "hidden"]
        ['linear_1/w']
        """
        return self._rows("table")

    def summary(self, width: int = 100) -> str:
        """The table as text, aligned.

        Args:
          width: columns; names that don't fit lose their middle.

        Returns:
          A line of heads, and a line for each parameter, in the order of their creation.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`:

        >>> print(mup.summary())
        parameter   base    target   role    std base  std target  multiplier  Adam lr  SGD lr
        linear/w    784×64  784×256  input    0.03142     0.03142           1        1       4
        linear/b    64      256      input          0           0           1        1       4
        linear_1/w  64×64   256×256  hidden      0.11     0.05498           1     0.25       1
        linear_1/b  64      256      input          0           0           1        1       4
        readout/w   64×10   256×10   output      0.11        0.11        0.25        1       4
        readout/b   10      10       fixed          0           0           1        1       1
        """
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


def _check_captured(session: Session, where: str) -> None:
    if not session.records:
        raise MupError(f"{where} captured no parameter: call the model's init inside it, and put the "
                       "layers inside `with haiku_mup.apply_mup():`, in the function that is transformed")
