"""``start:`` in a YAML: what may be named, every mistake before a run trains, and a lineage that starts warm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from composer_kd import UserError, WarmStart
from composer_kd.archive import RunDir
from composer_kd.cli import main as composer_kd
from composer_kd.models import ModelSection, build_model, load_weights
from composer_kd.run import main
from composer_kd.runs.objects import make_algorithms
from composer_kd.runs.plan import make_plan
from tests.runs.common import write_yaml
from tests.teachers.run_directories import finished_run

BASE: dict[str, Any] = {'model': {'name': 'mlp', 'hidden': [16]}, 'max_duration': '4ep'}
TAUGHT_BY_A = {'algorithms': {'TeacherMixupKD': {'teachers': ['a']}}}


def test_names_are_spelt_in_two_ways() -> None:
    lineage = {
        'by_key': {'algorithms': {'WarmStart': {'from': 'gen0', 'shrink': 0.4, 'perturb': 0.1}}},
        'by_name': {'algorithms': {'warm_start': {'from': 'gen0', 'shrink': 0.4, 'perturb': 0.1}}},
        'gen0': None,
    }
    gen0, *others = make_plan({**BASE, 'save_folder': 'out', 'lineage': lineage}).runs
    assert [run.name for run in (gen0, *others)] == ['gen0', 'by_key', 'by_name']
    assert others[0].config.algorithms['WarmStart'] == {'from': 'out/gen0', 'shrink': 0.4, 'perturb': 0.1}
    for run in others:
        (algorithm,) = make_algorithms(run.config)
        assert isinstance(algorithm, WarmStart)
        assert repr(algorithm) == "WarmStart(from_='out/gen0', shrink=0.4, perturb=0.1)"
        assert (run.teachers, run.after) == ((), ('gen0',))


def test_seeds_are_paired_and_starts_merge_like_any_section() -> None:
    lineage = {
        'a': {'algorithms': None},
        'b': {'algorithms': {'WarmStart': {'shrink': 0.5}}},
        'c': {'algorithms': {'WarmStart': {'from': 'b-s1'}, **TAUGHT_BY_A['algorithms']}},
    }
    plan = make_plan(
        {**BASE, 'repeat': 2, 'algorithms': {'WarmStart': {'from': 'a', 'perturb': 0.1}}, 'lineage': lineage}
    )
    found = {run.name: run.config.algorithms.get('WarmStart') for run in plan.runs}
    assert found['a-s0'] is found['a-s1'] is None
    assert found['b-s0'] == {'from': 'runs/a-s0', 'perturb': 0.1, 'shrink': 0.5}
    assert found['b-s1'] == {'from': 'runs/a-s1', 'perturb': 0.1, 'shrink': 0.5}
    assert found['c-s0'] == found['c-s1'] == {'from': 'runs/b-s1', 'perturb': 0.1}
    assert plan.runs[-1].after == ('b-s1', 'a-s1')


def test_the_model_may_be_spelt_otherwise() -> None:
    lineage = {
        'a': {'model': {'name': 'ResNet20'}},
        'b': {'model': {'name': 'resnet20'}, 'algorithms': {'WarmStart': {'from': 'a'}}},
    }
    assert [run.name for run in make_plan({**BASE, 'lineage': lineage}).runs] == ['a', 'b']


def test_runs_and_files_from_elsewhere(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')
    for source in (tmp_path / 'gen0', tmp_path / 'gen0' / 'weights.safetensors'):
        (run,) = make_plan({**BASE, 'algorithms': {'WarmStart': {'from': str(source)}}}).runs
        assert (run.after, run.config.algorithms['WarmStart']) == ((), {'from': str(source)})
    with pytest.raises(UserError, match=r"WarmStart\.from: .*\[16\].* and this run .*'hidden': \[8\].*same model"):
        make_plan(
            {
                **BASE,
                'model': {'name': 'mlp', 'hidden': [8]},
                'algorithms': {'WarmStart': {'from': str(tmp_path / 'gen0')}},
            }
        )
    (tmp_path / 'gen0' / 'weights.safetensors').unlink()
    with pytest.raises(
        UserError, match=r'WarmStart\.from: .*gen0 has no weights\.safetensors: the run has not finished'
    ):
        make_plan({**BASE, 'algorithms': {'WarmStart': {'from': str(tmp_path / 'gen0')}}})


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'unknown run': (
        {'lineage': {'gen0': None, 'b': {'algorithms': {'WarmStart': {'from': 'gen1'}}}}},
        r"lineage\.b\.algorithms\.WarmStart\.from: 'gen1' is neither a run of this file .*did you mean 'gen0'",
    ),
    'unknown run by name': (
        {'lineage': {'gen0': None, 'b': {'algorithms': {'WarmStart': {'from': 'gen1'}}}}},
        r"lineage\.b\.algorithms\.WarmStart\.from: 'gen1' is neither .*did you mean 'gen0'",
    ),
    'no source': ({'algorithms': {'WarmStart': {'shrink': 0.4}}}, r'algorithms\.WarmStart\.from: this key is required'),
    'no source by name': ({'algorithms': ['WarmStart']}, r'algorithms\.WarmStart\.from: this key is required'),
    'the other name': ({'algorithms': {'WarmStart': {'source': 'a'}}}, r'algorithms\.WarmStart\.source: unknown key'),
    'no name': ({'algorithms': {'WarmStart': {'from': ['a']}}}, r'WarmStart\.from: expected a run'),
    'unknown option': (
        {'lineage': {'a': None, 'b': {'algorithms': {'WarmStart': {'from': 'a', 'shrinc': 0.4}}}}},
        r"lineage\.b\.algorithms\.WarmStart\.shrinc: unknown key; did you mean 'shrink'",
    ),
    'shrink above 1': (
        {'lineage': {'a': None, 'b': {'algorithms': {'WarmStart': {'from': 'a', 'shrink': 1.5}}}}},
        r'lineage\.b\.algorithms\.WarmStart: shrink: expected a number from 0 to 1, got 1\.5',
    ),
    'negative perturb': (
        {'lineage': {'a': None, 'b': {'algorithms': {'WarmStart': {'from': 'a', 'perturb': -1}}}}},
        r'lineage\.b\.algorithms\.WarmStart: perturb: expected a number from 0 to 1000, got -1',
    ),
    'both 0': (
        {'lineage': {'a': None, 'b': {'algorithms': {'WarmStart': {'from': 'a', 'shrink': 0}}}}},
        r'lineage\.b\.algorithms\.WarmStart: shrink and perturb are both 0',
    ),
    'both ways': (
        {'lineage': {'a': None, 'b': {'algorithms': {'WarmStart': {'from': 'a'}, 'warm_start': {'from': 'a'}}}}},
        r'lineage\.b\.algorithms\.WarmStart: the run has WarmStart already; give one',
    ),
    "Python's name": ({'algorithms': {'WarmStart': {'from_': 'a'}}}, r'WarmStart\.from_: unknown key; write from'),
    'a circle': ({'lineage': {'a': {'algorithms': {'WarmStart': {'from': 'b'}}}, 'b': TAUGHT_BY_A}}, r'is a circle'),
    'itself': ({'lineage': {'a': {'algorithms': {'WarmStart': {'from': 'a'}}}}}, r'a -> a is a circle'),
    'another model': (
        {'lineage': {'a': {'model': {'name': 'resnet20'}}, 'b': {'algorithms': {'WarmStart': {'from': 'a'}}}}},
        r"lineage\.b\.algorithms\.WarmStart\.from: 'a' has the model .*resnet20.* and this run .*mlp.*",
    ),
    'other seeds': (
        {'lineage': {'a': {'repeat': 2}, 'b': {'algorithms': {'WarmStart': {'from': 'a'}}}}},
        r"lineage\.b\.algorithms\.WarmStart\.from: 'a' is repeated 2 times and this run 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'line'), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_before_anything_trains(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        make_plan({**BASE, **change})
    assert '\n' not in str(raised.value)


def test_a_lineage_starts_warm_and_goes_on_without_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of nearly 0, gen1 ends where it began: at gen0's weights."""
    still = {'optimizer': {'name': 'SGD', 'lr': 1e-12, 'momentum': 0.0}, 'algorithms': {'WarmStart': {'from': 'gen0'}}}
    file = write_yaml(tmp_path, lineage={'gen1': still, 'gen0': None}, max_duration='2ep')
    assert main([str(file), '--no-report']) == 0
    assert 'gen1: mlp, 2ep, seed 3, started from gen0' in capsys.readouterr().out
    runs = tmp_path / 'runs'
    gen0, gen1 = (load_weights(runs / name / 'weights.safetensors') for name in ('gen0', 'gen1'))
    for name, value in gen0.items():
        torch.testing.assert_close(gen1[name], value, rtol=0, atol=1e-9)
    reached = RunDir(runs / 'gen0').metrics()[-1]['val_cross_entropy']
    assert RunDir(runs / 'gen1').metrics()[0]['val_cross_entropy'] == pytest.approx(reached, rel=1e-6)

    # What another file's run began at may be gone once it has begun; before, it is missed.
    later = write_yaml(
        tmp_path, lineage=None, name='later', max_duration='1ep', algorithms={'WarmStart': {'from': str(runs / 'gen0')}}
    )
    assert main([str(later), '--no-report']) == 0
    shutil.rmtree(runs / 'gen0')
    (runs / 'later' / 'weights.safetensors').unlink()
    assert main([str(later), '--no-report']) == 0, capsys.readouterr().err
    assert main([str(later), '--no-report', 'name=last']) == 1
    assert 'is neither a run of this file nor a run directory' in capsys.readouterr().err


