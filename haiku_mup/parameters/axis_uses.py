"""Finds how a traced program uses parameters: which axes a product sums over, and which it keeps or looks up.

A parameter is followed through the operations that rearrange it, and through those with other parameters and
with numbers: transposes, reshapes, casts, masks, products of weights. Where it meets activations, each of its
axes is summed over, kept, or indexed. What the walk can't follow is no use: it claims nothing.
"""
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias

from haiku_mup.parameters.jaxprs import called_program, is_literal, scan_operands, without_constants

# The axes of parameters, (key, axis), that lie along one axis of an array.
Labels: TypeAlias = frozenset[tuple[Hashable, int]]
NO_LABELS: Labels = frozenset()


class Use(NamedTuple):
    """One use of a parameter, in the axes that it has in one layer.

    Attributes:
      summed: axes that a product with activations sums over.
      kept: axes of the activations that come out.
      indexed: axes of which entries are looked up.
    """

    summed: frozenset[int]
    kept: frozenset[int]
    indexed: frozenset[int] = frozenset()


class _Reshaped(tuple[Labels, ...]):
    """Labels of an array that a reshape made, which know what they were before.

    Joined axes have one label, and another reshape, as of w.ravel().reshape(w.shape), takes them apart again.

    Attributes:
      before: the shape and the labels of the array that was reshaped.
    """

    before: tuple[tuple[int, ...], tuple[Labels, ...]]


class _Operand(NamedTuple):
    """An array, with what is known of it.

    Attributes:
      shape: its shape.
      labels: for each of its axes, the axes of parameters along it; None for an array made of none.
      is_data: whether it depends on the model's inputs.
    """

    shape: tuple[int, ...]
    labels: tuple[Labels, ...] | None
    is_data: bool

    @property
    def is_number(self) -> bool:
        """Returns whether it is one number, made of no parameter."""
        return self.labels is None and all(n == 1 for n in self.shape)


def find_uses(equations: Sequence[Any], parameters: Mapping[Any, tuple[Hashable, int]],
         data: Iterable[Any]) -> dict[Hashable, set[Use]]:
    """Returns the uses of parameters in a program.

    Args:
      equations: the program's.
      parameters: {variable: (a key, the number of axes in one layer)}.
      data: the variables that the model is given.

    Returns:
      {key: the uses of its parameter}.

    >>> def f(w, x):
    ...     return x @ w.T + (x + w[:1]).sum()
    >>> program = jax.make_jaxpr(f)(jnp.ones((3, 5)), jnp.ones((2, 5)))
    >>> w, x = program.jaxpr.invars
    >>> found = find_uses(program.jaxpr.eqns, {w: ("w", 2)}, [x])
    >>> sorted((sorted(use.summed), sorted(use.kept)) for use in found["w"])
    [([], [1]), ([1], [0])]
    """
    walk = _Walk()
    for variable, (key, rank) in parameters.items():
        stacks = len(variable.aval.shape) - rank
        walk.labels[variable] = (NO_LABELS,) * stacks + tuple(frozenset([(key, a)]) for a in range(rank))
    walk.data.update(data)
    walk.follow(equations)
    return walk.found


