"""Finished runs under drifts: against their weights asked anew, repeated, by the command, and going wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from composer_kd import UserError
from composer_kd.archive import RunDir, verify
from composer_kd.cli import main
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.section import DataSection
from composer_kd.models import build_model
from composer_kd.models.weights import load_tensors_into, load_weights
from composer_kd.run import main as train
from composer_kd.runs.plan import make_plan
from tests.runs.common import TINY, environment, write_yaml

FOG = {'name': 'corruption', 'kind': 'fog', 'severity': 3}
TAIL = {'name': 'long_tail', 'factor': 2}
DRIFTS = {'foggy': FOG, 'few': [TAIL, {'name': 'corruption', 'kind': 'contrast', 'severity': 5}]}


def written(folder: Path, **changes) -> Path:
    changes = {'drifts': DRIFTS, **changes}
    evaluate = {'drifts': changes.pop('drifts'), **changes.pop('evaluate', {})}
    options = {'lineage': {'gen0': None}, 'max_duration': '1ep', 'evaluate': evaluate, **changes}
    return write_yaml(folder, **options)


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp('robustness')
    assert train([str(written(folder))]) == 0
    return folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original / 'runs', tmp_path / 'runs')) / 'gen0'


def measured(run: Path) -> dict:
    return json.loads((run / 'drifts.json').read_text())


def independent(run: Path, *drifts: dict) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Logits of the saved weights on the test part of data that has drifted as a whole."""
    values = {**TINY['data'], 'drift': [*drifts]}
    data = open_data(parse_section(DataSection, values, 'data'), 10, 0)
    dataset = data.test.dataloader.dataset
    model = build_model(RunDir(run).read_config()['model'], 100, (3, 32, 32))
    load_tensors_into(model, load_weights(run / 'weights.safetensors'), 'weights')
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in data.normalization)
    images = (dataset.images(torch.arange(len(dataset))).float() / 255 - mean) / std
    with torch.no_grad():
        return model.eval()(images).double().numpy(), dataset.labels, data.coarse


def test_the_numbers_are_those_of_the_saved_weights_on_drifted_data(original: Path) -> None:
    run = original / 'runs' / 'gen0'
    found = measured(run)
    assert found['epoch'] == 1
    assert found['weights'] == RunDir(run).manifest().weights.hash
    assert list(found['drifts']) == ['foggy', 'few']
    for stated, drifts in (
        (found['clean'], []),
        (found['drifts']['foggy'], [FOG]),
        (found['drifts']['few'], DRIFTS['few']),
    ):
        logits, labels, coarse = independent(run, *drifts)
        right = logits.argmax(1) == labels
        assert stated['samples'] == len(labels)
        assert stated['accuracy'] == pytest.approx(right.mean())
        ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
        assert stated['top5'] == pytest.approx((ranks < 5).mean())
        powers = np.exp(logits - logits.max(1, keepdims=True))
        own = (powers / powers.sum(1, keepdims=True))[np.arange(len(labels)), labels]
        assert stated['cross_entropy'] == pytest.approx(-np.log(own).mean(), rel=1e-4)
        groups = np.array(coarse)[labels]
        lowest = min(right[groups == group].mean() for group in np.unique(groups))
        assert stated['worst_group']['accuracy'] == pytest.approx(lowest)
        assert 0 <= stated['calibration_error'] <= 1
    assert found['groups'] == 'superclass'
    assert found['clean']['accuracy'] == pytest.approx(RunDir(run).metrics()[-1]['test_accuracy'])
    assert found['drifts']['few']['samples'] < found['clean']['samples']


def test_verify_looks_at_the_file(run: Path) -> None:
    assert 'drifts.json' in verify(run).files
    path = run / 'drifts.json'
    path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 2'))
    with pytest.raises(UserError, match=r'drifts\.json: damaged.*composer-kd evaluate'):
        verify(run)
    assert main(['evaluate', str(run), '--drifts', 'fog']) == 1


