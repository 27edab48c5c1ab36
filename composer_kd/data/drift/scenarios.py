"""What a model is measured under: drifts of its test data by name, one by one or as a grid of corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import Name, PathText, Section, Seed, keys_of, option_error
from composer_kd.data.drift.base import DRIFTS, Drift, Drifts
from composer_kd.functional.corruptions import CORRUPTIONS

__all__ = ['CorruptionGrid', 'Scenarios', 'check_scenario_files', 'scenarios_of']

Severity = Annotated[float, Field(ge=1, le=5)]


class CorruptionGrid(Section):
    """Every one of some kinds of corruption at every one of some severities; each is called ``KIND-SEVERITY``."""

    kinds: Literal['all'] | list[str] = 'all'
    """`all` fifteen, or a list of some."""
    severities: Annotated[list[Severity], Field(min_length=1)] = Field(
        default_factory=lambda: [1.0, 2.0, 3.0, 4.0, 5.0]
    )
    """The severities of each kind, from 1 to 5."""
    seed: Seed = 0
    """Decides what the corruptions draw."""
    files: PathText | None = None
    """Read the published files in this folder instead of computing."""
    after: Drifts = None
    """A drift, or several, that act before the corruption: `{name: subpopulation, side: source}`, where that is the
    task."""

    @field_validator('kinds', mode='before')
    @classmethod
    def _known(cls, kinds: Any) -> Any:
        for kind in kinds if isinstance(kinds, list) else ():
            if not isinstance(kind, str) or kind not in CORRUPTIONS:
                raise option_error(
                    None, f'{kind!r} is not a kind of corruption; {nearest(str(kind), CORRUPTIONS)}', kind
                )
        if kinds != 'all' and not (isinstance(kinds, list) and kinds):
            raise option_error(None, f'expected all, or a list of kinds of corruption, got {kinds!r}', kinds)
        return kinds

    @field_validator('after')
    @classmethod
    def _of_the_test_part(cls, after: Drifts) -> Drifts:
        return _acting_on_tests(after)

    @model_validator(mode='after')
    def _fits_after(self) -> CorruptionGrid:
        kinds = CORRUPTIONS if self.kinds == 'all' else self.kinds
        for drift in self.after or ():
            if self.files is not None and drift.paints:
                what = f'the images of files would take the place of what {drift.name} paints; leave one of them out'
                raise option_error('after', what, drift.model_dump(mode='json'))
            for one in drift.plain():
                kind = getattr(one, 'kind', None)
                if kind in kinds and one.seed == self.seed:
                    what = f'{kind} with seed {one.seed} draws what the grid draws; give one of them another seed'
                    raise option_error('after', what, drift.model_dump(mode='json'))
        return self

    def drifts(self) -> Iterator[tuple[str, list[Drift]]]:
        corruption = DRIFTS.get('corruption')
        for kind in CORRUPTIONS if self.kinds == 'all' else self.kinds:
            for severity in self.severities:
                options = {'kind': kind, 'severity': severity, 'seed': self.seed, 'files': self.files}
                yield f'{kind}-{severity:g}', [*(self.after or ()), corruption.model_validate(options)]


def _scenario(value: Any) -> CorruptionGrid | list[Drift]:
    """A drift, several, a grid of corruptions, or nothing: the test data as they are stored."""
    if isinstance(value, CorruptionGrid):
        return value
    if isinstance(value, dict) and 'name' not in value:
        for key in value:
            if key not in keys_of(CorruptionGrid):
                hint = nearest(str(key), ['name', *keys_of(CorruptionGrid)])
                raise option_error(
                    str(key), f'unknown key of a grid of corruptions, and no drift without name; {hint}', value
                )
        return CorruptionGrid.model_validate(value)
    return _acting_on_tests(TypeAdapter(Drifts).validate_python(value)) or []


def _acting_on_tests(drifts: Drifts) -> Drifts:
    for drift in drifts or ():
        if not drift.acts_on('test'):
            what = f'{drift.name} leaves the test part alone, which is what is measured; add parts: [test]'
            raise option_error(None, what, drift.model_dump(mode='json'))
    return drifts


def _expandable(value: dict[str, Any] | None) -> dict[str, Any] | None:
    try:
        scenarios_of(value)
    except UserError as error:
        raise option_error(None, str(error), value) from None
    return value


Scenarios = Annotated[
    dict[Name, Annotated[Any, BeforeValidator(_scenario)]] | None,
    AfterValidator(_expandable),
]
"""Names to what a model is measured under, in a YAML: see :func:`scenarios_of` for what they come to."""


def scenarios_of(value: Mapping[str, Any] | None) -> dict[str, tuple[Drift, ...]]:
    """The drifts of each name, grids written out; one name for two things is refused."""
    found: dict[str, tuple[Drift, ...]] = {}
    for name, given in (value or {}).items():
        entry = _scenario(given)
        several = entry.drifts() if isinstance(entry, CorruptionGrid) else [(name, entry)]
        for own_name, drifts in several:
            if own_name in found:
                raise UserError(f'{own_name!r} is there twice; give each drift a name of its own')
            found[own_name] = tuple(drifts)
    return found


def check_scenario_files(scenarios: Mapping[str, Sequence[Drift]], where: str) -> None:
    """Refuse published files that are not there, before anything trains for them."""
    for name, drifts in scenarios.items():
        for drift in drifts:
            try:
                drift.check_files()
            except UserError as error:
                raise UserError(f'{where}.{name}: {error}') from None
