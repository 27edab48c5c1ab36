"""The test part of a data set under one drift after another: opened once, the training part left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer_kd.core.errors import UserError
from composer_kd.data.dataset import DatasetInfo, KeyedImages
from composer_kd.data.drift.apply import drifted
from composer_kd.data.drift.base import Drift
from composer_kd.data.loaders import open_parts
from composer_kd.data.section import DataSection
from composer_kd.data.split import Part
from composer_kd.data.transform import Augmentation

__all__ = ['DriftChecker', 'DriftedTests']


class DriftedTests:
    """The test samples that a model is judged on, and the same under drifts in the place of those of the section.

    Args:
        section: Of the data that the model was trained on.
        where: The section's place in the file, for error lines.

    Attributes:
        info: Of the data before any drift.
        clean: What the model is judged on: the test part under the section's own drift, if it has one.
    """

    def __init__(self, section: DataSection, where: str = 'data'):
        parts, self.info = open_parts(section, where)
        self._test, self._cache = parts['test'], section.cache
        self.clean: KeyedImages = self._opened(section.drift or (), f'{where}.drift')

    def under(self, drifts: Sequence[Drift], where: str) -> KeyedImages:
        """The test part under ``drifts`` alone; one whose classes are others than the model's is refused."""
        dataset = self._opened(drifts, where)
        _refuse_other_task(dataset.info, self.clean.info, where)
        return dataset

    def _opened(self, drifts: Sequence[Drift], where: str) -> KeyedImages:
        parts, info = drifted({'test': self._test}, self.info, drifts, self._cache, where)
        return parts['test'].dataset('test', info['test'], Augmentation.none(), 1, lambda images: images)


class DriftChecker:
    """Finds drifts that their data does not fit before anything trains: nothing is painted, data is opened once."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[dict[str, Part], DatasetInfo]] = {}

    def check(self, section: DataSection, scenarios: Mapping[str, Sequence[Drift]], where: str) -> None:
        """Refuse what cannot be. All ranks come here together: a stream is opened by all of them.

        Args:
            section: Of the data.
            scenarios: What a model of it is to be measured under.
            where: The run's place in the file, for error lines.
        """
        place = f'{where}.' if where else ''
        stored = section.model_copy(update={'drift': None}).model_dump_json()
        if stored not in self._opened:
            self._opened[stored] = open_parts(section, f'{place}data')
        parts, info = self._opened[stored]

        def after(some: dict[str, Part], drifts: Sequence[Drift], at: str) -> DatasetInfo:
            return drifted(some, info, drifts, section.cache, at, paint=False)[1]['test']

        clean = after(parts, section.drift or (), f'{place}data.drift')
        for name, drifts in scenarios.items():
            at = f'{place}evaluate.drifts.{name}'
            _refuse_other_task(after({'test': parts['test']}, drifts, at), clean, at)


def _refuse_other_task(found: DatasetInfo, clean: DatasetInfo, where: str) -> None:
    if found.classes != clean.classes:
        raise UserError(
            f'{where}: the test part has {found.num_classes} classes then and the model {clean.num_classes} or others; '
            f'let it come after the drifts that make the task (`after` in a grid), or leave it out'
        )
