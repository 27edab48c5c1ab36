"""Real shards, a tiny net and a trainer, for recorders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.core import Callback
from torch import Tensor, nn

from composer_kd import Archive
from composer_kd.archive import Samples, aligned
from composer_kd.core.options import parse_section
from composer_kd.data import Data, open_data
from composer_kd.data.section import DataSection
from composer_kd.models import classifier

BATCH = 64


def keyed_data(batch_size: int = BATCH, **changes: Any) -> Data:
    """synthetic100's smallest training part: 300 samples, of which an epoch of whole batches leaves some out."""
    section = {'synthetic': {'train_size': 400, 'test_size': 100}, 'val_fraction': 0.25, **changes}
    return open_data(parse_section(DataSection, section, 'data'), batch_size=batch_size, seed=3)


def small_net(batch_norm: bool = True, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.AvgPool2d(4),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 100),
    )


def train(
    callbacks: list[Callback],
    data: Data | None = None,
    epochs: str = '3ep',
    folder: Path | None = None,
    load: Path | None = None,
    net: nn.Module | None = None,
    **options: Any,
) -> nn.Module:
    """Train a small net with some callbacks, and return it."""
    data = data if data is not None else keyed_data()
    net = net if net is not None else small_net()
    trainer = Trainer(
        model=classifier(net, 100),
        train_dataloader=data.train,
        max_duration=epochs,
        optimizers=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        callbacks=callbacks,
        progress_bar=False,
        save_folder=str(folder) if folder else None,
        save_interval=options.pop('save_interval', '1ep'),
        save_overwrite=True,
        load_path=str(load) if load else None,
        device='cpu',
        seed=7,
        **options,
    )
    try:
        trainer.fit()
    finally:
        trainer.close()
    return net


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def tables(folder: Path, kind: str = 'loss') -> dict[int, dict[str, Tensor]]:
    """Epoch or view to its table, in the order of the data; 0 where it was not seen."""
    archive = Archive(folder)
    rows = archive.samples().rows_by_key(Samples.of(keyed_data().train_set))
    found = {}
    for number in archive.numbers(kind):
        table = aligned(archive.table(kind, number), rows)
        unseen = table['seen'] == 0
        found[number] = {name: column.masked_fill(_like(unseen, column), 0) for name, column in table.columns.items()}
    return found


def _like(mask: Tensor, column: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (column.dim() - 1))
