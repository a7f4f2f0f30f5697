"""The coordinate check: trains models of several widths for a few steps, and judges slopes."""
