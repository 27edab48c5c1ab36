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
from composer_kd.core.options import MAY_CHANGE, BatchSize, Count, Name, PathText, Section
from composer_kd.data.drift.scenarios import Scenarios
from composer_kd.data.section import DataSection
from composer_kd.models.registry import ModelSection

__all__ = [
    'DEFAULT_VIEWS',
    'MOST_SEEDS',
    'ArchiveSection',
    'AttackSection',
    'AttacksSection',
    'CompileSection',
    'EvaluateSection',
    'FileConfig',
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
MOST_SEEDS = 1000

Views = Annotated[int, Field(ge=1, le=10**5)]


class LogitsSection(Section):
    """Logits of every training sample in views 0 to ``views - 1``."""

    model_config = ConfigDict(populate_by_name=True)

    views: Views = DEFAULT_VIEWS
    """How many augmentations of each training image to record: 0 to `views - 1`."""
    top_k: Count | None = None
    """Keep this many logits and one level for all others; `null`: all logits."""
    # `from` cannot be an attribute's name.
    source: Literal['model', 'training'] = Field(default='model', alias='from')
    """`model`: run the trained model once more over all views. `training`: keep what it answers while it trains."""

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {'views': self.views, 'top_k': self.top_k, 'from': self.source}


class ArchiveSection(Section):
    """What a run leaves beside its weights."""

    losses: bool = False
    """Record the loss of every sample in every epoch, from the training pass."""
    adversarial: bool = False
    """Record the newest adversarial example of every sample."""
    logits: LogitsSection | None = None
    """Record the model's logits: [`archive.logits`](#archivelogits). `true` sets all defaults."""

    @field_validator('logits', mode='before')
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value


class CompileSection(Section):
    """Arguments of ``torch.compile``; what is null is its own choice."""

    mode: Literal['default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'] | None = None
    """`default`, `reduce-overhead` (CUDA graphs), `max-autotune` or `max-autotune-no-cudagraphs`."""
    backend: str | None = None
    """What generates code from the graph; `null`: Inductor."""
    fullgraph: bool | None = None
    """Refuse a model whose graph breaks."""
    dynamic: bool | None = None
    """Compile once for all shapes."""
    options: dict[str, Any] | None = None
    """Inductor's own options, instead of `mode`."""

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
    """Projected gradient descent from a random start."""

    epsilon: float | None = None
    """The radius, in pixels from 0 to 255; `null`: 8 for `linf`, 128 for `l2`."""
    steps: int = 20
    """How many gradient steps, from a random start that is always the same."""
    step_size: float | None = None
    """In pixels; `null`: a quarter of epsilon, 1.25 times epsilon for a single step."""
    norm: Literal['linf', 'l2'] = 'linf'
    """`linf` or `l2`."""
    targeted: bool = False
    """Attack towards another class instead of away from the label."""

    @model_validator(mode='after')
    def _possible(self) -> AttackSection:
        make_attack(self.model_dump())
        return self


class AttacksSection(Section):
    """When a run is attacked, with what, and on how many samples."""

    pgd: Annotated[list[AttackSection], Field(min_length=1)] = Field(default_factory=lambda: [AttackSection()])
    """Attacks by projected gradient descent, each with [its options](#evaluateattackspgd); by default PGD-20."""
    splits: Annotated[list[Literal['val', 'test']], Field(min_length=1)] | None = None
    """Which splits to attack, as `[test]`; `null`: validation, where there is such a part, and test."""
    interval: Annotated[str, Field(pattern=r'^[1-9][0-9]{0,8}ep$')] | None = None
    """Also attack at the end of every so many epochs, as `5ep`; `null`: only when the training ends."""
    interval_subset: Count | None = None
    """How many samples of each split then, also measured at the end; `null`: as many as at the end."""
    interval_attacks: Count | None = None
    """How many of the attacks then, the first ones; `null`: all."""
    subset: Count | None = 1000
    """How many samples of each split, always the same ones; `null`: all."""
    batch_size: BatchSize = 250
    """Images that a rank attacks at a time."""

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
    """What a run's model is measured under, beside its own test data."""

    drifts: Scenarios = None
    """Named shifts of the test set: [`evaluate.drifts`](#evaluatedrifts)."""
    attacks: AttacksSection | None = None
    """Adversarial attacks: [`evaluate.attacks`](#evaluateattacks). `true` sets all defaults; a list is its `pgd`."""

    @field_validator('attacks', mode='before')
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        return {'pgd': value} if isinstance(value, list) else value


class RunConfig(Section):
    """One training. Every key has a default but those that make no sense without a decision."""

    seed: int = Field(default=17, ge=0, lt=2**31)
    """Decides everything that is drawn at random: initial weights, order, augmentation, mixes."""
    data: DataSection = Field(default_factory=DataSection)
    """Where the data comes from and how it is fed: [`data`](#data)."""
    model: ModelSection
    """The net that is trained: [`model`](#model)."""
    optimizer: Named = Field(default_factory=lambda: {'name': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 5e-4})
    """A name with options: any of torch.optim's or composer.optim's."""
    scheduler: Named | None = None
    """A name with options (`exponential`, `cosine`, `multi_step`, `one_cycle`, ...); `null` keeps the rate."""
    batch_size: BatchSize = 128
    """Samples in a step, over all ranks together."""
    microbatch_size: BatchSize | None = None
    """Samples that a rank computes at once; `null`: its whole part of the batch."""
    max_duration: Duration
    """How long to train, in epochs (`12ep`) or batches (`500ba`)."""
    precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    """`fp32`, `bf16`, or `fp16` (on a GPU only)."""
    channels_last: bool = True
    """Use the memory layout in which convolutions run faster."""
    device: Annotated[Literal['auto', 'cpu', 'gpu'], MAY_CHANGE] = 'auto'
    """`auto`, `cpu` or `gpu`; `auto` takes a GPU where there is one."""
    compile: CompileSection | None = None
    """Compile the student and its live teachers, on a GPU: [`compile`](#compile). `true` sets all defaults."""
    algorithms: NamedMapping = Field(default_factory=dict)
    """Names with options: [this package's](#algorithms-of-this-package) and all of Composer's."""
    callbacks: Annotated[NamedMapping, MAY_CHANGE] = Field(default_factory=dict)
    """Composer's callbacks by name, with options."""
    loggers: Annotated[NamedMapping, MAY_CHANGE] = Field(default_factory=dict)
    """Composer's loggers by name, with options."""
    archive: Annotated[ArchiveSection | None, MAY_CHANGE] = None
    """What to record for later runs: [`archive`](#archive). What a later run of the file needs is recorded without
    being asked for."""
    predictions: Annotated[bool, MAY_CHANGE] = True
    """Keep the logits of the last evaluation, of validation and test data."""
    evaluate: Annotated[EvaluateSection, MAY_CHANGE] = Field(default_factory=EvaluateSection)
    """Measure the model under [drifts](#evaluatedrifts) and [attacks](#evaluateattacks) when it is trained."""
    replaces: Annotated[PathText | None, MAY_CHANGE] = None
    """The run whose model this one [replaces](drift.md#replacing-a-model); only the report reads it."""
    trust_pickle: Annotated[bool, MAY_CHANGE] = False
    """Open a file of weights that is a pickle (`.pt`); another process reads it."""
    eval_interval: Duration = '1ep'
    """How often validation and test data are evaluated."""
    save_interval: Annotated[Duration, MAY_CHANGE] = '1ep'
    """How often a checkpoint is written."""
    keep_checkpoints: Annotated[int, MAY_CHANGE] = Field(default=1, ge=-1, le=10**6)
    """How many of the newest checkpoints stay; `-1`: all."""
    threads: Annotated[int | None, MAY_CHANGE] = Field(default=None, ge=1, le=1024)
    """CPU threads of torch; `null`: torch's own choice."""

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


class FileConfig(Section):
    """The keys of a file that are not those of a run."""

    name: Name = 'run'
    """The name of the lineage, or of the only run."""
    save_folder: PathText = 'runs'
    """The folder that holds the run directories."""
    repeat: int = Field(default=1, ge=1, le=MOST_SEEDS)
    """How many seeds to train: `seed`, `seed + 1`, ... in runs called `NAME-s0`, `NAME-s1`, ...; an entry of the
    lineage may say it too."""
    side_by_side: int | None = Field(default=None, ge=1, le=1024)
    """How many independent runs train at a time; `null`: one on each GPU, else one after the other."""
    lineage: dict[str, Any] | None = None
    """Runs by name, each with what it [changes](#an-entry-of-lineage)."""
    ensembles: dict[Name, list[str]] = Field(default_factory=dict)
    """Runs of the file that are [evaluated as one](#ensembles), by name."""
