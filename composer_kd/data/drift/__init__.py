"""Drift scenarios: how the world of a data set moves, by name, as pure functions of seed, severity and step."""

from composer_kd.data.drift.base import DRIFTS, PARTS, Drift, Population

__all__ = ['DRIFTS', 'PARTS', 'Drift', 'Population']
