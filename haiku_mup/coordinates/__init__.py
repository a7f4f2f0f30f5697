"""Coordinate checks: train models of several widths for a few steps, and see which sizes grow.

In the order of a check:

- check, training_runs: `coord_check` captures the model of each width, and trains it from each seed.
- batches, model_inputs, trainer, compilation: how batches are checked, and a model is initialized, compiled and
  trained step by step.
- pairs, planned_models: models of other frameworks, pairs (init, apply), as Haiku's; and their plans.
- unrecorded: activations that a check of them doesn't see.
- recorder, dependents, state_records, array_stats, multipliers, output_gradients, nested_calls: how arrays, the
  multipliers of layers and the gradients of outputs are measured while the model runs.
- measurements, measured_gradients, quantities, depth_average: points from these numbers, and their names.
- unit_vectors: arrays of normalised vectors, whose entries shrink as their number grows.
- slope_range, expected_slopes, model_expectations: the slopes that the rules expect of each quantity.
- slopes: the slope of each quantity over widths, its interval, and how far it is from the expected ones.
- forward_factors, factor_walk, factor_rules, factor_scales: factors of the width in the traced program.
- findings, diagnosis, optimizer_diagnosis: what is wrong, and its cause, where synthetic runs of
  the optimizer tell it.
- rounded_updates: parameters of low precision whose updates are rounded away.
- verdict, report, result: the three answers, the text, and the `CoordCheck` with all of it.
- figures, figure_style: pictures.
"""
