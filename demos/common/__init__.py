"""What the demos share: data, flags, losses, the sweep, its report."""
