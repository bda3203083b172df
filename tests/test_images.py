"""Images of every kind become the same 8-bit RGB; a file that is not an image is named."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from backbone.errors import UserError
from effvim.images import encode_drawing, name_of_drawing, read_image

RGB = np.random.RandomState(0).randint(0, 256, (5, 8, 3), np.uint8)
GREY = RGB[..., :1].repeat(3, 2)


def saved(path, image, **how):
    image.save(path, **how)
    return read_image(path)


def test_plain(tmp_path):
    for suffix in ('png', 'bmp', 'tiff'):
        pixels = saved(tmp_path / f'a.{suffix}', Image.fromarray(RGB))
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, RGB)
    with open(tmp_path / 'a.png', 'rb') as file:
        assert np.array_equal(read_image(file), RGB)


def test_greyscale_and_two_levels(tmp_path):
    assert np.array_equal(saved(tmp_path / 'a.png', Image.fromarray(RGB[..., 0])), GREY)
    pixels = saved(tmp_path / 'b.png', Image.fromarray(RGB[..., 0] > 127))
    assert np.array_equal(pixels, np.where(GREY > 127, 255, 0))


def test_palette(tmp_path):
    image = Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8))
    image.putpalette(RGB.tobytes())
    assert np.array_equal(saved(tmp_path / 'a.png', image), RGB)


@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    for sixteen in (np.uint16(RGB[..., 0]) * 257, np.uint16(RGB[..., 0]) * 257 // 256 * 256):
        cv2.imwrite(str(tmp_path / f'a.{suffix}'), sixteen)
        pixels = read_image(tmp_path / f'a.{suffix}').astype(int)
        assert np.abs(pixels - sixteen[..., None] / 257).max() <= 0.5


def test_16_bit_colour_is_scaled(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.uint16(RGB[..., ::-1]) * 257)
    assert np.array_equal(read_image(tmp_path / 'a.png'), RGB)


def test_transparency_is_white(tmp_path):
    alpha = np.random.RandomState(1).randint(0, 256, (5, 8, 1), np.uint8)
    alpha[0], alpha[1] = 0, 255
    for colours in (RGB, GREY):
        expected = (colours * (alpha / 255) + 255 * (1 - alpha / 255)).round()
        channels = colours if colours is RGB else colours[..., :1]
        image = Image.fromarray(np.concatenate([channels, alpha], 2))
        assert image.mode == ('RGBA' if colours is RGB else 'LA')
        pixels = saved(tmp_path / 'a.png', image).astype(int)
        assert np.abs(pixels - expected).max() <= 1
        assert (pixels[0] == 255).all() and np.array_equal(pixels[1], colours[1])


def test_one_transparent_colour_is_white(tmp_path):
    colour = tuple(int(v) for v in RGB[2, 3])
    pixels = saved(tmp_path / 'a.png', Image.fromarray(RGB), transparency=colour)
    expected = RGB.copy()
    expected[2, 3] = 255
    assert np.array_equal(pixels, expected)


def test_cmyk(tmp_path):
    ink = np.concatenate([255 - RGB, np.zeros_like(RGB[..., :1])], 2)
    assert np.array_equal(saved(tmp_path / 'a.tiff', Image.fromarray(ink, 'CMYK')), RGB)
    grey = np.full((64, 64, 4), (0, 0, 0, 155), np.uint8)  # black ink alone
    pixels = saved(tmp_path / 'a.jpg', Image.fromarray(grey, 'CMYK'), quality=100)
    assert np.abs(pixels.astype(int) - 100).max() <= 1


# The transform that a viewer undoes, by the EXIF standard: what was stored for an upright image.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize('orientation', STORED)
def test_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    assert np.array_equal(saved(tmp_path / 'a.png', stored, exif=exif), RGB)
    stored.save(tmp_path / 'a.jpg', exif=exif, quality=95)
    assert np.array_equal(  # OpenCV turns images too
        read_image(tmp_path / 'a.jpg').shape, cv2.imread(str(tmp_path / 'a.jpg')).shape
    )


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.kron(RGB, np.ones((20, 20, 1), np.uint8))).save(buffer, 'JPEG')
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content, why',
    [
        (jpeg()[:-300], 'truncated'),
        (b'not an image\n', 'cannot identify'),
        (b'', 'is empty'),
        (None, 'No such file'),
    ],
    ids=['truncated', 'text', 'empty', 'absent'],
)
def test_a_file_that_is_not_an_image_is_named(tmp_path, content, why):
    path = tmp_path / 'holiday.jpg'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(path) in str(error.value) and why in str(error.value)
    if content is not None:
        with pytest.raises(UserError, match='cannot be read'):
            read_image(io.BytesIO(content))


def test_values_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / 'a.tiff')
    with pytest.raises(UserError, match=r'a\.tiff.*convert'):
        read_image(tmp_path / 'a.tiff')


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', 'P'])
def test_a_high_image_is_converted_in_rows(mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5000, 7, 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.save(tmp_path / 'high.tiff')
    np.testing.assert_array_equal(read_image(tmp_path / 'high.tiff'), image.convert('RGB'))


def test_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    with pytest.raises(UserError, match=r'a\.png.*megapixels.*infer --tile N'):
        read_image(tmp_path / 'a.png')
    with pytest.raises(UserError, match='more than 0 megapixels.*: make it smaller'):
        read_image(tmp_path / 'a.png', max_megapixels=1e-6)  # in tiles already


def strange_files(folder):
    """Files of every kind that people have, by name."""
    rng = np.random.RandomState(2)
    colours = rng.randint(0, 256, (24, 32, 3), np.uint8)
    smooth = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    alpha = rng.randint(0, 256, (24, 32, 1), np.uint8)
    grey16 = rng.randint(0, 65536, (24, 32)).astype(np.uint16)
    images = {
        'rgb.png': Image.fromarray(colours),
        'rgb.jpg': Image.fromarray(smooth),
        'rgb.bmp': Image.fromarray(colours),
        'rgb.webp': Image.fromarray(smooth),
        'rgb.tif': Image.fromarray(colours),
        'grey.png': Image.fromarray(colours[..., 0]),
        'grey.jpg': Image.fromarray(smooth[..., 0]),
        'two_levels.png': Image.fromarray(colours[..., 0] > 127),
        'transparent.png': Image.fromarray(np.concatenate([colours, alpha], 2)),
        'transparent_grey.png': Image.fromarray(np.concatenate([colours[..., :1], alpha], 2), 'LA'),
        'transparent.webp': Image.fromarray(np.concatenate([colours, alpha], 2)),
        'palette.png': Image.fromarray(colours).quantize(16),
        'cmyk.jpg': Image.fromarray(smooth).convert('CMYK'),
        'cmyk.tif': Image.fromarray(colours).convert('CMYK'),
    }
    for name, image in images.items():
        image.save(folder / name)
    palette = Image.fromarray(colours).quantize(16)
    palette.save(folder / 'transparent_palette.png', transparency=3)
    Image.fromarray(colours).save(folder / 'transparent_colour.png', transparency=(1, 2, 3))
    cv2.imwrite(str(folder / '16_bit.png'), grey16)
    cv2.imwrite(str(folder / '12_bit_in_16.png'), grey16 // 16)
    cv2.imwrite(str(folder / '16_bit.tif'), grey16)
    cv2.imwrite(str(folder / '16_bit_rgb.png'), np.dstack([grey16, grey16[::-1], grey16 // 3]))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        for suffix in ('jpg', 'png', 'webp'):
            Image.fromarray(smooth).save(folder / f'turned_{orientation}.{suffix}', exif=exif)
    return sorted(folder.iterdir())


def test_training_sees_what_inference_sees(tmp_path):
    """Through the loading transform of a dataset, as training and evaluation use it."""
    from types import SimpleNamespace

    from mmcv.transforms import LoadImageFromFile

    from effvim.datasets.transforms import check_while_loading

    pipeline = SimpleNamespace(transforms=[LoadImageFromFile()])
    check_while_loading(SimpleNamespace(pipeline=pipeline))
    (load,) = pipeline.transforms
    files = strange_files(tmp_path)
    assert len(files) == 44
    for path in files:
        loaded = load({'img_path': str(path)})
        expected = read_image(path)
        assert loaded['img'].dtype == np.uint8 and loaded['img'].flags['C_CONTIGUOUS']
        assert loaded['img_shape'] == loaded['ori_shape'] == expected.shape[:2]
        assert np.array_equal(loaded['img'][..., ::-1], expected), path.name


def test_a_loading_step_of_ones_own_is_not_replaced(tmp_path):
    """It may read files that no image library knows; an error still names the file."""
    from types import SimpleNamespace

    from mmcv.transforms import LoadImageFromFile

    from effvim.datasets.transforms import check_while_loading

    class LoadArray(LoadImageFromFile):
        def transform(self, results):
            results['img'] = np.load(results['img_path'])
            return results

    pipeline = SimpleNamespace(transforms=[LoadArray()])
    check_while_loading(SimpleNamespace(pipeline=pipeline))
    np.save(tmp_path / 'a.npy', RGB)
    loaded = pipeline.transforms[0]({'img_path': str(tmp_path / 'a.npy')})
    assert np.array_equal(loaded['img'], RGB)
    with pytest.raises(UserError, match=r'image .*absent.npy cannot be read'):
        pipeline.transforms[0]({'img_path': str(tmp_path / 'absent.npy')})


@pytest.mark.parametrize(
    'settings', [{}, {'color_type': 'grayscale'}, {'imdecode_backend': 'pillow'}]
)
def test_truncated_jpegs_are_noticed_with_any_settings(settings, tmp_path):
    from types import SimpleNamespace

    from mmcv.transforms import LoadImageFromFile

    from effvim.datasets.transforms import check_while_loading

    pixels = np.random.RandomState(3).randint(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.jpg')
    pipeline = SimpleNamespace(transforms=[LoadImageFromFile(**settings)])
    check_while_loading(SimpleNamespace(pipeline=pipeline))
    pipeline.transforms[0]({'img_path': str(tmp_path / 'a.jpg')})
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r'a.jpg cannot be read'):
        pipeline.transforms[0]({'img_path': str(tmp_path / 'a.jpg')})


@pytest.mark.parametrize('size', [(1, 1), (7, 301), (240, 320)])
def test_png_keeps_every_pixel(size):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    with Image.open(io.BytesIO(encode_drawing(image, 'a.png'))) as decoded:
        assert decoded.format == 'PNG' and decoded.mode == 'RGB'
        assert np.array_equal(np.asarray(decoded), image)


@pytest.mark.parametrize(
    ('name', 'drawing', 'kind'),
    [('a.jpg', 'a.jpg', 'JPEG'), ('B.JPEG', 'B.JPEG', 'JPEG'), ('c.PNG', 'c.PNG', 'PNG')]
    + [(f'd.{suffix}', f'd.{suffix}.png', 'PNG') for suffix in ('tif', 'webp', 'bmp', 'jp2')],
)
def test_annotated_images_have_the_format_of_their_names(name, drawing, kind):
    """Also in JPEG a red line one pixel wide stays red."""
    image = np.full((64, 96, 3), 200, np.uint8)
    image[20] = image[:, 30] = (255, 0, 0)
    assert name_of_drawing(name) == drawing
    with Image.open(io.BytesIO(encode_drawing(image, drawing))) as decoded:
        assert decoded.format == kind and decoded.mode == 'RGB'
        assert np.abs(np.asarray(decoded).astype(int) - image).max() <= 40
