"""Videos on the page of `effvim demo`, by its HTTP interface."""

import json
import os
import re
import sys
import time
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from backbone.errors import UserError
from effvim.inference.predictor import Predictor
from effvim.video.predicting import predict_video
from effvim.video.settings import VideoSettings
from effvim.video.writing import VideoWriter
from effvim.web_page import inputs, video
from tests.helpers import demo_server
from tests.helpers.paths import ROOT
from tests.helpers.runs import TEST
from tests.helpers.videos import ColourDetector, audio_packets, codecs, read_video, write_video

CONFIG = ROOT / 'configs/retinanet_effvim_m1.py'
RATE = 60  # frames per second of a video that takes a while
LONG = RATE * demo_server.MAX_SECONDS


class Answer:
    """What the tab shows after a request."""

    def __init__(self, answer):
        video, self.text, mp4, lines = answer
        self.usable = mp4['interactive'], lines['interactive']
        self.shown = video
        self.mp4, self.lines = mp4['value'], lines['value']

    @property
    def content(self):
        return [json.loads(line) for line in Path(self.lines).read_text().splitlines()]


def asked(path, tile=0, track=False, score_thr=0, checkpoint='apart.pth'):
    return handle_file(path), checkpoint, tile, track, score_thr


def ask(client, *args, **kwargs):
    return Answer(client.predict(*asked(*args, **kwargs), api_name='/predict_video'))


@pytest.mark.parametrize('tile, track', [(0, False), (320, True)])
def test_upload_shows_what_the_command_predicts(client, page_checkpoints, tmp_path, tile, track):
    path = tmp_path / 'street.mp4'
    size = (400, 160) if tile else (160, 120)
    write_video(path, 8, size=size, audio='aac')
    for checkpoint in page_checkpoints:
        name = Path(checkpoint).name
        answer = ask(client, path, tile, track, checkpoint=name)
        assert answer.usable == (True, True)
        assert [Path(p).name for p in (answer.mp4, answer.lines)] == [
            'street_prediction.mp4',
            'street_prediction.jsonl',
        ]
        assert answer.text.startswith('**8 frames**') and f'{size[0]} × {size[1]}' in answer.text
        predictor = Predictor(CONFIG, checkpoint, options=TEST['retinanet'], tile=tile or None)
        settings = VideoSettings(json=True, score_thr=0, track='bytetrack' if track else None)
        predict_video(predictor, path, tmp_path / name, settings, progress=False)
        expected = (tmp_path / name / 'videos/street.jsonl').read_text()
        assert Path(answer.lines).read_text() == expected
        objects = answer.content[-1]['objects']
        assert len(objects) and ('track_id' in objects[0]) == track
        images, times = read_video(answer.shown)
        np.testing.assert_array_equal(images, read_video(tmp_path / name / 'videos/street.mp4')[0])
        np.testing.assert_allclose(times, np.arange(8) / 10, atol=1e-4)
        assert Path(answer.mp4).read_bytes() == Path(answer.shown).read_bytes()
        assert codecs(answer.mp4) == ['h264', 'aac']  # which every browser plays
        assert audio_packets(answer.mp4)


def test_a_longer_video_is_cut(client, tmp_path):
    write_video(tmp_path / 'long.mp4', 25)
    answer = ask(client, tmp_path / 'long.mp4')
    assert answer.text.startswith('**20 frames; the first 2 of 2.5 seconds**')
    assert [line['frame'] for line in answer.content] == list(range(20))


def test_a_video_of_very_many_frames_is_cut(client, tmp_path):
    limit = video.MAX_RATE * demo_server.MAX_SECONDS
    write_video(tmp_path / 'fast.mp4', limit + 10, times=range(limit + 10))  # milliseconds
    answer = ask(client, tmp_path / 'fast.mp4')
    assert answer.text.startswith(f'**{limit} frames; no more than {limit} are predicted**')
    assert len(answer.content) == limit == len(read_video(answer.shown)[0])