class _Walk:
    """One walk through a program, and through those inside."""

    def __init__(self, found: dict[Hashable, set[Use]] | None = None):
        self.found: dict[Hashable, set[Use]] = {} if found is None else found
        self.labels: dict[Any, tuple[Labels, ...]] = {}
        self.data: set[Any] = set()
        self.sums: dict[Any, tuple[int, ...]] = {}
        self.readers: dict[Any, list[Any]] = {}

    def follow(self, equations: Sequence[Any]) -> None:
        """Follows parameters through equations."""
        self.readers = _readers(equations)
        self.sums = _sums(self.readers)
        for equation in equations:
            operands = [self._operand(v) for v in equation.invars]
            if any(operand.is_data for operand in operands):
                self.data.update(v for v in equation.outvars if v not in self.labels)  # remat returns some
            if any(operand.labels for operand in operands) and not _is_backward(equation):
                default = _call if called_program(equation) else _elementwise
                rule = _PRIMITIVE_USES.get(equation.primitive.name, default)
                for v, labels in zip(equation.outvars, rule(self, equation, operands)):
                    if labels is not None and v not in self.data:
                        self.labels[v] = labels

    def _operand(self, v: Any) -> _Operand:
        if is_literal(v):
            return _Operand(v.aval.shape, None, False)
        return _Operand(v.aval.shape, self.labels.get(v), v in self.data)

    def note(self, summed: Iterable[Labels] = (), kept: Iterable[Labels] = (),
             indexed: Iterable[Labels] = ()) -> None:
        """Adds a use for each parameter that has axes among the labels."""
        groups = [NO_LABELS.union(*labels) for labels in (summed, kept, indexed)]
        for key in {key for key, _ in NO_LABELS.union(*groups)}:
            self.found.setdefault(key, set()).add(
                Use(*(frozenset(axis for k, axis in group if k == key) for group in groups)))

    def called(self, jaxpr: Any, operands: Sequence[_Operand]) -> list[tuple[Labels, ...] | None]:
        """Follows operands through a program inside; returns the labels of its results."""
        inside = _Walk(self.found)
        for v, operand in zip(jaxpr.invars, operands):
            if operand.labels is not None:
                inside.labels[v] = operand.labels
            if operand.is_data:
                inside.data.add(v)
        inside.follow(jaxpr.eqns)
        return [inside.labels.get(v) if not is_literal(v) else None for v in jaxpr.outvars]


def _is_backward(equation: Any) -> bool:
    """Returns whether an equation is of a backward pass, such as a force's, whose factors are the forward's."""
    return "transpose(" in str(equation.source_info.name_stack)


def _readers(equations: Sequence[Any]) -> dict[Any, list[Any]]:
    """Returns the equations that read each variable."""
    readers: dict[Any, list[Any]] = {}
    for equation in equations:
        for v in equation.invars:
            if not is_literal(v):
                readers.setdefault(v, []).append(equation)
    return readers


def _sums(readers: Mapping[Any, list[Any]]) -> dict[Any, tuple[int, ...]]:
    """Returns the axes over which each array is summed that nothing else reads: products written as sums.

    Means are left out: they divide by the width as a readout does, and what they average is kept as it is.
    """
    sums = {v: by[0] for v, by in readers.items() if len(by) == 1 and by[0].primitive.name == "reduce_sum"}
    return {v: total.params["axes"] for v, total in sums.items() if not _is_mean(
        total, math.prod(v.aval.shape[a] for a in total.params["axes"]), readers)}


def _is_mean(equation: Any, count: int, readers: Mapping[Any, list[Any]]) -> bool:
    """Returns whether a sum of so many terms is divided by their number, and read by nothing else."""
    while len(by := readers.get(equation.outvars[0], [])) == 1:
        equation, = by
        numbers = [v.val for v in equation.invars if is_literal(v) and not v.aval.shape]
        if equation.primitive.name in ("div", "mul") and numbers:
            by_count = count if equation.primitive.name == "div" else 1 / count
            return math.isclose(numbers[0], by_count, rel_tol=1e-6)
        if equation.primitive.name not in ("broadcast_in_dim", "reshape", "convert_element_type"):
            return False
    return False


# --- rules: from an equation and its operands to the labels of its results ---

Results: TypeAlias = Sequence[tuple[Labels, ...] | None]
Rule: TypeAlias = Callable[[_Walk, Any, list[_Operand]], Results]


def _labels(operand: _Operand) -> tuple[Labels, ...]:
    return operand.labels or (NO_LABELS,) * len(operand.shape)


