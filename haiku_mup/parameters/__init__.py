"""Parameters: their axes, initializers and places, and the factors that follow."""
