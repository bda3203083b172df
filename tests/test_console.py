"""Progress where there is no terminal."""

from effvim import console


def test_progress_of_a_video_is_printed_regularly(capsys, monkeypatch):
    monkeypatch.setattr(console, 'LINE_SECONDS', 0)
    with console.FrameProgress('street.mp4', 3) as bar:
        for _ in range(2):
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and bar.done == 2 and bar.rate > 0
    assert lines[1].startswith('street.mp4: 2 of about 3 frames, ')
    assert lines[1].endswith(' per second')
    with console.FrameProgress('street.mp4', 3, enabled=False) as bar:
        bar.advance()
    monkeypatch.setattr(console, 'LINE_SECONDS', 30)
    with console.FrameProgress('street.mp4', None) as bar:
        bar.advance()
    assert capsys.readouterr().err == ''