def _transpose(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    labels = _labels(operands[0])
    return [tuple(labels[i] for i in equation.params["permutation"])]


def _broadcast(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    to = dict(zip(equation.params["broadcast_dimensions"], _labels(operands[0])))
    return [tuple(to.get(i, NO_LABELS) for i in range(len(equation.params["shape"])))]


def _squeeze(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    dropped = {d % len(operands[0].shape) for d in equation.params["dimensions"]}
    return [tuple(x for i, x in enumerate(_labels(operands[0])) if i not in dropped)]


def _reshape(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Splits and joins axes, of the array as it was before the first of several reshapes."""
    labels = _labels(operands[0])
    before = labels.before if isinstance(labels, _Reshaped) else (operands[0].shape, labels)
    found = _Reshaped(_split_and_joined(*before, equation.params["new_sizes"]))
    found.before = before
    return [found]


def _split_and_joined(old: Sequence[int], labels: Sequence[Labels], new: Sequence[int]) -> list[Labels]:
    """Returns the labels of a new shape: shortest runs of axes with one product of sizes belong together."""
    out: list[Labels] = []
    i = 0
    while i < len(old) or len(out) < len(new):
        first, start, left, right = i, len(out), 1, 1
        while True:
            if i < len(old) and (left <= right or len(out) == len(new)):
                left, i = left * old[i], i + 1
            else:
                right = right * new[len(out)]
                out.append(NO_LABELS)
            if left == right or (i == len(old) and len(out) == len(new)):
                break
        joined = NO_LABELS.union(*labels[first:i])
        out[start:] = [joined if n > 1 or len(out) - start == 1 else NO_LABELS for n in new[start:len(out)]]
    return out


def _sliced(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Keeps the axes of which more than one entry is left."""
    new = equation.outvars[0].aval.shape
    return [tuple(x if n > 1 or size == 1 else NO_LABELS
                  for x, size, n in zip(_labels(operands[0]), operands[0].shape, new))]


def _gather(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Notes a lookup of rows by the model's inputs, such as a table's; other lookups are slices."""
    labels, sizes = _labels(operands[0]), equation.params["slice_sizes"]
    is_whole = [size == n for size, n in zip(sizes, operands[0].shape)]
    walk.note(kept=[x for x, whole in zip(labels, is_whole) if whole],
              indexed=[x for x, whole in zip(labels, is_whole) if not whole])
    return []


def _dot(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Notes a product with activations; one of parameters has the axes of both that it doesn't sum over."""
    contracted, batched = equation.params["dimension_numbers"]
    rest = [[x for i, x in enumerate(_labels(operand)) if i not in contracted[side] and i not in batched[side]]
            for side, operand in enumerate(operands)]
    batch = [_labels(operands[0])[i] | _labels(operands[1])[j] for i, j in zip(*batched)]
    if not any(operand.is_data for operand in operands):
        return [(*batch, *rest[0], *rest[1])]
    summed = [_labels(operand)[i] for side, operand in enumerate(operands) for i in contracted[side]]
    terms = math.prod(operands[0].shape[i] for i in contracted[0])
    if summed and _is_mean(equation, terms, walk.readers):
        walk.note(kept=[*summed, *batch, *rest[0], *rest[1]])
    else:
        walk.note(summed=summed, kept=[*batch, *rest[0], *rest[1]])
    return []


def _convolution(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Notes a convolution with a kernel, which sums over channels and over the kernel's window."""
    labels = _labels(operands[1])
    out, *summed = equation.params["dimension_numbers"].rhs_spec
    walk.note(summed=[labels[i] for i in summed], kept=[labels[out]])
    return []


def _elementwise(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Notes a sum or a product with activations, entry by entry; with anything else, axes stay as they are."""
    out = equation.outvars[0]
    arrays = [operand for operand in operands if not operand.is_number]
    if len(equation.outvars) != 1 or not all(_fits(operand.shape, out.aval.shape) for operand in arrays):
        return []                               # a reduction, a sort, or whatever else
    labels = [NO_LABELS.union(*together) for together in zip(*map(_labels, arrays))]
    if not any(operand.is_data for operand in arrays):
        return [arrays[0].labels if len(arrays) == 1 else tuple(labels)]
    over = walk.sums.get(out, ()) if equation.primitive.name == "mul" else ()
    walk.note(summed=[x for i, x in enumerate(labels) if i in over],
              kept=[x for i, x in enumerate(labels) if i not in over])
    return []


def _concatenate(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Puts arrays side by side; notes that what is put beside activations is kept."""
    labels = [NO_LABELS.union(*together) for together in zip(*map(_labels, operands))]
    if any(operand.is_data for operand in operands):
        walk.note(kept=labels)
        return []
    return [tuple(labels)]


def _stack(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Puts arrays one behind the other, along a new axis."""
    axis = equation.params["axis"]
    def expanded(operand: _Operand) -> _Operand:
        shape, labels = operand.shape, operand.labels
        return operand._replace(shape=(*shape[:axis], 1, *shape[axis:]),
                                labels=labels and (*labels[:axis], NO_LABELS, *labels[axis:]))

    return _concatenate(walk, equation, [*map(expanded, operands)])


def _fits(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Returns whether a shape is another, but for axes of size 1, which JAX repeats."""
    return len(shape) == len(to) and all(n in (1, wanted) for n, wanted in zip(shape, to))


def _nothing(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    return []


# --- programs inside ---

def _call(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    return walk.called(without_constants(called_program(equation)), operands)


def _scan(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Follows what a loop's body reads, whole or entry by entry; what it carries changes."""
    consts, carried = scan_operands(equation)
    inside = list(operands)
    for i in range(consts, len(operands)):
        shape, labels, is_data = operands[i]
        if i < consts + carried:
            inside[i] = _Operand(shape, None, True)
        else:
            inside[i] = _Operand(shape[1:], labels and labels[1:], is_data)
    out = walk.called(without_constants(equation.params["jaxpr"]), inside)
    return [None if i < carried or labels is None else (NO_LABELS, *labels) for i, labels in enumerate(out)]


def _while(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    """Follows what a loop's body reads; what it carries changes."""
    of_condition, of_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    consts, carried = operands[of_condition:of_condition + of_body], operands[of_condition + of_body:]
    walk.called(without_constants(equation.params["body_jaxpr"]),
                [*consts, *(_Operand(operand.shape, None, True) for operand in carried)])
    return []


def _cond(walk: _Walk, equation: Any, operands: list[_Operand]) -> Results:
    for branch in equation.params["branches"]:
        walk.called(without_constants(branch), operands[1:])
    return []


_PRIMITIVE_USES: dict[str, Rule] = {
    "transpose": _transpose, "broadcast_in_dim": _broadcast, "squeeze": _squeeze, "reshape": _reshape,
    "slice": _sliced, "dynamic_slice": _sliced, "gather": _gather, "dot_general": _dot,
    "conv_general_dilated": _convolution, "scan": _scan, "cond": _cond, "while": _while,
    "concatenate": _concatenate, "stack": _stack,
}


def readings(found: Set[Use], growing: Sequence[int]) -> set[tuple[frozenset[int], frozenset[int]]]:
    """Returns the growing axes that are summed over and those that are kept, for each use that tells of all.

    A use that both sums over an axis and keeps it, as of a part of it, tells of none.

    >>> readings({Use(frozenset([0]), frozenset([1])), Use(frozenset(), frozenset([1]))}, growing=[0, 1])
    {(frozenset({0}), frozenset({1}))}
    """
    axes = frozenset(growing)
    return {(use.summed & axes, use.kept & axes) for use in found
            if axes <= use.summed | use.kept | use.indexed and not _is_ambiguous(use, axes)}


def are_ambiguous(found: Set[Use], growing: Sequence[int]) -> bool:
    """Returns whether a use both sums over a growing axis and keeps it, so that it tells of none."""
    return any(_is_ambiguous(use, frozenset(growing)) for use in found)


def _is_ambiguous(use: Use, growing: frozenset[int]) -> bool:
    return bool(growing & use.summed & use.kept)
