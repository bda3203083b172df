"""Run a file of `effvim export` with onnxruntime, NumPy and Pillow alone.

    python detect_onnxruntime.py model.onnx photo.jpg [--score-thr 0.3]

Prints one line for each object: class, score, and the box x1 y1 x2 y2 in pixels of the photo. Of a
segmentor it prints the fraction of the pixels of each class.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def opened(path: str) -> Image.Image:
    """A photo, upright, in RGB: 16 bits become 8, and what is transparent becomes white."""
    photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode.startswith('I'):
        photo = Image.fromarray(np.rint(np.asarray(photo) / 257).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert('RGBA')
        photo = Image.alpha_composite(Image.new('RGBA', photo.size, 'white'), photo)
    return photo.convert('RGB')


def padded(image: np.ndarray, size: list[int], value: object) -> np.ndarray:
    """The image in the upper left corner of one of that height and width, if it fits."""
    if image.shape[0] > size[0] or image.shape[1] > size[1]:
        sys.exit(
            f'the photo, resized to {image.shape[0]} × {image.shape[1]} pixels, does not fit into '
            f"the file's {size[0]} × {size[1]}: export it without --size, or with a larger one"
        )
    canvas = np.full((*size, 3), value, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def resized(
    photo: Image.Image, rules: dict, file_size: list[int] | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """The photo as the network was tested, H W 3, and the factors of its width and height.

    It is made smaller if it would not fit into the height and width that the file takes.
    """
    (width, height), factor = photo.size, 1.0
    if rules['scale']:
        long, short = max(rules['scale']), min(rules['scale'])
        factor = min(long / max(width, height), short / min(width, height))
    multiple = rules['multiple'] or 1
    if file_size:
        room = [side // multiple * multiple for side in file_size]
        factor = min(factor, room[0] / height, room[1] / width)
    size = [int(width * factor + 0.5), int(height * factor + 0.5)]
    if rules['scale'] and not rules['keep_ratio']:
        size = rules['scale']
    size = [-(-side // multiple) * multiple for side in size]
    # bilinear without smoothing, as OpenCV does it and as the network was trained
    matrix = (width / size[0], 0, 0, 0, height / size[1], 0)
    photo = photo.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image = np.asarray(photo)
    if rules['pad']:
        full = [max(pair) for pair in zip(rules['pad']['size'][::-1], image.shape)]
        image = padded(image, full, rules['pad']['value'])
    scale = photo.size[0] / width, photo.size[1] / height
    return image, scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', help='file of effvim export, *.onnx')
    parser.add_argument('photo', help='image file')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score that is printed (default: 0.3)',
    )
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(args.model)
    metadata = session.get_modelmeta().custom_metadata_map
    about = {
        key: json.loads(metadata[key]) for key in ('classes', 'resize', 'size', 'input', 'settings')
    }
    classes, rules = about['classes'], about['resize']
    if about['input'] != 'raw' or rules is None:
        sys.exit(f'{args.model}: this script takes files of raw images that are resized and padded')

    photo = opened(args.photo)
    image, scale = resized(photo, rules, about['size'])
    height, width = image.shape[:2]
    if about['size']:  # of a file that takes only this one; what the network sees as 0
        given = about['settings']['model.data_preprocessor']
        mean = given['mean'] if given['reverse'] else given['mean'][::-1]  # in the order R G B
        image = padded(image, about['size'], np.round(mean))
    image = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))  # 3 H W, BGR
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {'images': image[None]})))

    if 'label_map' not in outputs and 'count' not in outputs:
        sys.exit(f'{args.model} holds only a backbone, which detects nothing')
    if 'label_map' in outputs:
        label_map = outputs['label_map'][0, :height, :width]  # no padding
        labels, counts = np.unique(label_map, return_counts=True)
        for label, count in zip(labels, counts):
            print(f'{classes[label]}: {count / counts.sum():.1%}')
        return
    for i in range(int(outputs['count'][0])):
        score = outputs['scores'][0, i]
        if score >= args.score_thr:
            box = np.minimum(outputs['boxes'][0, i], [width, height] * 2) / [*scale, *scale]
            corners = ' '.join(f'{value:.1f}' for value in box)
            print(f'{classes[outputs["labels"][0, i]]}: {score:.3f} {corners}')


if __name__ == '__main__':
    main()
