"""Drift scenarios: how the world of a data set moves, by name, as pure functions of seed, severity and step."""

from composer_kd.data.drift.base import DRIFTS, PARTS, Drift, SampleSet

__all__ = ['DRIFTS', 'PARTS', 'Drift', 'SampleSet']
