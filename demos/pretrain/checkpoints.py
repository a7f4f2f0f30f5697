"""Checkpoints of a run, by orbax: parameters, optimizer state, the Mup, and the run's settings."""
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

import haiku_mup

ORBAX_MISSING = "checkpoints are orbax's: pip install orbax-checkpoint"


class Checkpoints:
    """The last two checkpoints of a run. Each is complete: it gets its name when everything is written."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], mup: haiku_mup.Mup):
        """Opens the folder, which may be new.

        Args:
          folder: of the checkpoints.
          settings: of the run, which must not change when it continues.
          mup: the Mup of this run.

        Raises:
          ImportError: orbax is missing.
        """
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(ORBAX_MISSING) from error
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.ocp, self.settings, self.mup = ocp, dict(settings), mup
        self.manager = ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True))

    def restore(self, state: Any, changeable: tuple[str, ...] = ()) -> tuple[int, Any]:
        """Returns the newest checkpoint's step and state; 0 and the given state if there is none.

        Args:
          state: arrays with the shapes, dtypes and shardings to restore.
          changeable: settings that may have changed.

        Raises:
          ValueError: the checkpoint's run had other settings.
          MupError: another base or parametrization than the checkpoint's.
        """
        step = self.manager.latest_step()
        if step is None:
            return 0, state
        kept = self.manager.restore(step, args=self.ocp.args.Composite(run=self.ocp.args.JsonRestore())).run
        changed = [f"{name} was {kept['settings'].get(name)}, and is {value}"
                   for name, value in self.settings.items()
                   if name not in changeable and kept["settings"].get(name) != value]
        if changed:
            raise ValueError(f"{self.manager.directory}: the checkpoint is of another run: "
                             f"{'; '.join(changed)}; give what was given then, or another --out")
        self.mup.check(kept["mup"])
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        found = self.manager.restore(step, args=self.ocp.args.Composite(
            state=self.ocp.args.StandardRestore(shapes)))
        return step, found.state

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint, unless the step has one."""
        if self.manager.latest_step() == step:
            return
        kept = {"settings": self.settings, "mup": self.mup.state_dict()}
        self.manager.save(step, args=self.ocp.args.Composite(
            state=self.ocp.args.StandardSave(state), run=self.ocp.args.JsonSave(kept)))

    def close(self) -> None:
        """Waits for the last checkpoint, and closes the folder."""
        self.manager.close()
