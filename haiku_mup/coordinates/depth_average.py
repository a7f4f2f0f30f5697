"""One name for blocks, where models have different numbers of them: their quantities are averaged."""
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from haiku_mup.parameters.numbered_modules import ModuleTree, joined, split_number

Layers = tuple[int, ...]


class Pooled:
    """The names of quantities in models of several depths; in models of one depth, each has its own.

    The tenth of ten blocks is not what the tenth of twenty is, but all ten together are what all twenty are.

    Args:
      models: for each, {module: {name: the sizes of its stacks}} of what it has, the smallest first.

    >>> few, many = ({"net/block": {"w": ()}, "stack": {"w": (2,)}},
    ...              {"net/block": {"w": ()}, "net/block_1": {"w": ()}, "stack": {"w": (4,)}})
    >>> pooled = Pooled([few, many])
    >>> pooled.module("net/block_1"), pooled.layer("stack", "w", (3,)), Pooled([few]).layer("stack", "w", (1,))
    (('net/block_*', 'net/block'), '[*]', '[1]')
    """

    def __init__(self, models: Iterable[Mapping[str, Mapping[str, Layers]]]):
        models = list(models)
        self._trees = [ModuleTree(model) for model in models]
        self._layers: dict[tuple[str, str], list[Layers]] = {}
        for model in models:
            for module, leaves in model.items():
                for leaf, layers in leaves.items():
                    self._layers.setdefault((self.module(module)[1], leaf), []).append(layers)

    def module(self, module: str) -> tuple[str, str]:
        """What to call a module, and the one of its kind that every model has."""
        at, shown = "", []
        for part in module.split("/"):
            families = [tree.members(at, split_number(part)[0]) for tree in self._trees]
            differ = all(families) and any(family.keys() != families[0].keys() for family in families)
            differ = differ and any(part in family.values() for family in families)
            shown.append(f"{split_number(part)[0]}_*" if differ else part)
            at = joined(at, families[0][min(families[0])] if differ else part)
        return "/".join(shown), at

    def layer(self, module: str, leaf: str, layer: Layers) -> str:
        """How to write a layer of a stack, behind a name."""
        others = self._layers.get((self.module(module)[1], leaf), [])
        marks = ["*" if len({sizes[i] for sizes in others if i < len(sizes)}) > 1 else str(n)
                 for i, n in enumerate(layer)]
        return f"[{','.join(marks)}]" if marks else ""


def averaged(values: Iterable[Any]) -> Iterator[Any]:
    """One value for those of one quantity, step and statistic: their mean. It expects what all of them do.

    Its `blocks` is how many there are.
    """
    groups: dict[Any, list[Any]] = {}
    for value in values:
        groups.setdefault((value.quantity, value.step, value.stat), []).append(value)
    for first, *others in groups.values():
        known = all(other.expected == first.expected for other in others)
        mean = sum(value.value for value in (first, *others)) / (1 + len(others))
        yield first._replace(value=mean, expected=first.expected if known else None, blocks=1 + len(others))
