"""What watches a run: its measures, its health, and that all ranks evaluate the same model."""

from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.same_buffers import SameBuffers

__all__ = ['Measures', 'NanGuard', 'SameBuffers']
