#!/usr/bin/env python3
"""Writes tests/golden/video/clips.safetensors: small clips, and what OpenCV, vLLM's rule and transformers make of them.

    python3 -m venv V && V/bin/pip install av opencv-python-headless torch torchvision transformers==5.23.0 safetensors
    V/bin/python tools/video_golden.py

NAME.file U8 [bytes]; NAME.fps F64 and NAME.count I64 as OpenCV reports them; NAME.numbers I64: frames that vLLM looks at
(models/minimax_m3/common/mm_preprocess.py, restated in sample()); NAME.frames U8 [n, h, w, 3]: OpenCV's, RGB. For the clip
PROCESSED also what transformers makes of these frames with models/m3-tiny in float32: NAME.grid, NAME.patches (every 7th
row), NAME.tokens (of the prompt "see ]<]video[>[ there"), NAME.features (of segment behind segment), NAME.logits (behind the
prompt).
"""

import io
import math
import pathlib

import av
import cv2
import numpy as np
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "video"
TINY = ROOT / "models" / "m3-tiny"
PROCESSED = "h264_long"
# name: codec, container, width, height, frames, rate, options
CLIPS = {
    "h264": ("libx264", "mp4", 84, 56, 102, "30", {"crf": "36", "bf": "3", "g": "40"}),
    "h264_ntsc": ("libx264", "mp4", 64, 64, 70, "30000/1001", {"crf": "40", "profile": "baseline"}),
    "h264_rotated": ("libx264", "mp4", 84, 56, 40, "25", {"crf": "36"}),
    "h264_slow": ("libx264", "mp4", 56, 56, 5, "1/2", {"crf": "36"}),
    "h264_long": ("libx264", "mp4", 62, 48, 22, "2", {"crf": "36"}),
    "mpeg4": ("mpeg4", "mp4", 64, 48, 30, "15", {"qscale": "20"}),
    "vp8_odd": ("libvpx", "webm", 61, 47, 53, "10", {"crf": "50", "b": "20k"}),
    "vp9": ("libvpx-vp9", "webm", 84, 56, 55, "25", {"crf": "50", "b": "0"}),
    "av1": ("libsvtav1", "webm", 64, 64, 24, "12", {"crf": "55", "preset": "10"}),
    "hevc": ("libx265", "mp4", 64, 64, 24, "12", {"crf": "40", "x265-params": "log-level=none"}),
}


def picture(number, width, height):
    """A square that moves over a gradient."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, number * 7 % 256)], axis=2).astype(np.uint8)
    left, top = number * 2 % (width - 12), number % (height - 12)
    image[top : top + 12, left : left + 12] = (255, 255 - number * 5 % 256, 0)
    return image


def rotate(file):
    """A quarter turn clockwise in the track header's matrix."""
    at = file.index(b"tkhd") + 44
    matrix = np.array([0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 56 << 16, 0, 1 << 30], dtype=">u4")
    return file[:at] + matrix.tobytes() + file[at + 36 :]


def encode(codec, container, width, height, frames, rate, options):
    from fractions import Fraction

    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        options = dict(options)
        stream = file.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if "b" in options:
            bits = options.pop("b")
            stream.bit_rate = int(bits[:-1]) * 1000 if bits.endswith("k") else int(bits)
        stream.options = options
        for number in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


def sample(total, video_fps, fps=1.0):
    """vLLM's MiniMaxM3VideoBackend: the first frame, then each that is a second (less 1e-4) after the one before."""
    kept = [0]
    while True:
        target = kept[-1] / video_fps + 1.0 / fps - 1e-4
        number = max(math.ceil(target * video_fps), kept[-1] + 1)
        if number >= total:
            return kept
        kept.append(number)


def look(file, by_pyav):
    """fps, count, the numbers of the frames and the frames, as vLLM reads them: one grab after another."""
    capture = cv2.VideoCapture(io.BytesIO(file), cv2.CAP_FFMPEG, [])
    assert capture.isOpened()
    fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted, frames = sample(count, fps), []
    if by_pyav:
        with av.open(io.BytesIO(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for i, frame in enumerate(container.decode(video=0)) if i in wanted]
        return fps, count, wanted, np.stack(frames)
    for number in range(wanted[-1] + 1):
        assert capture.grab(), (number, count)
        if number in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return fps, count, wanted, np.stack(frames)


def processed(frames, fps, numbers):
    import torch
    import transformers
    from transformers.models.minimax_m3_vl.image_processing_minimax_m3_vl import MiniMaxM3VLImageProcessor
    from transformers.models.minimax_m3_vl.processing_minimax_m3_vl import MiniMaxM3VLProcessor
    from transformers.models.minimax_m3_vl.video_processing_minimax_m3_vl import MiniMaxM3VLVideoProcessor

    torch.set_grad_enabled(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    processor = MiniMaxM3VLProcessor(MiniMaxM3VLImageProcessor(), tokenizer, MiniMaxM3VLVideoProcessor())
    metadata = {"fps": fps, "frames_indices": numbers, "total_num_frames": len(numbers)}
    inputs = processor(text="see ]<]video[>[ there", videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], video_metadata=[metadata],
                       do_resize=True, do_sample_frames=False, return_tensors="pt")
    model = transformers.AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()
    grid, pixels = inputs["video_grid_thw"], inputs["pixel_values_videos"]
    features, first = [], 0
    for row in grid:  # each segment in a call of its own
        last = first + int(row.prod())
        features.append(model.model.get_image_features(pixels[first:last], row[None]).pooler_output[0])
        first = last
    logits = model(input_ids=inputs["input_ids"], pixel_values_videos=pixels, video_grid_thw=grid, use_cache=False).logits[0, -1]
    return {"grid": grid.numpy(), "patches": pixels.numpy()[::7], "tokens": inputs["input_ids"][0].numpy(),
            "features": torch.cat(features).numpy(), "logits": logits.numpy()}


def main():
    tensors = {}
    for name, clip in CLIPS.items():
        file = encode(*clip)
        if name.endswith("rotated"):
            file = rotate(file)
        fps, count, numbers, frames = look(file, name == "av1")  # OpenCV's wheel has no decoder for it
        tensors |= {f"{name}.file": np.frombuffer(file, np.uint8), f"{name}.fps": np.array([fps]), f"{name}.count": np.array([count]),
                    f"{name}.numbers": np.array(numbers), f"{name}.frames": frames}
        if name == PROCESSED:
            tensors |= {f"{name}.{key}": value for key, value in processed(frames, fps, numbers).items()}
        print(f"{name}: {len(file)} bytes, {fps} fps, {count} frames, looked at {numbers}, {frames.shape}")
    OUT.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / "clips.safetensors")
    print(f"OpenCV {cv2.__version__}, PyAV {av.__version__}")


if __name__ == "__main__":
    main()
