"""From a run's configuration to a Composer Trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.core import Algorithm, Callback, Evaluator
from composer.loggers import ProgressBarLogger
from composer.utils import dist, get_device, reproducibility

from composer_kd.algorithms.roles import HasTeachers
from composer_kd.archive.run_dir import RunDir
from composer_kd.callbacks.checkpoints import SaveCheckpoints, reading_without_running
from composer_kd.callbacks.measures import Measures
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.sync_buffers import SyncBuffers
from composer_kd.data import Data, open_data
from composer_kd.models import Classifier, build_model, classifier
from composer_kd.runs.config import RunConfig, compile_options
from composer_kd.runs.objects import (
    algorithm_class,
    make_algorithms,
    make_callbacks,
    make_loggers,
    make_optimizer,
    make_scheduler,
)
from composer_kd.runs.process import keep_freed_memory
from composer_kd.runs.recorders import check_top_k

__all__ = ['Built', 'build_trainer']

# Composer's algorithms that work at AFTER_DATALOADER on float images: augmentation then belongs into the loader.
WANT_FLOAT_IMAGES = ('ColOut', 'CutOut', 'ProgressiveResizing')


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
    checkpoint: Path | None = None,
    *,
    callbacks: list[Callback] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress_bar: bool = False,
    count_runs: Callable[[], int] = lambda: 1,
) -> Built:
    """Build everything that a run needs and load the checkpoint that it continues from, if there is one.

    Args:
        config: What the run does.
        run: Its directory.
        checkpoint: What it continues from.
        callbacks: Further callbacks.
        say: Takes lines for the person who waits.
        progress_bar: Whether Composer shows its bar.
        count_runs: How many runs share the machine now.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = get_device(None if config.device == 'auto' else config.device)
    on_gpu = device.name == 'gpu'
    if not on_gpu:
        keep_freed_memory()
    reproducibility.seed_all(config.seed)
    data = open_data(_data_section(config, say), batch_size=config.batch_size, seed=config.seed, device=device._device)
    check_top_k(config, data.num_classes)
    model = classifier(
        build_model(config.model, data.num_classes, data.shape),
        data.num_classes,
        # Composer refuses amp_bf16 on the CPU and its context stays fp32 there: our classifier autocasts itself.
        cpu_autocast=config.precision == 'bf16' and not on_gpu,
        channels_last=config.channels_last,
    )
    algorithms = make_algorithms(config)
    _warn_of_sam(algorithms, say)
    compiled = compile_options(config.compile, on_gpu, say)
    _compile_teachers(algorithms, compiled)
    microbatch = config.microbatch_size
    own_callbacks: list[Callback] = [
        SyncBuffers(),
        NanGuard(run.checkpoints),
        Measures(run.append_metrics, run.truncate_metrics, count_runs),
        *(callbacks or []),
    ]
    # The saver comes last: what others write at the end of an epoch is there when a checkpoint says so.
    saver = SaveCheckpoints(run, config.save_interval, config.keep_checkpoints)
    with reading_without_running():
        trainer = Trainer(
            model=model,
            train_dataloader=data.train,
            eval_dataloader=_evaluators(data, config.eval_interval),
            max_duration=config.max_duration,
            optimizers=make_optimizer(config, model.parameters()),
            schedulers=make_scheduler(config),
            algorithms=algorithms,
            callbacks=[*own_callbacks, *make_callbacks(config), saver],
            loggers=([_bar()] if progress_bar else []) + make_loggers(config),
            run_name=run.path.name,
            progress_bar=False,  # Ours is among the loggers.
            load_path=None if checkpoint is None else str(checkpoint),
            load_progress_bar=False,
            device=device,
            precision='fp32' if not on_gpu or config.precision == 'fp32' else f'amp_{config.precision}',
            device_train_microbatch_size=min(microbatch, config.batch_size // dist.get_world_size())
            if microbatch
            else None,
            compile_config=compiled,
            seed=config.seed,
        )
    return Built(trainer, model, data, algorithms)


def _data_section(config: RunConfig, say: Callable[[str], None]):
    wanting = [name for name in config.algorithms if algorithm_class(name).__name__ in WANT_FLOAT_IMAGES]
    if wanting and config.data.augment_on == 'device':
        say(f'{wanting[0]} works on float images before they reach the device: the loader augments (augment_on: host)')
        mode = 'cache' if config.data.mode == 'device' else config.data.mode
        return config.data.model_copy(update={'augment_on': 'host', 'mode': mode})
    return config.data


def _compile_teachers(algorithms: list[Algorithm], options: dict[str, Any] | None) -> None:
    if options is None:
        return
    # One process trains many runs: they share what is compiled, each kind of model and shape of batch a few times.
    config: Any = torch._dynamo.config
    setattr(config, 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit', 64)
    for algorithm in algorithms:
        for teacher in algorithm.teachers if isinstance(algorithm, HasTeachers) else ():
            for live in teacher.live_teachers:
                live.compile(**options)


def _bar() -> ProgressBarLogger:
    """Composer's bar, without the page of settings that it prints before each run."""
    bar = ProgressBarLogger()
    bar.hparams_already_logged_to_console = True
    return bar


def _evaluators(data: Data, interval: str) -> list[Evaluator]:
    # Validation first: whatever chooses or stops looks at the first evaluator.
    labelled = (('val', data.val), ('test', data.test), ('train_clean', data.train_clean))
    return [
        Evaluator(label=label, dataloader=spec, eval_interval=interval) for label, spec in labelled if spec is not None
    ]


def _warn_of_sam(algorithms: list[Algorithm], say: Callable[[str], None]) -> None:
    if any(type(one).__name__ == 'SAM' for one in algorithms):
        say("Composer's SAM keeps a state that no checkpoint holds: continued, this run is not bit for bit the same")