def test_the_same_command_measures_what_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / 'drifts.json').read_bytes()
    file = written(run.parents[1], drifts={**DRIFTS, 'stored': None})
    assert train([str(file)]) == 0
    assert 'under 3 drifts' in capsys.readouterr().out
    found = measured(run)
    assert list(found['drifts']) == ['foggy', 'few', 'stored']
    stored = found['drifts'].pop('stored')
    assert stored == {'drift': [], 'fingerprint': found['fingerprint'], **found['clean']}
    assert found == json.loads(before)
    assert verify(run)

    (run / 'drifts.json').unlink()
    assert train([str(written(run.parents[1]))]) == 0
    assert (run / 'drifts.json').read_bytes() == before


def test_where_nothing_is_missing_the_data_need_not_be_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        raise AssertionError('the data are opened')

    monkeypatch.setattr('composer_kd.runs.evaluate_drifts.DriftedTests', gone)
    before = (run / 'drifts.json').read_bytes()
    assert train([str(written(run.parents[1]))]) == 0
    assert (run / 'drifts.json').read_bytes() == before


def test_killed_before_the_manifest_could_name_the_file(run: Path) -> None:
    manifest = run / 'archive' / 'manifest.json'
    whole = manifest.read_text()
    unlisted = json.loads(whole)
    del unlisted['files']['drifts.json'], unlisted['xxh3']
    manifest.write_text(json.dumps(unlisted))
    assert train([str(written(run.parents[1]))]) == 0
    assert 'drifts.json' in verify(run).files


@pytest.mark.slow
def test_two_ranks_share_the_samples(run: Path) -> None:
    whole = measured(run)
    (run / 'drifts.json').unlink()
    file = run.parent / 'drifts.yaml'
    file.write_text(yaml.safe_dump({'evaluate': {'drifts': DRIFTS}}, sort_keys=False))
    words = ['-n', '2', '-m', 'composer_kd.cli', 'evaluate', str(run), '--drifts', str(file), '--device', 'cpu']
    done = subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', *words],
        env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    again = measured(run)
    assert list(again['drifts']) == list(whole['drifts'])
    for name, entry in whole['drifts'].items():
        for key in ('samples', 'accuracy', 'top5', 'worst_group'):
            assert again['drifts'][name][key] == entry[key]
        assert again['drifts'][name]['cross_entropy'] == pytest.approx(entry['cross_entropy'], rel=1e-5)
    assert verify(run)


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ['evaluate', str(run), '--drifts', 'fog,contrast', '--severities', '3,5']
    assert main(words) == 0
    found = measured(run)
    assert list(found['drifts']) == ['foggy', 'few', 'fog-3', 'fog-5', 'contrast-3', 'contrast-5']
    for key in ('accuracy', 'cross_entropy', 'worst_group'):
        assert found['drifts']['fog-3'][key] == found['drifts']['foggy'][key]
    assert main(words) == 0
    assert '4 of them measured before' in capsys.readouterr().out
    assert measured(run) == found


def test_the_file_of_other_weights_is_not_gone_on_with(run: Path) -> None:
    values = measured(run)
    path, manifest = run / 'drifts.json', run / 'archive' / 'manifest.json'
    path.write_text(json.dumps({**values, 'weights': 'f00d'}))
    unlisted = json.loads(manifest.read_text())
    del unlisted['files']['drifts.json'], unlisted['xxh3']
    manifest.write_text(json.dumps(unlisted))
    assert main(['evaluate', str(run), '--drifts', 'fog', '--severities', '3']) == 0
    assert list(measured(run)['drifts']) == ['fog-3']
    assert verify(run)


