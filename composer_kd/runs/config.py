"""What a YAML may say of one run: the sections, their defaults, and what is checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from composer_kd.callbacks.evaluate_attacks import make_attack
from composer_kd.core.options import BatchSize, Count, PathText, Section
from composer_kd.data.drift.scenarios import Scenarios
from composer_kd.data.section import DataSection
from composer_kd.models.registry import ModelSection

__all__ = [
    'DEFAULT_VIEWS',
    'ArchiveSection',
    'AttackSection',
    'AttacksSection',
    'CompileSection',
    'EvaluateSection',
    'LogitsSection',
    'RunConfig',
    'compile_options',
    'named_mapping',
]

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


DEFAULT_VIEWS = 4

Views = Annotated[int, Field(ge=1, le=10**5)]


class LogitsSection(Section):
    """Logits of every training sample in views 0 to ``views - 1``.

    Attributes:
        views: How many augmentations of each image.
        top_k: How many logits are kept beside one level for all others; null keeps all.
        source: In the file ``from``. ``'model'``: forward passes of the trained model, after the training;
            ``'training'``: what the model answers in its last ``views`` epochs, which costs nothing.
    """

    model_config = ConfigDict(populate_by_name=True)

    views: Views = DEFAULT_VIEWS
    top_k: Count | None = None
    # `from` cannot be an attribute's name.
    source: Literal['model', 'training'] = Field(default='model', alias='from')

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {'views': self.views, 'top_k': self.top_k, 'from': self.source}


class ArchiveSection(Section):
    """What a run leaves beside its weights.

    Attributes:
        losses: Whether the loss of every sample is recorded in every epoch.
        adversarial: Whether the adversarial examples that it makes are recorded.
        logits: What is recorded of its outputs; ``true`` is all defaults, null nothing.
    """

    losses: bool = False
    adversarial: bool = False
    logits: LogitsSection | None = None

    @field_validator('logits', mode='before')
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value


class CompileSection(Section):
    """Arguments of ``torch.compile``; what is null is its own choice.

    Attributes:
        mode: ``default``, ``reduce-overhead`` (CUDA graphs), ``max-autotune`` or ``max-autotune-no-cudagraphs``.
        backend: What makes code of the graph.
        fullgraph: Whether a graph that breaks is an error.
        dynamic: Whether shapes may change without another compilation.
        options: Inductor's own, instead of ``mode``.
    """

    mode: Literal['default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'] | None = None
    backend: str | None = None
    fullgraph: bool | None = None
    dynamic: bool | None = None
    options: dict[str, Any] | None = None

    @field_validator('options')
    @classmethod
    def _instead_of_mode(cls, options: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if options is not None and info.data.get('mode') is not None:
            raise ValueError('torch.compile takes mode or options; leave one of them out')
        return options


def compile_options(section: CompileSection | None, on_gpu: bool, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The keyword arguments of ``torch.compile``; ``None`` where nothing is compiled, as on a machine without a GPU."""
    if section is None:
        return None
    if not on_gpu:
        # A ResNet-56 takes minutes to compile for the CPU, and its steps are no faster.
        say('compile: there is no GPU here, so the model runs as it is')
        return None
    return section.model_dump(exclude_none=True)


class AttackSection(Section):
    """Projected gradient descent from a random start.

    Attributes:
        epsilon: The radius of the ball, in pixels from 0 to 255; null is 8 for ``linf`` and 128 for ``l2``.
        steps: How many.
        step_size: In pixels; null is a quarter of epsilon, 1.25 times epsilon for a single step.
        norm: ``linf`` or ``l2``.
        targeted: Towards another class instead of away from the label.
    """

    epsilon: float | None = None
    steps: int = 20
    step_size: float | None = None
    norm: Literal['linf', 'l2'] = 'linf'
    targeted: bool = False

    @model_validator(mode='after')
    def _possible(self) -> AttackSection:
        make_attack(self.model_dump())
        return self


class AttacksSection(Section):
    """When a run is attacked, with what, and on how many samples.

    Attributes:
        pgd: Attacks by projected gradient descent, one after the other; a list alone is a section of these.
        splits: Of which data; null: of validation, where there is such a part, and test.
        interval: Also at the end of every so many epochs; null: at the end of the training alone.
        interval_subset: Of each split then; null: as many as at the end.
        interval_attacks: How many of the attacks then, the first ones; null: all.
        subset: Of each split; null takes all.
        batch_size: Images that a rank attacks at a time.
    """

    pgd: Annotated[list[AttackSection], Field(min_length=1)] = Field(default_factory=lambda: [AttackSection()])
    splits: Annotated[list[Literal['val', 'test']], Field(min_length=1)] | None = None
    interval: Annotated[str, Field(pattern=r'^[1-9][0-9]{0,8}ep$')] | None = None
    interval_subset: Count | None = None
    interval_attacks: Count | None = None
    subset: Count | None = 1000
    batch_size: BatchSize = 250

    @model_validator(mode='after')
    def _of_an_interval(self) -> AttacksSection:
        for name in ('interval_subset', 'interval_attacks'):
            if getattr(self, name) is not None and self.interval is None:
                raise ValueError(f'{name} is of what is measured on the way; give interval too, or leave it out')
        return self

    def splits_of(self, val_fraction: float) -> list[str]:
        """Those that are attacked of data of which so much validates."""
        return list(self.splits or (['val', 'test'] if val_fraction else ['test']))


class EvaluateSection(Section):
    """What a run's model is measured under, beside its own test data.

    Attributes:
        drifts: Named test-set shifts, evaluated after training: drifts, lists of them, or grids of corruptions.
        attacks: Adversarial attacks; ``true`` is all defaults, null none.
    """

    drifts: Scenarios = None
    attacks: AttacksSection | None = None

    @field_validator('attacks', mode='before')
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        return {'pgd': value} if isinstance(value, list) else value


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
        evaluate: Named shifts of the test set, and attacks, that its model is measured under.
        replaces: The run whose model this one takes the place of, for the report alone: recovery, forgetting.
        trust_pickle: Open a file of weights that it starts from where that is a pickle; another process reads it.
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
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
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

    @field_validator('evaluate')
    @classmethod
    def _of_data_that_is_there(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        data, attacks = info.data.get('data'), value.attacks
        if attacks is not None and data is not None and not data.val_fraction and 'val' in (attacks.splits or ()):
            raise ValueError("attacks.splits: data.val_fraction is 0, so that there is no 'val'; leave it out")
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
