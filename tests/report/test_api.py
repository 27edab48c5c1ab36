"""The report as a whole: baseline, headline, caveats and every format."""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from pathlib import Path

import pytest

from composer_kd.core.errors import UserError
from composer_kd.report import report
from composer_kd.report.api import add_arguments, main
from tests.report.runs_on_disk import KD, accuracies, lineage, write_run


def two_arms(folder, scratch, taught, *, beside=1, **extra):
    """A seed for each list of accuracies; an epoch takes 10 s from scratch, 12 s with a teacher."""
    for arm, seeds, seconds, algorithms in (('scratch', scratch, 10.0, {}), ('kd', taught, 12.0, KD)):
        for seed, values in enumerate(seeds):
            records = accuracies(values, runs_beside=beside)
            for epoch, record in enumerate(records, start=1):
                record['seconds_train_total'] = seconds * epoch
                record['multiply_adds_student_total'] = 100e9 * epoch
                record['multiply_adds_teacher_total'] = 35e9 * epoch if algorithms else 0
            write_run(folder / f'{arm}{seed}', records, arm=arm, seed=seed, algorithms=algorithms, **extra)
    return folder


SLOW, FAST = [0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.42, 0.45]


def test_the_baseline_is_the_first_arm_without_teachers(tmp_path):
    made = report(two_arms(tmp_path, [SLOW], [FAST]))  # 'kd' comes first by name
    assert made.summary.baseline.name == 'scratch'
    assert [arm.name for arm in made.summary.arms] == ['scratch', 'kd']
    assert report(tmp_path, baseline='kd').summary.baseline.name == 'kd'
    with pytest.raises(UserError, match=r"baseline: 'scrach' is not an arm.*'scratch'"):
        report(tmp_path, baseline='scrach')


def test_numbers_worked_out_by_hand(tmp_path):
    two_arms(tmp_path, [SLOW, SLOW], [FAST, [0.1, 0.2, 0.4, 0.5]])
    document = json.loads(report(tmp_path, thresholds=[0.4, 0.45], epochs=[2]).json())
    assert (document['format'], document['version']) == ('composer_kd.report', 2)
    arms = {arm['name']: arm for arm in document['arms']}
    scratch, kd = arms['scratch']['to_reach']['test'], arms['kd']['to_reach']['test']
    assert scratch[0]['epochs'] == {'mean': 4.0, 'sd': 0.0, 'n': 2}
    assert kd[0]['epochs'] == {'mean': 2.5, 'sd': pytest.approx(0.5**0.5), 'n': 2}
    assert kd[0]['seconds']['mean'] == 30.0  # 24 and 36
    assert kd[0]['multiply_adds']['mean'] == pytest.approx(2.5 * 135e9)
    speed_up = kd[0]['speed_up']
    assert speed_up['epochs']['ratio'] == pytest.approx(1.6)
    assert speed_up['seconds']['ratio'] == pytest.approx(40 / 30)
    assert speed_up['multiply_adds']['ratio'] == pytest.approx(400 / 337.5)
    assert (scratch[1]['reached'], scratch[1]['of'], scratch[1]['epochs']) == (0, 2, None)
    assert kd[1]['speed_up']['epochs'] is None
    accuracy = arms['kd']['accuracy']['test']
    assert accuracy['at']['2']['mean'] == pytest.approx(0.3)
    assert accuracy['last']['mean'] == pytest.approx(0.475)
    run = next(run for run in document['sections']['runs'] if run['name'] == 'kd1')
    assert run['measures']['test']['epochs_to_reach'] == [
        {'threshold': 0.4, 'epoch': 3},
        {'threshold': 0.45, 'epoch': 4},
    ]


def test_last_and_best_epoch_are_different_columns(tmp_path):
    write_run(tmp_path / 'a', accuracies([0.1, 0.5, 0.3]))
    (arm,) = report(tmp_path).summary.arms
    found = arm.accuracy['test']
    assert (found.last.mean, found.best.mean, found.best_epoch.mean) == (0.3, 0.5, 2)