@pytest.mark.parametrize(
    ('drifts', 'line'),
    [
        ({'a': {'name': 'corrupton', 'kind': 'fog'}}, r'evaluate\.drifts\.a.*did you mean'),
        ({'a': {'name': 'corruption', 'kind': 'fogg'}}, r'evaluate\.drifts\.a\.kind: .fogg. is not a kind.*fog'),
        ({'a': {'kinds': ['fogg']}}, r'evaluate\.drifts\.a\.kinds: .fogg. is not a kind'),
        ({'a': {'kind': 'fog'}}, r'evaluate\.drifts\.a\.kind: unknown key of a grid.*kinds'),
        ({'a': {'severities': [6]}}, r'evaluate\.drifts\.a\.severities'),
        ({'a': {'name': 'label_noise', 'rate': 0.1}}, r'evaluate\.drifts\.a: label_noise leaves the test part alone'),
        ({'fog-1': FOG, 'grid': {}}, r'evaluate\.drifts: \'fog-1\' is there twice'),
        ({'a': {'after': {'name': 'label_noise', 'rate': 0.1}}}, r'evaluate\.drifts\.a\.after: label_noise leaves'),
        ({'a': {'after': {'name': 'long_tial'}}}, r'evaluate\.drifts\.a\.after.*did you mean'),
        (
            {'a': {'kinds': ['snow', 'fog'], 'after': FOG}},
            r'evaluate\.drifts\.a\.after: fog with seed 0 draws what the grid draws',
        ),
        (
            {'a': {'files': '/x', 'after': FOG}},
            r'evaluate\.drifts\.a\.after: the images of files would take the place of what corrupt',
        ),
        (
            {'a': {'kinds': ['fog'], 'after': {'name': 'path', 'steps': 2, 'step': 1, 'to': FOG}}},
            r'evaluate\.drifts\.a\.after: fog with seed 0 draws',
        ),
        (['fog'], r'drifts'),
    ],
)
def test_mistakes_are_one_line_before_anything_trains(drifts, line: str) -> None:
    values = {key: value for key, value in TINY.items() if key != 'lineage'}
    with pytest.raises(UserError, match=line):
        make_plan({**values, 'evaluate': {'drifts': drifts}})


def test_drifts_of_a_plan_stand_in_run_yaml_and_can_be_read_again() -> None:
    drifts = {'grid': {'kinds': ['fog'], 'severities': [1, 3]}, 'own': FOG, 'two': [TAIL, FOG], 'stored': None}
    values = {key: value for key, value in TINY.items() if key != 'lineage'}
    (one,) = make_plan({**values, 'evaluate': {'drifts': drifts}}).runs
    resolved = one.resolved()
    (two,) = make_plan({**values, 'evaluate': json.loads(json.dumps(resolved['evaluate']))}).runs
    assert two.resolved()['evaluate'] == resolved['evaluate']
    assert resolved['evaluate']['drifts']['own'][0]['kind'] == 'fog'


def test_a_grid_of_a_task_that_drifts_have_made(tmp_path: Path) -> None:
    own = {'name': 'subpopulation', 'side': 'source', 'seed': 3}
    data = {**TINY['data'], 'drift': own}
    grid = {'kinds': ['brightness'], 'severities': [1, 3], 'after': own}
    file = written(tmp_path, data=data, drifts={'grid': grid})
    assert train([str(file)]) == 0
    found = measured(tmp_path / 'runs' / 'gen0')
    for name, severity in (('brightness-1', 1.0), ('brightness-3', 3.0)):
        first, last = found['drifts'][name]['drift']
        assert (first['name'], first['seed'], first['side']) == ('subpopulation', 3, 'source')
        assert (last['kind'], last['severity']) == ('brightness', severity)
        assert found['drifts'][name]['samples'] == found['clean']['samples']


def test_another_task_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'drifts.yaml'
    file.write_text('evaluate: {drifts: {coarse: {name: subpopulation, side: target}}}')
    assert main(['evaluate', str(run), '--drifts', str(file)]) == 1
    assert 'the test part has 20 classes then and the model 100' in capsys.readouterr().err


def test_what_a_drift_does_elsewhere_does_not_make_it_another_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drifts = {**DRIFTS, 'foggy': {**FOG, 'parts': ['test']}}
    assert train([str(written(run.parents[1], drifts=drifts))]) == 0
    assert 'measured before' not in capsys.readouterr().out, 'there was nothing to measure'
    assert 'parts' not in measured(run)['drifts']['foggy']['drift'][0]


