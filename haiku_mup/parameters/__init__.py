"""Parameters: their axes, initializers and places, and the factors that follow.

What is known of one parameter, as `tracing` captures it:

- fans, haiku_layers: its fan-in and fan-out axes, as the user or its layer's type declares them.
- initializers, traced_numbers: the mean and the std of its initializer.
- place, numbered_modules: the stacks, blocks and branches in which it is made.
- globs, declarations: the arguments of `Mup`, by globs over names.
- tree_paths, tree_layout: names in trees of other frameworks, and what their layers tell.
- axis_uses: how the traced program uses it, where its axes are a guess.
- jaxprs, arrangements: read traced programs, and tell those that only move entries.
- record: all of this in one `Record`.

What follows from its records at the base and at the target:

- depth, branches: the base's parameter to compare it with, and the ratio of the numbers of blocks.
- scaling, row_factors: its role and its factors.
- finite_sizes: the base with the target's numbers of features or classes, which are no widths.
- state_draws: the factor of the draw of Haiku state, such as a codebook.
- role_errors, guesses: what it can't be, or may be, and the code that declares it.
- warnings, summary_table: what is probably not meant, and the table that `Mup.summary` prints.
"""
