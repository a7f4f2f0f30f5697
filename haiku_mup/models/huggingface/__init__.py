"""Reads and writes folders of weights in the layout of Hugging Face's transformers.

- pretrained: `load_pretrained` and `save_pretrained`.
- names, tensors: the name and the layout of each parameter in a state dict.
- safetensors_files: the files of weights.
- other_files: those of tokenizers, and settings of generation.
- folding: folds μP's multipliers into the weights.
"""
