"""From a run's configuration to a Composer Trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from composer import Trainer
from composer.core import Algorithm, Callback, Evaluator
from composer.loggers import ProgressBarLogger
from composer.utils import dist, get_device, reproducibility

from composer_kd.algorithms import Distillation
from composer_kd.archive.run_dir import RunDir
from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.same_buffers import SameBuffers
from composer_kd.data import Data, open_data
from composer_kd.errors import UserError
from composer_kd.models import Classifier, build_model, classifier
from composer_kd.runs.config import RunConfig
from composer_kd.runs.construct import construct, split_name
from composer_kd.runs.names import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS

__all__ = ['Built', 'build_trainer']

# Composer's algorithms that work at AFTER_DATALOADER on float images: augmentation then belongs into the loader.
WANT_FLOAT_IMAGES = ('ColOut', 'CutOut', 'ProgressiveResizing')
# Those that put themselves into a torchvision data set's transforms, which ours has none of.
WANT_TORCHVISION_DATA = ('AugMix', 'RandAugment')


@dataclass
class Built:
    """A trainer that is ready to fit, and what it was built from."""

    trainer: Trainer
    model: Classifier
    data: Data
    algorithms: list[Algorithm]


def build_trainer(
    config: RunConfig,
    run: RunDir,
    *,
    callbacks: list[Callback] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress_bar: bool = False,
    count_runs: Callable[[], int] = lambda: 1,
) -> Built:
    """Build everything that a run needs and load its last checkpoint, if there is one.

    Args:
        config: What the run does.
        run: Its directory.
        callbacks: Further callbacks.
        say: Takes lines for the person who waits.
        progress_bar: Whether Composer shows its bar.
        count_runs: How many runs share the machine now.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = get_device(None if config.device == 'auto' else config.device)
    on_gpu = device.name == 'gpu'
    if config.precision == 'fp16' and not on_gpu:
        raise UserError('precision: fp16 needs a GPU; use bf16 or fp32')
    reproducibility.seed_all(config.seed)
    data = open_data(_data_section(config, say), batch_size=config.batch_size, seed=config.seed)
    model = classifier(
        build_model(config.model, data.num_classes, data.shape),
        data.num_classes,
        # Composer refuses amp_bf16 on the CPU and its context stays fp32 there: our classifier autocasts itself.
        cpu_autocast=config.precision == 'bf16' and not on_gpu,
        channels_last=config.channels_last,
    )
    name, options = split_name(config.optimizer, 'optimizer')
    optimizer = construct(OPTIMIZERS.get(name, 'optimizer'), options, 'optimizer', params=model.parameters())
    algorithms = [_algorithm(name, options) for name, options in config.algorithms.items()]
    if any(isinstance(one, Distillation) and one.schedule.until_overtaken for one in algorithms) and data.val is None:
        raise UserError(
            "schedule 'until overtaken' compares on validation data, and data.val_fraction is 0; set it to 0.1, say"
        )
    _warn_of_sam(algorithms, say)
    microbatch = config.microbatch_size
    own_callbacks: list[Callback] = [
        SameBuffers(),
        NanGuard(run.checkpoints),
        Measures(run.append_metrics, run.truncate_metrics, count_runs),
        *(callbacks or []),
    ]
    trainer = Trainer(
        model=model,
        train_dataloader=data.train,
        eval_dataloader=_evaluators(data, config.eval_interval),
        max_duration=config.max_duration,
        optimizers=optimizer,
        schedulers=_scheduler(config),
        algorithms=algorithms,
        callbacks=own_callbacks + [_named(CALLBACKS, 'callbacks', *entry) for entry in config.callbacks.items()],
        loggers=([_bar()] if progress_bar else [])
        + [_named(LOGGERS, 'loggers', *entry) for entry in config.loggers.items()],
        run_name=run.path.name,
        progress_bar=False,  # Ours is among the loggers.
        load_path=None if (checkpoint := run.checkpoint()) is None else str(checkpoint),
        load_progress_bar=False,
        save_folder=str(run.checkpoints),
        save_interval=config.save_interval,
        save_num_checkpoints_to_keep=config.keep_checkpoints,
        save_overwrite=True,
        device=device,
        precision='fp32' if not on_gpu or config.precision == 'fp32' else f'amp_{config.precision}',
        device_train_microbatch_size=min(microbatch, config.batch_size // dist.get_world_size())
        if microbatch
        else None,
        seed=config.seed,
    )
    return Built(trainer, model, data, algorithms)


def _data_section(config: RunConfig, say: Callable[[str], None]):
    for name in config.algorithms:
        if _canonical(name) in WANT_TORCHVISION_DATA:
            raise UserError(
                f'algorithms.{name}: works inside a torchvision data set, and data from shards is none; '
                f'use data.augment, or a Trainer of your own with such a data set'
            )
    wanting = [name for name in config.algorithms if _canonical(name) in WANT_FLOAT_IMAGES]
    if wanting and config.data.augment_on == 'device':
        say(f'{wanting[0]} works on float images before they reach the device: the loader augments (augment_on: host)')
        return config.data.model_copy(update={'augment_on': 'host'})
    return config.data


def _canonical(name: str) -> str:
    return ALGORITHMS.get(name, f'algorithms.{name}').__name__


def _algorithm(name: str, options: dict[str, Any]) -> Algorithm:
    return construct(ALGORITHMS.get(name, f'algorithms.{name}'), options, f'algorithms.{name}')


def _named(registry, kind: str, name: str, options: dict[str, Any]) -> Any:
    return construct(registry.get(name, f'{kind}.{name}'), options, f'{kind}.{name}')


def _bar() -> ProgressBarLogger:
    """Composer's bar, without the page of settings that it prints before each run."""
    bar = ProgressBarLogger()
    bar.hparams_already_logged_to_console = True
    return bar


def _scheduler(config: RunConfig):
    if config.scheduler is None:
        return None
    name, options = split_name(config.scheduler, 'scheduler')
    return construct(SCHEDULERS.get(name, 'scheduler'), options, 'scheduler')


def _evaluators(data: Data, interval: str) -> list[Evaluator]:
    # Validation first: whatever chooses or stops looks at the first evaluator.
    labelled = (('val', data.val), ('test', data.test), ('train_clean', data.train_clean))
    return [
        Evaluator(label=label, dataloader=spec, eval_interval=interval) for label, spec in labelled if spec is not None
    ]


def _warn_of_sam(algorithms: list[Algorithm], say: Callable[[str], None]) -> None:
    if any(type(one).__name__ == 'SAM' for one in algorithms):
        say("Composer's SAM keeps a state that no checkpoint holds: continued, this run is not bit for bit the same")
