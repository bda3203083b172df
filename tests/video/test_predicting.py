"""Videos: what is read is what is in the file, and what is written can be played."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from backbone import UserError
from effvim.inference import result_folders
from effvim.video.batch import output_names, predict_videos
from effvim.video.predicting import predict_video
from effvim.video.reading import UnreadableVideo
from effvim.video.settings import CODECS, VideoSettings
from effvim.video.writing import VideoWriter
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT
from tests.helpers.runs import files
from tests.helpers.videos import (
    COLOURS,
    ColourDetector,
    audio_packets,
    codecs,
    read_video,
    write_video,
)


def predict(source, out, **settings):
    """Predict a video by the colour of its objects; returns the result and the lines of JSON."""
    result = predict_video(
        ColourDetector(), source, out, VideoSettings(json=True, **settings), progress=False
    )
    text = (out / f'videos/{source.stem}.jsonl').read_text()
    return result, [json.loads(line) for line in text.splitlines()]


def assert_at(line, boxes):
    """A line of JSON has the objects of a frame where they are, cut off at its edges."""
    by_class = {one['class']: one['bbox'] for one in line['objects']}
    for name, box in zip(('red', 'blue'), np.clip(boxes, 0, (160, 120, 160, 120))):
        if box[2] - box[0] > 10 and box[3] - box[1] > 10:
            x, y, width, height = by_class[name]
            assert np.abs(np.subtract((x, y, x + width, y + height), box)).max() <= 16


def test_frames_times_and_audio_are_kept(tmp_path):
    """With irregular times, as phones record them; the audio is copied bit by bit."""
    times = np.cumsum([0, *[100, 30, 250, 40, 80] * 4]).tolist()[:20]
    boxes = write_video(tmp_path / 'a.mp4', times=times, audio='aac')
    result, lines = predict(tmp_path / 'a.mp4', tmp_path / 'out', score_thr=0.1)
    assert result.frames == 20 and not result.problems
    images, written = read_video(tmp_path / 'out/videos/a.mp4')
    np.testing.assert_allclose(written, np.array(times) / 1000, atol=1e-4)
    assert [line['frame'] for line in lines] == list(range(20))
    np.testing.assert_allclose([line['time'] for line in lines], np.array(times) / 1000, atol=1e-4)
    for line, boxes_of_frame in zip(lines, boxes):
        assert_at(line, boxes_of_frame)
    original, _ = read_video(tmp_path / 'a.mp4')
    assert images.shape == original.shape
    background = images[:, 100:, :20].astype(int) - original[:, 100:, :20]
    assert np.abs(background).mean() < 3  # colours stay
    assert (images[0] != original[0]).mean() > 0.02  # and the boxes are drawn
    assert audio_packets(tmp_path / 'out/videos/a.mp4') == audio_packets(tmp_path / 'a.mp4')
    assert files(tmp_path / 'out').keys() == {'videos/a.mp4', 'videos/a.jsonl'}


@pytest.mark.parametrize('rotation, turns', [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path, rotation, turns):
    """Frames and boxes are those of the rotated image, and the output has no rotation left."""
    write_video(tmp_path / 'a.mp4', 6, rotation=rotation)
    _, lines = predict(tmp_path / 'a.mp4', tmp_path / 'out')
    stored, _ = read_video(tmp_path / 'a.mp4')
    written, _ = read_video(tmp_path / 'out/videos/a.mp4')
    expected = np.rot90(stored[2], turns)
    assert written[2].shape == expected.shape
    for name, colour in zip(('red', 'blue'), COLOURS):
        ys, xs = np.nonzero(np.abs(expected.astype(int) - colour).sum(2) < 150)
        (box,) = [one['bbox'] for one in lines[2]['objects'] if one['class'] == name]
        np.testing.assert_allclose(box[:2], (xs.min(), ys.min()), atol=1)
        np.testing.assert_allclose(box[2:], (np.ptp(xs) + 1, np.ptp(ys) + 1), atol=2)


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'ts', 'avi'])
def test_start_end_and_stride(tmp_path, suffix):
    """In formats with an index and without."""
    codec = 'mpeg4' if suffix == 'avi' else 'libx264'
    path = tmp_path / f'a.{suffix}'
    boxes = write_video(path, 40, codec=codec, audio='libmp3lame' if suffix == 'avi' else 'aac')
    _, whole = predict(path, tmp_path / 'whole', score_thr=0.1)
    assert [line['frame'] for line in whole] == list(range(40))
    _, lines = predict(path, tmp_path / 'out', start=1.55, end=3.45, stride=3, score_thr=0.1)
    times = [line['time'] for line in lines]
    assert times[0] >= 1.55 and times[-1] < 3.45 and len(times) in (6, 7)
    np.testing.assert_allclose(np.diff(times), 0.3, atol=0.002)
    by_time = {line['time']: line for line in whole}
    for line in lines:
        assert line['objects'] == by_time[line['time']]['objects']
        assert line['frame'] == pytest.approx(by_time[line['time']]['frame'], abs=suffix == 'avi')
        assert_at(line, boxes[by_time[line['time']]['frame']])
    _, written = read_video(tmp_path / 'out/videos/a.mp4')
    np.testing.assert_allclose(written, np.array(times) - 1.55, atol=0.001)
    sound = audio_packets(tmp_path / 'out/videos/a.mp4')
    assert -0.05 < sound[0][0] < 0.1 and 1.7 < sound[-1][0] < 2


@pytest.mark.parametrize('codec', CODECS)
def test_codecs(tmp_path, codec):
    write_video(tmp_path / 'a.webm', 6, size=(161, 119), codec='libvpx-vp9')
    predict(tmp_path / 'a.webm', tmp_path / 'out', codec=codec)
    path = tmp_path / 'out/videos/a.mp4'
    assert codecs(path) == [codec]
    images, times = read_video(path)
    assert images.shape == (6, 120, 162, 3)  # an edge is doubled, since codecs need even sizes
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-4)


def test_the_stated_duration_is_that_of_the_frames(tmp_path):
    """Players stop there, also where the frame rate varies."""
    times = [0, 40, 80, 500, 540, 1000, 1040, 1100, 2000, 2040, 2500, 3000]
    write_video(tmp_path / 'a.mkv', 12, times=times)
    predict(tmp_path / 'a.mkv', tmp_path / 'out')
    with av.open(tmp_path / 'out/videos/a.mp4') as container:
        stream = container.streams.video[0]
        assert 3 < stream.duration * stream.time_base < 3.3
        assert 3 < container.duration / 1e6 < 3.3


# AVI and Matroska do not say which of two channels is the left one
@pytest.mark.parametrize(
    'name, audio',
    [('a.mov', 'pcm_s16le'), ('a.mkv', 'pcm_s16le'), ('a.avi', 'pcm_s16le'), ('a.avi', 'adpcm_ms')],
)
def test_audio_that_the_container_does_not_take_is_encoded(tmp_path, capsys, name, audio):
    codec = 'mpeg4' if name == 'a.avi' else 'libx264'
    write_video(tmp_path / name, audio=audio, codec=codec)
    predict(tmp_path / name, tmp_path / 'out')
    assert capsys.readouterr().err == ''
    assert codecs(tmp_path / 'out/videos/a.mp4') == ['h264', 'aac']
    sound = audio_packets(tmp_path / 'out/videos/a.mp4')
    assert sound[0][0] == pytest.approx(0, abs=0.05) and sound[-1][0] == pytest.approx(2, abs=0.1)


def test_audio_of_an_unknown_codec_is_not_kept(tmp_path, capsys):
    write_video(tmp_path / 'a.mkv', audio='aac')
    content = (tmp_path / 'a.mkv').read_bytes()
    (tmp_path / 'a.mkv').write_bytes(content.replace(b'A_AAC', b'A_XYZ'))
    result, lines = predict(tmp_path / 'a.mkv', tmp_path / 'out')
    assert len(lines) == 20 and not result.problems
    assert codecs(tmp_path / 'out/videos/a.mp4') == ['h264']
    err = capsys.readouterr().err
    assert err.startswith('warning: ') and 'the audio is not kept: ' in err and err.count('\n') == 1


def test_frames_that_a_codec_does_not_take(tmp_path):
    write_video(tmp_path / 'a.mkv', 2, size=(17000, 64), codec='ffv1')
    with pytest.raises(UnreadableVideo, match='a.mkv: frames of 17000 × 64 pixels cannot be enc'):
        predict(tmp_path / 'a.mkv', tmp_path / 'out')
    assert not files(tmp_path / 'out')


def test_a_source_is_never_replaced(tmp_path):
    (tmp_path / 'videos').mkdir()
    source = tmp_path / 'videos/a.mp4'
    write_video(source, 2)
    content = source.read_bytes()
    write_video(tmp_path / 'b.mkv', 2)
    with pytest.raises(UserError, match='videos holds files that effvim infer has not written'):
        predict(tmp_path / 'b.mkv', tmp_path)
    result_folders.claim(tmp_path / 'videos')
    with pytest.raises(UserError, match=r'videos/a\.mp4 would be replaced by an annotated video'):
        predict(source, tmp_path)
    write_video(tmp_path / 'a.mkv', 2)
    with pytest.raises(UserError, match=r'videos/a\.mp4 would be replaced by an annotated video'):
        both = [tmp_path / 'a.mkv', source]
        predict_videos(ColourDetector(), both, [], tmp_path, VideoSettings())
    assert source.read_bytes() == content


def test_names_of_outputs_differ():
    live = ['rtsp://me:secret@host/live?channel=1', 'rtsp://host/live?channel=2', '0']
    videos = [Path('/v/a.mp4'), Path('/v/a.mkv'), Path('/v/b.mp4'), Path('/v/host-live.mp4')]
    assert output_names(videos, live) == [
        *('a.mp4', 'a.mkv', 'b', 'host-live', 'host-live-2', 'host-live-3', 'camera-0'),
    ]


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.avi'])
def test_a_truncated_video_is_predicted_as_far_as_it_goes(tmp_path, name):
    codec = 'mpeg4' if name == 'a.avi' else 'libx264'
    write_video(tmp_path / name, 40, codec=codec, movflags='faststart')
    content = (tmp_path / name).read_bytes()
    kept = 0.85 if name == 'a.avi' else 0.6
    (tmp_path / name).write_bytes(content[: round(kept * len(content))])
    result, lines = predict(tmp_path / name, tmp_path / 'out')
    assert 10 < result.frames < 35 and len(lines) == result.frames
    assert len(result.problems) == 1 and 'truncated' in result.problems[0]
    images, _ = read_video(tmp_path / 'out/videos/a.mp4')
    assert len(images) == result.frames


def test_damaged_packets_are_skipped(tmp_path):
    write_video(tmp_path / 'a.mp4', 40)
    content = bytearray((tmp_path / 'a.mp4').read_bytes())
    start = content.index(b'mdat') + 1500
    content[start : start + 300] = os.urandom(300)
    (tmp_path / 'a.mp4').write_bytes(content)
    result, lines = predict(tmp_path / 'a.mp4', tmp_path / 'out')
    assert 10 < len(lines) <= 40
    assert len(read_video(tmp_path / 'out/videos/a.mp4')[0]) == len(lines)
    assert len(result.problems) <= 1


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    write_video(tmp_path / 'a.mp4')
    (tmp_path / 'unknown.mp4').write_bytes(
        (tmp_path / 'a.mp4').read_bytes().replace(b'avc1', b'xyz1')
    )
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'letter.mp4').write_text('a letter')
    cases = [
        ('unknown.mp4', {}, 'no decoder for its video codec'),
        ('empty.mp4', {}, 'cannot be read as a video'),
        ('letter.mp4', {}, 'cannot be read as a video'),
        ('absent.mp4', {}, 'No such file'),
        ('a.mp4', {'start': 7}, r'ends at 2\.00 s'),
        (
            'a.mp4',
            {'zones': [[(0, 0), (500, 0), (0, 50)]]},
            r'outside the frames of .*a\.mp4, 160 × 120',
        ),
    ]
    for name, settings, message in cases:
        with pytest.raises(UnreadableVideo, match=message) as caught:
            predict(tmp_path / name, tmp_path / 'out', **settings)
        assert name in str(caught.value)
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out').exists() or not files(tmp_path / 'out')


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'codec': 'theora'}, 'choose from h264, vp9'),
        ({'track': 'magic'}, 'choose from bytetrack'),
        ({'start': 3, 'end': 2}, 'must be after --start'),
        ({'mot': True}, 'add --track'),
        ({'lines': [[(0, 0), (5, 5)]]}, 'add --track'),
        ({'zones': [[(0, 0), (5, 5)]]}, 'at least three points'),
        ({'classes': ['rad']}, 'did you mean red'),
        ({'stride': 0}, 'at least 1'),
        ({'start': float('nan')}, '--start and --reconnect at least 0'),
        ({'end': float('nan')}, 'must be after --start'),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    write_video(tmp_path / 'a.mp4', 3)
    with pytest.raises(UserError, match=message):
        predict(tmp_path / 'a.mp4', tmp_path / 'out', **settings)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'content',
    [
        '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}/a.ts\n#EXT-X-ENDLIST\n',
        'ffconcat version 1.0\nfile {address}/a.ts\n',
    ],
)
def test_a_file_never_makes_a_server_be_contacted(tmp_path, content):
    """A playlist under the name of a video is no video."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(0.2)
        address = f'http://127.0.0.1:{server.getsockname()[1]}'
        (tmp_path / 'a.mp4').write_text(content.format(address=address))
        with pytest.raises(UnreadableVideo, match='cannot be read as a video'):
            predict(tmp_path / 'a.mp4', tmp_path / 'out')
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    write_video(tmp_path / 'a.mp4', 3)
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(UserError, match='cannot be written: No space left on device'):
        predict(tmp_path / 'a.mp4', tmp_path / 'out')
    assert not files(tmp_path / 'out')


