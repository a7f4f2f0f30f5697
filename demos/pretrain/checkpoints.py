"""Checkpoints of a run: parameters, optimizer, the Mup, and what was asked for; from orbax."""
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

import haiku_mup

NEEDED = "checkpoints are orbax's: pip install orbax-checkpoint"


class Checkpoints:
    """The last two checkpoints of a run, each whole or not there: it gets its name when all is written."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], mup: haiku_mup.Mup):
        """Opens the folder, which may be new.

        Args:
          folder: where they are.
          settings: what the run was asked for, that must not change.
          mup: the Mup of the code that runs.

        Raises:
          ImportError: orbax is missing.
        """
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(NEEDED) from error
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.ocp, self.settings, self.mup = ocp, dict(settings), mup
        self.manager = ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True))

    def restored(self, state: Any, free: tuple[str, ...] = ()) -> tuple[int, Any]:
        """The newest checkpoint's step and state; 0 and the given state where there is none.

        Args:
          state: arrays as they are to be restored, on the devices where they are to be.
          free: settings that may have changed.

        Raises:
          ValueError: other settings than those that the checkpoint's run was asked for.
          MupError: another base or parametrization than the checkpoint's.
        """
        step = self.manager.latest_step()
        if step is None:
            return 0, state
        kept = self.manager.restore(step, args=self.ocp.args.Composite(run=self.ocp.args.JsonRestore())).run
        changed = [f"{name} was {kept['settings'].get(name)}, and is {value}"
                   for name, value in self.settings.items()
                   if name not in free and kept["settings"].get(name) != value]
        if changed:
            raise ValueError(f"{self.manager.directory}: the checkpoint is of another run: "
                             f"{'; '.join(changed)}; give what was given then, or another --out")
        self.mup.check(kept["mup"])
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        found = self.manager.restore(step, args=self.ocp.args.Composite(
            state=self.ocp.args.StandardRestore(shapes)))
        return step, found.state

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint, unless that step has one."""
        if self.manager.latest_step() == step:
            return
        kept = {"settings": self.settings, "mup": self.mup.state_dict()}
        self.manager.save(step, args=self.ocp.args.Composite(
            state=self.ocp.args.StandardSave(state), run=self.ocp.args.JsonSave(kept)))

    def close(self) -> None:
        self.manager.close()
