"""Finished runs on a little drawn data, and trainings that they teach: for everything that looks outputs up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from composer import Trainer
from composer.core import Precision
from composer.utils import get_device

from composer_kd import TeacherMixupKD
from composer_kd.data import Data, DataSection, open_data
from composer_kd.data.section import SyntheticSection
from composer_kd.models import build_model, classifier
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from composer_kd.teachers.record import fill_view
from composer_kd.teachers.recorded import RecordedTeacher

BATCH = 64
MODEL = {'name': 'mlp', 'hidden': [16]}
SYNTHETIC = {'train_size': 300, 'test_size': 100}


def trained_run(folder: Path, seed: int = 3, **changes) -> Path:
    """A run directory as a training leaves it: one epoch of a small perceptron."""
    values = {
        'name': f'seed{seed}',
        'seed': seed,
        'save_folder': str(folder),
        'data': {'source': 'synthetic100', 'synthetic': SYNTHETIC, 'val_fraction': 0.1},
        'model': MODEL,
        'optimizer': {'name': 'SGD', 'lr': 0.05},
        'batch_size': BATCH,
        'max_duration': '1ep',
        **changes,
    }
    plan = make_plan(values)
    execute(plan, RunProgress(False, stream=open('/dev/null', 'w')))  # noqa: SIM115
    return plan.runs[0].folder


def tiny_data(views: int | None = 2, seed: int = 5, **changes) -> Data:
    section = DataSection(synthetic=SyntheticSection(**SYNTHETIC), val_fraction=0.1, views=views, **changes)
    return open_data(section, batch_size=BATCH, seed=seed)


def record(run: Path, data: Data, views: int) -> None:
    """Record a run's logits in so many views."""
    teacher = RecordedTeacher(run, fill=True)
    state = plain_state(data)
    teacher.settle(state, range(views), looks_up=True)
    for view in range(views):
        fill_view(teacher, state, view, np.ones(len(data.train_set), bool))


def plain_state(data: Data, algorithms: tuple = ()) -> SimpleNamespace:
    """As much of a trainer's state as teachers look at."""
    return SimpleNamespace(
        device=get_device('cpu'),
        model=torch.nn.Linear(1, 1),
        precision=Precision.FP32,
        precision_config=None,
        train_dataloader=data.train.dataloader,
        algorithms=list(algorithms),
    )


@dataclass
class Taught:
    weights: torch.Tensor
    algorithm: TeacherMixupKD
    trainer: Trainer


def train(algorithm, data: Data, epochs: str = '2ep', beside: tuple = (), fit: bool = True, **options) -> Taught:
    """Train a small student on drawn data, taught by ``algorithm``."""
    torch.manual_seed(9)
    model = classifier(build_model(MODEL, data.num_classes, data.shape), data.num_classes)
    trainer = Trainer(
        model=model,
        train_dataloader=data.train,
        max_duration=epochs,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        algorithms=[*beside, algorithm],
        progress_bar=False,
        device='cpu',
        seed=5,
        **options,
    )
    if fit:
        trainer.fit()
        trainer.close()
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return Taught(weights, algorithm, trainer)
