"""report.html in a real browser."""

from __future__ import annotations

import pytest

from composer_kd.report import report
from tests.report.chromium import BINARY, Chromium
from tests.report.runs_on_disk import KD, accuracies, recorded_lineage, training, write_run

HOSTILE = '<script>document.title="owned"</script>$x_1$ "&amp;\' <img src=http://example.invalid/x.png>'

with_browser = pytest.mark.skipif(BINARY is None, reason='no chromium on this machine: report.html was not opened')


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp('profile')) as chromium:
        yield chromium


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('study')
    report(recorded_lineage(folder / 'runs'), out=folder / 'out')
    return folder / 'out' / 'report.html'


@pytest.fixture(scope='module')
def awkward(tmp_path_factory):
    """Hostile, long and dark names; seeds that never reach; an unfinished arm; nine arms."""
    folder = tmp_path_factory.mktemp('awkward')
    for seed in range(2):
        write_run(folder / 'runs' / f's{seed}', training(8, 0.2, 0.5, seed, False), arm='_scratch', seed=seed)
        write_run(
            folder / 'runs' / f'h{seed}', training(8, 0.2, 0.2, seed, True), arm=HOSTILE, seed=seed, algorithms=KD
        )
    write_run(folder / 'runs' / 'u', training(3, 0.2, 0.5, 0, True), arm='n' * 90, planned=8, manifest=False)
    for index in range(6):
        write_run(folder / 'runs' / f'm{index}', accuracies([0.1, 0.3]), arm=f'arm {index}')
    report(folder / 'runs', out=folder / 'out')
    return folder / 'out' / 'report.html'


@with_browser
@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [360, 1200])
@pytest.mark.parametrize('which', ['page', 'awkward'])
def test_opens_clean_and_fits(browser, request, which, width, dark):
    path = request.getfixturevalue(which)
    browser.look(width, dark=dark)
    browser.open(path)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith('data:')] == [path.as_uri()]
    assert browser.ask('document.documentElement.scrollWidth') <= width
    boxes = browser.ask(
        '[...document.querySelectorAll("figure svg")].map(s => { const b = s.getBoundingClientRect();'
        ' return [b.width, b.height, s.querySelectorAll("path").length, s.getAttribute("aria-label").length] })'
    )
    assert len(boxes) >= 5
    assert all(box[0] > 250 and box[1] > 120 and box[2] > 5 and box[3] > 30 for box in boxes)


@with_browser
def test_colours_follow_the_scheme(browser, page):
    seen = {}
    for dark in (False, True):
        browser.look(800, dark=dark)
        browser.open(page)
        seen[dark] = browser.ask(
            '[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,'
            ' ...new Set([...document.querySelectorAll("figure svg text")].map(t => getComputedStyle(t).fill))]'
        )
    light, dark = seen[False], seen[True]
    assert light[0] == dark[1] or sum(map(int, _channels(light[0]))) > 700 > 100 > sum(map(int, _channels(dark[0])))
    assert len(light) == len(dark)
    assert not set(light[2:]) & set(dark[2:])  # no text in a picture keeps its colour


@with_browser
def test_letters_in_pictures_can_be_read_on_a_phone(browser, page):
    browser.look(360)
    browser.open(page)
    smallest = browser.ask(
        'Math.min(...[...document.querySelectorAll("figure svg")].flatMap(s => { const scale ='
        ' s.getBoundingClientRect().width / s.viewBox.baseVal.width;'
        ' return [...s.querySelectorAll("text")].map(t => parseFloat(getComputedStyle(t).fontSize) * scale) }))'
    )
    assert smallest >= 9.5


@with_browser
def test_names_are_text(browser, awkward):
    browser.look(800)
    browser.open(awkward)
    assert browser.ask('document.title') == 'Report: kd'
    assert browser.ask('document.querySelectorAll("script, img").length') == 0
    assert browser.ask('document.body.textContent').count('<script>document.title="owned"</script>$x_1$') >= 3


@with_browser
@pytest.mark.parametrize('which', ['page', 'awkward'])
def test_on_paper_it_is_light_and_nothing_is_cut_off(browser, request, which):
    browser.look(700, dark=True, paper=True)
    browser.open(request.getfixturevalue(which))
    assert sum(map(int, _channels(browser.ask('getComputedStyle(document.body).backgroundColor')))) > 700
    assert browser.ask(
        '[...document.querySelectorAll(".scroll")].every(s => s.scrollWidth <= document.documentElement.clientWidth)'
    )
    assert browser.pdf().startswith(b'%PDF')


def test_the_page_asks_for_nothing_without_a_browser_too(page):
    text = page.read_text(encoding='utf-8')
    assert '<script' not in text
    assert '@import' not in text
    assert 'url(http' not in text
    assert ' src=' not in text
    links = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert all(link.startswith(('#', 'data:')) for link in links)


def test_ids_are_unique(page, awkward):
    for path in (page, awkward):
        text = path.read_text(encoding='utf-8')
        ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
        assert len(ids) == len(set(ids))


def _channels(color: str) -> list[str]:
    return color.removeprefix('rgb(').removesuffix(')').split(', ')
