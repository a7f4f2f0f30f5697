"""Common names for the blocks of models of different depths, so that their quantities can be averaged."""
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from haiku_mup.parameters.numbered_modules import ModuleTree, joined, split_number

Layers: TypeAlias = tuple[int, ...]         # sizes of the layer_stacks around an array, or a layer's indices


class CommonName(NamedTuple):
    """A module, as models of all depths have it.

    Attributes:
      title: its name, with "*" in place of a number that not all of them have.
      representative: the module of its kind that all of them have.
    """

    title: str
    representative: str


class DepthAverage:
    """Gives one name to blocks that are averaged.

    The tenth of ten blocks does not correspond to the tenth of twenty, but the mean of all ten corresponds to
    the mean of all twenty. Models of one depth keep a name for each block.

    Args:
      models: for each, {module: {name: the sizes of its stacks}} of its arrays; the smallest model first.

    >>> shallow, deep = ({"net/block": {"w": ()}, "stack": {"w": (2,)}},
    ...                  {"net/block": {"w": ()}, "net/block_1": {"w": ()}, "stack": {"w": (4,)}})
    >>> average = DepthAverage([shallow, deep])
    >>> average.module("net/block_1")
    CommonName(title='net/block_*', representative='net/block')
    >>> average.layer("stack", "w", (3,)), DepthAverage([shallow]).layer("stack", "w", (1,))
    ('[*]', '[1]')
    """

    def __init__(self, models: Iterable[Mapping[str, Mapping[str, Layers]]]):
        models = list(models)
        self._trees = [ModuleTree(model) for model in models]
        self._stacks: dict[tuple[str, str], list[Layers]] = {}
        for model in models:
            for module, leaves in model.items():
                for leaf, layers in leaves.items():
                    key = self.module(module).representative, leaf
                    self._stacks.setdefault(key, []).append(layers)

    def module(self, module: str) -> CommonName:
        """Returns the common name of a module."""
        at, shown = "", []
        for part in module.split("/"):
            stem, _ = split_number(part)
            families = [tree.members(at, stem) for tree in self._trees]
            averaged = (all(families) and any(family.keys() != families[0].keys() for family in families)
                        and any(part in family.values() for family in families))
            shown.append(f"{stem}_*" if averaged else part)
            at = joined(at, families[0][min(families[0])] if averaged else part)
        return CommonName("/".join(shown), at)

    def layer(self, module: str, leaf: str, layer: Layers) -> str:
        """Returns the suffix that names a layer of a stack: its indices, "[*]" where it is averaged.

        Args:
          module: the module's name, in its own model.
          leaf: the array's name in the module.
          layer: the layer's indices; () outside of stacks, whose suffix is empty.
        """
        stacks = self._stacks.get((self.module(module).representative, leaf), [])
        marks = ["*" if len({sizes[i] for sizes in stacks if i < len(sizes)}) > 1 else str(index)
                 for i, index in enumerate(layer)]
        return f"[{','.join(marks)}]" if marks else ""
