"""`effvim demo` by its HTTP interface; test_page_browser.py looks at the page itself."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pycocotools import mask as rle

from effvim.inference.prediction import Prediction
from effvim.inference.predictor import Predictor
from effvim.web_page import examples
from effvim.web_page.images import Asked, Shown, as_dict, headline
from tests.helpers import demo_server
from tests.helpers.cli import run_command
from tests.helpers.demo_server import answers, ask, threshold
from tests.helpers.paths import ROOT
from tests.helpers.runs import TEST

CONFIG = ROOT / 'configs/retinanet_effvim_m1.py'


def test_upload_shows_what_the_predictor_predicts(client, scene, page_checkpoints):
    scores = []
    for checkpoint in page_checkpoints:
        prediction = Predictor(CONFIG, checkpoint, options=TEST['retinanet'])(scene)
        assert len(prediction.scores) == 20
        name = Path(checkpoint).name
        answer = ask(client, scene, checkpoint)
        assert answer.usable == (True, True)
        assert Path(answer.png).name == 'scene_prediction.png'
        np.testing.assert_array_equal(Image.open(answer.path), prediction.draw(0))
        np.testing.assert_array_equal(Image.open(answer.png), prediction.draw(0))
        assert (np.asarray(Image.open(answer.png)) != prediction.image).any()
        content = answer.content
        assert (content['image'], content['checkpoint']) == ('scene.png', name)
        assert (content['height'], content['width']) == prediction.image.shape[:2]
        boxes = np.array([one['bbox'] for one in content['objects']])
        np.testing.assert_allclose(boxes[:, :2], prediction.boxes[:, :2], rtol=1e-6)
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], prediction.boxes[:, 2:], rtol=1e-5)
        np.testing.assert_array_equal(
            np.float32([one['score'] for one in content['objects']]), prediction.scores
        )
        assert [one['class'] for one in content['objects']] == [
            prediction.classes[label] for label in prediction.labels
        ]
        scores.append(prediction.scores)
    assert (scores[0] != scores[1]).any()


def test_threshold_changes_without_running_the_network(client, scene, page_checkpoints):
    first = ask(client, scene, page_checkpoints[0])
    scores = np.float32([one['score'] for one in first.content['objects']])
    spent = re.findall(r'(?:reading|network) \d+ ms', first.text)
    assert len(spent) == 2 and re.search(r'drawing \d+ ms', first.text)
    drawings = set()
    for index in (0, 5, 12, 19):
        least = float(np.nextafter(scores[index], 2, dtype=np.float32))  # above this one
        answer = threshold(client, least)
        number = (scores >= np.float32(least)).sum()
        assert number <= index
        assert len(answer.content['objects']) == number
        assert re.search(rf'\b{number} object' if number else 'no object with a score', answer.text)
        assert re.findall(r'(?:reading|network) \d+ ms', answer.text) == spent
        drawings.add(Path(answer.png).read_bytes())
    assert len(drawings) == 4


def test_tiles(client, large_scene, page_checkpoints):
    whole = ask(client, large_scene, page_checkpoints[0]).content
    answer = ask(client, large_scene, page_checkpoints[0], tile=320)
    predictor = Predictor(CONFIG, page_checkpoints[0], options=TEST['retinanet'], tile=320)
    prediction = predictor(large_scene)
    assert len(answer.content['objects']) == len(prediction.scores) > 20  # of several tiles
    np.testing.assert_array_equal(Image.open(answer.png), prediction.draw(0))
    assert answer.content['tile'] == 320 and 'tile' not in whole
    assert ask(client, large_scene, page_checkpoints[0]).content == whole


def test_two_checkpoints_are_compared(client, scene, page_checkpoints):
    alone = [ask(client, scene, checkpoint).content for checkpoint in page_checkpoints]
    names = [Path(checkpoint).name for checkpoint in page_checkpoints]
    client.predict(handle_file(scene), *names, 0, api_name='/predict')
    both = answers(client, 0)
    assert [answer.label for answer in both] == names
    assert [answer.content for answer in both] == alone
    assert [Path(answer.png).stem for answer in both] == ['scene_apart', 'scene_short']
    assert all(answer.text.startswith('**20 objects') for answer in both)
    scores = np.float32([one['score'] for one in alone[0]['objects']])
    middle = float(scores[9:11].mean())
    for answer, content in zip(answers(client, middle), alone):  # of one threshold
        kept = [one for one in content['objects'] if np.float32(one['score']) >= middle]
        assert answer.content['objects'] == kept
    client.predict(handle_file(scene), names[0], '', 0, api_name='/predict')
    again = threshold(client, 0)
    assert (again.label, again.content) == ('Result', alone[0])
    network = re.compile(r'network \d+ ms')  # which has not run again
    assert network.findall(again.text) == network.findall(both[0].text) != []


def broken_files(folder, image):
    """Write files that are no images; the names, each with a word of its message."""
    whole = Image.open(image)
    whole.save(folder / 'cut.jpg')
    (folder / 'cut.jpg').write_bytes((folder / 'cut.jpg').read_bytes()[:-500])
    (folder / 'text.jpg').write_text('no image')
    (folder / 'empty.png').touch()
    (folder / '<b>bold.png').write_text('no image')
    whole.save(folder / 'program.eps')  # PostScript: must reach no interpreter
    (folder / 'program.eps').rename(folder / 'program.jpg')
    Image.new('1', (8000, 8000)).save(folder / 'huge.png')
    return {
        'cut.jpg': 'truncated',
        'text.jpg': 'cannot',
        'empty.png': 'empty',
        '<b>bold.png': 'cannot',
        'program.jpg': 'cannot',
        'huge.png': 'megapixels',
    }


def test_corrupt_upload_gives_a_message_and_the_page_keeps_working(
    client, scene, page_checkpoints, tmp_path
):
    for name, word in broken_files(tmp_path, scene).items():
        assert ask(client, scene, page_checkpoints[0]).path
        answer = ask(client, tmp_path / name, page_checkpoints[0])
        assert (answer.path, answer.png, answer.json) == (None, None, None), name
        assert answer.usable == (False, False)
        assert word in answer.text and '/' not in answer.text, answer.text
        assert '<' not in answer.text
        assert Path(name).stem[-4:] in answer.text
    assert ask(client, scene, page_checkpoints[0]).path


def test_file_of_another_type_is_refused(client, page_checkpoints, tmp_path):
    (tmp_path / 'notes.txt').write_text('no image')
    with pytest.raises(AppError, match='Invalid file type'):
        ask(client, tmp_path / 'notes.txt', page_checkpoints[0])


def test_large_upload_is_refused(client, page_url, page_checkpoints, tmp_path):
    size = int(demo_server.MAX_MEGABYTES * 2**20)
    noise = np.random.RandomState(0).bytes(2 * size)
    for number, status in ((size - 10_000, 200), (size + 10_000, 413)):
        files = {'files': ('noise.png', noise[:number])}
        assert httpx.post(f'{page_url}/gradio_api/upload', files=files).status_code == status


def test_only_this_machine_has_access_and_no_other_is_contacted(page_url):
    answer = httpx.get(page_url)
    policy = answer.headers['content-security-policy']
    assert policy.startswith("default-src 'self' ") and 'http' not in policy
    assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text)
    with pytest.raises(ConnectionRefusedError):  # 127.0.0.2 is this machine, not the address given
        socket.create_connection(('127.0.0.2', urlsplit(page_url).port))
    # what it contacts by itself: see demo_server.serving


def test_examples(client, page_checkpoints, tmp_path):
    scene = client.predict(1, api_name='/example')
    assert ask(client, scene, page_checkpoints[0]).content['image'] == 'scene_2.png'
    for name in ('b.jpg', 'a.PNG', 'c.txt'):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / 'made').mkdir()
    copies = examples.collect_examples(str(tmp_path), tmp_path / 'made', segments=False)
    assert [p.name for p in copies] == ['a.PNG', 'b.jpg']
    assert [p.read_bytes() for p in copies] == [b'a.PNG', b'b.jpg']


@pytest.mark.parametrize(
    'mistake, words',
    [
        (['--launcher', 'pytorch'], '--launcher'),
        (['--max-megabytes', '0'], '--max-megabytes'),
        (['--max-megabytes', 'inf'], '--max-megabytes'),
        (['--port', '70000'], '--port 70000'),
        (['--host', 'no.such.host.invalid'], '--host no.such.host.invalid'),
        (['--examples', 'nowhere'], '--examples nowhere'),
        (['--max-seconds', 'nan'], '--max-seconds'),
        (['nowhere.pth'], 'nowhere.pth not found'),
        (['nowhere'], 'nowhere not found'),
        (['rtmdet_effvim_m1'], 'rtmdet_effvim_m1 has no published weights'),
        (['retinanet_effvim_m4', 'nowhere.pth'], 'nowhere.pth not found'),  # before it is fetched
        (['retinanet_effvim_m4'], 'retinanet_effvim_m4 cannot be fetched'),
    ],
)
def test_mistakes_end_in_one_line(mistake, words, page_checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('EFFVIM_CACHE', str(tmp_path))
    monkeypatch.setenv('EFFVIM_MIRROR', 'http://127.0.0.1:1')  # nobody listens there
    assert run_command('demo', [str(CONFIG), page_checkpoints[0], *mistake]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


def test_taken_port_is_named(page_url, page_checkpoints, capsys):
    port = str(urlsplit(page_url).port)
    assert run_command('demo', [str(CONFIG), page_checkpoints[0], '--port', port]) == 2
    error = capsys.readouterr().err
    assert f'--port {port}' in error and 'in use' in error and error.count('\n') == 1


def test_without_gradio_says_how_to_get_it(page_checkpoints):
    code = (
        'import sys; sys.modules["gradio"] = None; from effvim.cli import main; '
        'sys.exit(main.run(["demo", *sys.argv[1:]]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(CONFIG), page_checkpoints[0]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install '.[demo]'" in done.stderr and done.stderr.count('\n') == 1


def test_masks_and_regions_are_in_the_json():
    random = np.random.RandomState(0)
    about = dict(image=np.zeros((9, 7, 3), np.uint8), classes=('disc', 'cross'))
    masks = random.rand(2, 9, 7) < 0.5
    prediction = Prediction(
        **about,
        boxes=np.float32([[1, 2, 5, 8], [0, 0, 3, 3]]),
        scores=np.float32([0.75, 0.5]),
        labels=np.array([1, 0]),
        masks=masks,
    )
    for score_thr, number in ((0.5, 2), (0.6, 1)):
        objects = as_dict(Shown(Asked('a', 'c'), prediction, (0, 0)), score_thr)['objects']
        assert len(objects) == number
        for one, mask in zip(objects, masks):
            np.testing.assert_array_equal(rle.decode(one['segmentation']), mask)
    assert objects == [
        {
            'class': 'cross',
            'score': 0.75,
            'bbox': [1, 2, 4, 6],
            'segmentation': objects[0]['segmentation'],
        }
    ]

    labels = np.zeros((9, 7), np.int64)
    labels[2:, 1:] = 1
    content = as_dict(Shown(Asked('a', 'c'), Prediction(**about, label_map=labels), (0, 0)), 0.5)
    assert [(r['class'], r['pixels']) for r in content['regions']] == [('cross', 42), ('disc', 21)]
    for region, label in zip(content['regions'], (1, 0)):
        np.testing.assert_array_equal(rle.decode(region['segmentation']), labels == label)
    assert headline(content) == 'cross 67%, disc 33%'
