"""Pictures of every kind that the decoders meet, made with Pillow from fixed seeds; imported by the scripts beside it."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photograph(height, width, seed):
    """Smooth shapes of several scales, a little grain."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for cells in (3, 7, 15):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        out += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(out / 3 + rng.normal(0, 4, out.shape), 0, 255).astype(np.uint8)


def line_art(height, width):
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for i in range(0, width, 9):
        draw.line((i, 0, width - i, height), fill=(i % 256, 0, 80), width=1 + i % 3)
    draw.ellipse((width // 4, height // 4, width // 2, height // 2), outline="red")
    return np.asarray(image)


def gradient(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x // max(1, width - 1), 255 * y // max(1, height - 1), (x + y) % 256], -1).astype(np.uint8)


def stripes(height, width, across):
    y, x = np.mgrid[0:height, 0:width]
    return np.repeat((((x if across else y) % 2) * 255).astype(np.uint8)[..., None], 3, -1)


def save(pixels, kind, mode=None, **options):
    image = Image.fromarray(pixels)
    if mode:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels, seed=5):
    alpha = np.random.default_rng(seed).integers(0, 256, pixels.shape[:2] + (1,), dtype=np.uint8)
    return np.concatenate([pixels, alpha], -1)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth, colour, rows, *, extra=b"", interlace=0):
    """A PNG of rows of bytes as they are, for kinds that Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def random_rows(height, bytes_a_row, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, bytes_a_row, dtype=np.uint8).tobytes() for _ in range(height)]


def adam7_png(pixels):
    height, width, _ = pixels.shape
    rows = []
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        part = pixels[y0::dy, x0::dx]
        if part.size:
            rows += [row.tobytes() for row in part]
    return raw_png(width, height, 8, 2, rows, interlace=1)


def offset_gif(transparent):
    """A frame of 2 x 2 at (1, 1) on a screen of 4 x 3, colours 1 2 / 3 1; LZW codes of 3 bits."""
    out = b"GIF89a" + struct.pack("<HHBBB", 4, 3, 0x91, 2, 0) + bytes([1, 2, 3, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    if transparent is not None:
        out += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    bits = [code >> i & 1 for code in (4, 1, 3, 4, 2, 1, 5) for i in range(3)]
    data = bytes(sum(bit << j for j, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8))
    return out + b"," + struct.pack("<HHHHB", 1, 1, 2, 2, 0) + b"\x02" + bytes([len(data)]) + data + b"\0;"


def small_pictures():
    """name -> bytes of the file."""
    photo = photograph(61, 83, 1)
    grey = photo[..., 0].copy()
    frames = [Image.fromarray(noise(30, 40, s)) for s in (1, 2)]
    animated = {kind: io.BytesIO() for kind in ("GIF", "WEBP")}
    for kind, buffer in animated.items():
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    palette = Image.fromarray(photo).convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    transparent_palette = io.BytesIO()
    palette.save(transparent_palette, "PNG", transparency=bytes(range(200)))
    return {
        "jpeg_420": save(photo, "JPEG", quality=90),
        "jpeg_444": save(photo, "JPEG", quality=95, subsampling=0),
        "jpeg_422_low": save(photograph(75, 50, 2), "JPEG", quality=20, subsampling=1),
        "jpeg_progressive": save(photo, "JPEG", progressive=True),
        "jpeg_grey": save(grey, "JPEG"),
        "jpeg_cmyk": save(photo, "JPEG", mode="CMYK", quality=92),
        "jpeg_exif_rotated": save(photo, "JPEG", exif=exif),
        "jpeg_restart": save(photo, "JPEG", restart_marker_rows=1),
        "jpeg_line_art": save(line_art(70, 90), "JPEG"),
        "png_rgb": save(photo, "PNG"),
        "png_rgba": save(with_alpha(photo), "PNG"),
        "png_palette": save(photo, "PNG", mode="P"),
        "png_palette_transparent": transparent_palette.getvalue(),
        "png_grey": save(grey, "PNG"),
        "png_grey_alpha": save(with_alpha(photo), "PNG", mode="LA"),
        "png_1_bit": save(photo, "PNG", mode="1"),
        "png_2_bit_grey": raw_png(37, 20, 2, 0, random_rows(20, 10, 3)),
        "png_4_bit_grey": raw_png(37, 20, 4, 0, random_rows(20, 19, 4)),
        "png_4_bit_palette": raw_png(21, 20, 4, 3, random_rows(20, 11, 5), extra=chunk(b"PLTE", bytes(range(48)))),
        "png_16_bit_grey": save((photo[..., 0].astype(np.uint16) * 3), "PNG"),
        "png_16_bit_rgb": raw_png(23, 20, 16, 2, random_rows(20, 23 * 6, 6)),
        "png_16_bit_rgba": raw_png(23, 20, 16, 6, random_rows(20, 23 * 8, 7)),
        "png_16_bit_grey_alpha": raw_png(23, 20, 16, 4, random_rows(20, 23 * 4, 8)),
        "png_interlaced": adam7_png(noise(29, 35, 9)),
        "png_rgb_transparent_colour": raw_png(23, 20, 8, 2, random_rows(20, 69, 10), extra=chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3]))),
        "png_gradient": save(gradient(90, 64), "PNG"),
        "png_stripes_columns": save(stripes(57, 99, True), "PNG"),
        "png_stripes_rows": save(stripes(99, 57, False), "PNG"),
        "png_one_pixel": save(noise(1, 1, 11), "PNG"),
        "png_wide": save(noise(2, 90, 12), "PNG"),
        "webp_lossy": save(photo, "WEBP", quality=80),
        "webp_lossless": save(noise(33, 47, 13), "WEBP", lossless=True),
        "webp_alpha": save(with_alpha(photo), "WEBP", lossless=True, exact=True),
        "webp_lossy_alpha": save(with_alpha(photo), "WEBP", quality=70),
        "webp_animated": animated["WEBP"].getvalue(),
        "gif": save(photo, "GIF"),
        "gif_interlaced": save(noise(27, 31, 14), "GIF", interlace=1),
        "gif_animated": animated["GIF"].getvalue(),
        "gif_offset": offset_gif(None),
        "gif_offset_transparent": offset_gif(2),
    }


def large_pictures():
    return {
        "jpeg_12_megapixels": save(photograph(3000, 4000, 21), "JPEG", quality=90),
        "jpeg_full_hd": save(photograph(1080, 1920, 22), "JPEG", quality=85),
        "jpeg_vga": save(photograph(480, 640, 23), "JPEG", quality=75),
        "jpeg_panorama": save(photograph(100, 19000, 24), "JPEG", quality=90),
        "png_1024_noise": save(noise(1024, 1024, 25), "PNG"),
        "png_672": save(photograph(672, 672, 26), "PNG"),
        "png_stripes": save(stripes(1500, 1111, True), "PNG"),
        "png_narrow": save(noise(1000, 14, 27), "PNG"),
        "png_line_art": save(line_art(900, 1300), "PNG"),
        "webp_photograph": save(photograph(1200, 900, 28), "WEBP", quality=80),
        "gif_photograph": save(photograph(700, 800, 29), "GIF"),
        "jpeg_cmyk_large": save(photograph(800, 1000, 30), "JPEG", mode="CMYK"),
    }
