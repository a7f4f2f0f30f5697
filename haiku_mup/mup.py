"""Mup: puts a captured model and its optimizer in μP, and says what it made of each parameter."""
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import haiku as hk
import jax
import numpy as np
import optax

from haiku_mup.captures import Captures
from haiku_mup.errors import MupError
from haiku_mup.optimizers import trees
from haiku_mup.optimizers import wrapper as optim
from haiku_mup.parameters.factors import Factor, broadcastable
from haiku_mup.parameters.globs import multipliers_by_name, parse_multipliers
from haiku_mup.parameters.scaling import ParameterScaling, RowBlock
from haiku_mup.parameters.table import Row, as_text
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.tracing import context
from haiku_mup.tracing.wrapped import WrappedModel

Model = TypeVar("Model", hk.Transformed, hk.TransformedWithState, hk.MultiTransformed,
                hk.MultiTransformedWithState)


class Mup(Captures):
    """The μP of one model: what its widths are at a base, and at the target that is to be trained.

    Rules: Tensor Programs V (arXiv 2203.03466), Table 8, or another parametrization's; at base width nothing
    changes, bit for bit.

    Args:
      fans: {glob over "module/name": (fan_in_axes, fan_out_axes)} for parameters of one's own that are not
        (in, out): axes of one layer, without stack axes; a third item, `lookup_axes`, for those that may
        grow and count for nothing, such as the experts of a mixture. See also `haiku_mup.fans`.
      readouts: a glob over module names, or several: hk.Linear and convolutions that are output layers as
        they stand, as in `Mup(readouts="*/logits")` for hk.nets.ResNet50; or over "module/name", for parameters
        of one's own that make outputs.
      init_mults: {glob over "module/name": multiplier} of draws' stds, on top of μP, at every width. What isn't
        drawn, such as a bias of zeros, stays as it is.
      lr_mults: the same of learning rates; see `wrap_optimizer`.
      parametrization: `maximal_update()` by default; another form of it, `standard()`, `neural_tangent()`, or a
        `Parametrization` of one's own. Where weights are multiplied in the forward pass, Haiku's linear,
        convolutional and embedding layers multiply activations; any other parameter is multiplied where it is
        read, which takes one more array of its size. A custom getter of one's own sees, in every form, what
        Table 8's would keep.

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

    def wrap_model(self, model: Model) -> Model:
        """The model with init and apply in μP, of the type that was given.

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
        scope = WrappedModel(*self._whole("wrap_model"), plain=bool(self._declarations.parametrization.plain))
        if not (hasattr(model, "_replace") and hasattr(model, "init") and hasattr(model, "apply")):
            raise MupError(f"wrap_model: a {type(model).__name__} is not a transformed model; give it "
                           "what hk.transform returns")
        if any(map(context.is_bound, jax.tree.leaves((model.init, model.apply)))):
            raise MupError("wrap_model: this model is wrapped already; wrap the plain one, once")
        wrap = functools.partial(context.bound, scope)
        return model._replace(init=wrap(model.init), apply=jax.tree.map(wrap, model.apply))

    def wrap_optimizer(self, optimizer: optax.GradientTransformation | optax.MultiSteps, adam: bool = True, *,
                       rule: str | None = None, scale_decay: bool = False, scale_eps: bool = False,
                       lr_mults: Mapping[str, float] | None = None,
                       ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with each parameter's learning rate in μP. Its state is the inner one's.

        Gradient clipping by the global norm belongs outside: `optax.chain(clip, wrapped)`. So does what
        evaluates the loss at its parameters (line searches, SAM) and what averages parameters: inside, an
        optimizer sees each parameter divided by its factor, which makes the decay come out right. Wrap once:
        `scale_updates` in the same chain acts again.

        Args:
          optimizer: any optax optimizer.
          adam: whether it is of Adam's kind (entrywise normalised), or SGD's.
          rule: what kind it is of, for these and others: "adam", "sgd", "any" (SGD, Adam and all between),
            "adafactor", "lamb", "lars", "muon", "novograd", "momo" or "momo_adam". The README's table has all
            of optax's; `haiku_mup.optimizer_rules` says what follows from each, and why.
          scale_decay: False leaves what weight decay takes from a parameter in a step independent of
            the width; True multiplies it by the learning rate's factor, as haiku-mup 0.1.5 did.
          scale_eps: multiply the gradients that the optimizer sees by what they shrink with the width (by
            m_out for inputs and hidden weights, by m_in for outputs), so that ε, or a starting value of an
            accumulator, acts alike at every width. With Adam's rule and SGD's that is "any". A clip inside
            the optimizer then sees gradients that grow with the width, and clips harder.
          lr_mults: {glob over "module/name": multiplier} of parameters' learning rates, as if each had an
            optimizer of its own: a decay inside is multiplied, too. They take the place of the Mup's own, and
            are kept with it. None for those that it has.

        Returns:
          An optax transformation, with the inner optimizer's state.

        Raises:
          MupError: before `init_target`; an optimizer that is wrapped already; a parametrization that has no
            learning rates for it, or needs none; a glob that matches no parameter, or two that match one; when
            it meets them, parameters of other names or shapes than the target's; Muon with what isn't a matrix.

        Warns:
          MupWarning: a rule that doesn't fit what the optimizer does with small numbers, or what its state
            says, with the right one; a decay that depends on the width (an L2 term in front of Adam; one
            inside Adafactor, LAMB or LARS).

        After the example of `Mup`, with a clip, which belongs outside:

        >>> wrapped = mup.wrap_optimizer(optax.adamw(0.1, weight_decay=0.0))
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), wrapped)
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> [f"{updates[layer]['w'].min():.3f}" for layer in ("linear", "linear_1", "readout")]
        ['-0.100', '-0.025', '-0.100']
        >>> optimizer = mup.wrap_optimizer(optax.lamb(0.01), rule="lamb", lr_mults={"readout/*": 2.0})
        """
        from haiku_mup.optimizers.factors import OptimizerScaling
        from haiku_mup.optimizers.mismatch import MismatchCheck

        self._lr(adam)                      # raises for what is no bool
        scalings, parametrization = self._captured("wrap_optimizer"), self._declarations.parametrization
        optimizer_rule = optimizer_rules.choose(rule, adam, scale_eps)
        self._needs_factors("wrap_optimizer", optimizer_rule)
        if optim.is_wrapped(optimizer):
            raise MupError("wrap_optimizer: this optimizer is wrapped already; wrap the plain one, once")
        given = self._declarations.lr_mults if lr_mults is None else parse_multipliers("lr_mults", lr_mults)
        scaling = OptimizerScaling(
            optimizer, scalings, parametrization, optimizer_rule, scale_decay=scale_decay,
            lr_mults=multipliers_by_name(scalings, given, "lr_mults"))
        self._declarations = self._declarations._replace(lr_mults=given)
        call = f"wrap_optimizer({f'adam={adam}' if rule is None else f'rule={rule!r}'})"
        check_rule = MismatchCheck(optimizer, optimizer_rule, scalings, parametrization, call, self._warned)
        check_rule(_tree(scalings, lambda scaling: jax.ShapeDtypeStruct(scaling.target.shape, "float32")))

        def check(params):
            trees.check_params(scalings, params)
            check_rule(params)

        return optim.scale_optimizer(optimizer, scaling, check)

    def muon_dimensions(self, params: Any) -> Any:
        """What `optax.contrib.muon` asks for: that it take hidden weights, and Adam all else.

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
        from haiku_mup.optimizers import muon

        return muon.dimension_numbers(self._captured("muon_dimensions"), params)

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
        entries = self._captured("scale_updates")
        self._needs_factors("scale_updates")
        return optim.scale_by_name(trees.by_name(self._rates(entries, adam)), functools.partial(
            trees.check_params, entries))

    def lr_scales(self, adam: bool = True) -> dict[str, dict[str, float | np.ndarray]]:
        """The factors of the learning rate.

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
        entries = self._captured("lr_scales")
        rates = self._rates(entries, adam)
        return _tree(entries, lambda entry: broadcastable(rates[entry.target.name]))

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

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises where a checkpoint's Mup isn't this one: training would go on with other factors.

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
        from haiku_mup.serialization import compare as agreement

        agreement.check(state, self._captured("check"), self._declarations)

    def _rows(self, what: str) -> list[Row]:
        entries = self._captured(what)
        lr_mults = self._lr_mults(entries)
        return [row for name, entry in entries.items() for row in Row.of(entry, lr_mults[name])]

    def _lr_mults(self, entries: Mapping[str, ParameterScaling]) -> dict[str, float]:
        return multipliers_by_name(entries, self._declarations.lr_mults, "lr_mults")

    def _rates(self, entries: Mapping[str, ParameterScaling], adam: bool) -> dict[str, Factor]:
        """The factor of each parameter's learning rate."""
        lr, lr_mults = self._lr(adam), self._lr_mults(entries)
        return {name: entry.factor(lambda part, x=lr_mults[name]: lr(part) * x)     # type: ignore[misc]
                for name, entry in entries.items()}

    def _lr(self, adam: bool) -> Callable[[RowBlock], float]:
        if not isinstance(adam, (bool, np.bool_)):
            raise MupError(f"adam={adam!r}: give True for Adam's factors, or False for SGD's")
        parametrization = self._declarations.parametrization
        return lambda block: parametrization.learning_rate(block.factors, "adam" if adam else "sgd")

    def _needs_factors(self, what: str, optimizer_rule: optimizer_rules.OptimizerRule = optimizer_rules.ADAM,
                       ) -> None:
        """Raises if a plain optimizer of this rule trains the wrapped model."""
        parametrization = self._declarations.parametrization
        if parametrization.plain and optimizer_rule.entrywise:
            raise MupError(f"{what}: in {parametrization.name} {parametrization.reason}")


def _tree(entries: Mapping[str, ParameterScaling], value) -> dict[str, dict[str, Any]]:
    """value(entry) of each parameter, as Haiku nests them: {"module": {"name": …}}."""
    tree: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(entries.items()):
        leaf = entry.target.leaf
        tree.setdefault(name[:-len(leaf) - 1], {})[leaf] = value(entry)
    return tree
