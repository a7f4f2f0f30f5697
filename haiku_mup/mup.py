"""Mup: captures a model at its base and at the target, and puts the model and its optimizer in μP."""
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.learning_rates import LearningRates, wrap_declared
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.fans import Axes
from haiku_mup.parameters.record import CapturedBase
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.summary_table import Row, as_text
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.run_scale import RunScale
from haiku_mup.rules.tables import maximal_update
from haiku_mup.tracing.capture import Capture
from haiku_mup.tracing.scope import activated
from haiku_mup.tracing.target_capture import CapturedModel, TargetCapture, with_delta
from haiku_mup.tracing.unwrapped import note_captured
from haiku_mup.tracing.wrapped_model import Model, WrappedModel, wrap


def captured_model(mup: "Mup", function: str) -> CapturedModel:
    """Returns the target of a Mup beside its base: for checks, sweeps and models, which are no part of it.

    Args:
      mup: has captured both; inside of init_target, the target as far as it was captured.
      function: what the user called, for the error.

    Raises:
      MupError: before `init_target`.
    """
    return mup._captured_model(function)


class Mup:
    """Captures a model at base and target, and puts it and its optimizer in μP.

    The factors follow Tensor Programs V (arXiv 2203.03466), Table 8, or another parametrization. At the base's
    width nothing changes, bit for bit.

    Args:
      fans: {glob over "module/name": (fan_in_axes, fan_out_axes)}, for parameters of your own whose axes are
        not (in, out). Axes are those of one layer, without stack axes. A third item, `lookup_axes`, is for axes
        that may grow and don't count, such as the experts of a mixture. See also `haiku_mup.fans`.
      readouts: a glob over module names, or several, for output layers that are hk.Linear or convolutions, as
        in `Mup(readouts="*/logits")` for hk.nets.ResNet50. Or a glob over "module/name", for parameters of your
        own that make outputs.
      init_mults: {glob over "module/name": multiplier} of the stds of draws, on top of μP, at every width.
        Parameters that are not drawn, such as biases of zeros, stay as they are.
      lr_mults: the same for learning rates; see `wrap_optimizer`.
      parametrization: `maximal_update()` by default; another form of it, `standard()`, `neural_tangent()`, or a
        `Parametrization` of your own. Where weights are multiplied in the forward pass, Haiku's linear,
        convolutional and embedding layers multiply activations. Any other parameter is multiplied where it is
        read, which takes one more array of its size. In every form, user-defined getters see the Table 8
        parameter values.
      finite: {glob over "module/name": axes}, for sizes that differ between base and target and are not widths.
        Axes are "in" (the fan-in, such as a number of input features), "out" (the fan-out, such as a number of
        classes), or numbers (axes of one layer, such as positions). Nothing is scaled by these sizes: a
        weight's std is what its initializer gives it at the target's size.
      tied: a glob over "module/name", or several, for tables of your own, [rows, width], that are looked up and
        also make logits, by `SharedReadout()(table, x)`. In place of an hk.Embed, take `SharedEmbed`.

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

    def __init__(self, *, fans: Mapping[str, Sequence[Axes]] | None = None,
                 readouts: str | Sequence[str] = (), parametrization: Parametrization | None = None,
                 init_mults: Mapping[str, float] | None = None,
                 lr_mults: Mapping[str, float] | None = None,
                 finite: Mapping[str, Axes | str] | None = None, tied: str | Sequence[str] = ()) -> None:
        self._declarations = Declarations.parse(
            fans=fans, readouts=readouts, parametrization=parametrization, init_mults=init_mults,
            lr_mults=lr_mults, finite=finite, tied=tied)
        self._base: CapturedBase | None = None
        self._source: str | None = None                     # where the base was loaded from
        self._target: CapturedModel | None = None
        self._open_capture: TargetCapture | None = None     # of the init_target that is open
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        """Returns the parametrization, if it is no default, and the numbers of captured parameters."""
        parametrization = self._declarations.parametrization
        parts = [] if parametrization == maximal_update() else [parametrization.name]
        for side, parameters in (("base", self._base and self._base.records),
                                 ("target", self._target and self._target.scalings)):
            parts += [] if parameters is None else [f"{side}={len(parameters)} parameters"]
        return f"Mup({', '.join(parts)})"

    # --- captures ---

    @contextlib.contextmanager
    def init_base(self) -> Iterator[None]:
        """Captures the base: the model whose init runs in this context, or `jax.eval_shape` of its init.

        A second base before `init_target` replaces the first.

        Raises:
          MupError: after `init_target`; nothing captured; one name with two shapes.

        After the example of `Mup`:

        >>> mup = haiku_mup.Mup()
        >>> with mup.init_base():
        ...     shapes = jax.eval_shape(base.init, key, x)
        >>> mup
        Mup(base=6 parameters)
        """
        if self._target is not None or self._open_capture is not None:
            raise MupError("init_base after init_target: its factors would no longer hold; make a new "
                           "Mup()")
        with contextlib.closing(Capture(self._declarations, self._warned)) as capture:
            with activated(capture):
                yield
            capture.check("init_base")
            self._base = CapturedBase(capture.records, capture.states, capture.branch_calls)
            self._source = None

    @contextlib.contextmanager
    def init_delta(self) -> Iterator[None]:
        """Captures a delta: a model that differs from the base in every width that may ever grow.

        Capture one, between `init_base` and `init_target`, if a dimension is equal in base and target but
        should still count as a width.

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
        if self._base is None or self._target is not None or self._open_capture is not None:
            raise MupError("init_delta belongs after init_base and before init_target; make a new Mup()")
        with contextlib.closing(Capture(self._declarations, self._warned)) as capture:
            with activated(capture):
                yield
            capture.check("init_delta")
            self._base = with_delta(self._base, capture.records, self._declarations.parametrization)

    @contextlib.contextmanager
    def init_target(self) -> Iterator[None]:
        """Captures the target: the model whose init runs in this context, where it draws in μP.

        The context holds for the thread that enters it. Other threads don't see it, nor do programs that were
        compiled ahead of time.

        Raises:
          MupError: before `init_base`; as it ends: nothing captured; parameters that only one of the two has;
            parameters that can't be right in μP, all of them at once, each with the line that made it; shapes
            other than an earlier init_target's.

        After the example of `Mup`, once more under jit:

        >>> with mup.init_target():
        ...     params = jax.jit(target.init)(key, x)
        >>> mup
        Mup(base=6 parameters, target=6 parameters)
        """
        if self._base is None:
            raise MupError("init_target before init_base: initialise the base model first, inside `with "
                           "mup.init_base():`")
        capture = TargetCapture(self._declarations, self._warned, self._base)
        outer = self._open_capture
        self._open_capture = capture
        try:
            with activated(capture):
                yield
            model = capture.captured(self._target)
        except MupError as error:
            if self._source is None:
                raise
            raise error.with_source(self._source) from error
        finally:
            self._open_capture = outer
            capture.close()
        self._target = model
        note_captured(model.shapes, model.has_multipliers)

    def _captured_model(self, function: str) -> CapturedModel:
        """Returns the target beside its base; inside of init_target, as far as it was captured.

        Args:
          function: what the user called, for the error.

        Raises:
          MupError: before `init_target`.
        """
        if self._open_capture is not None:
            return self._open_capture.captured(self._target)
        if self._target is None:
            raise MupError(f"{function} before init_target: initialise the base inside `with "
                           "mup.init_base():` and the target inside `with mup.init_target():` first")
        return self._target

    def _captured(self, function: str) -> Mapping[str, ParameterScaling]:
        """Returns each parameter beside the base's, by name, as `_captured_model` does."""
        return self._captured_model(function).scalings

    def _rates(self, function: str) -> LearningRates:
        """Returns the learning rates' factors of the target."""
        return LearningRates(scalings=self._captured(function), lr_mults=self._declarations.lr_mults,
                            parametrization=self._declarations.parametrization)

    # --- the model and its optimizer ---

    def wrap_model(self, model: Model) -> Model:
        """Returns the model with init and apply in μP, of the type that was given.

        Args:
          model: an hk.Transformed, TransformedWithState, MultiTransformed or MultiTransformedWithState.

        Returns:
          The same kind of model; the plain one is as it was.

        Raises:
          MupError: before `init_target`; a model that is wrapped already, or that is none of these; in its
            init or apply, a layer that was not captured, or another model that is called inside, not wrapped,
            with the names and shapes of this one's parameters.

        Warns:
          MupWarning: later, once, if the plain model is applied after an init in `init_target`; in the abcd
            form, of a parameter that was not captured.

        After the example of `Mup`:

        >>> model = mup.wrap_model(target)
        >>> params = jax.jit(model.init)(key, x)                # the draws are in μP
        >>> logits = jax.jit(model.apply)(params, None, x)      # and so are the multipliers
        """
        captured = self._captured_model("wrap_model")
        plain = bool(self._declarations.parametrization.plain)
        return wrap(model, WrappedModel(captured.scalings, captured.branches, plain, captured.states))

    def wrap_optimizer(self, optimizer: optax.GradientTransformation | optax.MultiSteps, adam: bool = True, *,
                       rule: str | None = None, scale_decay: bool = False, scale_eps: bool = False,
                       lr_mults: Mapping[str, float] | None = None, run_scale: RunScale | None = None,
                       ) -> optax.GradientTransformationExtraArgs:
        """Returns the optimizer with each parameter's learning rate in μP. Its state is the inner one's.

        Gradient clipping by the global norm belongs outside: `optax.chain(clip, wrapped)`. So do optimizers
        that evaluate the loss at their parameters (line searches, SAM), and averages of parameters: inside,
        each parameter is divided by its factor, which makes the decay come out right. Wrap once:
        `scale_updates` in the same chain acts again.

        Args:
          optimizer: any optax optimizer.
          adam: True for an optimizer like Adam, which normalizes each entry; False for one like SGD.
          rule: the kind of optimizer, for these and others: "adam", "sgd", "any" (SGD, Adam and all between),
            "adafactor", "lamb", "lars", "muon", "novograd", "momo" or "momo_adam". The guide to
            optimizers has a table of all of optax's; `haiku_mup.optimizer_rules` says what follows from each.
          scale_decay: False: what weight decay takes from a parameter in a step doesn't depend on the width.
            True: it is multiplied by the learning rate's factor, as in haiku-mup 0.1.5.
          scale_eps: whether to undo, in the gradients that the optimizer sees, that they shrink with the width
            (× m_out for inputs and hidden weights, × m_in for outputs). Then ε, or the starting value of an
            accumulator, acts alike at every width. With Adam's rule or SGD's this is rule="any". A clip inside
            of the optimizer then sees gradients that grow with the width, and clips harder.
          lr_mults: {glob over "module/name": multiplier} of parameters' learning rates, as if each had an
            optimizer of its own: a decay inside is multiplied, too. They replace the Mup's own, and are saved
            with it. None keeps the Mup's own.
          run_scale: the batch size and the length of the run, if the optimizer's constants come from this
            `RunScale`. It changes nothing here; it is saved with the Mup, and `summary` shows it. None keeps
            the Mup's own.

        Returns:
          An optax transformation, with the inner optimizer's state.

        Raises:
          MupError: before `init_target`; an optimizer that is wrapped already; a parametrization that has no
            learning rates for it, or needs none; a glob that matches no parameter, or two that match one; when
            it meets them, parameters of other names or shapes than the target's; Muon with what isn't a matrix.

        Warns:
          MupWarning: a rule that doesn't fit what the optimizer does with small numbers, or what its state
            says, with the right one; a decay that depends on the width (an L2 term in front of Adam; one
            inside Adafactor, LAMB or LARS); a batch beyond the critical one of `run_scale`.

        After the example of `Mup`, with a clip, which belongs outside:

        >>> wrapped = mup.wrap_optimizer(optax.adamw(0.1, weight_decay=0.0))
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), wrapped)
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> [f"{updates[layer]['w'].min():.3f}" for layer in ("linear", "linear_1", "readout")]
        ['-0.100', '-0.025', '-0.100']
        >>> optimizer = mup.wrap_optimizer(optax.lamb(0.01), rule="lamb", lr_mults={"readout/*": 2.0})
        """
        wrapped, self._declarations = wrap_declared(
            self._rates("wrap_optimizer"), self._declarations, self._warned, optimizer, adam=adam, rule=rule,
            scale_decay=scale_decay, scale_eps=scale_eps, lr_mults=lr_mults, run_scale=run_scale)
        return wrapped

    @property
    def parametrization(self) -> Parametrization:
        """Returns the model's parametrization.

        After the example of `Mup`:

        >>> mup.parametrization.name
        'μP'
        """
        return self._declarations.parametrization

    @property
    def run_scale(self) -> RunScale | None:
        """Returns the batch size and the length of the run, if `adamw` or `wrap_optimizer` was told of them.

        After the example of `Mup`:

        >>> scale = haiku_mup.RunScale(batch_ratio=4)
        >>> plain = optax.lion(3e-5 * scale.adam_lr, b1=scale.beta(0.875))
        >>> optimizer = mup.wrap_optimizer(plain, run_scale=scale)
        >>> mup.run_scale.batch_ratio
        4
        """
        return self._declarations.run_scale

    def muon_dimensions(self, params: Any) -> Any:
        """Returns dimension numbers with which `optax.contrib.muon` takes hidden weights, and Adam the rest.

        By itself it takes every parameter of rank 2, embeddings and readouts, too, and none of a `layer_stack`,
        whose weights have rank 3.

        Args:
          params: the parameters; optax gives them.

        Returns:
          A tree like the parameters, with an `optax.contrib.MuonDimensionNumbers` for each hidden weight, of
          its fan-in and fan-out axes, and None for all others, and for an LSTM's matrix whose rows differ.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`:

        >>> plain = optax.contrib.muon(0.02, muon_weight_dimension_numbers=mup.muon_dimensions)
        >>> optimizer = mup.wrap_optimizer(plain, rule="muon")
        >>> mup.muon_dimensions(params)["linear_1"]
        {'b': None, 'w': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))}
        """
        return self._rates("muon_dimensions").muon_dimensions(params)

    def scale_updates(self, adam: bool = True) -> optax.GradientTransformationExtraArgs:
        """Returns the bare factors as an optax transform, to place in a chain of your own.

        Put it after the transforms that make updates from gradients, and before weight decay.

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
        return self._rates("scale_updates").scale_updates(adam)

    # --- the factors of each parameter ---

    def lr_scales(self, adam: bool = True) -> dict[str, dict[str, float | np.ndarray]]:
        """Returns the factors of the learning rate.

        Args:
          adam: Adam's factors, or SGD's.

        Returns:
          A tree like the parameters, modules of names, with a Python float for each; for an LSTM's matrix whose
          rows differ, an array [rows, 1], which broadcasts to the parameter.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`, where the width grows from 64 to 256:

        >>> mup.lr_scales()["linear_1"]
        {'b': 1.0, 'w': 0.25}
        >>> mup.lr_scales(adam=False)["linear_1"]
        {'b': 4.0, 'w': 1.0}
        """
        scales: dict[str, dict[str, float | np.ndarray]] = self._rates("lr_scales").as_tree(adam)
        return scales

    def table(self) -> list[Row]:
        """Returns each parameter's shapes, role and factors.

        Returns:
          A `Row` for each parameter, in the order of their creation.

        Raises:
          MupError: before `init_target`.

        After the example of `Mup`:

        >>> [row.name for row in mup.table() if row.role == "hidden"]
        ['linear_1/w']
        """
        return self._rates("table").rows()

    def summary(self, width: int = 100) -> str:
        """Returns the table as text, aligned.

        Args:
          width: columns. Names that don't fit lose their middle; a wider table keeps them apart, if need be.

        Returns:
          A line of heads, and a line for each parameter, in the order of their creation; then the batch size
          and the length of the run, if they differ from the base's.

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
        table, scale = as_text(self._rates("summary").rows(), width), self.run_scale
        return f"{table}\n{scale}" if scale and (scale.batch_ratio, scale.tokens_ratio) != (1, 1) else table

    # --- the base in checkpoints and in files ---

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises if a checkpoint was trained with another Mup, so that training would go on with other factors.

        Args:
          state: what `state_dict` gave as the checkpoint was written.

        Raises:
          MupError: another base or another parametrization; it shows the rows of `summary` that differ, both
            as they were and as they are. Also before `init_target`, and for what is no state dict.

        After the example of `Mup`; here the checkpoint's base is half as wide:

        >>> half, other = hk.transform(functools.partial(fn, width=32)), haiku_mup.Mup()
        >>> with other.init_base():
        ...     _ = jax.eval_shape(half.init, key, x)
        >>> mup.check(mup.state_dict())
        >>> try:
        ...     mup.check(other.state_dict())
        ... except haiku_mup.MupError as error:
        ...     for line in str(error).splitlines()[1:4]:
        ...         print(line)
                    parameter   base    target   role    std base  std target  multiplier  Adam lr  SGD lr
        checkpoint  linear/w    784×32  784×256  input    0.03142     0.03142           1        1       8
        here        linear/w    784×64  784×256  input    0.03142     0.03142           1        1       4
        """
        from haiku_mup.serialization import checkpoint_check

        checkpoint_check.check(state, self._captured("check"), self._declarations)

    def state_dict(self) -> dict[str, Any]:
        """Returns the captured base (and delta) as plain values, to put into a checkpoint.

        Returns:
          Dicts, lists, strings, numbers and None, which hold for each parameter its name, shape, the std of its
          initializer, its fans, and which dimensions are widths.

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
        from haiku_mup.serialization import state_dict  # here and below: for those who save

        return state_dict.encode(self._base, self._declarations)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Returns a Mup that has captured the base in a state dict, ready for `init_target`.

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
        """Writes the captured base to a small JSON file: all of it, or nothing.

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
        from haiku_mup.serialization import state_dict

        state_dict.write(path, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns a Mup that has captured the base in a file, ready for `init_target`.

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
        from haiku_mup.serialization import state_dict

        return cls._restored(state_dict.read(path), os.fspath(path))

    @classmethod
    def _restored(cls, state: Any, source: str) -> Self:
        """Returns a Mup with the base of a state dict; `source` says in errors where it is from."""
        from haiku_mup.serialization import state_dict

        mup = cls()
        mup._base, mup._declarations = state_dict.decode(state, source)
        if any(record.of_tree for record in mup._base.records.values()):
            raise MupError(f"{source}: the base of haiku_mup.plan, and no Mup's; haiku_mup.Plan.load reads it")
        mup._source = source
        return mup
