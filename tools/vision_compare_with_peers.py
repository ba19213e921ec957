#!/usr/bin/env python3
"""Compares preprocessing with Pillow and torchvision, and a tower's features with `transformers`.

  cmake --build --preset release --target vision_peer_driver
  V/bin/python tools/vision_compare_with_peers.py DRIVER pixels                 # pictures of tools/vision_pictures.py
  V/bin/python tools/vision_compare_with_peers.py DRIVER features DIR [f32|cpu] # 12 sizes on the checkpoint in DIR
  V/bin/python tools/vision_compare_with_peers.py DRIVER time DIR [THREADS]     # a 672 x 672 picture, both
"""

import io
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from transformers.models.minimax_m3_vl.image_processing_minimax_m3_vl import MiniMaxM3VLImageProcessor

import vision_golden
import vision_pictures

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = ROOT / "models" / "m3-tiny"
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def drive(driver, directory, mode, threads, files):
    command = [driver, str(directory), mode, str(threads)] + [str(f) for f in files]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split(" ") for line in lines]


def unpatch(pixels, h, w):
    """Patches of a picture -> bytes as floats [14 h, 14 w, 3] (the first temporal slice)."""
    p = pixels.reshape(h // 2, w // 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
    return p.transpose(0, 2, 5, 1, 3, 6, 4).reshape(h * 14, w * 14, 3) * STD * 255 + MEAN * 255


def compare_pixels(driver, scratch):
    pictures = vision_pictures.small_pictures() | vision_pictures.large_pictures()
    files = []
    for name, data in pictures.items():
        files.append(scratch / name)
        files[-1].write_bytes(data)
    exact = 0
    for (name, data), file, line in zip(pictures.items(), files, drive(driver, TINY, "pixels", 1, files)):
        want = vision_golden.resize(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).astype(float)
        t, h, w, tokens = (int(v) for v in line[:4])
        assert (t, h * 14, w * 14) == (1, *want.shape[:2]) and tokens == h * w // 4, (name, line, want.shape)
        worst = np.abs(unpatch(np.fromfile(f"{file}.pixels", np.float32), h, w) - want).max()
        exact += worst < 0.01
        if worst >= 0.01:
            print(f"{name}: largest difference {worst:.3f} of 255")
        assert worst < 1.01, name
    print(f"{len(pictures)} pictures: grids and token counts equal, {exact} with every pixel equal")


def load(directory, dtype):
    import transformers
    return transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa").eval().model


def features_of(model, inputs):
    pixels = inputs["pixel_values"].to(next(model.parameters()).dtype)
    return model.get_image_features(pixels, inputs["image_grid_thw"]).pooler_output[0].float().numpy()


def compare_features(driver, scratch, directory, mode):
    exact, rounded = load(directory, torch.float32), load(directory, torch.bfloat16)
    processor = MiniMaxM3VLImageProcessor()
    for height, width in vision_golden.SIZES:
        image = Image.fromarray(vision_golden.test_picture(height, width))
        if (height, width) == (14, 1000):
            image = Image.fromarray(vision_golden.resize(np.asarray(image)))
        file = scratch / f"{height}x{width}.png"
        image.save(file, "PNG")
        inputs = processor(images=[image], return_tensors="pt")
        if mode == "f32" and inputs["image_grid_thw"].prod() > 300:
            continue  # the oracle's plain loops
        line = drive(driver, directory, mode, 0, [file])[0]
        want, theirs = features_of(exact, inputs), features_of(rounded, inputs)
        ours = np.fromfile(f"{file}.features", np.float32).reshape(want.shape)
        rms = np.sqrt((want ** 2).mean())
        report = lambda x: f"{np.abs(x - want).max() / rms:.2e} (rms {np.sqrt(((x - want) ** 2).mean()) / rms:.2e})"
        print(f"{height} x {width}: {line[3]} tokens; difference to transformers float32, of the features' rms: {report(ours)}; transformers bfloat16: {report(theirs)}", flush=True)


def compare_time(driver, scratch, directory, threads):
    torch.set_num_threads(threads)
    model = load(directory, torch.float32)
    image = Image.fromarray(vision_golden.test_picture(672, 672))
    file = scratch / "picture.png"
    image.save(file, "PNG")
    inputs = MiniMaxM3VLImageProcessor()(images=[image], return_tensors="pt")
    for _ in range(3):  # in turns: both see the same machine
        best = lambda mode: min(float(line[4]) for line in drive(driver, directory, mode, threads, [file] * 3))
        ours, vectors = best("cpu"), best("vectors")
        theirs = 1e9
        for _ in range(3):
            start = time.perf_counter()
            features_of(model, inputs)
            theirs = min(theirs, (time.perf_counter() - start) * 1e3)
        print(f"{threads} threads: quern {ours:.0f} ms (vectors {vectors:.0f} ms), transformers float32 {theirs:.0f} ms, ratio {ours / theirs:.2f} (vectors {vectors / theirs:.2f})", flush=True)


def main():
    torch.set_grad_enabled(False)
    driver, what, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        if what == "pixels":
            compare_pixels(driver, scratch)
        elif what == "features":
            compare_features(driver, scratch, rest[0], (rest[1:] or ["f32"])[0])
        elif what == "time":
            compare_time(driver, scratch, rest[0], int((rest[1:] or [2])[0]))


if __name__ == "__main__":
    main()
