"""What watches a run: its measures, its health, what it leaves for later runs, and that all ranks are alike."""

from composer_kd.callbacks.evaluate_attacks import Robustness
from composer_kd.callbacks.evaluate_drifts import DriftMeasures
from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.record_adversarial import RecordAdversarial
from composer_kd.callbacks.record_logits import RecordLogits
from composer_kd.callbacks.record_losses import RecordLosses
from composer_kd.callbacks.record_predictions import RecordPredictions
from composer_kd.callbacks.sync_buffers import SameBuffers

__all__ = [
    'DriftMeasures',
    'Measures',
    'NanGuard',
    'RecordAdversarial',
    'RecordLogits',
    'RecordLosses',
    'RecordPredictions',
    'Robustness',
    'SameBuffers',
]
