"""What watches a run: its measures, its health, what it leaves for later runs, and that all ranks are alike."""

from composer_kd.callbacks.evaluate_attacks import EvaluateAttacks
from composer_kd.callbacks.evaluate_drifts import EvaluateDrifts
from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.record_adversarial import RecordAdversarial
from composer_kd.callbacks.record_logits import RecordLogits
from composer_kd.callbacks.record_losses import RecordLosses
from composer_kd.callbacks.record_predictions import RecordPredictions
from composer_kd.callbacks.sync_buffers import SyncBuffers

__all__ = [
    'EvaluateAttacks',
    'EvaluateDrifts',
    'Measures',
    'NanGuard',
    'RecordAdversarial',
    'RecordLogits',
    'RecordLosses',
    'RecordPredictions',
    'SyncBuffers',
]
