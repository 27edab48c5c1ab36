"""A temperature that is learned: its slope against finite differences, its way against the loss, its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from composer_kd import Distillation
from composer_kd.algorithms.distillation.loss import LearnedTemperature
from composer_kd.core.schedule import Progress
from composer_kd.functional import kl
from tests.algorithms.common import loader, logged, make_trainer, net, trained_net

ANYWHERE = Progress(3, 30, 0, 10, 6.0)


def test_climbs_by_rate_times_slope() -> None:
    # T = 1 + 20 sigmoid(u), so dT = 20 s (1 - s) du with du = rate * slope * 20 s (1 - s).
    temperature = LearnedTemperature(start=4.0, rate=0.01, strength=1.0)
    share = 3 / 20
    temperature.climb(0.5, ANYWHERE)
    assert temperature.at(ANYWHERE) - 4.0 == pytest.approx(0.01 * 0.5 * (20 * share * (1 - share)) ** 2, rel=0.01)
    temperature.climb(-1.0, ANYWHERE)
    assert temperature.at(ANYWHERE) < 4.0


def test_stays_between_its_bounds_whatever_the_slope() -> None:
    temperature = LearnedTemperature(start=2.0, low=1.5, high=3.0, rate=10.0, strength=1.0)
    for slope in (1e6, -1e9, float('nan'), 1e6, 1e6, -1e6, -1e6, -1e6):
        before = temperature.at(ANYWHERE)
        temperature.climb(slope, ANYWHERE)
        after = temperature.at(ANYWHERE)
        assert 1.5 < after < 3.0
        assert slope != slope or (after - before) * slope > 0  # However steep it was, there is a way back.


@pytest.mark.parametrize('microbatch', [32, 8])
def test_one_step_is_that_of_the_losses_slope(microbatch: int) -> None:
    teacher, student = trained_net(11), net(1, batch_norm=False)
    images, _ = next(iter(loader()))
    with torch.no_grad():
        s, t = student(images).double(), teacher(images).double()
    step = 1e-4
    slope = (kl(s, t, 4 + step) - kl(s, t, 4 - step)).item() / (2 * step)
    expected = LearnedTemperature(start=4.0, rate=0.1, strength=1.0)
    expected.climb(slope, ANYWHERE)
    # Whatever the weight of the term: the temperature follows the loss itself.
    algorithm = Distillation([teacher], kd_weight=0.3, temperature={'learned': {'rate': 0.1, 'strength': 1.0}})
    options = {'device_train_microbatch_size': microbatch}
    trainer, log = make_trainer([algorithm], student=student, epochs='2ba', **options)
    trainer.fit()
    trainer.close()
    first, second = logged(log, 'distill/temperature')
    assert first == pytest.approx(4.0)
    assert second != pytest.approx(4.0, abs=1e-4)
    assert second == pytest.approx(expected.at(ANYWHERE), rel=1e-4)


def test_is_in_the_checkpoint_and_in_no_model(tmp_path: Path) -> None:
    algorithm = Distillation([trained_net(11)], temperature={'learned': {'strength': 1.0}})
    trainer, _ = make_trainer([algorithm], epochs='1ep', folder=tmp_path)
    trainer.fit()
    trainer.close()
    saved = torch.load(next(tmp_path.glob('ep1-ba*')), weights_only=False)['state']
    assert not any('temperature' in name for name in saved['model'])
    assert len(saved['optimizers']['SGD']['state']) == len(list(net(1).parameters()))
    assert 'temperature' in dict(saved['algorithms'])['Distillation']
    reached = algorithm.loss.at(ANYWHERE)
    assert reached != pytest.approx(4.0, abs=1e-3)
    again = Distillation([trained_net(11)], temperature='learned')
    again.load_state_dict(algorithm.state_dict())
    assert again.loss.at(ANYWHERE) == reached