def test_the_two_training_accuracies_stay_apart(tmp_path):
    rows = [{'train_accuracy_running': 0.2, 'train_accuracy_clean': 0.6}, {'train_accuracy_running': 0.4}]
    write_run(tmp_path / 'a', rows)
    made = report(tmp_path, thresholds=[0.4])
    assert [measure.name for measure in made.summary.measures] == ['train_running', 'train_clean']
    (arm,) = made.summary.arms
    assert arm.reach['train_running'][0].epochs.mean == 2
    assert arm.reach['train_clean'][0].epochs.mean == 1
    assert arm.accuracy['train_clean'].last.mean == 0.6


def test_headline_cheaper(tmp_path):
    made = report(two_arms(tmp_path, [SLOW] * 3, [FAST] * 3), thresholds=[0.4])
    # 2 epochs of 12 s against 4 of 10 s
    assert made.headline.short == 'Retraining took 40\u00a0% less training time'
    assert (
        'kd took 24\u00a0s of training (teachers included) where scratch took 40\u00a0s, 2\u00a0epochs instead of 4'
        in made.headline.detail
    )
    assert 'mean of 3 seeds each' in made.headline.detail


def test_headline_not_cheaper(tmp_path):
    made = report(two_arms(tmp_path, [SLOW] * 3, [SLOW] * 3), thresholds=[0.4])
    assert made.headline.short == 'Retraining was not cheaper and took 20\u00a0% more training time'


def test_headline_within_the_spread(tmp_path):
    late = [0.1, 0.2, 0.3, 0.3, 0.4]
    made = report(two_arms(tmp_path, [SLOW, SLOW, FAST], [FAST, late, SLOW]), thresholds=[0.4])
    assert 'not clearly cheaper' in made.headline.short
    assert 'within the spread of the seeds' in made.headline.short


def test_headline_never_rests_on_seeds_that_did_not_reach(tmp_path):
    made = report(two_arms(tmp_path, [SLOW, SLOW], [FAST, [0.1, 0.2, 0.3, 0.35]]), thresholds=[0.3, 0.4])
    assert made.headline.threshold == 0.3
    nothing = report(tmp_path, thresholds=[0.4])
    assert nothing.headline.short.startswith('Nothing to compare')


def test_headline_with_one_seed_says_so(tmp_path):
    made = report(two_arms(tmp_path, [SLOW], [FAST]), thresholds=[0.4])
    assert 'chance is not ruled out' in made.headline.sentence
    assert any('One seed only' in line for line in made.caveats)


def test_one_arm_alone(tmp_path):
    write_run(tmp_path / 'a', accuracies(SLOW))
    made = report(tmp_path)
    assert made.headline.short == 'One arm, nothing to compare yet'
    assert '40.00 % test accuracy after 4\u00a0epochs' in made.headline.detail
    assert made.html()


def test_seconds_of_a_shared_machine_are_marked_and_not_decisive(tmp_path):
    made = report(two_arms(tmp_path, [SLOW] * 2, [FAST] * 2, beside=2), thresholds=[0.4])
    assert made.headline.short == 'Retraining took 32\u00a0% fewer multiply-adds'  # 270 G against 400 G
    assert 'on a shared machine' in made.headline.detail
    assert any(line.startswith('†') for line in made.caveats)
    assert 'scratch †' in made.text()


def test_an_unfinished_run_is_marked(tmp_path):
    two_arms(tmp_path, [SLOW] * 2, [])
    write_run(tmp_path / 'kd0', accuracies([0.1, 0.2]), arm='kd', planned=4, manifest=False, algorithms=KD)
    made = report(tmp_path)
    assert 'kd ‡' in made.text()
    assert '2 of 4 epochs' in made.text()
    assert any(line.startswith('‡') for line in made.caveats)


