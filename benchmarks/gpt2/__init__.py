"""Measures the time and memory of a GPT-2's or a Llama's step of training, beside transformers in PyTorch.

python -m benchmarks.gpt2 [--model llama] [--torch PYTHON] [--vocab 50257] [--blocks 6] [--width 384]
                          [--heads 6] [--rounds 5]

PYTHON is one that has torch and transformers, in an environment of its own; without it, only ours are measured:
plain (the model and the optimizer unchanged) and wrapped (in μP, from a base of half the width). Each runs in a
process of its own; they take turns, a few steps each, so that a busy machine slows all alike. A step is forward
pass, backward pass and AdamW, in float32, without dropout. Memory is the process's peak, less what it had with
its libraries loaded and a step of a tiny model made: while stepping, and with the start and XLA's compiling.
"""
