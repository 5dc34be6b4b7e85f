"""Curves and sample pictures of a training for TensorBoard, in a folder beside its output.

Nothing of it takes part in the training: writing draws from no random generator that a step uses, and a training that
is continued writes on after the last checkpoint.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from neuropictor.records.log import is_first

#: Below a stage's output.
BOARD_FOLDER = "tensorboard"


class Board:
    """Writer of event files; writes nothing in other processes than the first.

    Parameters
    ----------
    folder
        Where the event files lie.
    data
        ``simulated`` is said in the title of the pictures.
    preview
        Draws sample pictures with the networks as they are, uint8 ``[H, W, 3]``; None for a stage without pictures.
    """

    def __init__(self, folder: Path, data: str, preview: Callable[[], np.ndarray] | None = None):
        self.folder, self.preview = folder, preview
        self.title = "reconstructions" + (" (SIMULATED data)" if data == "simulated" else "")
        self._writer = None

    def open(self, step: int) -> None:
        """Begin after `step` steps; what was written of later ones, or of another training, is dropped."""
        if not is_first():
            return
        from torch.utils.tensorboard import SummaryWriter

        if step == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1)

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add values, by name, under ``loss/train`` and the like."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/{split}", value, step)

    def pictures(self, step: int) -> None:
        """Add sample pictures."""
        if self._writer is not None and self.preview is not None:
            self._writer.add_image(self.title, self.preview(), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
