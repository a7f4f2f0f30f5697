"""Hooks into Haiku: contexts, creators, getters and interceptors."""
