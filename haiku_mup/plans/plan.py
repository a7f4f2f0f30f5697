"""`Plan`: the parameters of a target beside the base's, and the factors that follow."""
import dataclasses
import difflib
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.learning_rates import LearningRates, wrap_declared
from haiku_mup.optimizers.tree_names import PathNames
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.record import CapturedBase, Record
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.summary_table import Row, as_text
from haiku_mup.parameters.tree_paths import is_masked, named_paths
from haiku_mup.plans import compare_trees, files
from haiku_mup.plans.arguments import FansArgument
from haiku_mup.plans.asked import MULTIPLIED, MULTIPLIER, READOUT, Asked, forgotten, shared
from haiku_mup.plans.forward_pass import multiplier_of, multiply, needs_factor
from haiku_mup.plans.initial_values import rescale, uncertain_draws
from haiku_mup.plans.trees import check_no_nnx_module
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.run_scale import RunScale
from haiku_mup.serialization import state_dict
from haiku_mup.tracing.warn_once import warn_once


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Plan:
    """The result of `plan`: each parameter of a target beside the base's, and the factors that follow.

    A frozen value: equal contents are equal, and it may be a static argument of jax.jit or a field of a module.

    Attributes:
      rates: the parameters and the factors of their learning rates.
      declarations: what the user says of the model.
      initializers: those that the user declares, by name.

    >>> def params(width):                          # of x @ hidden.w, then @ out.w
    ...     keys = jax.random.split(jax.random.key(width), 2)
    ...     return {"hidden": {"w": jax.random.normal(keys[0], (5, width)) / 5**0.5},
    ...             "out": {"w": jax.random.normal(keys[1], (width, 3)) / width**0.5}}
    >>> plan = haiku_mup.plan(params(64), params(256), fans={"*.w": (0, 1)}, readouts="out.w")
    >>> plan
    Plan(μP, 2 parameters)
    """

    rates: LearningRates
    declarations: Declarations
    initializers: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    _warned: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        """Keeps what was asked of equal plans, if these live no longer than this one."""
        self._asked     # noqa: B018

    def __repr__(self) -> str:
        """Returns the parametrization, and the number of parameters."""
        return f"Plan({self.parametrization.name}, {len(self._scalings)} parameters)"

    def __eq__(self, other: object) -> bool:
        """Returns whether another plan has the same parameters, factors and declarations."""
        return isinstance(other, Plan) and self._content == other._content

    def __hash__(self) -> int:
        """Returns the hash of its contents."""
        return hash(self._content)

    @functools.cached_property
    def _content(self) -> Any:
        pairs = ((name, s.base.content, s.target.content, s.row_blocks, s.multiplier)
                 for name, s in self._scalings.items())
        return (*pairs, self.parametrization, *sorted(self.declarations.lr_mults.items()))

    @property
    def _scalings(self) -> Mapping[str, ParameterScaling]:
        return self.rates.scalings

    @functools.cached_property
    def _asked(self) -> Asked:
        """Returns what was asked of this plan, and of equal ones."""
        return shared(self._content)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy has, without what was asked in this process."""
        return {name: x for name, x in self.__dict__.items() if name != "_asked"}

    # --- the table ---

    def table(self) -> list[Row]:
        """Returns each parameter's shapes, role and factors, in the order of the tree's leaves.

        After the example of `Plan`:

        >>> [(row.name, row.role, row.adam_lr, row.multiplier) for row in plan.table()]
        [('hidden.w', 'input', 1.0, 1.0), ('out.w', 'output', 1.0, 0.25)]
        """
        return self.rates.rows()

    def summary(self, width: int = 100) -> str:
        """Returns the table as text, aligned, and which draws have stds that few entries tell.

        Args:
          width: columns; names that don't fit lose their middle.

        After the example of `Plan`:

        >>> print(plan.summary().splitlines()[0])
        parameter  base  target  role    std base  std target  multiplier  Adam lr  SGD lr
        """
        return as_text(self.table(), width) + uncertain_draws(self._scalings)

    def lr_scales(self, adam: bool = True) -> Any:
        """Returns the factors of the learning rate, in a tree like the target's parameters.

        Args:
          adam: Adam's factors, or SGD's.

        After the example of `Plan`:

        >>> plan.lr_scales(adam=False)
        {'hidden': {'w': 4.0}, 'out': {'w': 4.0}}
        """
        return self.rates.as_tree(adam)

    # --- optimizers ---

    def wrap_optimizer(self, optimizer: optax.GradientTransformation | optax.MultiSteps, adam: bool = True, *,
                       rule: str | None = None, scale_decay: bool = False, scale_eps: bool = False,
                       lr_mults: Mapping[str, float] | None = None, run_scale: RunScale | None = None,
                       ) -> optax.GradientTransformationExtraArgs:
        """Returns the optimizer with each parameter's learning rate in μP. Its state is the inner one's.

        Args:
          optimizer: any optax optimizer.
          adam, rule, scale_decay, scale_eps: as in `Mup.wrap_optimizer`.
          lr_mults: {glob over paths: multiplier}, instead of the plan's own.
          run_scale: the batch size and the length of the run, as in `Mup.wrap_optimizer`; it is not kept.

        Returns:
          An optax transformation for trees like the target's parameters, or parts of them.

        Raises:
          MupError: what `Mup.wrap_optimizer` raises.

        Warns:
          MupWarning: what `Mup.wrap_optimizer` warns of; at the first update, if nothing has asked for a
            forward multiplier by then.

        After the example of `Plan`:

        >>> optimizer = plan.wrap_optimizer(optax.sgd(0.1), adam=False)
        >>> tree, grads = params(256), jax.tree.map(jnp.ones_like, params(256))
        >>> _ = plan.multiplied(tree)               # as in the loss
        >>> updates, _ = optimizer.update(grads, optimizer.init(tree), tree)
        >>> print(updates["out"]["w"][0, 0])
        -0.4
        """
        wrapped, _ = wrap_declared(
            self.rates, self.declarations, self._warned, optimizer, adam=adam, rule=rule,
            scale_decay=scale_decay, scale_eps=scale_eps, lr_mults=lr_mults, run_scale=run_scale)
        return self._watched(wrapped)

    @property
    def parametrization(self) -> Parametrization:
        """Returns the model's parametrization.

        After the example of `Plan`:

        >>> plan.parametrization.name
        'μP'
        """
        return self.declarations.parametrization

    @property
    def run_scale(self) -> RunScale | None:
        """Returns the batch size and the length of the run, if the base's file has them.

        After the example of `Plan`:

        >>> plan.run_scale
        """
        return self.declarations.run_scale

    def scale_updates(self, adam: bool = True) -> optax.GradientTransformationExtraArgs:
        """Returns the bare factors as an optax transform, to place in a chain before weight decay.

        Args:
          adam: Adam's factors, or SGD's.

        Raises:
          MupError: what `Mup.scale_updates` raises.

        After the example of `Plan`:

        >>> optimizer = optax.chain(optax.scale_by_adam(), plan.scale_updates(), optax.scale(-3e-4))
        >>> state = optimizer.init(params(256))
        """
        return self._watched(self.rates.scale_updates(adam))

    def muon_dimensions(self, params: Any) -> Any:
        """Returns dimension numbers with which `optax.contrib.muon` takes hidden weights, and Adam the rest.

        Args:
          params: the parameters; optax gives them.

        After the example of `Plan`, which has no hidden weights:

        >>> plan.muon_dimensions(params(256))
        {'hidden': {'w': None}, 'out': {'w': None}}
        """
        return self.rates.muon_dimensions(params)

    def _watched(self, wrapped: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
        """Returns an optimizer that warns at its first update of multipliers that nothing asked for."""
        @functools.wraps(wrapped.update)
        def update(updates, state, params=None, **extra):
            """Updates, after the loss was traced."""
            if any(not is_masked(x) for _, x in named_paths(updates)):
                self.check_asked("the optimizer makes an update", error=False)
            return wrapped.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(wrapped.init, update)

    # --- initial values ---

    def rescaled(self, params: Any, *, key: Any = None) -> Any:
        """Returns drawn parameters in μP: each draw times the factor that gives it the std of the rules.

        At the base's widths it returns them as they are, bit for bit. Elsewhere the factor is as exact as the
        two stds: of n entries that are measured, a std is known up to the share 1 / √(2n), which is 1 % for a
        matrix of 70 × 70. With `stds`, or for a framework's default initializers, it is exact.

        Args:
          params: the target's parameters, as their initializers draw them; or a tree that has them and more,
            such as a module of Equinox.
          key: a random key, to draw anew all parameters of which `stds` has the initializer, as where `params`
            are shapes.

        Returns:
          A tree of the same structure.

        Raises:
          MupError: other parameters than the target's; draws of another std than the target's, as those that
            were rescaled already; a plan of shapes, without stds.

        After the example of `Plan`, with readouts in the table of Tensor Programs V that has no multipliers:

        >>> table3 = haiku_mup.plan(params(64), params(256), fans={"*.w": (0, 1)}, readouts="out.w",
        ...                         stds={"*": "fan_in"}, parametrization=haiku_mup.maximal_update("table3"))
        >>> tree = params(256)
        >>> print(table3.rescaled(tree)["out"]["w"].std() / tree["out"]["w"].std())
        0.5
        """
        check_no_nnx_module(params, "rescaled", "nnx.update(model, plan.rescaled(nnx.state(model, nnx.Param)))")
        return rescale(self._scalings, params, self.initializers, key)

    # --- the forward pass ---

    def multiplied(self, params: Any) -> Any:
        """Returns the parameters times their forward multipliers, for the model to compute with.

        Call it in the loss, on what is differentiated. In the default form it multiplies the weights of
        readouts, and of queries whose key size grows; every form has its own. A table that makes logits, too,
        has another multiplier there: `readout`.

        Args:
          params: the target's parameters, or a tree that has them and more, such as a module of Equinox.

        Returns:
          A tree of the same structure; what has no multiplier is as it was.

        Raises:
          MupError: other parameters than the target's.

        After the example of `Plan`:

        >>> def apply(params, x):
        ...     params = plan.multiplied(params)
        ...     return jax.nn.relu(x @ params["hidden"]["w"]) @ params["out"]["w"]
        >>> apply(params(256), jnp.ones((2, 5))).shape
        (2, 3)
        """
        check_no_nnx_module(params, "multiplied", "with haiku_mup.nnx_multiplied(plan, model): …")
        return multiply(self._scalings, params, functools.partial(self._note, method=MULTIPLIED))

    def multiplier(self, path: str) -> Any:
        """Returns the forward multiplier of a parameter, or of its product.

        Args:
          path: the parameter's name, as the table has it.

        Returns:
          A Python float; an array [rows, 1] for a matrix whose rows differ. Of a tied table it is the factor of
          its logits, beside that of the table.

        Raises:
          MupError: no such parameter.

        After the example of `Plan`:

        >>> plan.multiplier("out.w")
        0.25
        """
        if path not in self._scalings:
            like = difflib.get_close_matches(path, self._scalings, n=3, cutoff=0.3)
            raise MupError(f"{path!r}: no parameter; there are "
                           f"{', '.join(like or list(self._scalings)[:3])}, …: see plan.summary()")
        self._asked.note(path, MULTIPLIER)
        return multiplier_of(self._scalings[path])

    def readout(self, x: Any, path: str) -> Any:
        """Returns the inputs of a readout times its multiplier: the bias behind it is not multiplied.

        It is `multiplied` for one layer: use one of the two for a weight that makes outputs alone. For a table
        that is looked up and makes logits, too, use it where it makes logits: Flax's `embed.attend`,
        ``x @ table.T``.

        Args:
          x: the inputs, [..., d].
          path: the name of the readout's weight, or of the tied table.

        Raises:
          MupError: no such parameter.

        After the example of `Plan`:

        >>> tree, x = params(256), jnp.ones((2, 256))
        >>> logits = plan.readout(x, "out.w") @ tree["out"]["w"]
        """
        factor = self.multiplier(path)
        if self._scalings[path].target.layer != TIED:
            self._note(path, READOUT)
        return scaled(x, factor)

    def _note(self, name: str, method: str) -> None:
        """Notes that the weight is multiplied, or its inputs are; raises if both are in one forward pass."""
        self._asked.note(name, method)
        if needs_factor(self._scalings[name]):
            self._asked.check_once(name)

    def attention_scale(self, key_size: int, base_key_size: int) -> float:
        """Returns the factor of attention's products of queries and keys: 1/√d at the base, 1/d in growth.

        Args:
          key_size: the size of a head's queries and keys.
          base_key_size: the same at the base.

        After the example of `Plan`:

        >>> plan.attention_scale(64, base_key_size=16)
        0.0625
        """
        return self.parametrization.attention_logits(base_key_size, key_size) / math.sqrt(key_size)

    def check_asked(self, when: str = "the loss was traced", *, error: bool = True) -> None:
        """Raises, or warns, if nothing has asked for a forward multiplier that is not 1.

        Call it once the loss has run: `multiplied`, `readout` and `multiplier` ask. It is enough that an equal
        plan was asked, since equal plans share JAX's traces.

        Args:
          when: the event by which it should be asked for.
          error: whether to raise.

        Raises:
          MupError: it names the parameters.

        Warns:
          MupWarning: the same, once.

        After the example of `Plan`:

        >>> again = haiku_mup.plan(params(64), params(128), fans={"*.w": (0, 1)}, readouts="out.w")
        >>> try:
        ...     again.check_asked()
        ... except haiku_mup.MupError as error:
        ...     print(str(error).partition(";")[0])
        'out.w': the loss was traced, and nothing has asked for its forward multiplier, 0.5
        """
        text = forgotten(self._scalings, self._asked.names, when)
        if text and error:
            raise MupError(text)
        if text:
            warn_once(self._warned, "asked", text)

    # --- files ---

    def state_dict(self) -> dict[str, Any]:
        """Returns the base (and delta) as plain values, to put into a checkpoint.

        After the example of `Plan`:

        >>> plan.state_dict()["parameters"]["hidden.w"]["shape"]
        [5, 64]
        """
        return state_dict.encode(
            CapturedBase({name: s.base for name, s in self._scalings.items()}), self.declarations)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the base to a small JSON file: all of it, or nothing.

        Args:
          path: the file, which is replaced if it exists.

        Raises:
          OSError: a path that can't be written.

        After the example of `Plan`:

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "base.json")
        >>> plan.save(path)
        >>> haiku_mup.Plan.load(path, params(256)) == plan
        True
        """
        state_dict.write(path, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], target: Any, *,
             fans: FansArgument | Sequence[FansArgument] | None = None) -> Self:
        """Returns the plan of a target and the base in a file, with the arguments that the base was saved with.

        Args:
          path: a file that `save` wrote.
          target: the tree of the target.
          fans: the adapter of the target's framework, if `plan` had one; the axes come from the file.

        Raises:
          MupError: what `plan` raises; a file that is truncated, changed, or of something else.
          OSError: a path that can't be read.

        After the example of `Plan`:

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "base.json")
        >>> plan.save(path)
        >>> wide = haiku_mup.Plan.load(path, params(512))
        >>> wide.multiplier("out.w")
        0.125
        """
        saved = files.read(path, target, fans)
        return cls._of(saved.params, saved.base, saved.target, saved.declarations)

    @classmethod
    def _of(cls, params: Any, base: Mapping[str, Record], target: Mapping[str, Record],
            declared: Declarations, initializers: Mapping[str, Callable[..., Any]] | None = None) -> Self:
        """Returns the plan of two sets of records."""
        found = compare_trees.scalings(base, target, declared)
        rates = LearningRates(scalings=found, parametrization=declared.parametrization,
                              lr_mults=declared.lr_mults, names=PathNames.of(params))
        rates.multipliers()
        return cls(rates=rates, declarations=declared, initializers=initializers or {})
