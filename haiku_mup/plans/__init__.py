"""Plans: any two trees of parameters side by side, in μP.

- arguments: the arguments of `plan`, checked.
- tree_records: a record for each parameter of a tree.
- stds: the stds of parameters, declared or measured on arrays.
- compare_trees: each parameter beside the base's.
- plan: `Plan`, the frozen value.
- from_trees: `plan`, which makes it.
"""