def test_the_command_predicts_videos_next_to_images(detector, tmp_path):
    """Of a directory, with a truncated video; names that would be equal keep their suffix."""
    folder = tmp_path / 'in'
    folder.mkdir()
    write_video(folder / 'a.mp4', 4)
    write_video(folder / 'a.mkv', 4)
    write_video(folder / 'cut.mp4', 40, movflags='faststart')
    content = (folder / 'cut.mp4').read_bytes()
    (folder / 'cut.mp4').write_bytes(content[: len(content) * 7 // 10])
    (folder / 'image.png').write_bytes(sorted(detector.val.iterdir())[0].read_bytes())
    flags = ('--json', '--score-thr', '0', '--stride', '2', '--track', '--mot')
    out, err, written = detector.infer(tmp_path / 'out', folder, *flags, status=1)
    assert written.keys() == {
        *('images/image.png', 'images.json', 'detections.bbox.json'),
        *(f'videos/{name}.{suffix}' for name in ('a.mp4', 'a.mkv', 'cut') for suffix in ('mp4',)),
        *(f'videos/{name}.jsonl' for name in ('a.mp4', 'a.mkv', 'cut')),
        *(f'mot/{name}.txt' for name in ('a.mp4', 'a.mkv', 'cut')),
    }
    assert '1 of 1 images done' in out and out.count(' 2 frames done') == 2
    assert 'Traceback' not in err and err.count('truncated') == 1
    assert len(read_video(written['videos/a.mkv.mp4'])[0]) == 2


def test_a_segmentor_colours_videos(run_of, tmp_path):
    run = run_of('semfpn')
    write_video(tmp_path / 'a.mp4', 3)
    _, _, written = run.infer(tmp_path / 'out', tmp_path / 'a.mp4', '--json')
    assert read_video(written['videos/a.mp4'])[0].shape == (3, 120, 160, 3)
    lines = [json.loads(line) for line in written['videos/a.jsonl'].read_text().splitlines()]
    assert [sum(r['pixels'] for r in line['regions']) for line in lines] == [120 * 160] * 3
    run.infer(tmp_path / 'out', tmp_path / 'a.mp4', '--track', status=2)


def test_ctrl_c_leaves_a_file_that_can_be_played(detector, tmp_path):
    write_video(tmp_path / 'a.mp4', 2000, size=(64, 48), audio='aac')
    out = tmp_path / 'out'
    argv = [detector.checkpoint, tmp_path / 'a.mp4', '--out', out, '--json']
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/infer.py'), *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    lines = lambda: sum(  # noqa: E731
        path.read_bytes().count(b'\n') for path in out.rglob('.a.jsonl.*')
    )
    for _ in range(1200):
        time.sleep(0.1)
        if process.poll() is not None or lines() > 5:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith('interrupted\n'), err
    assert files(out).keys() == {'videos/a.mp4', 'videos/a.jsonl'}
    images, _ = read_video(out / 'videos/a.mp4')
    assert 5 < len(images) < 2000
    assert (out / 'videos/a.jsonl').read_text().count('\n') == len(images)
    assert audio_packets(out / 'videos/a.mp4')


def test_ctrl_c_while_a_frame_is_written(detector, tmp_path, monkeypatch):
    write_video(tmp_path / 'a.mp4', 20, size=(64, 48))
    write, numbers = VideoWriter.write, itertools.count(1)

    def interrupted(self, *args):
        write(self, *args)
        if next(numbers) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(VideoWriter, 'write', interrupted)
    out = tmp_path / 'out'
    argv = [str(detector.checkpoint), str(tmp_path / 'a.mp4'), '--out', str(out), '--json']
    assert run_command('infer', argv) == 130
    assert len(read_video(out / 'videos/a.mp4')[0]) == 3
    assert (out / 'videos/a.jsonl').read_text().count('\n') == 3


@pytest.mark.parametrize('times', [1, 2])
def test_ctrl_c_while_a_video_is_completed(detector, times, tmp_path, monkeypatch):
    """The first one keeps the files, the second discards them."""
    write_video(tmp_path / 'a.mp4', 5, size=(64, 48))
    close = VideoWriter.close

    def interrupted(self, *args):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        close(self, *args)

    monkeypatch.setattr(VideoWriter, 'close', interrupted)
    out = tmp_path / 'out'
    argv = [str(detector.checkpoint), str(tmp_path / 'a.mp4'), '--out', str(out), '--json']
    assert run_command('infer', argv) == 130
    assert files(out).keys() == ({'videos/a.mp4', 'videos/a.jsonl'} if times == 1 else set())


def test_videos_need_their_extra(detector, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / 'a.mp4', 2)
    argv = [str(detector.checkpoint), str(tmp_path / 'a.mp4'), '--out', str(tmp_path / 'out')]
    for module, flags in (('av', []), ('trackers', ['--track'])):
        monkeypatch.setattr('importlib.util.find_spec', lambda name, m=module: name != m or None)
        assert run_command('infer', [*argv, *flags]) == 2
        err = capsys.readouterr().err
        assert "pip install '.[video]'" in err and err.count('\n') == 1
    monkeypatch.undo()
    image = str(sorted(detector.val.iterdir())[0])
    assert run_command('infer', [argv[0], image, *argv[2:], '--track']) == 2
    assert 'there is no video among the sources' in capsys.readouterr().err
