"""Where the library hooks into Haiku: contexts, creators, getters."""
