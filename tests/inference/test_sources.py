"""What the words of `effvim infer` name."""

import io
import re
import subprocess
import sys

import pytest

from backbone import UserError
from effvim.inference.sources import file_name, find_sources, output_stems, public_name
from tests.helpers.paths import ROOT


def names(sources, folder):
    return [
        [str(path.relative_to(folder)) for path in paths]
        for paths in (sources.images, sources.videos)
    ]


def test_files_directories_and_patterns(mixed):
    assert names(find_sources(['in', 'v.mp4'], 'out'), mixed) == [
        ['in/b.png', 'in/deep/c.jpg'],
        ['in/w.MOV', 'v.mp4'],
    ]
    assert names(find_sources(['*', 'a.jpg'], 'out'), mixed) == [['a.jpg'], ['v.mp4']]


def test_sources_below_the_output_directory(mixed):
    for given in ('in', 'in/*'):
        with pytest.raises(UserError, match=f'{re.escape(given)}: all .* output directory.*--out'):
            find_sources([given], '.')


def test_cameras_and_addresses(mixed):
    given = ['0', 'rtsp://user:secret@host:554/live/1?token=2', 'http://host/a.mp4', '0']
    sources = find_sources(given, 'out')
    assert sources.live == given[:3] and not sources.images
    assert [public_name(word) for word in given[:3]] == [
        'camera 0',
        'rtsp://host:554/live/1',
        'http://host/a.mp4',
    ]
    assert [file_name(word) for word in given[:3]] == ['camera-0', 'host-554-live-1', 'host-a.mp4']
    (mixed / '7').write_bytes((mixed / 'a.jpg').read_bytes())
    assert find_sources(['7'], 'out').images == [mixed / '7']
    with pytest.raises(UserError, match='ftp://host/a.mp4: there is no such image, video'):
        find_sources(['ftp://host/a.mp4'], 'out')


def test_a_list_of_paths(mixed):
    """Relative to the current directory, else to that of the list; lines that name nothing."""
    (mixed / 'lists/list.txt').write_text(
        f'a.jpg\n\nd.png\n{mixed}/v.mp4\nabsent.jpg\nin\n"quoted.jpg"\nnull\0.jpg\n'
    )
    sources = find_sources(['lists/list.txt'], 'out')
    assert names(sources, mixed) == [
        ['a.jpg', 'in/b.png', 'in/deep/c.jpg', 'lists/d.png'],
        ['in/w.MOV', 'v.mp4'],
    ]
    assert [line.split(': ')[0] for line in sources.unreadable] == [
        f'lists/list.txt, line {number}' for number in (5, 7, 8)
    ]
    assert 'absent.jpg: there is no such image' in sources.unreadable[0]


def test_standard_input(mixed):
    sources = find_sources(['-'], 'out', io.StringIO('a.jpg\nnone.jpg\nin/deep\n'))
    assert names(sources, mixed) == [['a.jpg', 'in/deep/c.jpg'], []]
    assert sources.unreadable[0].startswith('standard input, line 2: none.jpg')


@pytest.mark.parametrize(
    'given, content, message',
    [
        ('list.txt', b'\n', 'list.txt is empty'),
        ('list.txt', b'\xff\xfe\xfa', 'not text in UTF-8'),
        ('-', b'', 'standard input is empty'),
        ('list.txt', None, 'no such image, video or directory'),
    ],
)
def test_lists_that_are_none(mixed, given, content, message):
    if content is not None:
        (mixed / 'list.txt').write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_sources([given], 'out', io.StringIO(''))


def test_the_rest_of_a_list_is_predicted(detector, tmp_path):
    """Through the command and a pipe, as `find … | effvim infer CKPT - --out results`."""
    image = sorted(detector.val.iterdir())[0]
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / 'tools/infer.py'), str(detector.checkpoint), '-'),
            *('--out', str(tmp_path / 'out')),
        ],
        input=f'{image}\n{tmp_path}/absent.png\n',
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and '1 of 1 images done' in done.stdout, done.stderr
    assert done.stderr.count('\n') == 1
    assert 'skipped: standard input, line 2: ' in done.stderr
    assert (tmp_path / f'out/images/{image.name}.png').exists()


def test_a_line_of_a_list_whose_directory_looks_like_a_pattern(mixed):
    for folder in ('set[1]', 'set1'):
        (mixed / folder).mkdir()
        (mixed / folder / f'of_{folder[:4]}.jpg').write_bytes((mixed / 'a.jpg').read_bytes())
    (mixed / 'set[1]/list.txt').write_text('of*.jpg\n')
    sources = find_sources(['set[1]/list.txt'], 'out')
    assert names(sources, mixed)[0] == ['set[1]/of_set[.jpg'] and not sources.unreadable


def test_words_that_are_too_long_for_a_name(mixed):
    word = 'x' * 300 + '.jpg'
    with pytest.raises(UserError, match='there is no such image'):
        find_sources([word], 'out')
    (mixed / 'lists/list.txt').write_text(f'{word}\nd.png\n')
    sources = find_sources(['lists/list.txt'], 'out')
    assert names(sources, mixed)[0] == ['lists/d.png'] and len(sources.unreadable) == 1


@pytest.mark.parametrize(
    ('given', 'stems'),
    [
        (['a.jpg', 'b/c.png'], ['a', 'b/c']),
        (['a.jpg', 'a.png', 'b.png'], ['a.jpg', 'a.png', 'b']),
        (['a.jpg', 'a.png', 'a.jpg.bmp'], ['a.jpg', 'a.png', 'a.jpg.bmp']),
    ],
)
def test_names_of_results_differ(given, stems, tmp_path):
    assert output_stems([tmp_path / name for name in given]) == stems
