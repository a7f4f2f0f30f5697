"""A transparent `hk.layer_stack`, and the map between the names of its layers."""
import functools

import haiku as hk


class Map:
    """Names the modules of a transparent stack: "block" -> "block_layer_0", …."""

    def __init__(self, mark="layer"):
        self.mark = mark

    def stacked_to_flat(self, stacked_module_name, scan_idx):
        return f"{stacked_module_name}_{self.mark}_{scan_idx}"

    def flat_to_stacked(self, unstacked_module_name):
        name, _, i = unstacked_module_name.rpartition(f"_{self.mark}_")
        return (name, int(i)) if name and i.isdigit() else None


transparent = functools.partial(hk.layer_stack, transparent=True, transparency_map=Map())
