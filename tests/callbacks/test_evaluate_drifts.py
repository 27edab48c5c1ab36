"""EvaluateDrifts in a Trainer of one's own: right, and nothing of the training changed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer_kd import EvaluateDrifts, UserError
from composer_kd.callbacks.evaluate_drifts import groups_in, quality_of
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.drift.drifted_tests import DriftedTests
from composer_kd.data.section import DataSection
from composer_kd.functional import worst_group
from composer_kd.models import weights_hash
from tests.callbacks.keyed import keyed_data, same_weights, small_net, train

# That of keyed_data.
SECTION = {'synthetic': {'train_size': 400, 'test_size': 100}, 'val_fraction': 0.25}
FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 3}


def accuracies_of(net: nn.Module) -> tuple[float, float]:
    """On the test part as it is stored, and under fog, by a loop of one's own."""
    found = []
    for drift in (None, FOG):
        data = open_data(parse_section(DataSection, {**SECTION, 'drift': drift}, 'data'), 10, 0)
        dataset = data.test.dataloader.dataset
        mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in data.normalization)
        images = (dataset.images(torch.arange(len(dataset))).float() / 255 - mean) / std
        with torch.no_grad():
            right = net.eval()(images).argmax(1) == torch.from_numpy(dataset.labels)
        found.append(float(right.double().mean()))
    return found[0], found[1]


class Noting(nn.Module):
    """A net with dropout and a part that stays in eval mode; it notes the modes of its passes."""

    def __init__(self):
        super().__init__()
        self.net, self.dropout = small_net(), nn.Dropout(0.1)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.fc = nn.Identity()
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.frozen.eval()
        return self.fc(self.dropout(self.net(self.frozen(images))))


def noting(folder: Path | None) -> tuple[Noting, list]:
    callbacks = [] if folder is None else [EvaluateDrifts(folder, SECTION, {'foggy': FOG})]
    torch.manual_seed(1)
    net = Noting()
    train(callbacks, net=net, epochs='2ep')
    return net, [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]


def test_the_training_is_not_changed(tmp_path: Path) -> None:
    (plain, drawn), (watched, drawn_too) = noting(None), noting(tmp_path)
    assert same_weights(plain, watched), 'buffers of BatchNorm among them'
    assert torch.equal(drawn[0], drawn_too[0])
    assert drawn[1:] == drawn_too[1:]
    assert not any(watched.modes[len(plain.modes) :]), 'asked in eval mode'
    assert len(watched.modes) == len(plain.modes) + 2
    assert [part.training for part in watched.modules()] == [part.training for part in plain.modules()]


def test_the_file(tmp_path: Path) -> None:
    net = train([EvaluateDrifts(tmp_path, SECTION, {'foggy': FOG, 'stored': None}, batch_size=7)], epochs='2ep')
    found = json.loads((tmp_path / 'drifts.json').read_text())
    stated = (found['clean']['accuracy'], found['drifts']['foggy']['accuracy'])
    assert stated == pytest.approx(accuracies_of(net))
    assert found['drifts']['stored'] == {'drift': [], 'fingerprint': found['fingerprint'], **found['clean']}
    assert (found['epoch'], found['weights'], found['groups']) == (2, weights_hash(net), 'superclass')
    assert found['clean']['worst_group']['name'] in keyed_data().superclasses


def test_under_a_subpopulation_the_worst_group_is_a_fine_class() -> None:
    ends = {'from': {'name': 'subpopulation', 'side': 'source'}, 'to': {'name': 'subpopulation', 'side': 'target'}}
    tests = DriftedTests(parse_section(DataSection, {**SECTION, 'drift': ends['from']}, 'data'))
    (way,) = parse_section(DataSection, {'drift': {'name': 'path', 'steps': 2, 'step': 1, **ends}}, 'data').drift
    stored = open_data(parse_section(DataSection, SECTION, 'data'), 10, 0).test.dataloader.dataset
    label_of = dict(zip(stored.ids.tolist(), stored.labels.tolist(), strict=True))
    for dataset in (tests.clean, tests.under([way], 'drifts.way')):
        assert groups_in(dataset.info) == 'fine class'
        fine = np.array([label_of[sample] for sample in dataset.ids.tolist()])
        wrong = int(fine[3])
        # Right about everyone but the samples of one fine class: its superclass is not all wrong.
        answers = F.one_hot(torch.from_numpy(dataset.labels), dataset.num_classes).float()
        answers[torch.from_numpy(fine == wrong)] *= -1
        found = quality_of(answers, dataset)
        assert found['worst_group'] == {'name': stored.classes[wrong], 'accuracy': 0.0}
        assert found['accuracy'] == pytest.approx(1 - (fine == wrong).mean())


@pytest.mark.parametrize(
    ('drifts', 'line'),
    [
        ({'foggy': {**FOG, 'kind': 'mist'}}, r"drifts\.foggy.*'mist' is not a kind of corruption"),
        ({'grid': {'files': '/nowhere'}}, r'drifts\.gaussian_noise-1: /nowhere'),
    ],
)
def test_mistakes_are_one_line_before_the_first_step(tmp_path: Path, drifts: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        train([EvaluateDrifts(tmp_path, SECTION, drifts)])


def test_the_worst_group_is_one_that_has_samples() -> None:
    right = torch.tensor([True, False, True, True, False, True])
    groups = torch.tensor([0, 0, 2, 3, 3, 3])
    assert worst_group(right, groups) == (0, 0.5)
    assert worst_group(~right, groups) == (2, 0.0)
