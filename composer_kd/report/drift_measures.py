"""What drift does to models, as pure functions of accuracies: corruption errors, effective robustness, ageing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from composer_kd.report.measures import Epochs, costs_at, first_epoch_at, series

__all__ = [
    'Recovery',
    'effective_robustness',
    'forgetting',
    'mean_corruption_error',
    'recovery',
    'relative_mean_corruption_error',
]

Errors = Mapping[str, Sequence[float]]


def mean_corruption_error(errors: Errors, baseline: Errors) -> float | None:
    """mCE: a kind's errors summed over its severities, over the baseline's; averaged over kinds.

    1 is the baseline itself, less is better (Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261, who use
    AlexNet). ``None`` without a kind in which the baseline errs.

    Args:
        errors: Kinds of corruption to errors, as fractions, at the same severities in the same order in both.
        baseline: Those of the model that is compared with.
    """
    return _mean_ratio({kind: (sum(errors[kind]), sum(baseline[kind])) for kind in errors})


def relative_mean_corruption_error(
    errors: Errors, clean: float, baseline: Errors, baseline_clean: float
) -> float | None:
    """The same of what a corruption adds to the clean error: how much worse it gets, whatever it was before.

    A kind that adds nothing to the baseline's errors has no ratio and is left out.
    """
    added = {
        kind: (sum(one - clean for one in errors[kind]), sum(one - baseline_clean for one in baseline[kind]))
        for kind in errors
    }
    return _mean_ratio(added)


def _mean_ratio(sums: Mapping[str, tuple[float, float]]) -> float | None:
    ratios = [own / base for own, base in sums.values() if base > 0]
    return fmean(ratios) if ratios else None


def effective_robustness(clean: Sequence[float], drifted: Sequence[float]) -> list[float | None]:
    """Accuracy under drift beyond what the clean accuracy lets one expect (Taori et al, 2020).

    Expected is what a line through the other models says, fitted on the logit scale by least squares: a model that is
    in the fit itself pulls the line towards it, and with few models most of the way. ``None`` for each model with fewer
    than three others and with others of one clean accuracy. One that is at 0 or 1 has no place on the scale: it has
    none, and is no other of the rest.

    Args:
        clean: Of each model, as fractions.
        drifted: Likewise, under drift.
    """
    places = {
        number: (_logit(before), _logit(after))
        for number, (before, after) in enumerate(zip(clean, drifted, strict=True))
        if 0 < before < 1 and 0 < after < 1
    }
    found: list[float | None] = [None] * len(clean)
    for number, (at, _) in places.items():
        others = [place for other, place in places.items() if other != number]
        expected = _on_the_line([x for x, _ in others], [y for _, y in others], at)
        found[number] = None if expected is None else drifted[number] - 1 / (1 + math.exp(-expected))
    return found


def _on_the_line(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """What a line through three points or more says; ``None`` where there are fewer, or where they stand upright."""
    if len(x) < 3:
        return None
    spread = sum((one - fmean(x)) ** 2 for one in x)
    if spread < 1e-12:
        return None
    slope = sum((a - fmean(x)) * (b - fmean(y)) for a, b in zip(x, y, strict=True)) / spread
    return fmean(y) + slope * (at - fmean(x))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def forgetting(then: Sequence[float], now: Sequence[float]) -> float | None:
    """How much of the accuracy on earlier steps' test data is gone, averaged over them; below 0 where it has grown.

    Args:
        then: For each earlier step, the accuracy on its data of the model that was current then.
        now: The accuracies of the present model on the same data.
    """
    return fmean(before - after for before, after in zip(then, now, strict=True)) if then else None


@dataclass(frozen=True)
class Recovery:
    """What it took to be as good as before a drift; seconds and multiply-adds are of training, teachers inside."""

    epochs: int
    seconds: float | None
    multiply_adds: float | None = None


def recovery(epochs: Epochs, level: float, key: str = 'test_accuracy') -> Recovery | None:
    """The first epoch on drifted data in which a retrained model reaches what the one before had before the drift.

    Args:
        epochs: The records of the retrained model's epochs.
        level: The accuracy to reach.
        key: Of the accuracy in the records.
    """
    first = first_epoch_at(series(epochs, key), level)
    if first is None:
        return None
    spent = costs_at(epochs)
    return Recovery(first, spent['seconds'].get(first), spent['multiply_adds'].get(first))
