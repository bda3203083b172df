"""Malformed inputs for the commands, by kind: a name and the function that does the damage."""

import base64
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from backbone import EfficientViM, weights

ANNOTATIONS = [f'annotations/instances_{split}2017.json' for split in ('train', 'val')]
NAN = float('nan')


def _set(kind, **fields):
    """Set fields of the second item of a list; `...` deletes one."""

    def damage(content):
        for key, value in fields.items():
            if value is ...:
                del content[kind][1][key]
            else:
                content[kind][1][key] = value

    return damage


def _replace(kind, value):
    """Replace a whole list."""
    return lambda content: content.update({kind: value})


def _replace_item(kind, value):
    """Replace the second item of a list."""
    return lambda content: content[kind].__setitem__(1, value)


def _outline(value):
    return _set('annotations', segmentation=value)


def _counts(value):
    """A run-length mask of the right size."""

    def damage(content):
        image = next(
            i for i in content['images'] if i['id'] == content['annotations'][1]['image_id']
        )
        size = [image['height'], image['width']]
        content['annotations'][1]['segmentation'] = {'size': size, 'counts': value}

    return damage


CONTENTS = {  # of an annotation file, as it is parsed
    **{
        f'{kind} is {value!r}': _replace(kind, value)
        for kind in ('images', 'annotations', 'categories')
        for value in (None, {}, 'text', 3)
    },
    **{
        f'an item of {kind} is {value!r}': _replace_item(kind, value)
        for kind in ('images', 'annotations', 'categories')
        for value in (None, [], 'text')
    },
    **{f'no images.{key}': _set('images', **{key: ...}) for key in ('id', 'file_name', 'width')},
    **{
        f'no annotations.{key}': _set('annotations', **{key: ...})
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area')
    },
    **{f'no categories.{key}': _set('categories', **{key: ...}) for key in ('id', 'name')},
    **{f'images.id is {value!r}': _set('images', id=value) for value in (None, '1', [1], 1.5)},
    **{
        f'images.file_name is {value!r}': _set('images', file_name=value)
        for value in (None, 7, ['a.bmp'])
    },
    **{
        f'images.height is {value!r}': _set('images', height=value)
        for value in (None, '160', 0, -5, NAN, 10**400, [160])
    },
    **{
        f'annotations.bbox is {value!r}': _set('annotations', bbox=value)
        for value in (
            None,
            [],
            [1, 2, 3],
            [1, 2, 3, 'x'],
            [1, 2, 3, NAN],
            [1, 2, 3, 10**400],
            {'x': 1},
            [[1, 2, 3, 4]],
            '1 2 3 4',
        )
    },
    **{
        f'annotations.image_id is {value!r}': _set('annotations', image_id=value)
        for value in (None, [1], {})
    },
    **{
        f'annotations.category_id is {value!r}': _set('annotations', category_id=value)
        for value in (None, [1], '1')
    },
    **{
        f'annotations.area is {value!r}': _set('annotations', area=value)
        for value in (None, 'large', NAN)
    },
    'categories.name is a number': _set('categories', name=5),
    'categories.id is a list': _set('categories', id=[1]),
    'no category': _replace('categories', []),
    'no annotation': _replace('annotations', []),
    'no image': _replace('images', []),
    'two images of one id': lambda c: c['images'][1].update(id=c['images'][0]['id']),
    'two annotations of one id': lambda c: c['annotations'][1].update(id=c['annotations'][0]['id']),
    'two categories of one id': lambda c: c['categories'][1].update(id=c['categories'][0]['id']),
    'an image that is not there': _set('images', file_name='absent.bmp'),
    'an image outside the folder': _set('images', file_name='../../absent.bmp'),
    'a name with a null character': _set('images', file_name='a\0.bmp'),
}
OUTLINES = {  # for a config that uses masks
    **{
        f'a mask is {value!r}': _outline(value)
        for value in (
            None,
            [],
            'text',
            3,
            [[]],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7]],
            [['a', 'b', 'c', 'd', 'e', 'f']],
            [[1, 1, 9, 9, NAN, 5]],
            [[1, 1, 9, 9, 10**400, 5]],
            [[1, 1, 10**9, 10**9, 5, 5]],
            [[-9] * 6],
            [{'x': 1}],
            {},
            {'counts': 'x'},
            {'counts': None, 'size': [160, 160]},
            {'counts': 'x', 'size': [1, 2]},
            {'counts': 'x', 'size': 'large'},
        )
    },
    **{
        f'runs are {value!r}': _counts(value)
        for value in (
            '',
            '0',
            'o',
            'oooooooooooooooooo',
            'zz',
            'é',
            '\0',
            [],
            [1, 2],
            [-1, 2],
            ['a'],
            [1.5],
            [10**400],
            '0' * 999,
        )
    },
}