def test_a_truncated_video_is_named(client, tmp_path):
    write_video(tmp_path / 'whole.mp4', 20, movflags='faststart')
    content = (tmp_path / 'whole.mp4').read_bytes()
    (tmp_path / 'cut.mp4').write_bytes(content[: len(content) * 2 // 3])
    answer = ask(client, tmp_path / 'cut.mp4')
    assert re.match(r'\*\*\d+ frames; .*(truncated|decoded)', answer.text)
    assert 0 < len(answer.content) < 20 and answer.shown


def broken_files(folder):
    """Write files that are refused; the names, each with a word of its message."""
    (folder / 'text.mp4').write_text('no video')
    (folder / 'empty.mp4').touch()
    (folder / '<b>bold.mp4').write_text('no video')
    # FFmpeg would open it again and again
    (folder / 'list.mp4').write_text('ffconcat version 1.0\nfile list.mp4\n')
    Image.new('RGB', (64, 64)).save(folder / 'image.png')
    (folder / 'image.png').rename(folder / 'image.mp4')
    write_video(folder / 'large.mp4', 1, size=(8000, 4002))
    return {
        'text.mp4': 'cannot be read as a video',
        'empty.mp4': 'cannot be read as a video',
        '<b>bold.mp4': 'cannot be read as a video',
        'list.mp4': 'not accepted',
        'image.mp4': 'not accepted',
        'large.mp4': 'megapixels',
    }


def test_refused_files_get_a_message_and_the_page_keeps_working(client, tmp_path):
    for name, word in broken_files(tmp_path).items():
        answer = ask(client, tmp_path / name)
        assert (answer.shown, answer.mp4, answer.lines) == (None, None, None), name
        assert answer.usable == (False, False)
        assert word in answer.text and '/' not in answer.text and '<' not in answer.text
        assert Path(name).stem[-4:] in answer.text
    nothing = client.predict(None, 'apart.pth', 0, False, 0.3, api_name='/predict_video')
    assert Answer(nothing).text == 'Choose a video first.'
    write_video(tmp_path / 'good.mp4', 3)
    assert ask(client, tmp_path / 'good.mp4').text.startswith('**3 frames**')


def begin(client, folder):
    """Begin to predict a video that takes a while; returns when frames are being predicted."""
    write_video(folder / 'busy.mp4', LONG, rate=RATE)
    job = client.submit(*asked(folder / 'busy.mp4'), api_name='/predict_video')
    deadline = time.monotonic() + 60
    while not (done := job.status().progress_data) or not done[0].index:
        assert time.monotonic() < deadline and not job.done(), job.status()
        time.sleep(0.02)
    assert done[0].length == LONG and done[0].unit == 'frames'
    return job


def test_stop_gives_what_is_done(client, tmp_path):
    job = begin(client, tmp_path)
    client.predict(api_name='/stop')
    answer = Answer(job.result(timeout=60))
    frames = len(answer.content)
    assert 0 < frames < LONG
    assert answer.text.startswith(f'**{frames} frame') and '; stopped**' in answer.text
    assert len(read_video(answer.shown)[0]) == frames


def test_stop_while_the_video_waits(client, page_url, tmp_path):
    """Another visitor's video comes first."""
    visitor = Client(page_url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    write_video(tmp_path / 'waiting.mp4', 3)
    busy = begin(client, tmp_path)
    visitor.predict(api_name='/enter')  # as the button does
    waiting = visitor.submit(*asked(tmp_path / 'waiting.mp4'), api_name='/predict_video')
    visitor.predict(api_name='/stop')
    assert not busy.done()
    client.predict(api_name='/stop')
    assert '; stopped**' in Answer(busy.result(timeout=60)).text
    answer = Answer(waiting.result(timeout=60))
    assert (answer.text, answer.shown, answer.usable) == ('Stopped.', None, (False, False))
    visitor.predict(api_name='/stop')  # nothing waits: the next video is not stopped
    visitor.predict(api_name='/enter')
    assert ask(visitor, tmp_path / 'waiting.mp4').text.startswith('**3 frames**')


def test_a_full_disk_is_explained_to_the_server_alone(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    monkeypatch.setattr(VideoWriter, 'write', full)
    path = tmp_path / 'street.mp4'
    write_video(path, 3)
    with pytest.raises(UserError) as raised:
        predict_video(ColourDetector(), path, tmp_path / 'results', progress=False)
    text = inputs.refusal(raised.value, str(path))
    assert 'cannot be written' in text and '/' not in text and '--out' not in text
    assert f'{tmp_path}/results cannot be written: No space left' in capsys.readouterr().err


def test_empty_folders_are_removed(tmp_path, monkeypatch):
    """Gradio deletes files alone; a young folder may be about to get one."""
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    for name in ('old/videos', 'young', 'used'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'used/a.png').touch()
    for path in [tmp_path, *tmp_path.rglob('*')]:
        if path.name != 'young':
            os.utime(path, (0, 0))
    for _ in range(2):  # the inner folder, later the outer one
        inputs.remove_empty_folders()
        if (tmp_path / 'old').exists():
            os.utime(tmp_path / 'old', (0, 0))
    assert {path.name for path in tmp_path.iterdir()} == {'young', 'used'}


def test_without_pyav_the_tab_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with gr.Blocks() as page:
        video.add({}, False, video.VideoJobs(60))
    (component,) = page.config['components']
    assert component['type'] == 'markdown'
    assert "pip install '.[video]'" in component['props']['value']


def test_the_server_ends_in_the_middle_of_a_video(client, tmp_path):
    """What it leaves then is checked by demo_server.serving."""
    assert not begin(client, tmp_path).done()
