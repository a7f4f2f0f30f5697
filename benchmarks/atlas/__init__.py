"""An atlas of what transfers: pieces of measurements, each with what was expected of it before it ran."""
