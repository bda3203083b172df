"""What the scripts for ncnn, LiteRT, ExecuTorch and TensorRT share; needs NumPy and Pillow alone.

Files of these formats take one image of one size, and end before NMS: `prepared` makes the image,
`detections` selects boxes. A program in another language has to do the same.
"""

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np
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


def prepared(photo: Image.Image, about: dict) -> tuple[np.ndarray, tuple[float, float]]:
    """The photo as the file takes it, 3 H W, float32, and the factors of its width and height.

    It is resized as the network was tested, or by less where it would not fit, and padded.
    """
    rules, (height, width) = about['resize'], about['size']
    factor, multiple = 1.0, rules['multiple'] or 1
    if rules['scale']:
        sides, photo_sides = sorted(rules['scale']), sorted(photo.size)
        factor = min(side / length for side, length in zip(sides, photo_sides))
    room = [side // multiple * multiple for side in (width, height)]
    factor = min(factor, *(most / side for most, side in zip(room, photo.size)))
    size = [int(side * factor + 0.5) for side in photo.size]
    if rules['scale'] and not rules['keep_ratio']:
        size = rules['scale']
    size = [-(-side // multiple) * multiple for side in size]
    scale = size[0] / photo.width, size[1] / photo.height
    # bilinear without smoothing, as OpenCV does it and as the network was trained
    matrix = (1 / scale[0], 0, 0, 0, 1 / scale[1], 0)
    photo = photo.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    mean = np.array(about['settings']['model.data_preprocessor']['mean'])
    if not about['settings']['model.data_preprocessor']['reverse']:
        mean = mean[::-1]  # in the order R G B
    image = np.empty((height, width, 3), np.float32)
    image[:] = np.round(mean)  # the network sees it as 0
    if rules['pad']:
        across, down = (max(pair) for pair in zip(rules['pad']['size'], size))
        image[:down, :across] = rules['pad']['value']
    image[: size[1], : size[0]] = photo
    return np.ascontiguousarray(image.transpose(2, 0, 1)), scale


def detections(outputs: dict, rules: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes that are detections, highest-scoring first, their scores and their labels.

    Shape: of the outputs boxes N 4, x1 y1 x2 y2, scores N C, of some detectors qualities N 1
    → K 4, K, K.
    """
    boxes, scores, qualities = outputs['boxes'], outputs['scores'], outputs.get('qualities', 1)
    if rules['one_class']:  # only the best class of each row counts
        scores = np.where(scores == scores.max(1, keepdims=True), scores, 0)
    chosen, first = [], 0
    for number in rules['priors']:  # the best of each level, e.g. 1000, if they are good enough
        level = scores[first : first + number].ravel()
        best = np.argsort(-level, kind='stable')[: rules['nms_pre']]
        chosen.append(best[level[best] > rules['score_thr']] + first * scores.shape[1])
        first += number
    index, labels = np.divmod(np.concatenate(chosen), scores.shape[1])
    boxes, scores = boxes[index], (scores * qualities)[index, labels]
    large = (boxes[:, 2:] - boxes[:, :2] > rules['min_bbox_size']).all(1)
    boxes, scores, labels = boxes[large], scores[large], labels[large]

    order, kept = np.argsort(-scores, kind='stable'), []  # NMS within each class
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order) and len(kept) != rules['max_per_img']:
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clip(0).prod(1)
        overlap = shared > rules['iou_threshold'] * (areas[best] + areas[order] - shared)
        order = order[~(overlap & (labels[order] == labels[best]))]
    return boxes[kept], scores[kept], labels[kept]


def show(outputs: dict, about: dict, photo: Image.Image, scale: tuple, score_thr: float) -> None:
    """Print one line for each object, or of a segmentor the fraction of each class."""
    classes = about['classes']
    if about['selection'] is None:
        label_map = outputs['logits'].argmax(0) if 'logits' in outputs else outputs['label_map']
        width, height = (round(side * factor) for side, factor in zip(photo.size, scale))
        labels, counts = np.unique(label_map[:height, :width], return_counts=True)  # no padding
        for label, count in zip(labels, counts):
            print(f'{classes[label]}: {count / counts.sum():.1%}')
        return
    shape = [round(side * factor) for side, factor in zip(photo.size, scale)]
    if about['resize']['pad']:
        shape = [max(pair) for pair in zip(shape, about['resize']['pad']['size'])]
    for box, score, label in zip(*detections(outputs, about['selection'])):
        if score >= score_thr:
            box = np.minimum(box, [*shape, *shape]) / [*scale, *scale]
            corners = ' '.join(f'{value:.1f}' for value in box)
            print(f'{classes[label]}: {score:.3f} {corners}')


def main(
    description: str,
    start: Callable[[str, dict], Callable[[np.ndarray], dict]],
    metadata: Callable[[str], str] = '{}.json'.format,
) -> None:
    """Read the command line, the metadata and the photo, run the file, and print the results.

    Args:
        description: of the script.
        start: from the path of a file and its metadata to a function from an image, 3 H W, to the
            outputs by name, without the axis of the batch.
        metadata: from the path of a file to that of its metadata.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('model', help='file of effvim export, its *.json next to it')
    parser.add_argument('photo', help='image file')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score that is printed (default: 0.3)',
    )
    args = parser.parse_args()

    with open(metadata(args.model), encoding='utf-8') as file:
        about = json.load(file)
    if about['input'] != 'rgb' or about['resize'] is None:
        sys.exit(f'{args.model}: this script takes files of raw images that are resized and padded')
    if about['kind'] == 'Backbone':
        sys.exit(f'{args.model} holds only a backbone, which detects nothing')
    photo = opened(args.photo)
    image, scale = prepared(photo, about)
    show(start(args.model, about)(image), about, photo, scale, args.score_thr)
