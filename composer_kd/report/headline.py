"""The answer in one honest sentence: how much cheaper was retraining, or that it was not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from composer_kd.report.render.text import PERCENT, percent, seeds, unit_for, with_spread
from composer_kd.report.stats import COSTS, Spread
from composer_kd.report.summary import ArmSummary, Comparison, Summary

__all__ = ['Headline', 'headline']

_NEGLIGIBLE = 0.005  # half a percent either way is "the same"
_INSTEAD = 'instead of'
_NOUNS = {'seconds': 'training time', 'multiply_adds': 'multiply-adds', 'epochs': 'epochs'}


@dataclass(frozen=True)
class Headline:
    """The answer."""

    short: str  # the verdict, fit for a heading
    detail: str  # what it rests on: the accuracy, the arm, every cost, the number of seeds
    # By cost, what stands behind the sentence; empty where there was nothing to compare
    comparisons: dict[str, Comparison]
    arm: ArmSummary | None = None  # the arm that the sentence is about
    threshold: float | None = None  # the accuracy that it is about

    @property
    def sentence(self) -> str:
        return f'{self.short}: {self.detail}'


def headline(summary: Summary) -> Headline:
    """Compare at the highest accuracy that every seed of the baseline and of some other arm reached.

    The arm named is the cheapest of those: by training time where the runs had the machine for themselves, else by
    multiply-adds, else by epochs; with the whole recording of the outputs that it looked up.
    """
    base, measure = summary.baseline, summary.primary
    ends = '; '.join(_ended(summary, arm) for arm in summary.arms[:4])
    levels = base.reach[measure.name]
    if summary.guessing and not levels:
        chance = f'guessing among {summary.num_classes} classes gives {percent(1 / (summary.num_classes or 1))}'
        return Headline('Nothing was learned beyond guessing yet', f'{ends}; {chance}.', {})
    others = [arm for arm in summary.others if summary.comparable(arm)]
    for index in reversed(range(len(levels))):
        able = [arm for arm in others if arm.reach[measure.name][index].complete]
        if levels[index].complete and able:
            return _compare(summary, index, able, len(others))
    if not summary.others:
        short = 'One arm, nothing to compare yet'
    elif not others:
        short = f'Nothing to compare: no other arm is tested on the data of {base.name}'
    elif not levels and summary.num_classes:
        short = f'Nothing to compare: {base.name} has not gone beyond guessing yet'
    else:
        short = 'Nothing to compare: no accuracy was reached by every seed of the baseline and of another arm'
    return Headline(short, f'{ends}.', {})


def _compare(summary: Summary, index: int, able: list[ArmSummary], others: int) -> Headline:
    name = summary.primary.name
    threshold = summary.thresholds[name][index]
    costs = {
        arm.name: {cost: found for cost in COSTS if (found := summary.compare(arm, name, index, cost)) is not None}
        for arm in able
    }
    decisive = _decisive(list(costs.values()))
    counted = {arm.name: _with_recording(arm, decisive, costs[arm.name][decisive]) for arm in able}
    best = max(able, key=lambda arm: (counted[arm.name] or costs[arm.name][decisive]).ratio)
    found = costs[best.name]
    short = _contradiction(found) if decisive == 'seconds' else None
    short = short or _verdict(decisive, found[decisive], _recording_in_words(best, decisive, counted[best.name]))
    among = f' (the cheapest of {others} arms)' if others > 1 else ''
    order = [
        decisive,
        *(cost for cost, one in found.items() if cost != decisive and len({*_quantities(cost, one)}) > 1),
    ]
    instead = [f'where {summary.baseline.name} took', *[_INSTEAD] * (len(order) - 1)]
    figures = ', '.join(_figure(cost, found[cost], words) for cost, words in zip(order, instead, strict=True))
    reached = f'to reach {percent(threshold)} {summary.primary.title}, {best.name}{among} took {figures}'
    detail = f'{reached} ({_over(best, summary.baseline)}).{_with_recording_in_words(best, decisive, found[decisive])}'
    return Headline(short, detail, found, best, threshold)


def _with_recording(arm: ArmSummary, cost: str, found: Comparison, shared: bool = False) -> Comparison | None:
    """The comparison with the recording of the teachers' outputs; ``None`` without one, or where it is not known."""
    recorded = arm.lookups.costs.get(cost)
    spread = recorded and (recorded.share if shared else recorded.recording)
    if not spread or not spread.mean:
        return None
    mean = found.arm.mean + spread.mean
    return replace(found, arm=replace(found.arm, mean=mean), ratio=found.baseline.mean / mean)