@pytest.mark.parametrize(
    ('second', 'line'),
    [
        ({'data': {**TINY['data'], 'drift': {'name': 'new_classes', 'classes': 101}}},
         'lineage.gen1.data.drift: new_classes: 101 classes, and the data has 100; lower classes'),
        ({'evaluate': {'drifts': {'all': {'name': 'subpopulation', 'side': 'target'}}}},
         'lineage.gen1.evaluate.drifts.all: the test part has 20 classes then and the model 100 or others'),
    ],
)  # fmt: skip
def test_drifts_that_do_not_fit_their_data_are_refused_before_the_first_run_trains(
    second: dict, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lineage = {'gen0': None, 'gen1': {'evaluate': {'drifts': {}}, **second}}
    assert train([str(written(tmp_path, lineage=lineage))]) == 1
    assert line in capsys.readouterr().err
    assert not (tmp_path / 'runs' / 'gen0' / 'metrics.jsonl').exists()


def test_a_run_on_drifted_data_replaces_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {'as it was': [], 'now': TAIL}
    lineage = {'gen0': None, 'gen1': {'replaces': 'gen0', 'data': {**TINY['data'], 'drift': TAIL}}}
    assert train([str(written(tmp_path, lineage=lineage, drifts=steps))]) == 0
    one, two = (measured(tmp_path / 'runs' / name) for name in ('gen0', 'gen1'))
    assert one['drifts']['now']['fingerprint'] == two['fingerprint'] == two['drifts']['now']['fingerprint']
    assert one['drifts']['as it was']['fingerprint'] == one['fingerprint'] == two['drifts']['as it was']['fingerprint']
    (found,) = json.loads((tmp_path / 'runs' / 'report.json').read_text())['sections']['replacement'].values()
    assert found['aged']['mean'] == one['drifts']['now']['accuracy']
    expected = one['clean']['accuracy'] - two['drifts']['as it was']['accuracy']
    assert found['forgotten']['mean'] == pytest.approx(expected, abs=1e-6)
    assert 'Replacement: test accuracy' in capsys.readouterr().out
    with pytest.raises(UserError, match=r"lineage\.gen1\.replaces: 'gen' is neither a run of this file"):
        make_plan({**TINY, 'lineage': {'gen0': None, 'gen1': {'replaces': 'gen'}}})


def test_two_ranks_refuse_misfits_of_a_stream_and_measure_what_a_finished_run_lacks(tmp_path: Path) -> None:
    stream = {**TINY['data'], 'mode': 'stream', 'drift': {'name': 'label_noise', 'rate': 0.2}}
    options = {'lineage': {'gen0': None}, 'max_duration': '1ep', 'data': stream}

    def launched(**changes) -> subprocess.CompletedProcess[str]:
        file = write_yaml(tmp_path, **{**options, **changes})
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'composer_kd.run', str(file)]
        return subprocess.run(
            [*command, '--no-report'], env=environment(), capture_output=True, text=True, timeout=200, check=False
        )

    refused = launched(evaluate={'drifts': {'coarse': {'name': 'subpopulation', 'side': 'source'}}})
    assert refused.returncode != 0
    assert 'lineage.gen0.evaluate.drifts.coarse: the test part has 20 classes then' in refused.stdout + refused.stderr
    assert train([str(write_yaml(tmp_path, **options)), '--no-report']) == 0
    done = launched(evaluate={'attacks': {'pgd': [{'steps': 2}], 'subset': 33}})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    verify(tmp_path / 'runs' / 'gen0')
    lines = [json.loads(line) for line in (tmp_path / 'runs' / 'gen0' / 'attacks.jsonl').read_text().splitlines()]
    assert [(line['split'], line['samples'], line['world_size']) for line in lines] == [('val', 33, 2), ('test', 33, 2)]
