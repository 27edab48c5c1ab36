"""The answer in one honest sentence: how much cheaper was retraining, or that it was not."""

from __future__ import annotations

from dataclasses import dataclass

from composer_kd.report.measures import COSTS
from composer_kd.report.summary import ArmSummary, Comparison, Summary
from composer_kd.report.wording import PERCENT, percent, seeds, unit_for, with_spread

__all__ = ['Headline', 'headline']

_NEGLIGIBLE = 0.005  # half a percent either way is "the same"
_INSTEAD = 'instead of'


@dataclass(frozen=True)
class Headline:
    """The answer.

    Args:
        short: The verdict, fit for a heading.
        detail: What it rests on: the accuracy, the arm, every cost, the number of seeds.
        comparisons: By cost, what stands behind the sentence; empty where there was nothing to compare.
        arm: The arm that the sentence is about.
        threshold: The accuracy that it is about.
    """

    short: str
    detail: str
    comparisons: dict[str, Comparison]
    arm: ArmSummary | None = None
    threshold: float | None = None

    @property
    def sentence(self) -> str:
        return f'{self.short}: {self.detail}'


def headline(summary: Summary) -> Headline:
    """Compare at the highest accuracy that every seed of the baseline and of some other arm reached.

    The arm named is the cheapest of those; cheap is judged by training time where the runs had the machine for
    themselves, else by multiply-adds, else by epochs.
    """
    base = summary.baseline
    if not summary.others:
        return Headline('One arm, nothing to compare yet', _ended(summary, base), {})
    measure = summary.primary
    levels = base.reach[measure.name]
    for index in reversed(range(len(levels))):
        able = [arm for arm in summary.others if arm.reach[measure.name][index].complete]
        if levels[index].complete and able:
            return _compare(summary, index, able)
    ends = '; '.join(_ended(summary, arm) for arm in (base, *summary.others[:3]))
    return Headline(
        'Nothing to compare: no accuracy was reached by every seed of the baseline and of another arm', ends, {}
    )


def _compare(summary: Summary, index: int, able: list[ArmSummary]) -> Headline:
    name = summary.primary.name
    threshold = summary.thresholds[name][index]
    costs = {
        arm.name: {
            cost.name: found for cost in COSTS if (found := summary.compare(arm, name, index, cost.name)) is not None
        }
        for arm in able
    }
    decisive = _decisive(list(costs.values()))
    best = max(able, key=lambda arm: costs[arm.name][decisive].ratio)
    found = costs[best.name]
    short = _verdict(decisive, found[decisive])
    among = f' (the cheapest of {len(summary.others)} arms)' if len(summary.others) > 1 else ''
    order = sorted(found, key=lambda cost: cost != decisive)
    instead = [f'where {summary.baseline.name} took', *[_INSTEAD] * (len(order) - 1)]
    figures = ', '.join(_figure(cost, found[cost], words) for cost, words in zip(order, instead, strict=True))
    reached = f'to reach {percent(threshold)} {summary.primary.title}, {best.name}{among} took {figures}'
    counts = {best.n, summary.baseline.n}
    over = f'mean of {seeds(best.n)} each' if len(counts) == 1 else f'means of {best.n} and {seeds(summary.baseline.n)}'
    if counts == {1}:
        over = 'one seed each, so chance is not ruled out'
    return Headline(short, f'{reached} ({over}).', found, best, threshold)


def _decisive(costs: list[dict[str, Comparison]]) -> str:
    """The dearest-to-the-reader cost that all arms know and that nothing spoiled."""
    for name in ('seconds', 'multiply_adds'):
        if all(name in found and not found[name].shared for found in costs):
            return name
    return 'epochs'


def _verdict(cost: str, found: Comparison) -> str:
    noun = {'seconds': 'training time', 'multiply_adds': 'multiply-adds', 'epochs': 'epochs'}[cost]
    saved = 1 - 1 / found.ratio
    less, more = ('fewer', 'more') if cost != 'seconds' else ('less', 'more')
    if abs(saved) < _NEGLIGIBLE:
        return f'Retraining took {"as many" if cost != "seconds" else "as much"} {noun}'
    if found.beyond_chance is False:
        leaning = f'{_share(saved)} {less if saved > 0 else more}'
        return f'Retraining was not clearly cheaper in {noun} ({leaning}, within the spread of the seeds)'
    if saved > 0:
        return f'Retraining took {_share(saved)} {less} {noun}'
    return f'Retraining was not cheaper: it took {_share(saved)} {more} {noun}'


def _share(saved: float) -> str:
    return f'{abs(saved):.0%}'.replace('%', '\u00a0%')


def _figure(cost: str, found: Comparison, instead: str) -> str:
    unit = unit_for(cost, (found.arm.mean, found.baseline.mean))
    own, base = unit.quantity(found.arm.mean), unit.quantity(found.baseline.mean)
    if instead == _INSTEAD:
        base = base.partition('\u00a0')[0]
    what = {'epochs': '', 'seconds': ' of training (teachers inside)', 'multiply_adds': ' multiply-adds'}[cost]
    if found.shared:
        what += ' on a shared machine'
    return f'{own}{what} {instead} {base}'


def _ended(summary: Summary, arm: ArmSummary) -> str:
    measure = summary.primary
    last = with_spread(arm.accuracy[measure.name].last, PERCENT)
    epochs = unit_for('epochs', ()).quantity(arm.totals['epochs'].mean) if arm.totals['epochs'] else 'no epoch'
    return f'{arm.name} stood at {last} % {measure.title} after {epochs} ({seeds(arm.n)}).'.replace('..', '.')
