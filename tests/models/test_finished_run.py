"""A finished run is opened once: what it lacks is one line, and its net has the weights that the manifest names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from composer_kd.archive import manifest as manifests
from composer_kd.archive import run_dir
from composer_kd.core.errors import UserError
from composer_kd.models import load_weights, save_weights
from composer_kd.models.finished_run import FinishedRun
from composer_kd.teachers.from_run import RunTeacher
from tests.teachers.run_directories import SHAPE, finished_run


def test_its_net_has_the_weights_of_the_run(tmp_path: Path) -> None:
    trained = finished_run(tmp_path / 'gen0')
    run = FinishedRun.open(tmp_path / 'gen0')
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run.net().eval()(images), trained.eval()(images))
    assert run.weights().keys() == trained.state_dict().keys()


def test_other_weights_than_the_manifest_names_are_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')
    run = FinishedRun.open(tmp_path / 'gen0')
    weights = load_weights(run.directory.weights_file)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    next(iter(changed.values())).view(-1)[0] += 1
    net = run.net()
    net.load_state_dict(changed)
    save_weights(net, run.directory.weights_file)
    with pytest.raises(UserError, match=r'weights\.safetensors: damaged: these are not the weights that the run ended'):
        run.net()


def test_a_configuration_without_a_model_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')
    config = tmp_path / 'gen0' / 'run.yaml'
    config.write_text(yaml.safe_dump({'max_duration': '1ep'}))
    with pytest.raises(UserError, match=r'run\.yaml: there is no model in it'):
        FinishedRun.open(tmp_path / 'gen0').net()


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')
    (tmp_path / 'gen0' / 'archive' / 'manifest.json').unlink()
    with pytest.raises(UserError, match='gen0: the run has not finished; run it to its end first'):
        FinishedRun.open(tmp_path / 'gen0')


def test_a_teacher_on_its_way_from_a_path_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / 'gen0')
    reads: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            reads[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(run_dir, 'read_manifest', counted('manifest', manifests.read_manifest))
    monkeypatch.setattr(run_dir.yaml, 'safe_load', counted('config', yaml.safe_load))
    monkeypatch.setattr('composer_kd.models.finished_run.load_weights', counted('weights', load_weights))
    RunTeacher(FinishedRun.open(tmp_path / 'gen0'))
    assert reads == {'manifest': 1, 'config': 1, 'weights': 1}
