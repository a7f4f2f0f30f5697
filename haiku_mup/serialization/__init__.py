"""Files of captured bases, and the comparison of a checkpoint's Mup with the one at hand.

- state_dict: encodes a captured base as plain values and as a JSON file, and decodes it with all checks.
- checkpoint_check: `Mup.check`.
- atomic_files: writes files so that a crash leaves no half of one; sweeps use it, too.
- atomic_folders: replaces several files of a folder together.
"""
