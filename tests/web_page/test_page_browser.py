"""`effvim demo` as a person sees it, in a headless Chromium."""

import json
import re

import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageChops
from playwright.sync_api import expect

from tests.helpers import demo_server
from tests.helpers.paths import ROOT
from tests.helpers.videos import write_video

SCREENSHOT = ROOT / 'work_dirs/page.png'
pytestmark = pytest.mark.browser


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


def result(page):
    return json.loads(download(page, 'result (JSON)').read_text())


def test_upload_threshold_and_downloads(page, large_scene, capsys):
    upload(page, large_scene)
    set_threshold(page, 0)
    assert headline(page, '^20 objects').startswith('20 objects')
    screen = page.locator('#result img')
    many = screen.screenshot()
    scores = [one['score'] for one in result(page)['objects']]
    assert len(scores) == 20
    drawn = Image.open(download(page, 'image (PNG)'))
    given = Image.open(large_scene)
    assert drawn.size == given.size and ImageChops.difference(drawn, given).getbbox()

    SCREENSHOT.parent.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOT)
    with capsys.disabled():
        print(f'\nscreenshot: {SCREENSHOT}')

    middle = round((scores[9] + scores[10]) / 2, 2)
    left = sum(score >= middle for score in scores)
    assert 0 < left < 20
    set_threshold(page, middle)
    headline(page, f'^{left} object')
    assert len(result(page)['objects']) == left
    some = screen.screenshot()
    set_threshold(page, 1)
    headline(page, '^no object with a score')
    none = screen.screenshot()
    assert len({many, some, none}) == 3
    assert ImageChops.difference(Image.open(download(page, 'image (PNG)')), given).getbbox() is None


def test_example_is_shown(page):
    page.locator('.gallery-item').first.click()
    headline(page, 'object|no object with a score')
    expect(page.locator('#result img')).to_be_visible()
    assert result(page)['image'] == 'scene_1.png'


def test_two_checkpoints_next_to_each_other(page):
    page.locator('.gallery-item').first.click()
    expect(page.locator('#result img')).to_be_visible(timeout=60_000)
    page.get_by_label('Compare with').click()
    page.get_by_role('option', name='short.pth').click()
    expect(page.locator('#compared img')).to_be_visible(timeout=60_000)
    boxes = [page.locator(f'{name} img').bounding_box() for name in ('#result', '#compared')]
    for side in ('y', 'width', 'height'):
        assert boxes[0][side] == pytest.approx(boxes[1][side], abs=1)
    assert boxes[0]['x'] + boxes[0]['width'] < boxes[1]['x']
    for name, checkpoint in (('#result', 'apart.pth'), ('#compared', 'short.pth')):
        assert checkpoint in page.locator(name).inner_text()


def test_video_plays(page, tmp_path):
    write_video(tmp_path / 'a.mp4', 5)
    page.get_by_role('tab', name='Video').click()
    page.locator('input[type=file]').last.set_input_files(tmp_path / 'a.mp4')
    expect(page.get_by_text('a.mp4')).to_be_visible()
    page.get_by_role('button', name='Predict').click()
    headline(page, '^5 frames')
    video = page.locator('#video video')
    expect(video).to_be_visible()
    page.wait_for_function('document.querySelector("#video video").readyState >= 2')
    assert video.evaluate('v => [v.videoWidth, v.videoHeight, v.duration]') == [160, 120, 0.5]
    assert download(page, 'video (MP4)').stat().st_size > 0


def test_stop_while_the_video_waits(page, browser_url, tmp_path):
    write_video(tmp_path / 'busy.mp4', 120, rate=60)
    write_video(tmp_path / 'a.mp4', 5)
    visitor = Client(browser_url, verbose=False, analytics_enabled=False)
    busy = visitor.submit(
        handle_file(tmp_path / 'busy.mp4'), 'apart.pth', 0, False, 0, api_name='/predict_video'
    )
    page.get_by_role('tab', name='Video').click()
    page.locator('input[type=file]').last.set_input_files(tmp_path / 'a.mp4')
    expect(page.get_by_text('a.mp4')).to_be_visible()
    page.get_by_role('button', name='Predict').click()
    expect(page.get_by_text('queue:')).to_be_visible()
    page.get_by_role('button', name='Stop').click()
    assert not busy.done()
    visitor.predict(api_name='/stop')
    expect(page.get_by_text('Stopped.')).to_be_visible(timeout=60_000)
    page.get_by_role('button', name='Predict').click()
    headline(page, '^5 frames')


def test_refused_files_get_a_message(page, large_scene, tmp_path):
    broken = tmp_path / 'broken.jpg'
    Image.open(large_scene).save(broken)
    broken.write_bytes(broken.read_bytes()[:-500])
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / 'large.png').write_bytes(bytes(int(demo_server.MAX_MEGABYTES * 2**20) + 1))
    for name, words in (
        ('broken.jpg', 'broken.jpg cannot be read as an image'),
        ('notes.txt', 'Invalid file type: notes.txt'),
        ('large.png', 'maximum allowed size'),
    ):
        upload(page, large_scene)
        expect(page.locator('#result img')).to_be_visible(timeout=60_000)
        page.get_by_label('Clear').first.click()
        expect(page.locator('#result img')).to_have_count(0)
        upload(page, tmp_path / name)
        message = page.get_by_test_id('toast-body').filter(has_text=words)
        expect(message).to_be_visible()
        expect(page.locator('#result img')).to_have_count(0)
        assert 'Traceback' not in page.inner_text('body')
        page.reload()
