"""Times a coordinate check, beside mup.coord_check.get_coord_data of PyTorch's mup, or beside another version.

python -m benchmarks.coord_check [--torch PYTHON] [--widths 128,256,512,1024,2048] [--seeds 5] [--layers 2]
python -m benchmarks.coord_check --beside TREE [--rounds 3]

PYTHON is one that has torch and mup, in an environment of its own; without it, only ours is measured. Ours also
records parameters, their changes and gradients, and how far activations move, which mup's doesn't. "bare JAX"
is the same training in a loop that records nothing, compiled as JAX does by default, one width at a time.

TREE is another version of haiku_mup, such as `git worktree add TREE v0.2.0` makes. Both versions check the same
models from cold, each in a fresh process, in turns. The CPU time of the check counts, of user and system.
"""
