"""What is known of a parameter: its axes, its initializer, its place, and the factors that follow."""
