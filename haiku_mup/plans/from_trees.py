"""`plan`: puts any two trees of parameters in μP."""
from collections.abc import Mapping, Sequence
from typing import Any

from haiku_mup.parameters.fans import Axes
from haiku_mup.plans import arguments, compare_trees
from haiku_mup.plans.arguments import FansArgument
from haiku_mup.plans.plan import Plan
from haiku_mup.plans.stds import Std, declared_std, parse_stds
from haiku_mup.plans.tree_records import check_adapter, read_tree
from haiku_mup.rules.parametrization import Parametrization


def plan(base: Any, target: Any, *, delta: Any = None,
         fans: FansArgument | Sequence[FansArgument] | None = None, readouts: str | Sequence[str] = (),
         parametrization: Parametrization | None = None, tied: str | Sequence[str] = (),
         finite: Mapping[str, Axes | str] | None = None, stds: Mapping[str, Std] | None = None,
         stacks: Mapping[str, int] | None = None, attention: Mapping[str, int | tuple[int, int]] | None = None,
         init_mults: Mapping[str, float] | None = None, lr_mults: Mapping[str, float] | None = None) -> Plan:
    """Puts a model of any framework in μP, from its parameters at the base and at the target.

    Parameters are named by their paths, as "layers[0].weight"; globs match these. What is not an array, such as
    None or a function in a module of Equinox, is no parameter.

    Args:
      base, target: trees of arrays or of jax.ShapeDtypeStructs, of one structure: modules of Equinox, a
        nnx.State of nnx.Param, Linen's parameters, dicts, NamedTuples; with `haiku_mup.flax_nnx` as `fans`,
        modules of NNX. Of arrays the stds of initializers are known, up to the share 1 / √(2n) for n entries.
      delta: a third tree, which differs from the base in every width that may ever grow; needed where a width
        is the same in base and target.
      fans: {glob: (fan_in_axes, fan_out_axes)}, with a third item for lookups, as in `Mup(fans=...)`; or the
        adapter of a framework, which knows its layers: `haiku_mup.equinox`, `haiku_mup.flax_nnx`,
        `haiku_mup.flax_linen`; or a list of both, whose globs go first. Arrays with one axis are biases or
        gains. Nothing else is guessed.
      readouts: globs of the weights of output layers.
      parametrization: as in `Mup`.
      tied: globs of tables that are looked up and make logits, too.
      finite: {glob: axes} that are no widths, as in `Mup`.
      stds: {glob: std of the initializer}, where it should be exact: a number; "fan_in", "fan_out", "fan_avg"
        or "constant" for a std of one over the root of that, times a constant; or the initializer itself,
        ``(key, shape, dtype) -> array``, which is drawn from.
      stacks: {glob: number}: how many axes in front are those of stacked layers, which are no widths.
      attention: {glob over the weights and biases that make queries: the axis that is the key size, or both
        key sizes, (base's, target's)}; their multiplier makes attention's 1 / √d one over d in growth.
      init_mults, lr_mults: as in `Mup`.

    Returns:
      A `Plan`.

    Raises:
      MupError: parameters that only one of the trees has; all that can't be right in μP, or of which nothing
        says what their axes are, at once, by path, with the argument to add; a glob that matches nothing.

    >>> def params(width):
    ...     return {"layers": [{"weight": jnp.zeros((width, 8))}, {"weight": jnp.zeros((3, width))}]}
    >>> try:
    ...     haiku_mup.plan(params(64), params(128), fans={"layers[*].weight": (1, 0)})
    ... except haiku_mup.MupError as error:
    ...     print(str(error).partition(",")[0], str(error).partition("name it, ")[2].partition(", or")[0])
    'layers[1].weight': base (3 haiku_mup.plan(readouts='layers[1].weight')
    >>> plan = haiku_mup.plan(params(64), params(128), fans={"layers[*].weight": (1, 0)},
    ...                       readouts="layers[1].weight")
    >>> plan.multiplier("layers[1].weight")
    0.5
    """
    declared = arguments.parse(
        fans, stacks, attention, readouts=readouts, parametrization=parametrization, init_mults=init_mults,
        lr_mults=lr_mults, finite=finite, tied=tied)
    parsed = parse_stds(stds)
    _, base_leaves = read_tree(base, declared.adapters, "base")
    params, leaves = read_tree(target, declared.adapters, "target")
    compare_trees.check_same_names(base_leaves, leaves, "target")
    delta_leaves = None if delta is None else read_tree(delta, declared.adapters, "delta")[1]
    bases = compare_trees.base_records(base_leaves, delta_leaves, declared)
    targets = {name: declared.record(name, leaf, 1) for name, leaf in leaves.items()}
    if not fans:
        check_adapter(params, bases, targets)
    bases, targets = compare_trees.with_declared_stds(bases, targets, leaves, parsed)
    initializers = {name: std for name in targets if callable(std := declared_std(parsed, name))}
    return Plan._of(params, bases, targets, declared.of_mup, initializers)
