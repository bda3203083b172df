"""Top-1 and top-5 accuracy of a classifier on a folder of labelled images.

The folder holds a folder of images for each class, in alphabetical order of the classifier's
logits; for ImageNet these are the validation images, sorted into folders n01440764 to n15075141.
`effvim imagenet WEIGHTS ROOT` is the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from .classifier import EfficientViMClassifier
from .errors import UserError
from .names import arch_of, translate
from .weights import fit, read, resolve, state_dict_of

# pixels per side of the images that the published classifiers were trained for
IMAGE_SIZES = {'m1': 224, 'm2': 224, 'm3': 224, 'm4': 256}


def classifier_from(
    source: str | os.PathLike[str], ema: bool | None = None
) -> EfficientViMClassifier:
    """Load a classifier; the file decides the variant and the number of classes.

    Args:
        source: a file of the authors' or timm's, a converted one, or a hub id; see
            `weights.load_backbone`.
        ema: see `weights.weights_key`.

    Raises:
        UserError: the file is absent or unreadable, or holds no complete classifier.
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


def open_image(path: str) -> Image.Image:
    """Read an image as RGB.

    Raises:
        UserError: the file is damaged or no image.
    """
    try:
        return default_loader(path)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, over damaged files
        raise UserError(f'{path} cannot be read as an image: {error}') from error


def image_folder(root: str | os.PathLike[str], image_size: int) -> ImageFolder:
    """Dataset of the images below `root`, prepared as in the published evaluation.

    Bicubic resize of the short side to `image_size` / 0.875, centre crop, ImageNet's mean and
    standard deviation: an item is a tensor, 3 `image_size` `image_size`, and its class.

    Raises:
        UserError: there is no such folder, it has no class folders or one without images; on
            access, an image cannot be read.
    """
    if not Path(root).is_dir():
        raise UserError(f'{root} is not a folder: pass one with a folder of images per class')
    transform = create_transform(image_size, interpolation='bicubic', crop_pct=0.875)
    try:
        dataset = ImageFolder(root, transform, loader=open_image, allow_empty=True)
    except FileNotFoundError as error:
        raise UserError(
            f'{root} has no class folders: sort the images into one per class, in '
            f'alphabetical order of the classes'
        ) from error
    empty = sorted(set(range(len(dataset.classes))) - set(dataset.targets))
    if empty:
        raise UserError(
            f'{root}: {len(empty)} of {len(dataset.classes)} class folders have no '
            f'images, the first is {dataset.classes[empty[0]]}'
        )
    return dataset


@torch.inference_mode()
def evaluate(
    network: EfficientViMClassifier,
    root: str | os.PathLike[str],
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, float]:
    """Measure top-1 and top-5 accuracy.

    Args:
        network: put into evaluation mode and used on the device where it is.
        root: a folder of images per class, in alphabetical order of the logits.
        image_size: input size, pixels per side; default: that which the variant was published for.
        batch_size: images per batch.
        workers: processes that read images.
        progress: called after every batch with the number of images done and of all images.

    Returns:
        `top1` and `top5` in percent, and the number of `images`.

    Raises:
        UserError: a number is out of range, there are not as many class folders as logits, or as
            `image_folder`.
    """
    if image_size is None:
        image_size = IMAGE_SIZES[network.arch] if isinstance(network.arch, str) else 224
    if image_size < 32 or batch_size < 1 or workers < 0:
        raise UserError(
            f'image_size must be at least 32, batch_size 1 and workers 0, got '
            f'{image_size}, {batch_size} and {workers}'
        )
    dataset = image_folder(root, image_size)
    if len(dataset.classes) != network.num_classes:
        raise UserError(
            f'{root} has {len(dataset.classes)} class folders, the classifier has '
            f'{network.num_classes} classes'
        )
    network.eval()
    top1 = top5 = seen = 0
    for images, labels in DataLoader(dataset, batch_size, num_workers=workers):
        logits = network(images.to(network.weights.device)).cpu()
        hits = logits.topk(min(5, network.num_classes)).indices == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
        seen += len(labels)
        if progress:
            progress(seen, len(dataset))
    return dict(top1=100 * top1 / seen, top5=100 * top5 / seen, images=seen)
