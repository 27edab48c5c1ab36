"""A tiny task, tiny nets and a trainer, for tests that need a real training but no real data."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from composer import Trainer
from composer.core import Algorithm, DataSpec
from composer.loggers import InMemoryLogger
from composer.utils import dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from composer_kd import Archive
from composer_kd.archive import Manifest, Samples
from composer_kd.data.dataset import DatasetInfo, KeyedImages, SampleTable
from composer_kd.data.sampler import TrainSampler
from composer_kd.data.transform import Augmentation, Prepare
from composer_kd.models import classifier

CLASSES = 10
SAMPLES = 192
BATCH = 32


def images_and_labels(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise around one prototype a class: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    return prototypes[labels] + 0.7 * torch.randn(SAMPLES, 3, 8, 8, generator=generator), labels


def loader(seed: int = 0, shuffle: bool = True) -> DataLoader:
    """A loader whose order depends on the epoch alone: a plain ``shuffle=True`` does not resume inside an epoch."""
    data, ranks = TensorDataset(*images_and_labels(seed)), dist.get_world_size()
    sampler = DistributedSampler(data, ranks, dist.get_global_rank(), shuffle=shuffle, seed=3)
    return DataLoader(data, BATCH // ranks, sampler=sampler, drop_last=True)


class KeyedTask(KeyedImages):
    """The tiny task with ids, contents and labels, as a data set out of shards has them."""

    def __init__(self) -> None:
        images, labels = images_and_labels()
        rows = np.arange(SAMPLES)
        nothing = np.zeros((SAMPLES, 3), np.int64)
        table = SampleTable(
            (7 * rows + 5) % 193, labels.numpy(), rows.astype(np.uint64) + 1000, nothing, nothing, nothing
        )
        names = tuple(map(str, range(CLASSES)))
        info = DatasetInfo('tiny', names, None, None, (3, 8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        super().__init__('train', table, info, Augmentation.none(), None)
        self._images = images

    def images(self, rows: Tensor) -> Tensor:
        return self._images[rows]


def keyed_loader() -> DataLoader:
    """The tiny task as batches of (image, label, key), in the order of this package's sampler."""
    data, ranks = KeyedTask(), dist.get_world_size()
    sampler = TrainSampler(data, BATCH, 3, ranks, dist.get_global_rank())
    return DataLoader(data, BATCH // ranks, sampler=sampler, drop_last=True, collate_fn=lambda batch: batch)


class PixelTask(KeyedTask):
    """The tiny task in 8-bit pixels, as the loaders of this package give them: normalised after the augmentation."""

    def __init__(self, augmentation: Augmentation | None = None) -> None:
        super().__init__()
        self.info = replace(self.info, fingerprint='pixels', mean=(0.5,) * 3, std=(0.125,) * 3)
        self.augmentation = augmentation or Augmentation.none()
        self._images = (self._images * 32 + 127.5).round().clamp(0, 255).to(torch.uint8)


def pixel_loader(augmentation: Augmentation | None = None, batch: int = BATCH) -> DataSpec:
    """The tiny task as a keyed, augmented loader of this package."""
    data, ranks = PixelTask(augmentation), dist.get_world_size()
    sampler = TrainSampler(data, batch, 3, ranks, dist.get_global_rank())
    loader = DataLoader(data, batch // ranks, sampler=sampler, drop_last=True, collate_fn=lambda batch: batch)
    return DataSpec(loader, microbatch_transforms=Prepare(data.augmentation, *data.normalization))


def begun_archive(path: Path) -> Archive:
    """An archive of a run on the tiny task that has recorded nothing yet."""
    data = {
        'fingerprint': 'tiny',
        'num_samples': SAMPLES,
        'num_classes': CLASSES,
        'shape': [3, 8, 8],
        'normalization': {'mean': [0.0] * 3, 'std': [1.0] * 3},
    }
    archive = Archive(path)
    archive.begin(Manifest.model_validate({'schema': 1, 'run': path.name, 'seed': 0, 'data': data, 'files': {}}))
    return archive


@functools.cache
def recorded_run() -> Path:
    """A run directory with the losses of three epochs of an earlier run on the tiny task."""
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    images, labels = images_and_labels()
    archive = begun_archive(Path(folder.name) / 'earlier')
    for epoch, steps in enumerate((1, 3, 9)):
        logits = trained_net(21, steps)(images).detach()
        losses = nn.functional.cross_entropy(logits, labels, reduction='none')
        correct = (logits.argmax(dim=1) == labels).to(torch.uint8)
        archive.put('loss', epoch, Samples.of(KeyedTask()), {'loss': losses, 'correct': correct})
    return archive.run.path


@functools.cache
def run_with_examples() -> Path:
    """A run directory with adversarial examples of an earlier run for three quarters of the tiny task."""
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    archive = begun_archive(Path(folder.name) / 'earlier')
    samples = Samples.of(PixelTask()).take(np.arange(0, SAMPLES * 3 // 4))
    deltas = torch.randint(-8, 9, (len(samples), 3, 8, 8), generator=torch.Generator().manual_seed(4)).to(torch.int8)
    metadata = {'attack': 'pgd', 'norm': 'linf', 'epsilon': 8.0, 'pixels': 255, 'weights': 'f' * 32}
    archive.put('adversarial', 0, samples, {'delta': deltas}, metadata)
    return archive.run.path


_kept: list[tempfile.TemporaryDirectory] = []  # Removed when Python exits.


def net(seed: int, batch_norm: bool = True, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


def trained_net(seed: int, steps: int = 25) -> nn.Module:
    """A net that knows the task: teachers should be worth listening to."""
    module = net(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    images, labels = images_and_labels()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    module.zero_grad()
    return module.eval()


def make_trainer(
    algorithms: list[Algorithm],
    student: nn.Module | None = None,
    epochs: str = '2ep',
    folder: Path | None = None,
    load: Path | None = None,
    evaluate: bool = False,
    save_interval: str = '1ep',
    **options,
) -> tuple[Trainer, InMemoryLogger]:
    """A trainer on the tiny task, seeded, with its log in memory; keyword arguments go to Composer's Trainer."""
    student = student if student is not None else net(1)
    log = InMemoryLogger()
    trainer = Trainer(
        model=options.pop('model', None) or classifier(student, CLASSES),
        train_dataloader=options.pop('train_dataloader', None) or loader(),
        eval_dataloader=options.pop('eval_dataloader', None) or (loader(seed=1, shuffle=False) if evaluate else None),
        max_duration=epochs,
        optimizers=options.pop('optimizers', None) or torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9),
        algorithms=algorithms,
        loggers=[log],
        progress_bar=False,
        save_folder=str(folder) if folder else None,
        save_interval=save_interval,
        save_overwrite=True,
        load_path=str(load) if load else None,
        device=options.pop('device', 'cpu'),
        seed=7,
        **options,
    )
    return trainer, log


def logged(log: InMemoryLogger, name: str) -> list[float]:
    return [float(value) for _, value in log.data.get(name, [])]


class Spy(nn.Module):
    """A net that notes what it is asked: every input, and whether it was in train mode."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.inputs: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach().clone())
        self.modes.append(self.training)
        return self.module(x)

    @property
    def calls(self) -> int:
        return len(self.inputs)
