"""tools/demo.py as a person sees it, in a headless Chromium."""

import json
import re
import shutil
from urllib.parse import urlsplit

import demo_server
import numpy as np
import pytest
from conftest import ROOT
from demo_server import CONFIG, OPTIONS
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from effvim.scenes import draw_scene

pytestmark = pytest.mark.browser


@pytest.fixture(scope='module')
def url(tmp_path_factory):
    trained = demo_server.train(tmp_path_factory.mktemp('page'))
    with demo_server.serving(CONFIG, *trained, '--max-megabytes', demo_server.MAX_MEGABYTES,
                             '--cfg-options', *OPTIONS) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium')
    assert chromium, 'no chromium: apt-get install chromium'
    with sync_playwright() as playwright:
        # root may not use the sandbox, and containers have little shared memory
        yield playwright.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage'])


@pytest.fixture
def page(browser, url):
    """The page, loaded; afterwards checks that nothing was asked from another server."""
    tab = browser.new_page(viewport={'width': 1280, 'height': 900})
    asked, faults = [], []
    tab.on('request', lambda request: asked.append(request.url))
    tab.on('pageerror', lambda error: faults.append(str(error)))
    tab.goto(url)
    expect(tab.get_by_role('heading', name='retinanet_effvim_m1')).to_be_visible(timeout=60_000)
    yield tab
    tab.close()
    assert len(asked) > 10
    assert {urlsplit(u).hostname for u in asked if not u.startswith(('data:', 'blob:'))} == {
        '127.0.0.1'}
    assert faults == []


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'scene.png'
    Image.fromarray(draw_scene(np.random.RandomState(5)).image).save(path)
    return path


def upload(page, path):
    page.locator('input[type=file]').first.set_input_files(path)


def headline(page, pattern):
    """The line about the result, once it matches."""
    line = page.locator('strong').filter(has_text=re.compile(pattern))
    expect(line).to_be_visible(timeout=60_000)
    return line.inner_text()


def set_threshold(page, value):
    field = page.get_by_role('spinbutton')
    field.fill(str(value))
    field.press('Tab')


def download(page, button):
    with page.expect_download() as event:
        page.get_by_text(button).click()
    return event.value.path()


def shown(page):
    """What is on the screen where the result is."""
    return page.locator('#result img').screenshot()


def test_upload_threshold_and_downloads(page, picture, capsys):
    upload(page, picture)
    set_threshold(page, 0)
    headline(page, '^20 objects')
    result = json.loads(download(page, 'Result (JSON)').read_text())
    assert len(result['objects']) == 20
    drawn, given = np.asarray(Image.open(download(page, 'Picture (PNG)'))), np.asarray(
        Image.open(picture))
    assert drawn.shape == given.shape and (drawn != given).any()

    many = shown(page)
    scores = sorted(entry['score'] for entry in result['objects'])
    middle = round((scores[9] + scores[10]) / 2, 2)
    left = sum(score >= middle for score in scores)
    set_threshold(page, 1)
    headline(page, '^nothing with a score')
    none = shown(page)
    assert none != many
    np.testing.assert_array_equal(Image.open(download(page, 'Picture (PNG)')), given)
    path = ROOT / 'work_dirs/page.png'
    path.parent.mkdir(exist_ok=True)
    set_threshold(page, 0)
    headline(page, '^20 objects')
    page.screenshot(path=path)
    with capsys.disabled():
        print(f'\nscreenshot: {path}')