def test_means_over_some_seeds_show_how_many(tmp_path):
    made = report(two_arms(tmp_path, [SLOW, SLOW], [FAST, [0.1, 0.2, 0.3, 0.35]]), thresholds=[0.4, 0.45, 0.9])
    text = made.text()
    assert '2 (1/2)' in text
    assert 'not reached (0/2)' in text
    assert '2.00× *' in text  # the speed-up rests on the one seed that reached, and says so
    kd = next(arm for arm in json.loads(made.json())['arms'] if arm['name'] == 'kd')
    assert kd['to_reach']['test'][0]['speed_up']['epochs']['complete'] is False
    assert any(line.startswith('*') for line in made.caveats)


def test_arms_that_differ_in_more_than_the_method_are_pointed_out(tmp_path):
    write_run(tmp_path / 'a', accuracies(SLOW), arm='a', data={'source': 'x', 'seed': 1})
    write_run(tmp_path / 'b', accuracies(SLOW), arm='b', data={'source': 'x', 'seed': 2})
    assert not any('differs' in line for line in report(tmp_path).caveats)
    write_run(tmp_path / 'c', accuracies(SLOW), arm='c', data={'source': 'y'}, model={'name': 'resnet56'})
    assert 'c differs from the baseline a in: model, data.' in report(tmp_path).caveats
    write_run(tmp_path / 'd', accuracies(SLOW), arm='d', data={'source': 'z'}, model={'name': 'resnet20', 'width': 2})
    assert 'c and d differ from the baseline a in: model, data.' in report(tmp_path).caveats
    write_run(tmp_path / 'a2', accuracies(SLOW), arm='a', optimizer={'name': 'adam'})
    assert 'The runs of a differ in more than their seed: data, optimizer.' in report(tmp_path).caveats


def test_text_fits_100_columns_whatever_the_names(tmp_path):
    long = 'an arm whose name goes on and on, 学習した教師 and beyond the end of any line ' * 2
    for arm in ('scratch', long):
        for seed in range(3):
            write_run(tmp_path / f'{arm[:6].strip()}{seed}', accuracies(SLOW * 5), arm=arm, seed=seed)
    text = report(tmp_path, thresholds=[0.05 * k for k in range(1, 9)], epochs=range(1, 20)).text()
    widths = [
        sum(2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in line) for line in text.splitlines()
    ]
    assert max(widths) <= 100


def test_markdown_cells_cannot_break_out(tmp_path):
    write_run(tmp_path / 'a', accuracies(SLOW), arm='x|y <b>z</b>')
    rows = [line for line in report(tmp_path).markdown().splitlines() if 'x' in line and line.startswith('|')]
    assert rows
    assert all(r'x\|y \<b\>z\</b\>' in row for row in rows)


