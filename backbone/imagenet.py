"""Top-1 and top-5 of a classifier on a folder of labelled pictures.

    python -m backbone.imagenet WEIGHTS ROOT

WEIGHTS is the authors' file, timm's, a converted one or a hub id. ROOT holds a folder of pictures
for each class, in alphabetical order of the classifier's logits; for ImageNet these are the
validation pictures, sorted into folders n01440764 to n15075141.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from .efficientvim import EfficientViMClassifier
from .errors import UserError
from .names import arch_of, translate
from .weights import fit, read, resolve, state_dict_of

# pixels per side that the published classifiers were trained for
IMAGE_SIZES = {'m1': 224, 'm2': 224, 'm3': 224, 'm4': 256}


def classifier_from(
    source: str | os.PathLike[str], ema: bool | None = None
) -> EfficientViMClassifier:
    """The classifier that a file or hub id holds, its variant and number of classes included.

    Args:
        source: see `weights.load_backbone`.
        ema: see `weights.entry_of`.

    Raises:
        UserError: it cannot be had or read, or is no complete classifier.
    """
    path = resolve(source)
    tensors = translate(state_dict_of(read(path), path, ema=ema)).tensors
    arch = arch_of(tensors)
    if arch is None or 'heads.0.weight' not in tensors:
        raise UserError(
            f'{path} holds no EfficientViM classifier: there are no tensors called '
            f'{"heads" if arch else "stages"}'
        )
    num_classes = tensors['heads.0.weight'].shape[0]
    network = EfficientViMClassifier(arch, num_classes, 'heads_dist.0.weight' in tensors)
    network.load_state_dict(fit(network.state_dict(), tensors, path))
    return network


def open_picture(path: str) -> Image.Image:
    """The picture in RGB."""
    try:
        return default_loader(path)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, over damaged files
        raise UserError(f'{path} cannot be read as a picture: {error}') from error


def pictures(root: str | os.PathLike[str], image_size: int) -> ImageFolder:
    """The pictures below `root`, 3 `image_size` `image_size`, as in the published evaluation.

    Bicubic, the shorter side to `image_size` / 0.875, the centre of that; ImageNet's mean and
    standard deviation.

    Raises:
        UserError: no such folder, no class folders in it or one without pictures; on access, a
            picture that cannot be read.
    """
    if not Path(root).is_dir():
        raise UserError(f'{root} is not a folder: give one with a folder of pictures per class')
    transform = create_transform(image_size, interpolation='bicubic', crop_pct=0.875)
    try:
        dataset = ImageFolder(root, transform, loader=open_picture, allow_empty=True)
    except FileNotFoundError as error:
        raise UserError(
            f'{root} has no class folders: sort the pictures into one per class, in '
            f'alphabetical order of the classes'
        ) from error
    empty = sorted(set(range(len(dataset.classes))) - set(dataset.targets))
    if empty:
        raise UserError(
            f'{root}: {len(empty)} of {len(dataset.classes)} class folders have no '
            f'pictures, the first is {dataset.classes[empty[0]]}'
        )
    return dataset


@torch.inference_mode()
def evaluate(
    network: EfficientViMClassifier,
    root: str | os.PathLike[str],
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int = 2,
    progress: bool = False,
) -> dict[str, float]:
    """How often the label is the largest logit, and how often among the five largest.

    Args:
        network: put into evaluation mode and used on the device where it is.
        root: a folder of pictures per class, in alphabetical order of the logits.
        image_size: pixels per side of the network's input, by default those that its variant was
            published for.
        batch_size: pictures at a time.
        workers: processes that read pictures.
        progress: keep a line about it on stderr.

    Returns:
        `top1` and `top5` in percent, and the number of `pictures`.

    Raises:
        UserError: a number is out of range, the class folders are not as many as the logits, or as
            `pictures`.
    """
    if image_size is None:
        arch = arch_of(network.state_dict())
        image_size = IMAGE_SIZES[arch] if isinstance(arch, str) else 224
    if image_size < 32 or batch_size < 1 or workers < 0:
        raise UserError(
            f'image_size must be at least 32, batch_size 1 and workers 0, got '
            f'{image_size}, {batch_size} and {workers}'
        )
    dataset = pictures(root, image_size)
    if len(dataset.classes) != network.num_classes:
        raise UserError(
            f'{root} has {len(dataset.classes)} class folders, the classifier has '
            f'{network.num_classes} classes'
        )
    network.eval()
    first = among = seen = 0
    for images, labels in DataLoader(dataset, batch_size, num_workers=workers):
        logits = network(images.to(network.weights.device)).cpu()
        hits = logits.topk(min(5, network.num_classes)).indices == labels[:, None]
        first += int(hits[:, 0].sum())
        among += int(hits.sum())
        seen += len(labels)
        if progress:
            print(f'\r{seen}/{len(dataset)}', end='', file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return dict(top1=100 * first / seen, top5=100 * among / seen, pictures=seen)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says and print the result.

    Raises:
        UserError: as `classifier_from` and `evaluate`.
    """
    parser = argparse.ArgumentParser(
        prog='python -m backbone.imagenet', description='Top-1 and top-5 on labelled pictures.'
    )
    parser.add_argument(
        'weights', help='a weight file, or a hub id such as timm/efficientvim_m4.e450_in1k'
    )
    parser.add_argument('root', help='a folder with a folder of pictures for each class')
    parser.add_argument(
        '--ema',
        action='store_const',
        const=True,
        help="take the averaged weights of an authors' file, which have the published top-1",
    )
    parser.add_argument('--image-size', type=int, help='default: 256 for M4, 224 for the others')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--workers', type=int, default=2, help='processes that read pictures')
    args = parser.parse_args(argv)

    network = classifier_from(args.weights, args.ema)
    if torch.cuda.is_available():
        network.cuda()
    found = evaluate(
        network, args.root, args.image_size, args.batch_size, args.workers, sys.stderr.isatty()
    )
    print(f'top-1 {found["top1"]:.2f}, top-5 {found["top5"]:.2f} on {found["pictures"]} pictures')


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        sys.exit(2)
