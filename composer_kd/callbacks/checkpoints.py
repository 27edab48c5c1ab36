"""Composer's checkpoints with a hash beside them, read without running what stands in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from composer.callbacks import CheckpointSaver
from composer.core import State
from composer.loggers import Logger
from composer.utils import checkpoint, dist

from composer_kd.archive.run_dir import RunDir
from composer_kd.storage.torch_file import foreign_names, read_checkpoint

__all__ = ['SaveCheckpoints', 'reading_without_running']


class SaveCheckpoints(CheckpointSaver):
    """Save checkpoints as Composer does, and note the hash of each: one that was replaced is named before it is read.

    Args:
        run: The run directory; checkpoints lie in its ``checkpoints/``.
        save_interval: As Composer's, ``'1ep'`` or ``'500ba'``.
        keep: How many of the last ones stay, -1 for all.
    """

    def __init__(self, run: RunDir, save_interval: str, keep: int):
        super().__init__(
            folder=str(run.checkpoints),
            filename='ep{epoch}-ba{batch}-rank{rank}.pt',
            remote_file_name=None,
            latest_filename='latest-rank{rank}.pt',
            latest_remote_file_name=None,
            save_interval=save_interval,
            overwrite=True,
            num_checkpoints_to_keep=keep,
        )
        self._run = run
        self._noted: str | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        super().fit_start(state, logger)
        if dist.get_global_rank() == 0:
            # Those after the one that it continues from are written again.
            self._run.forget_checkpoints(after_batch=int(state.timestamp.batch))

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        super().batch_checkpoint(state, logger)
        self._note()

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        super().epoch_checkpoint(state, logger)
        self._note()

    def _note(self) -> None:
        """Write down the hash of a checkpoint that has just been saved, on the rank that saved it."""
        newest = self.saved_checkpoints[-1] if self.saved_checkpoints else None
        if newest is None or newest == self._noted or dist.get_global_rank() != 0:
            return
        if self._noted is None and (names := foreign_names(Path(newest))):
            self._warn(newest, names)
        self._noted = newest
        self._run.note_checkpoint(Path(newest))

    @staticmethod
    def _warn(path: str, names: list[str]) -> None:
        import warnings

        warnings.warn(
            f'{path}: the checkpoint holds {names[0]}, and one that does is not read again: this run cannot be '
            f'continued. The state_dict of a callback or an algorithm should hold plain values and tensors',
            stacklevel=2,
        )


@contextmanager
def reading_without_running() -> Iterator[None]:
    """Let Composer read checkpoints through :func:`read_checkpoint` for the length of a ``with`` block.

    Composer itself unpickles them with ``weights_only=False``, which executes what stands in the file.
    """
    composers = checkpoint.safe_torch_load

    def read(composer_states_filepath: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        # Composer links to the file from a folder of its own; error lines name the file.
        return read_checkpoint(Path(composer_states_filepath).resolve())

    checkpoint.safe_torch_load = read  # type: ignore[assignment]
    try:
        yield
    finally:
        checkpoint.safe_torch_load = composers