def test_everything_is_written_as_a_whole(tmp_path):
    made = report(lineage(tmp_path / 'runs', epochs=6, seeds=2), out=tmp_path / 'out')
    names = sorted(str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*') if path.is_file())
    pictures = sorted(f'report/{figure.name}.png' for figure in made.figures)
    assert names == sorted(['report.html', 'report.json', 'report.md', *pictures])
    assert 'report/epochs_to_train_clean_accuracy.png' in pictures
    assert all((tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG') for name in pictures)
    assert (tmp_path / 'out' / 'report.html').read_text() == made.html()
    # The same runs give the same files, byte for byte.
    before = {name: (tmp_path / 'out' / name).read_bytes() for name in names}
    report(tmp_path / 'runs', out=tmp_path / 'out')
    assert {name: (tmp_path / 'out' / name).read_bytes() for name in names} == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    write_run(tmp_path / 'a', accuracies(SLOW))
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='out/report: cannot write: a part of this path is a file'):
        report(tmp_path / 'a', out=tmp_path / 'file' / 'out')


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(list(map(str, words))))


def test_the_command(tmp_path, capsys):
    two_arms(tmp_path / 'runs', [SLOW], [FAST])
    assert command(tmp_path / 'runs', '--thresholds', '0.3,0.4', '--epochs', '2', '--out', tmp_path / 'out') == 0
    printed = capsys.readouterr()
    assert 'Epochs to reach test accuracy' in printed.out
    *_, said, named = printed.err.splitlines()
    assert named == str(tmp_path / 'out' / 'report.html')
    assert f'with {len(list((tmp_path / "out").rglob("*.*"))) - 1} files beside it' in said
    assert (tmp_path / 'out' / 'report.html').is_file()
    assert command(tmp_path / 'runs', '--format', 'json', '--baseline', 'kd') == 0
    assert json.loads(capsys.readouterr().out)['baseline'] == 'kd'
    assert (tmp_path / 'runs' / 'report.html').is_file(), 'several runs have their report beside them'
    one = next(path for path in (tmp_path / 'runs').iterdir() if path.is_dir() and path.name != 'report')
    assert command(one) == 0
    assert (one / 'report.html').is_file(), 'one run has it in its directory'


def test_the_command_names_a_page_that_can_be_opened_from_here(tmp_path, capsys, monkeypatch):
    two_arms(tmp_path / 'runs', [SLOW], [FAST])
    for here, given in ((tmp_path, 'runs'), (tmp_path / 'runs' / 'kd0', '..'), (tmp_path / 'runs', '.')):
        monkeypatch.chdir(here)
        page = tmp_path / 'runs' / 'report.html'
        page.unlink(missing_ok=True)
        assert command(given) == 0
        named = capsys.readouterr().err.splitlines()[-1]
        assert (here / named).resolve() == page
        assert page.is_file()
        assert '..' not in named


@pytest.mark.parametrize(
    ('option', 'value'), [('--thresholds', '0.3;0.4'), ('--thresholds', '40'), ('--epochs', '1.5'), ('--epochs', '0')]
)
def test_bad_options_are_one_line(tmp_path, option, value):
    write_run(tmp_path / 'a', accuracies(SLOW))
    with pytest.raises(UserError, match=option.removeprefix('--')):
        command(tmp_path / 'a', option, value)


def test_headline_the_same(tmp_path):
    made = report(two_arms(tmp_path, [SLOW] * 2, [SLOW] * 2, beside=2), thresholds=[0.1], baseline='scratch')
    assert 'took 35\u00a0% more multiply-adds' in made.headline.short
    for run in tmp_path.iterdir():
        lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        kept = [{key: line[key] for key in ('epoch', 'test_accuracy')} for line in lines]
        (run / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in kept))
    assert report(tmp_path, thresholds=[0.1]).headline.short == 'Retraining took as many epochs'


def test_different_machines_are_pointed_out(tmp_path):
    two_arms(tmp_path, [SLOW], [FAST])
    assert not any('different' in line for line in report(tmp_path).caveats)
    manifest = tmp_path / 'kd0' / 'archive' / 'manifest.json'
    manifest.write_text(json.dumps({'hardware': {'processor': 'another one'}}))
    assert 'The runs used different machines: their seconds cannot be compared.' in report(tmp_path).caveats


def test_the_design_page_tells_the_fields_of_report_json(tmp_path):
    document = json.loads(report(two_arms(tmp_path, [SLOW], [FAST])).json())
    page = (Path(__file__).parents[2] / 'docs' / 'design.md').read_text(encoding='utf-8')
    told = page.partition('Fields of `report.json`')[2].partition('## The YAML')[0]
    rows = [line.split('|')[1] for line in told.splitlines() if line.startswith('| `')]
    top = [name for row in rows for name in re.findall(r'`(\w+)`', row)]
    assert top == list(document)
    for name in document['arms'][0]:
        assert f'`{name}`' in told, name
