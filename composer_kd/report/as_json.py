"""The report for programs: the same numbers, unrounded, with a format version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from composer_kd.report.collect import Run
from composer_kd.report.fidelity import Fidelity
from composer_kd.report.harvest import ArmArchive
from composer_kd.report.headline import Headline
from composer_kd.report.inference import Inference, Relative, relative
from composer_kd.report.measures import COSTS, Spread, best, first_epoch_at, series
from composer_kd.report.robustness import Robustness
from composer_kd.report.summary import Accuracy, ArmSummary, Summary

__all__ = ['VERSION', 'as_json']

VERSION = 1


def as_json(summary: Summary, answer: Headline, notes: Sequence[str]) -> str:
    """Spreads are ``{mean, sd, n}``; accuracies are fractions, seconds seconds; what is not known is ``null``."""
    document = {
        'format': 'composer_kd.report',
        'version': VERSION,
        'headline': answer.sentence,
        'caveats': list(notes),
        'baseline': summary.baseline.name,
        'primary_measure': summary.primary.name,
        'epochs': summary.epochs,
        'thresholds': summary.thresholds,
        'arms': [
            {**_arm(summary, arm), 'model': _model(arm.inference, against)}
            for arm, against in zip(summary.arms, relative([arm.inference for arm in summary.arms]), strict=True)
        ],
        'robustness': summary.robustness and _robustness(summary.robustness),
        'under_attack': summary.under_attack and asdict(summary.under_attack),
        'takeovers': {name: asdict(one) for name, one in summary.takeovers.items()},
        'ensembles': [asdict(one) for one in summary.ensembles],
        'runs': [_run(summary, run) for run in summary.runs],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + '\n'


def _arm(summary: Summary, arm: ArmSummary) -> dict[str, Any]:
    return {
        'name': arm.name,
        'runs': [run.name for run in arm.arm.counted],
        'finished': arm.arm.finished,
        'distilled': arm.arm.distilled,
        'shared_machine': arm.arm.shared,
        'accuracy': {name: _accuracy(found) for name, found in arm.accuracy.items()},
        'to_reach': {
            measure.name: [_level(summary, arm, measure.name, index) for index in range(len(arm.reach[measure.name]))]
            for measure in summary.measures
        },
        'totals': {name: _spread(found) for name, found in arm.totals.items()},
        'fidelity': _fidelity(arm.fidelity),
        'archive': _archive(arm.archive),
    }


def _fidelity(found: Fidelity) -> dict[str, Any]:
    return {
        'calibration_error': _spread(found.calibration_error),
        'teachers': {
            name: {'agreement': _spread(to.agreement), 'kl': _spread(to.kl)} for name, to in found.teachers.items()
        },
    }


def _model(found: Inference, against: Relative) -> dict[str, Any]:
    return {
        'parameters': _spread(found.parameters),
        'multiply_adds': _spread(found.multiply_adds),
        'images_per_second': {str(batch): _spread(spread) for batch, spread in found.images_per_second.items()},
        'times_smaller_than_the_largest': against.smaller,
        'times_faster_than_the_largest': {str(batch): ratio for batch, ratio in against.faster.items()},
    }


def _robustness(found: Robustness) -> dict[str, Any]:
    kinds = {kind: {f'{severity:g}': name for severity, name in names.items()} for kind, names in found.kinds.items()}
    return {
        'drifts': list(found.drifts),
        'corruptions': kinds,
        'groups': found.groups,
        'left_out': [run.name for run in found.left_out],
        'arms': {name: asdict(arm) for name, arm in found.arms.items()},
    }


def _archive(found: ArmArchive) -> dict[str, Any]:
    return {
        'recorded': [asdict(stored) for stored in found.stored],
        'looked_up': found.served and asdict(found.served),
        'harvest': {
            **{cost: asdict(harvested) for cost, harvested in found.harvested.items()},
            'shared_by_runs': found.sharers,
            'known': not found.unknown,
        },
    }


def _accuracy(found: Accuracy) -> dict[str, Any]:
    return {
        'at': {str(epoch): _spread(spread) for epoch, spread in found.at.items()},
        'last': _spread(found.last),
        'best': _spread(found.best),
        'best_epoch': _spread(found.best_epoch),
    }


def _level(summary: Summary, arm: ArmSummary, measure: str, index: int) -> dict[str, Any]:
    level = arm.reach[measure][index]
    speed_up = {}
    for cost in COSTS:
        found = None if arm is summary.baseline else summary.compare(arm, measure, index, cost.name)
        speed_up[cost.name] = found and {
            'ratio': found.ratio,
            'complete': found.complete,
            'beyond_chance': found.beyond_chance,
            'shared_machine': found.shared,
        }
    return {
        'threshold': level.threshold,
        'reached': level.reached,
        'of': level.of,
        **{cost.name: _spread(level.cost(cost.name)) for cost in COSTS},
        'speed_up': speed_up,
    }


def _run(summary: Summary, run: Run) -> dict[str, Any]:
    def measured(key: str, levels: Sequence[float]) -> dict[str, Any]:
        values = series(run.epochs, key)
        peak = best(values)
        return {
            'last': values[max(values)] if values else None,
            'best': peak and {'epoch': peak[0], 'value': peak[1]},
            'epochs_to_reach': [{'threshold': level, 'epoch': first_epoch_at(values, level)} for level in levels],
        }

    return {
        'name': run.name,
        'arm': run.arm,
        'seed': run.seed,
        'lineage': run.lineage or None,
        'epochs': run.last_epoch,
        'planned_epochs': run.planned_epochs,
        'finished': run.finished,
        'shared_machine': run.shared,
        'measures': {
            measure.name: measured(measure.key, summary.thresholds[measure.name]) for measure in summary.measures
        },
    }


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    return spread and asdict(spread)
