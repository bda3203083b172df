"""Generated videos, what is in the written ones, and a detector of plain colours."""

from fractions import Fraction

import av
import cv2
import numpy as np

from effvim.inference.prediction import Prediction

CLASSES = ('red', 'blue')
COLOURS = np.array([(230, 20, 20), (20, 20, 230)])
TICKS = Fraction(1, 1000)
SAMPLE_RATE = 48000
LIVE_FRAMES, LIVE_RATE = 80, 20  # of the stream that stands in for a camera


def crossing(frames, size=(160, 120)):
    """Boxes of two objects in each frame, F 2 4, which cross in the middle and leave the frame.

    They move towards each other in rows that overlap by half, at different speeds.
    """
    width, height = size
    steps = np.arange(frames) / max(1, frames - 1)
    red = 4 + (width + 30) * steps
    blue = width - 34 - (width + 10) * steps
    top = height / 3
    boxes = np.stack(
        [
            np.stack([red, 0 * red + top, red + 30, 0 * red + top + 30], 1),
            np.stack([blue, 0 * blue + top + 15, blue + 30, 0 * blue + top + 45], 1),
        ],
        1,
    )
    return np.rint(boxes).astype(int)


def draw(boxes, size=(160, 120)):
    """A grey frame with the objects, H W 3."""
    image = np.full((size[1], size[0], 3), 110, np.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes, COLOURS):
        image[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = colour
    return image


def write_video(
    path,
    frames=20,
    *,
    size=(160, 120),
    times=None,
    rate=10,
    audio=None,
    codec='libx264',
    rotation=0,
    **options,
):
    """Write a video of `crossing` objects; returns their boxes.

    times: of the frames in milliseconds (default: `rate` a second); audio: its codec; rotation: in
    the metadata, by degrees counter-clockwise; options: of the container.
    """
    boxes = crossing(frames, size)
    times = times if times is not None else [round(1000 * i / rate) for i in range(frames)]
    with av.open(str(path), 'w', container_options=options) as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height = size
        video.pix_fmt = 'yuv420p'
        base = Fraction(1, rate) if codec == 'mpeg4' else TICKS  # as in AVI
        video.codec_context.time_base = base
        video.codec_context.gop_size = 10
        video.bit_rate = 1_000_000
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=SAMPLE_RATE, layout='stereo') if audio else None
        written = 0
        for one, time in zip(boxes, times):
            frame = av.VideoFrame.from_ndarray(draw(one, size))
            frame.pts, frame.time_base = round(time * TICKS / base), base
            container.mux(video.encode(frame))
            while sound and written * 1000 < (time + 1000 / rate) * SAMPLE_RATE:
                container.mux(sound.encode(tone(written)))
                written += 1024
        container.mux(video.encode())
        if sound:
            container.mux(sound.encode())
    return boxes


def tone(start, number=1024):
    """A piece of a tone of 440 Hz, which begins at a sample."""
    wave = 8000 * np.sin((start + np.arange(number)) * 440 * 2 * np.pi / SAMPLE_RATE)
    frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2).astype(np.int16)[None], 's16', 'stereo')
    frame.sample_rate, frame.pts = SAMPLE_RATE, start
    return frame


def read_video(path):
    """The frames of a video, F H W 3, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return np.stack([f.to_ndarray(format='rgb24') for f in frames]), [f.time for f in frames]


def codecs(path):
    """Names of the codecs of a file, video first."""
    with av.open(str(path)) as container:
        return [stream.codec_context.codec.canonical_name for stream in container.streams]


def audio_packets(path):
    """Time and content of each packet of audio."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [p for p in container.demux(stream) if p.size]
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in packets]


class ColourDetector:
    """A predictor that detects the objects of `write_video` by their colour.

    Scores are 0.9, and 0.2 for an object of which the other hides a quarter or more: as of a
    detector that becomes unsure.
    """

    classes = CLASSES

    class network:
        segments = False

    def stream(self, images):
        for key, image in images:
            yield key, self.predict(image)

    def predict(self, image):
        boxes, scores, labels = [], [], []
        for label, colour in enumerate(COLOURS):
            near = (np.abs(image.astype(int) - colour).sum(2) < 150).astype(np.uint8)
            if near.sum() < 20:
                continue
            x, y, width, height = cv2.boundingRect(near)
            boxes.append((x, y, x + width, y + height))
            inside = 0 < x and x + width < image.shape[1]
            scores.append(0.2 if near.sum() < 675 and inside else 0.9)
            labels.append(label)
        order = np.argsort(-np.array(scores), kind='stable')
        return Prediction(
            image,
            CLASSES,
            np.array(boxes, np.float32).reshape(-1, 4)[order],
            np.array(scores, np.float32)[order],
            np.array(labels, np.int64)[order],
        )
