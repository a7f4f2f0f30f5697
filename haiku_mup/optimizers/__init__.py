"""Wraps optax optimizers in the factors of a parametrization, and checks what kind of optimizer each is.

The rules for each kind of optimizer are in `rules.optimizers`.

- learning_rates: what `Mup.wrap_optimizer`, `lr_scales` and `table` do with a captured model.
- tree_names: names of the leaves of trees, Haiku's or paths.
- wrapper, trees: puts factors around an optimizer that is a black box, by the names of parameters.
- factors, muon: the factors that a rule gives for all parameters of a model.
- detect, synthetic_runs, states: what an optimizer does with synthetic gradients, and what its state says.
- numpy_evaluation: evaluates traced programs of such runs, without the compiler.
- value_dependence: whether the size of updates depends on the values of parameters.
- mismatch: warns where that does not fit the rule.
- adamw: AdamW with factors, ε, decay, schedule and clip in the right order.
"""
