"""What a YAML may say of one run: the sections, their defaults, and what is checked before anything is built."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from composer_kd.data.drift.scenarios import Scenarios
from composer_kd.data.section import DataSection
from composer_kd.models.section import ModelSection
from composer_kd.runs.archive_section import ArchiveSection
from composer_kd.runs.compile_section import CompileSection
from composer_kd.runs.robustness_section import RobustnessSection
from composer_kd.section import BatchSize, PathText, Section

__all__ = ['RunConfig', 'named_mapping']

Named = str | dict[str, Any]

_LONGEST = 9  # Digits of a duration.


def _duration(text: str) -> str:
    found = re.fullmatch(r'([1-9][0-9]*)(ep|ba)', text)
    if not found:
        raise ValueError("is not a duration; write a whole number of epochs or batches, as in '12ep' or '500ba'")
    if len(found[1]) > _LONGEST:
        raise ValueError("is longer than any training; write less, as in '12ep' or '500ba'")
    return text


def named_mapping(value: Any) -> dict[str, dict[str, Any]]:
    """``{MixUp: {alpha: 0.2}}`` from that, from ``[MixUp]``, or from ``[{MixUp: {alpha: 0.2}}, EMA]``."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        merged: dict[str, Any] = {}
        for item in value:
            entry = {item: None} if isinstance(item, str) else item
            if not isinstance(entry, dict):
                raise ValueError(f'expected names, or a mapping of names to options, got {item!r}')
            for name in entry:
                if name in merged:
                    raise ValueError(f'{name!r} is there twice; give each name once')
            merged |= entry
        value = merged
    if not isinstance(value, dict):
        raise ValueError(f'expected a mapping of names to options, got {value!r}')
    for name, options in value.items():
        if options is not None and not isinstance(options, dict):
            raise ValueError(f'{name}: expected a mapping of options, got {options!r}')
    return {str(name): dict(options or {}) for name, options in value.items()}


Duration = Annotated[str, AfterValidator(_duration)]
NamedMapping = dict[str, dict[str, Any]]


class RunConfig(Section):
    """One training. Every key has a default but those that make no sense without a decision.

    Attributes:
        seed: Of everything that is drawn at random: initial weights, order, augmentation, mixes.
        data: Where the data comes from and how it is fed.
        model: The student.
        optimizer: A name with options: any of torch.optim's or composer.optim's.
        scheduler: A name with options (``exponential``, ``cosine``, ``multi_step``, ``one_cycle``, ...) or null.
        batch_size: Samples in a step, over all ranks together.
        microbatch_size: Samples that a rank computes at once; null takes its whole part of the batch.
        max_duration: ``12ep`` or ``500ba``.
        precision: ``fp32``, ``bf16`` or ``fp16`` (the last on a GPU only).
        channels_last: Keep images and convolutions in the layout that runs faster.
        device: ``auto``, ``cpu`` or ``gpu``.
        compile: What torch.compile does to the student and its live teachers, on a GPU; ``true`` is all defaults.
        algorithms: Names to options: ours and all of Composer's.
        callbacks: Names to options, Composer's.
        loggers: Names to options, Composer's.
        archive: What is recorded for later runs: losses of samples, adversarial examples, logits; null records nothing.
        predictions: Keep the logits of the last evaluation, of validation and test data.
        drifts: What its test data are put under when it has ended: names to drifts, or grids of corruptions.
        curriculum: Options of LossCurriculum; ``from`` names the run whose recorded losses it uses.
        start: Options of WarmStart; ``from`` names the run whose weights this one begins at.
        adversarial: Options of AdversarialRecycling; ``from`` names the run whose recorded examples it uses.
        replaces: The run whose model this one takes the place of, for the report alone: recovery, forgetting.
        trust_pickle: Open a file of weights that it starts from where that is a pickle; another process reads it.
        robustness: The attacks that it is measured under; ``true`` is all defaults, null none.
        eval_interval: How often the evaluators run.
        save_interval: How often a checkpoint is written.
        keep_checkpoints: How many of the last checkpoints stay; -1 keeps all.
        threads: CPU threads for torch; null leaves its own choice.
    """

    seed: int = Field(default=17, ge=0, lt=2**31)
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection
    optimizer: Named = Field(default_factory=lambda: {'name': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 5e-4})
    scheduler: Named | None = None
    batch_size: BatchSize = 128
    microbatch_size: BatchSize | None = None
    max_duration: Duration
    precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    channels_last: bool = True
    device: Literal['auto', 'cpu', 'gpu'] = 'auto'
    compile: CompileSection | None = None
    algorithms: NamedMapping = Field(default_factory=dict)
    callbacks: NamedMapping = Field(default_factory=dict)
    loggers: NamedMapping = Field(default_factory=dict)
    archive: ArchiveSection | None = None
    predictions: bool = True
    drifts: Scenarios = None
    curriculum: dict[str, Any] | None = None
    start: dict[str, Any] | None = None
    adversarial: dict[str, Any] | None = None
    robustness: RobustnessSection | None = None
    replaces: PathText | None = None
    trust_pickle: bool = False
    eval_interval: Duration = '1ep'
    save_interval: Duration = '1ep'
    keep_checkpoints: int = Field(default=1, ge=-1, le=10**6)
    threads: int | None = Field(default=None, ge=1, le=1024)

    @field_validator('algorithms', 'callbacks', 'loggers', mode='before')
    @classmethod
    def _named(cls, value: Any) -> NamedMapping:
        return named_mapping(value)

    @field_validator('compile', mode='before')
    @classmethod
    def _switched(cls, value: Any, info: ValidationInfo) -> Any:
        value = {True: {}, False: None}[value] if isinstance(value, bool) else value
        if value is not None and info.data.get('device') == 'cpu':
            raise ValueError('a model is compiled for a GPU, and device is cpu; leave it out')
        return value

    @field_validator('robustness', mode='before')
    @classmethod
    def _attacked(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator('robustness')
    @classmethod
    def _of_data_that_is_there(cls, value: RobustnessSection | None, info: ValidationInfo) -> RobustnessSection | None:
        data = info.data.get('data')
        if value is not None and data is not None and not data.val_fraction and 'val' in (value.splits or ()):
            raise ValueError("splits: data.val_fraction is 0, so that there is no 'val'; leave it out")
        return value

    @field_validator('keep_checkpoints')
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value == 0:
            raise ValueError('a run that cannot be continued is no use; keep at least 1, or -1 for all')
        return value

    @property
    def epochs(self) -> float | None:
        """The length in epochs, where it is given so."""
        return float(self.max_duration.removesuffix('ep')) if self.max_duration.endswith('ep') else None
