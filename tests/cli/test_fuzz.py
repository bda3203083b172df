"""Properties, by hypothesis: input is accepted or rejected as a whole.

The examples are the same in every run (`derandomize`).
"""

import copy
import io
import json
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from PIL import Image
from pycocotools import mask as rle
from safetensors.torch import save

from backbone import EfficientViM, UserError
from effvim.checkpoints import checkpoint
from effvim.config.editing import apply_options, parse_options
from effvim.config.structure import dotted_keys
from effvim.datasets import coco
from effvim.images import examine_image

fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(node, path=()):
    """Every place in parsed JSON."""
    yield path
    for key in (
        node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    ):
        yield from places(node[key], (*path, key))


@st.composite
def mutated(draw, content):
    """Parsed JSON with one to three values changed: replaced, duplicated or removed."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(content) if p]))
        node = content
        for key in path[:-1]:
            node = node[key]
        how = draw(st.sampled_from(['replace', 'near', 'double', 'remove']))
        if how == 'replace':
            node[path[-1]] = draw(ANYTHING)
        elif how == 'near' and type(node[path[-1]]) in (int, float):
            node[path[-1]] = draw(st.integers(-200, 200) | st.floats(-1e9, 1e9))
        elif how == 'double' and isinstance(node, list):
            node.append(copy.deepcopy(node[path[-1]]))
        elif len(path) > 1:
            del node[path[-1]]
    return content


@given(st.data())
@fuzz
def test_annotations_that_pass_can_be_loaded(fuzz_root, annotations, data):
    """Rejected, or all images, boxes and masks come out of mmdet's own dataset."""
    import mmdet_plugin  # noqa: F401

    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    ]
    from mmdet.datasets import CocoDataset

    settings = dict(
        data_root=f'{fuzz_root}/',
        ann_file='annotations/fuzz.json',
        data_prefix=dict(img='train2017/'),
        pipeline=steps,
    )
    content = data.draw(mutated(annotations))
    path = fuzz_root / 'annotations/fuzz.json'
    path.write_text(json.dumps(content))
    try:
        classes = coco.check(ConfigDict(settings))
    except UserError as error:
        assert '\n' not in str(error)
        return
    loaded = CocoDataset(**settings, metainfo=dict(classes=classes), test_mode=True)
    assert len(loaded) == len(content['images'])
    for i in range(len(loaded)):
        sample = loaded[i]
        assert len(sample['gt_masks'].to_ndarray()) == len(sample['gt_bboxes'].tensor)
        assert sample['gt_bboxes'].tensor.isfinite().all()


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.integers(1, 400),
)
@fuzz
def test_runs_of_masks(height, width, seed, share, enlarged):
    """pycocotools' runs of any mask fill it, and no other number of pixels."""
    mask = np.random.RandomState(seed).random_sample((height, width)) < share
    mask = np.asfortranarray(np.repeat(mask, enlarged, 0), np.uint8)
    counts = rle.encode(mask)['counts'].decode()
    wrong = dict(segmentation=dict(counts=counts, size=[mask.shape[0] + 1, width]))
    good = dict(counts=counts, size=list(mask.shape))
    assert coco.segmentation_problem(good, width, mask.shape[0]) == ''
    assert 'runs' in coco.segmentation_problem(wrong['segmentation'], width, mask.shape[0] + 1)


@given(
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)
    | st.lists(st.integers(-5, 60), max_size=5),
    st.integers(1, 9),
    st.integers(1, 9),
)
@settings(fuzz, max_examples=1500)
def test_runs_that_pass_give_a_mask_of_zeros_and_ones(counts, height, width):
    """pycocotools fills what runs leave open with foreign memory."""
    outline = dict(counts=counts, size=[height, width])
    if coco.segmentation_problem(outline, width, height):
        return
    if isinstance(counts, list):
        outline = rle.frPyObjects(outline, height, width)
    mask = rle.decode(outline)
    assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 1}
    assert rle.area(outline) == mask.sum()


def encoded(kind):
    pixels = np.random.RandomState(0).randint(0, 255, (40, 56, 3), np.uint8)
    stored = io.BytesIO()
    Image.fromarray(cv2.blur(pixels, (5, 5))).save(stored, kind)
    return stored.getvalue()


IMAGES = {'jpg': encoded('JPEG'), 'png': encoded('PNG'), 'bmp': encoded('BMP')}


@given(st.sampled_from(sorted(IMAGES)), st.floats(0, 0.9))
@fuzz
def test_an_image_that_stops_early_is_noticed(tmp_path_factory, kind, share):
    path = tmp_path_factory.getbasetemp() / f'cut.{kind}'
    whole = IMAGES[kind]
    path.write_bytes(whole)
    assert examine_image(path)[0] == (56, 40)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(Exception):  # noqa: B017 (decoders raise what they like)
        examine_image(path)


