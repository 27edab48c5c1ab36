"""Drift scenarios: how the world of a data set moves, by name, as pure functions of seed, severity and step."""

from composer_kd.data.drift.drift import DRIFTS, Drift
from composer_kd.data.drift.population import PARTS, Population

__all__ = ['DRIFTS', 'PARTS', 'Drift', 'Population']