def _recording_in_words(arm: ArmSummary, cost: str, counted: Comparison | None) -> str:
    """What a claim of savings has to say of the recording, in brackets; nothing where there was none."""
    if counted is not None:
        share = _change(cost, counted).removesuffix(f' {_NOUNS[cost]}')
        return f" ({share} with the recording of the teachers' outputs)"
    if arm.lookups.unknown or arm.lookups.took_recording:
        return " (the recording of the teachers' outputs not counted)"
    filled = arm.lookups.looked_up and arm.lookups.looked_up.filled_elsewhere
    return ' (what other runs computed to fill the archives not counted)' if filled and filled.mean > 0 else ''


def _with_recording_in_words(arm: ArmSummary, cost: str, found: Comparison) -> str:
    whole, shared = _with_recording(arm, cost, found), _with_recording(arm, cost, found, shared=True)
    if whole is None:
        return ''
    words = f" With the recording of its teachers' outputs it took {_quantities(cost, whole)[0]}"
    if shared is not None and arm.lookups.sharers != (1, 1):
        words += f', and {_quantities(cost, shared)[0]} if the runs that used it share it'
    return f'{words}.'


def _over(arm: ArmSummary, baseline: ArmSummary) -> str:
    """What the means go over."""
    counts = {arm.n, baseline.n}
    if counts == {1}:
        return 'one seed each, so chance is not ruled out'
    if arm.repeats or baseline.repeats:
        each = f'{arm.n} runs each' if len(counts) == 1 else f'{arm.n} and {baseline.n} runs'
        return f'over {each}, some of them repeats of one seed, so chance is not ruled out'
    return f'mean of {seeds(arm.n)} each' if len(counts) == 1 else f'means of {arm.n} and {seeds(baseline.n)}'


def _decisive(costs: list[dict[str, Comparison]]) -> str:
    """The dearest-to-the-reader cost that all arms know and that nothing spoiled."""
    for name in ('seconds', 'multiply_adds'):
        if all(name in found and not found[name].shared for found in costs):
            return name
    return 'epochs'


def _contradiction(found: dict[str, Comparison]) -> str | None:
    """A verdict where seconds stand alone against multiply-adds: then they may be the noise of the machine."""
    sides = {cost: _side(one) for cost, one in found.items()}
    seconds, adds, epochs = sides['seconds'], sides.get('multiply_adds', 0), sides.get('epochs', 0)
    if seconds * adds >= 0 or seconds == epochs:
        return None
    facts = f'{_change("seconds", found["seconds"])}, but {_change("multiply_adds", found["multiply_adds"])}'
    if 'epochs' in found:
        facts += f' and {_change("epochs", found["epochs"])}'
    return f'Retraining was not clearly cheaper ({facts})'


def _verdict(cost: str, found: Comparison, recording: str) -> str:
    noun = _NOUNS[cost]
    if not _side(found):
        return f'Retraining took {_change(cost, found)}'
    if found.beyond_chance is False:
        leaning = _change(cost, found).removesuffix(f' {noun}')
        return f'Retraining was not clearly cheaper in {noun} ({leaning}, within the spread of the seeds)'
    if _side(found) > 0:
        return f'Retraining took {_change(cost, found)}{recording}'
    return f'Retraining was not cheaper and took {_change(cost, found)}'


def _side(found: Comparison) -> int:
    """1 where the arm is cheaper, -1 where it is dearer, 0 where there is no difference worth a word."""
    saved = 1 - 1 / found.ratio
    return 0 if abs(saved) < _NEGLIGIBLE else 1 if saved > 0 else -1


def _change(cost: str, found: Comparison) -> str:
    """``'15 % more training time'``, ``'as many epochs'``."""
    side, noun = _side(found), _NOUNS[cost]
    if not side:
        return f'{"as much" if cost == "seconds" else "as many"} {noun}'
    share = f'{abs(1 - 1 / found.ratio):,.0%}'.replace('%', '\u00a0%')
    less = 'less' if cost == 'seconds' else 'fewer'
    return f'{share} {less if side > 0 else "more"} {noun}'


def _quantities(cost: str, found: Comparison) -> tuple[str, str]:
    unit = unit_for(cost, (found.arm, found.baseline))
    return unit.quantity(found.arm.mean), unit.quantity(found.baseline.mean)


def _figure(cost: str, found: Comparison, instead: str) -> str:
    own, base = _quantities(cost, found)
    if instead == _INSTEAD:
        base = base.partition('\u00a0')[0]
    what = {'epochs': '', 'seconds': ' of training (teachers included)', 'multiply_adds': ' multiply-adds'}[cost]
    if found.shared:
        what += ' on a shared machine'
    return f'{own}{what} {instead} {base}'


def _ended(summary: Summary, arm: ArmSummary) -> str:
    measure = summary.primary
    last = with_spread(arm.accuracy[measure.name].last, PERCENT)
    lengths = Spread.over(run.last_epoch for run in arm.counted)
    epochs = unit_for('epochs', ()).quantity(lengths.mean) if lengths.mean else 'no epoch'
    count = f'{arm.n} runs' if arm.repeats else seeds(arm.n)
    return f'{arm.name} had {last} % {measure.title} after {epochs} ({count})'
