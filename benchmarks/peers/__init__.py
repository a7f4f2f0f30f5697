"""Measures haiku_mup and three other libraries of μP, for the table of docs/evidence/beside_the_others.rst.

python -m benchmarks.peers [--old FOLDER] [--flax-mup FOLDER]

Measures each that can be imported, and says of the others what to install. Three environments hold them all:

- haiku_mup, and haiku-mup 0.1.5 without its own pins, which are older than today's Python:
  pip install . jax==0.10.2 dm-haiku==0.0.17 optax==0.2.8
  pip install --no-deps --target FOLDER haiku-mup==0.1.5
- microsoft/mup: pip install mup==1.0.0 torch==2.13.0
- flax-mup: pip install flax==0.12.8 jax==0.10.2 optax==0.2.8 chex==0.1.92
  git clone https://github.com/JesseFarebro/flax-mup FOLDER && git -C FOLDER checkout 66e938a
"""
