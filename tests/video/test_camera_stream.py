"""Live streams over loopback HTTP, and a camera that FFmpeg generates."""

import contextlib
import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from effvim.video import camera_stream, pyav, reading
from effvim.video.camera_stream import CameraInput, LiveStream, open_live
from effvim.video.predicting import open_video, predict_video
from effvim.video.reading import UnreadableVideo, VideoFile
from effvim.video.settings import VideoSettings
from tests.helpers.runs import files
from tests.helpers.videos import LIVE_FRAMES, ColourDetector, read_video, write_video


@contextlib.contextmanager
def serving(handler):
    """The address of a server on the loopback."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def live_server(content, seconds=4.0, connections=10):
    """A handler that sends an MPEG transport stream as slowly as a camera, and then cuts it off.

    After some connections it refuses.
    """

    class Handler(BaseHTTPRequestHandler):
        served = 0

        def do_GET(self):
            Handler.served += 1
            if Handler.served > connections:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header('Content-Type', 'video/mp2t')
            self.end_headers()
            pieces = 40
            size = len(content) // pieces
            with contextlib.suppress(ConnectionError):
                for i in range(pieces):
                    self.wfile.write(content[i * size : (i + 1) * size])
                    time.sleep(seconds / pieces)

        def log_message(self, *_):
            pass

    return Handler


def test_the_newest_frame_is_given(transport_stream):
    """Whoever is slow misses frames instead of falling behind."""
    with (
        serving(live_server(transport_stream)) as address,
        LiveStream(f'{address}/live.ts', retries=0) as stream,
    ):
        started, seen = time.monotonic(), []
        for frame in stream.frames():
            seen.append((frame.number, frame.time))
            time.sleep(0.25)
        (problem,) = stream.problems
        assert problem.startswith('the connection is lost: ')
    numbers = [number for number, _ in seen]
    assert 3 <= len(seen) <= 20 and numbers == sorted(set(numbers))
    assert max(b - a for a, b in itertools.pairwise(numbers)) > 1
    assert numbers[-1] >= LIVE_FRAMES - 8
    assert 1 < seen[-1][1] <= time.monotonic() - started


def test_a_lost_connection_is_opened_again(transport_stream, tmp_path, capsys):
    """Twice, with longer and longer waits, and given up in the end; the video has all of it."""
    handler = live_server(transport_stream, seconds=1, connections=3)
    with serving(handler) as address:
        source = f'{address}/live.ts'
        stream = LiveStream(source, retries=2, wait=0.2)
        with stream:
            times = [frame.time for frame in stream.frames()]
    err = capsys.readouterr().err
    assert handler.served == 5 and times == sorted(times)
    (problem,) = stream.problems
    assert problem.startswith('the connection is lost: ') and '404' in problem
    assert err.count('connecting again in 0.2 s (1 of 2)') == 3
    assert err.count('connecting again in 0.4 s (2 of 2)') == 1
    assert 2 < times[-1] < 10


def test_a_stream_is_predicted_until_its_end(transport_stream, tmp_path):
    with serving(live_server(transport_stream)) as address:
        result = predict_video(
            ColourDetector(),
            f'{address}/live.ts',
            tmp_path / 'out',
            VideoSettings(json=True, track='bytetrack', end=1.0, reconnect=0),
            progress=False,
        )
    (video,) = (tmp_path / 'out/videos').glob('*.mp4')
    lines = [json.loads(line) for line in video.with_suffix('.jsonl').open()]
    _, times = read_video(video)
    assert result.frames == len(lines) == len(times) > 3
    assert not result.problems and lines[-1]['time'] < 1
    assert any(one['track_id'] for line in lines for one in line['objects'])


def test_a_file_behind_an_address_is_read_like_a_file(tmp_path, monkeypatch):
    """Each frame of it, and its audio."""
    write_video(tmp_path / 'a.mp4', 30, audio='aac', movflags='faststart')
    monkeypatch.chdir(tmp_path)
    handler = type('Quiet', (SimpleHTTPRequestHandler,), {'log_message': lambda *_: None})
    with serving(handler) as address:
        source = f'{address}/a.mp4'
        with open_video(source) as video:
            assert isinstance(video, VideoFile)
        result = predict_video(ColourDetector(), source, tmp_path / 'out', progress=False)
    assert result.frames == 30 and not result.problems
    (video,) = (tmp_path / 'out/videos').glob('*.mp4')
    assert len(read_video(video)[0]) == 30


def test_a_file_of_unstated_duration_ends(tmp_path, monkeypatch):
    """It is not opened again and again like a stream, and an image is no video."""
    write_video(tmp_path / 'a.ts', 10)
    Image.new('RGB', (64, 48)).save(tmp_path / 'a.png')
    Image.new('RGB', (64, 48)).save(tmp_path / 'a.jpg')
    monkeypatch.chdir(tmp_path)
    handler = type('Quiet', (SimpleHTTPRequestHandler,), {'log_message': lambda *_: None})
    with serving(handler) as address:
        result = predict_video(ColourDetector(), f'{address}/a.ts', tmp_path / 'out')
        for name in ('a.png', 'a.jpg'):
            with pytest.raises(UnreadableVideo, match=f'{name} is an image, not a video: download'):
                open_video(f'{address}/{name}')
    assert result.frames == 10 and not result.problems


def test_streams_that_cannot_be_reached(tmp_path):
    with (
        serving(live_server(b'', connections=0)) as address,
        pytest.raises(UnreadableVideo, match=r'live\.ts cannot be read .*404'),
    ):
        open_live(f'{address}/live.ts?password=1')
    started = time.monotonic()
    with pytest.raises(UnreadableVideo, match='cannot be read as a video') as caught:
        open_live(f'{address.replace("://", "://user:secret@")}/live.ts?password=1')
    assert 'secret' not in str(caught.value) and 'password' not in str(caught.value)
    assert '\n' not in str(caught.value) and time.monotonic() - started < 15


def test_sources_that_are_absent_are_skipped(detector, tmp_path):
    """By the command: a camera that does not exist and a closed port, one line each."""
    write_video(tmp_path / 'a.mp4', 2)
    out, err, written = detector.infer(
        tmp_path / 'out', '99', 'http://127.0.0.1:9/live', tmp_path / 'a.mp4', status=1
    )
    assert written.keys() == {'videos/a.mp4'} and '2 frames done' in out
    assert [line.split(' cannot')[0] for line in err.splitlines()] == [
        'skipped: camera 99',
        'skipped: http://127.0.0.1:9/live',
    ]


def test_a_camera(tmp_path, monkeypatch):
    """Stands in for a device: FFmpeg's generator, opened as a device is."""
    generated = CameraInput('lavfi', 'testsrc=size=160x120:rate=20,realtime')
    monkeypatch.setitem(camera_stream.CAMERAS, sys.platform, generated)
    settings = VideoSettings(json=True, end=1.5, stride=2)
    result = predict_video(ColourDetector(), '0', tmp_path / 'out', settings, progress=False)
    assert files(tmp_path / 'out').keys() == {'videos/camera-0.mp4', 'videos/camera-0.jsonl'}
    lines = [json.loads(line) for line in (tmp_path / 'out/videos/camera-0.jsonl').open()]
    assert result.frames == len(lines) and 5 < len(lines) <= 16
    assert all(line['frame'] % 2 == 0 for line in lines)


def test_cameras_of_other_systems(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'win32')
    with pytest.raises(UnreadableVideo, match='on Linux and macOS only'):
        open_live('0')
    assert not Path('0').exists()


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    """Of a stream as of a file: memory is needed for each of them."""
    path = str(tmp_path / 'a.mp4')
    write_video(path, 2, size=(160, 120))
    monkeypatch.setattr(reading, 'MAX_PIXELS', 160 * 120 - 1)
    with pytest.raises(UnreadableVideo, match='160 × 120 pixels are too large'):
        VideoFile(path, 'a.mp4')
    with pytest.raises(UnreadableVideo, match='160 × 120 pixels are too large'):
        LiveStream('0', pyav.load().open(path))
