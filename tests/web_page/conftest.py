"""Servers of the web page and what visits them."""

import shutil
import signal
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageOps

from effvim.datasets.scenes import draw_scene
from tests.helpers import demo_server


@pytest.fixture(scope='module')
def page_checkpoints(run_of, tmp_path_factory):
    """Checkpoints that a page offers."""
    return demo_server.checkpoints(run_of('retinanet'), tmp_path_factory.mktemp('page'))


@pytest.fixture(scope='module')
def page_url(run_of, page_checkpoints, tmp_path_factory):
    """The address of a running page."""
    folder = tmp_path_factory.mktemp('server')
    with demo_server.serving(run_of('retinanet'), page_checkpoints, folder) as address:
        yield address


@pytest.fixture
def client(page_url, tmp_path):
    """A client of the web page's server."""
    from gradio_client import Client

    return Client(page_url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))


@pytest.fixture
def scene(tmp_path):
    """The path of a synthetic image."""
    path = tmp_path / 'scene.png'
    Image.fromarray(draw_scene(np.random.RandomState(5)).image).save(path)
    return path


@pytest.fixture(scope='module')
def browser_url(run_of, tmp_path_factory):
    """The address of a running page, ended by SIGTERM."""
    run = run_of('retinanet')
    checkpoints = demo_server.checkpoints(run, tmp_path_factory.mktemp('page'))
    folder = tmp_path_factory.mktemp('server')
    with demo_server.serving(run, checkpoints, folder, signal.SIGTERM) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which('chromium')
    assert chromium, 'no chromium: apt-get install chromium'
    with sync_playwright() as playwright:
        # root may not use the sandbox, and containers have little shared memory
        yield playwright.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage']
        )


@pytest.fixture
def page(browser, browser_url):
    """The page, loaded; afterwards checks that no other server was contacted."""
    from playwright.sync_api import expect

    tab = browser.new_page(viewport={'width': 1280, 'height': 900})
    asked, faults = [], []
    tab.on('request', lambda request: asked.append(request.url))
    tab.on('pageerror', lambda error: faults.append(str(error)))
    tab.goto(browser_url)
    expect(tab.get_by_role('heading', name='retinanet_effvim_m1')).to_be_visible(timeout=60_000)
    yield tab
    tab.close()
    assert len(asked) > 10
    assert {urlsplit(u).hostname for u in asked if not u.startswith(('data:', 'blob:'))} == {
        '127.0.0.1'
    }
    assert faults == []


@pytest.fixture
def large_scene(tmp_path):
    """The path of a synthetic image, enlarged."""
    path = tmp_path / 'scene.png'
    ImageOps.scale(Image.fromarray(draw_scene(np.random.RandomState(5)).image), 4).save(path)
    return path
