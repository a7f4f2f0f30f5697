"""Plans: any two trees of parameters side by side, in μP.

- from_trees: `plan`, which makes a `Plan` of two trees.
- arguments: the arguments of `plan`, checked.
- tree_records: a record for each parameter of a tree.
- stds: the stds of parameters, declared or measured on arrays.
- compare_trees: each parameter beside the base's.
- plan: `Plan`, the frozen value, with its table and its optimizers; the modules below do the rest of its work.
- trees: the user's trees beside a plan.
- initial_values: draws in μP.
- forward_pass: the factors of the forward pass.
- asked: whether a model's forward pass has them.
- files: the base in a file.
"""