def test_a_pickle_is_started_from_only_where_the_user_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = build_model(ModelSection(name='mlp', hidden=[32]), 100, (3, 32, 32))
    torch.save({'state_dict': net.state_dict()}, 'week1.pt')
    write_yaml(tmp_path, lineage=None, name='solo', max_duration='1ep', algorithms={'WarmStart': {'from': 'week1.pt'}})
    assert main(['tiny.yaml', '--no-report']) == 1
    line = capsys.readouterr().err
    assert 'week1.pt: this may be a pickle, which is opened only where you say so' in line
    assert line.count('\n') == 1
    assert not (tmp_path / 'runs').exists()
    assert main(['tiny.yaml', '--no-report', '--trust-pickle']) == 0
    # What the user says of it is no setting of the run.
    assert main(['tiny.yaml', '--no-report', 'algorithms.WarmStart.trust_pickle=true']) == 0
    assert 'finished before' in capsys.readouterr().out
    assert main(['tiny.yaml', '--no-report', 'name=other', 'algorithms.WarmStart.trust_pickle=true']) == 0
    # Once imported, it is read as it is.
    assert composer_kd(['import-weights', 'week1.pt', 'week1.safetensors']) == 0
    assert main(['tiny.yaml', '--no-report', 'name=third', 'algorithms.WarmStart.from=week1.safetensors']) == 0
    hashes = {RunDir(tmp_path / 'runs' / name).manifest().weights.hash for name in ('solo', 'other', 'third')}
    assert len(hashes) == 1
