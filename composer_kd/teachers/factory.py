"""Make teachers of modules, checkpoints, run directories and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from composer_kd.core.errors import UserError, name_fault
from composer_kd.core.options import check_options, one_of
from composer_kd.models.finished_run import FinishedRun
from composer_kd.models.weights import load_into
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.live import LiveTeacher
from composer_kd.teachers.recorded import UNSEEN, RecordedTeacher

__all__ = ['Teacher', 'kind_of']


class Teacher(BaseTeacher):
    """Makes teachers: :meth:`recorded`, :meth:`live`, :meth:`from_checkpoint`, :meth:`from_run`.

    Wherever a teacher is expected, a module or the path of a run directory will do as well. A run directory is a
    recorded teacher where its archive covers the training's views, else a live one.

    A subclass is a teacher of your own: it has a ``name`` and answers :meth:`outputs`.
    """

    @staticmethod
    def live(
        module: torch.nn.Module,
        name: str | None = None,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        data_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> BaseTeacher:
        """A teacher that computes its outputs with a module.

        Args:
            module: A classifier: a plain module that maps images to logits, or a ComposerModel.
            name: How lines and metrics call it.
            normalization: Mean and standard deviation (a number a channel) that the module was trained with, if they
                differ from the data's; inputs are converted before they reach it.
            data_normalization: Mean and standard deviation that the batches come with; read off the training data set
                where it carries them, as ours do.
        """
        return LiveTeacher(module, name, normalization, data_normalization)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        model: Callable[[], torch.nn.Module],
        name: str | None = None,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        data_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        trust_pickle: bool = False,
    ) -> BaseTeacher:
        """Make a live teacher from a safetensors file, a plain state_dict or a checkpoint of Composer's.

        Args:
            path: The file.
            model: A function that makes the module which the weights belong to.
            name: How lines and metrics call it; the file's name by default.
            normalization: As in :meth:`live`.
            data_normalization: As in :meth:`live`.
            trust_pickle: Open a file that is not safetensors but a pickle; a process of its own reads it.
        """
        if isinstance(model, torch.nn.Module) or not callable(model):
            raise UserError(f'Teacher.from_checkpoint({str(path)!r}): model is a function that makes the module')
        module = model()
        load_into(module, Path(path), trust_pickle)
        return cls.live(module, name or Path(path).stem, normalization, data_normalization)

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        name: str | None = None,
        data_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> BaseTeacher:
        """A live teacher from a run directory: its model, its weights and the normalisation it was trained with.

        It computes whatever the run's archive holds; see :meth:`recorded` for one that looks up.

        Args:
            path: The run directory, here or on a remote that Streaming knows.
            name: How lines and metrics call it; the directory's name by default.
            data_normalization: As in :meth:`live`; a loader of your own has to be told here what its batches come with.
        """
        return RunTeacher(FinishedRun.open(path), name, data_normalization)

    @classmethod
    def recorded(
        cls,
        run: str | Path,
        fill: bool = False,
        unseen: str = 'live',
        name: str | None = None,
        data_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> BaseTeacher:
        """A teacher that need not run: it looks up the logits in a run's archive, by sample and view.

        The training data must be ours (samples with ids and content hashes), augmented as it was when the logits were
        recorded. A sample whose content has changed counts as not seen, whatever its id.

        Args:
            run: The run directory, here or on a remote that Streaming knows.
            fill: Compute what is missing with the run's model and keep it in the archive, so that the next training
                with the same augmentation finds it there.
            unseen: What teaches a sample that the archive does not know: ``'live'``, the run's model, or ``'label'``,
                its label alone.
            name: How lines and metrics call it; the directory's name by default.
            data_normalization: As in :meth:`live`, for what the model has to compute.
        """
        return RecordedTeacher(run, name, fill, unseen, data_normalization)

    @classmethod
    def of(cls, teacher: BaseTeacher | torch.nn.Module | str | Path | Mapping[str, Any]) -> BaseTeacher:
        """``teacher`` itself, a live one around a module, or that of a run directory: recorded where it can be."""
        if isinstance(teacher, BaseTeacher):
            return teacher
        if isinstance(teacher, torch.nn.Module):
            return cls.live(teacher)
        if isinstance(teacher, str | Path) and Path(teacher).is_file():
            raise UserError(
                f'teachers: {str(teacher)!r} is a file; a checkpoint needs its model: '
                f'Teacher.from_checkpoint({str(teacher)!r}, model=...)'
            )
        if isinstance(teacher, str | Path):
            return RecordedTeacher(teacher, or_live=True)
        if isinstance(teacher, Mapping):
            return _from_options(dict(teacher))
        raise UserError(
            f'teachers: {teacher!r} is not a teacher; give a module, the path of a run directory, a mapping as '
            f"{{'recorded': path, 'fill': true}}, or a Teacher"
        )


def kind_of(options: Mapping[str, Any]) -> str:
    """``'recorded'`` or ``'live'``: the key of the run in a teacher's mapping; what is wrong with it is one line."""
    kinds = [kind for kind in ('recorded', 'live') if kind in options]
    if len(kinds) != 1:
        raise UserError(
            f"teachers: {dict(options)!r}: expected one of 'recorded' and 'live' with a run, and their options"
        )
    kind, run = kinds[0], options[kinds[0]]
    if not isinstance(run, str | Path):
        raise UserError(f'teachers: {kind}: expected a run directory, got {run!r}')
    own = {key: value for key, value in options.items() if key != kind}
    where = f'teachers.{kind}'
    if kind == 'recorded':
        check_options(Teacher.recorded, own, where, {'run', 'data_normalization'})
        one_of(own.get('unseen', 'live'), UNSEEN, f'{where}.unseen')
    else:
        check_options(Teacher.from_run, own, where, {'path', 'data_normalization'})
    if fault := name_fault(options.get('name') or ''):
        raise UserError(f'{where}.name: {fault}')
    return kind


def _from_options(options: dict[str, Any]) -> BaseTeacher:
    """``{recorded: RUN, fill: true, unseen: label}`` or ``{live: RUN}``, as a YAML writes it."""
    kind = kind_of(options)
    run = options.pop(kind)
    return Teacher.recorded(run, **options) if kind == 'recorded' else Teacher.from_run(run, **options)