def _json(damage):
    def spoil(root):
        for name in ANNOTATIONS:
            content = json.loads((root / name).read_text())
            damage(content)
            (root / name).write_text(json.dumps(content))

    return spoil


def _bytes(change):
    def spoil(root):
        for name in ANNOTATIONS:
            (root / name).write_bytes(change((root / name).read_bytes()))

    return spoil


def _in_the_way(root):
    for name in ANNOTATIONS:
        (root / name).unlink()
        (root / name).mkdir()


def _loop(root):
    for name in ANNOTATIONS:
        (root / name).unlink()
        (root / name).symlink_to(root / name)


def _no_images(root):
    for name in ('train2017', 'val2017'):
        shutil.rmtree(root / name)
        (root / name).write_text('a file')


COCO = {
    **{name: _json(damage) for name, damage in CONTENTS.items()},
    'empty file': _bytes(lambda b: b''),
    'half a file': _bytes(lambda b: b[: len(b) // 2]),
    'binary': _bytes(lambda b: bytes(range(256)) * 9),
    'brackets without end': _bytes(lambda b: b'[' * 200_000),
    'a web page': _bytes(lambda b: b'<!doctype html><title>404</title>'),
    'something after it': _bytes(lambda b: b + b'{}'),
    'a list': _bytes(lambda b: b'[]'),
    'a number of many digits': _bytes(lambda b: b'9' * 9999),
    'a folder in its place': _in_the_way,
    'a link to itself': _loop,
    'no folder of images': _no_images,
}
MASKS = {name: _json(damage) for name, damage in OUTLINES.items()}


def _annotation(change):
    """Change the bytes of the first annotation of both splits."""

    def spoil(root):
        for split in ('training', 'validation'):
            path = sorted((root / 'annotations' / split).iterdir())[0]
            path.write_bytes(change(path.read_bytes()))

    return spoil


def _labels(change):
    def spoil(root):
        for split in ('training', 'validation'):
            path = sorted((root / 'annotations' / split).iterdir())[0]
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return spoil


def _rename(kind):
    def spoil(root):
        for split in ('training', 'validation'):
            path = sorted((root / kind / split).iterdir())[0]
            path.rename(path.with_stem('another'))

    return spoil


ADE = {
    'empty annotation': _annotation(lambda b: b''),
    'half an annotation': _annotation(lambda b: b[: len(b) // 2]),
    'an annotation of text': _annotation(lambda b: b'text' * 99),
    'a damaged annotation': _annotation(lambda b: b[:40] + b'\0' * 40 + b[80:]),
    'an annotation smaller than its image': _labels(lambda x: x[1:]),
    'an annotation in colours': _labels(lambda x: np.stack([x] * 3, -1)),
    'an annotation of 16 bits': _labels(lambda x: x.astype(np.uint16) + 256),
    'labels without a class': _labels(lambda x: x + 150),
    'an annotation of another name': _rename('annotations'),
    'an image of another name': _rename('images'),
    **{
        f'no {kind}': lambda root, kind=kind: shutil.rmtree(root / kind)
        for kind in ('images', 'annotations')
    },
}


def _image(change):
    def spoil(root):
        path = sorted((root / 'train2017').iterdir())[1]
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _stored(**how):
    def spoil(root):
        path = sorted((root / 'train2017').iterdir())[1]
        image = Image.open(path)
        image.load()
        if 'format' in how:
            image.save(path, **how)
            path.write_bytes(path.read_bytes()[:-40])
        else:
            image.resize(how['size']).save(path)

    return spoil


IMAGES = {
    'empty image': _image(lambda b: b''),
    'one byte': _image(lambda b: b[:1]),
    'half an image': _image(lambda b: b[: len(b) // 2]),
    'an image of text': _image(lambda b: b'text' * 99),
    'an image that claims to be huge': _image(
        lambda b: b[:18] + struct.pack('<ii', 2**20, 2**20) + b[26:]
    ),
    'an image of negative width': _image(lambda b: b[:18] + struct.pack('<i', -160) + b[22:]),
    'half a JPEG': _stored(format='JPEG'),
    'half a PNG': _stored(format='PNG'),
    'an image of another size': _stored(size=(40, 50)),
}


class Calls:
    """Pickled, a call of `function`, which loading must not make."""

    def __init__(self, function, *args):
        self.made = function, args

    def __reduce__(self):
        return self.made


def state(arch='m1'):
    """Tensors of a backbone as a detector's checkpoint names them."""
    return {f'backbone.{n}': v for n, v in EfficientViM(arch).state_dict().items()}


def _saved(content, change=lambda b: b, zipped=True):
    def write(path):
        torch.save(
            content() if callable(content) else content, path, _use_new_zipfile_serialization=zipped
        )
        path.write_bytes(change(path.read_bytes()))

    return write


def _raw(content):
    return lambda path: path.write_bytes(content)


def _evil(function, *args):
    return _saved(lambda: {'state_dict': state(), 'meta': Calls(function, *args)})


RAN = 'ran'  # a file that code in a checkpoint would make
WEIGHTS = {
    'absent.pth': lambda path: None,
    'folder.pth': lambda path: path.mkdir(),
    'empty.pth': _raw(b''),
    'text.pth': _raw(b'no weights'),
    'page.pth': _raw(b'<!doctype html><title>404</title>' * 99),
    'zip.pth': _raw(b'PK\x03\x04' + bytes(400)),
    'pickle.pth': _raw(pickle.dumps({'state_dict': {}})),
    'stop.pth': _raw(b'\x80\x02.'),
    'cut.pth': _saved(lambda: {'state_dict': state()}, lambda b: b[:-999]),
    'half.pth': _saved(lambda: {'state_dict': state()}, lambda b: b[: len(b) // 2]),
    'old-cut.pth': _saved(lambda: {'state_dict': state()}, lambda b: b[:-999], zipped=False),
    'begin.pth': _saved(lambda: {'state_dict': state()}, lambda b: bytes(64) + b[64:]),
    'list.pth': _saved([1, 2]),
    'tensor.pth': _saved(torch.ones(3)),
    'number.pth': _saved(3),
    'nothing.pth': _saved({}),
    'text-state.pth': _saved({'state_dict': 'text'}),
    'list-state.pth': _saved({'state_dict': [1]}),
    'no-tensors.pth': _saved({'state_dict': {'a': 1}}),
    'list-meta.pth': _saved(lambda: {'state_dict': state(), 'meta': [1]}),
    'another-network.pth': _saved({'state_dict': {'conv1.weight': torch.ones(64, 3, 7, 7)}}),
    'another-variant.pth': _saved(
        lambda: {'state_dict': {n: v for n, v in state('m2').items() if 'stages.2' not in n}}
    ),
    'part.pth': _saved(
        lambda: {'state_dict': {n: v for n, v in state().items() if 'ffn' not in n}}
    ),
    'system.pth': _evil(__import__('os').system, f'touch {RAN}'),
    'open.pth': _evil(open, RAN, 'w'),
    'eval.pth': _evil(eval, f'open({RAN!r}, "w")'),
    'getattr.pth': _evil(getattr, 'text', 'join'),
    'decode.pth': _evil(base64.b64decode, 'AAAA'),
    'path.pth': _evil(Path, RAN),
    'empty.safetensors': _raw(b''),
    'text.safetensors': _raw(b'no weights at all'),
    'long-header.safetensors': _raw(struct.pack('<Q', 2**60) + b'{}'),
    'no-header.safetensors': _raw(struct.pack('<Q', 4) + b'null'),
    'cut.safetensors': lambda path: path.write_bytes(save(state())[:-999]),
    'code.safetensors': lambda path: path.write_bytes(
        save(state(), {weights.METADATA: f'open({RAN!r}, "w")'})
    ),
    'nested.safetensors': lambda path: path.write_bytes(
        save(state(), {weights.METADATA: '[' * 9999})
    ),
    'list-meta.safetensors': lambda path: path.write_bytes(
        save(state(), {weights.METADATA: '[1]'})
    ),
    'part.safetensors': lambda path: path.write_bytes(save({'a': torch.ones(1)})),
}
CONVERTIBLE = {'another-variant.pth'}  # good for some config

CONFIGS = {  # {base} is a config that works
    'absent': None,
    'empty': '',
    'without a model': 'x = 1',
    'not Python': 'this is not python',
    'a null character': '\0',
    'its own base': "_base_ = 'mine.py'",
    'a base that is not there': "_base_ = 'absent.py'",
    'a base that is a number': '_base_ = 5',
    'an import that is not there': 'import nonsense_module',
    'an error when it runs': "_base_ = '{base}'\nx = 1 / 0",
    'a model that is a number': "_base_ = '{base}'\nmodel = 3",
    'no backbone': "_base_ = '{base}'\nmodel = dict(backbone=None)",
    'a loader that is a number': "_base_ = '{base}'\ntrain_dataloader = 3",
    'a dataset that is text': "_base_ = '{base}'\ntest_dataloader = dict(dataset='coco')\n"
    "train_dataloader = dict(dataset='coco')",
    'an argument that the backbone lacks': "_base_ = '{base}'\n"
    'model = dict(backbone=dict(depth=5))',
    'an import of nothing': "_base_ = '{base}'\ncustom_imports = dict(imports=['nonsense_module'])",
}

OPTIONS = [
    'nonsense',
    '=3',
    'a.b.c=1',
    'model.backbone.arch=m7',
    'model.backbone.arch=5',
    'model.backbone.arch=[1,2]',
    'model.backbone.arch=None',
    'model.backbone.out_indices=[0,5]',
    'model.backbone.out_indices=1',
    'model.backbone.out_indices=[]',
    'model.backbone.out_indices=text',
    'model.backbone=None',
    'model.backbone=text',
    'model=3',
    'model.neck=3',
    'model.neck.in_channels=[1,2,3]',
    'model.neck.in_channels=224',
    'model.neck.in_channels=None',
    '+model.backbone.depth=50',
    'train_dataloader=None',
    'test_dataloader.dataset=3',
    'train_dataloader.dataset.pipeline.2.scale=(9,9',
    'train_dataloader.dataset.pipeline.99.scale=9',
    'train_cfg=1',
    'default_hooks=text',
    'optim_wrapper=3',
    'val_evaluator=x',
    'train_dataloader.dataset.data_root=5',
    'test_dataloader.dataset.data_root=5',
    'train_dataloader.dataset.ann_file=5',
    'test_dataloader.dataset.ann_file=[]',
    'test_dataloader.dataset.data_prefix=3',
    'train_dataloader.dataset.data_prefix=3',
    'load_from=5',
    'train_dataloader.batch_size=0',
    'train_dataloader.batch_size=text',
    'train_dataloader.num_workers=-1',
    'test_dataloader.num_workers=text',
]
TRAINING_OPTIONS = [
    'load_from=absent.pth',
    '+optim_wrapper.paramwise_cfg.nonsense=1',
    'train_dataloader.dataset.data_root=None',
    'train_dataloader.dataset.ann_file=None',
]