@given(st.sampled_from(sorted(IMAGES)), st.data())
@fuzz
def test_damaged_images(tmp_path_factory, kind, data):
    """Any bytes changed: an exception, or the size that OpenCV gives; never more than that."""
    content = bytearray(IMAGES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f'damaged.{kind}'
    path.write_bytes(content)
    try:
        (width, height), digest = examine_image(path)
    except Exception:
        return
    assert cv2.imread(str(path)).shape[:2] == (height, width)
    assert len(digest) == 16


def stored(form):
    tensors = {'backbone.a.weight': torch.arange(6.0).view(2, 3), 'b': torch.ones(2).half()}
    if form == 'safetensors':
        return save(tensors)
    out = io.BytesIO()
    torch.save(
        {'state_dict': tensors, 'meta': {'epoch': 3, 'classes': ('a', 'b')}},
        out,
        _use_new_zipfile_serialization=form == 'zip',
    )
    return out.getvalue()


CHECKPOINTS = {form: stored(form) for form in ('zip', 'old', 'safetensors')}


@given(st.sampled_from(sorted(CHECKPOINTS)), st.data())
@settings(fuzz, max_examples=400)
def test_damaged_checkpoints(tmp_path_factory, form, data):
    """Read, or rejected in one line: bytes changed, removed, inserted, cut off."""
    content = bytearray(CHECKPOINTS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        how = data.draw(st.sampled_from(['change', 'remove', 'insert', 'cut']))
        if how == 'change':
            content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=3))
        elif how == 'insert':
            content[at:at] = data.draw(st.binary(max_size=9))
        elif how == 'remove':
            del content[at : at + data.draw(st.integers(1, 99))]
        else:
            del content[at:]
    path = tmp_path_factory.getbasetemp() / (
        'damaged.safetensors' if form == 'safetensors' else 'damaged.pth'
    )
    path.write_bytes(content)
    try:
        assert {'state_dict', 'meta'} <= checkpoint.read(path).keys()
    except UserError as error:
        assert '\n' not in str(error) and str(path) in str(error)


@given(
    st.sampled_from(
        [
            'os.system',
            'builtins.eval',
            'builtins.exec',
            'builtins.open',
            'subprocess.Popen',
            'importlib.import_module',
            'shutil.rmtree',
            'builtins.getattr',
            'operator.attrgetter',
            'pathlib.Path',
            'torch.load',
            'torch.hub.load',
            'numpy.load',
            'posix.system',
            'builtins.__import__',
            'codecs.decode',
            'functools.partial',
        ]
    ),
    st.integers(0, 5),
    st.sampled_from([b'R', b'o', b'\x81', b'b']),
    st.text(max_size=9),
)
@fuzz
def test_no_name_but_the_known_ones_is_called(tmp_path_factory, name, protocol, how, argument):
    """Pickles by hand: a foreign function, called, built or handed a state, is rejected by name."""
    module, _, function = name.rpartition('.')
    call = f'c{module}\n{function}\n'.encode()
    text = pickle.dumps((argument,), 2)[2:-1]
    path = tmp_path_factory.getbasetemp() / 'evil.pth'
    path.write_bytes(b'\x80' + bytes([protocol]) + call + text + how + b'.')
    with pytest.raises(UserError, match='evil.pth'):
        checkpoint.read(path)


TINY = dict(widths=(8, 16, 24), depths=(1, 1, 1), state_dims=(4, 3, 2))


@given(st.integers(1, 3), st.integers(1, 140), st.integers(1, 140), st.booleans())
@settings(fuzz, max_examples=60)
def test_shapes_of_maps_and_of_the_pyramid(batch, height, width, last):
    """Any size: strides round up, the neck's finer maps double them."""
    import mmdet_plugin  # noqa: F401
    from mmdet_plugin.neck import EfficientViMFPN

    images = torch.rand(batch, 3, height, width)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = EfficientViM(TINY).eval()(images)
        outs = EfficientViMFPN([8, 16, 24], 8, num_transposed=2, num_outs=6)(maps)
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in (16, 32, 64, 128)]
    assert [m.shape for m in maps] == [(batch, c, *size) for c, size in zip((8, 16, 24), sizes)]
    finest = sizes[0]
    expected = [(4 * finest[0], 4 * finest[1]), (2 * finest[0], 2 * finest[1]), *sizes]
    assert [o.shape for o in outs] == [(batch, 8, *size) for size in expected]
    assert all(o.isfinite().all() for o in outs)


@given(st.data())
@settings(fuzz, max_examples=300)
def test_options(retinanet_config, data):
    """Any key, nearly right or not, any text for a value: rejected in one line, or applied."""
    cfg = copy.deepcopy(retinanet_config)
    keys = sorted(dotted_keys(cfg._cfg_dict))
    key = data.draw(st.sampled_from(keys) | st.text(max_size=12))
    if data.draw(st.booleans()):
        key = key[: data.draw(st.integers(0, 9))] + key
    value = data.draw(
        st.sampled_from(['3', '-1e-4', 'text', '[1,2]', '(1,(2,3))', 'True', 'None'])
        | st.text('[](),\'"=.+0a ', max_size=9)
        | st.text(max_size=6)
    )
    try:
        options = parse_options([f'{key}={value}'])
        apply_options(cfg, options)
    except UserError as error:
        assert '\n' not in ' '.join(str(error).split())
        return
    for name, wanted in options.items():
        value = cfg
        for key in name.removeprefix('+').split('.'):
            value = value[int(key)] if isinstance(value, (list, tuple)) else value[key]
        assert value == wanted or (value != value and wanted != wanted)
