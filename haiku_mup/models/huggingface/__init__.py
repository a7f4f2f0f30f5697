"""Reads and writes folders of weights in the layout of Hugging Face's transformers."""
