#!/usr/bin/env python3
"""Writes tests/golden/vision: what Pillow, torchvision and transformers make of pictures.

    python3 -m venv V && V/bin/pip install torch torchvision transformers==5.23.0 pillow safetensors
    V/bin/python tools/vision_golden.py PUBLISHED      # the directory of m3-tiny's published outputs

pictures.safetensors: NAME.file U8 [bytes], NAME.decoded U8 [h, w, 3] (Pillow's convert("RGB")), NAME.white U8 (vLLM's
loader: alpha over white; only where it differs), NAME.resized U8 [h', w', 3] (torchvision v2 of the decoded one).
published.safetensors: the image case published with m3-tiny, as it is.
tiny.transformers_f32.safetensors: m3-tiny in float32 on pictures of 12 sizes, see tiny_cases().
"""

import io
import pathlib
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers.models.minimax_m3_vl.image_processing_minimax_m3_vl import MiniMaxM3VLImageProcessor, smart_resize

import vision_pictures

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "vision"
SIZES = [(20, 20), (70, 70), (42, 98), (14, 1000), (112, 112), (56, 224), (300, 56), (33, 150), (140, 200), (224, 224), (480, 640), (672, 672)]
KEPT_ROWS = 12


def resize(rgb):
    """vLLM's size rule: a side never rounds to zero."""
    height, width = rgb.shape[:2]
    bars = [max(28, round(side / 28) * 28) for side in (height, width)]
    if 3136 <= bars[0] * bars[1] <= 451584:
        size = bars
    else:
        size = smart_resize(height, width, 28, 3136, 451584)
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    return F.resize(tensor, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0).numpy()


def over_white(image):
    out = Image.new("RGB", image.size, (255, 255, 255))
    out.paste(image, mask=image.split()[3])
    return np.asarray(out)


def pictures():
    out = {}
    for name, file in vision_pictures.small_pictures().items():
        image = Image.open(io.BytesIO(file))
        out[f"{name}.file"] = np.frombuffer(file, dtype=np.uint8)
        out[f"{name}.decoded"] = np.asarray(image.convert("RGB"))
        if image.mode == "RGBA":
            out[f"{name}.white"] = over_white(image)
        out[f"{name}.resized"] = resize(out[f"{name}.decoded"])
    return out


def test_picture(height, width):
    """tests/model/vision_tower_test.cc makes the same."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * 7 + y * 13 + c * 50 + x * y % 31 * 4) % 256).astype(np.uint8)


def tiny_cases(published):
    """For each size its features (KEPT_ROWS of them, spread) and the logits behind the published prompt."""
    directory = ROOT / "models" / "m3-tiny"
    model = transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    processor = MiniMaxM3VLImageProcessor()
    ids = published["image.input_ids"].tolist()
    placeholder = 2009
    first, count = ids.index(placeholder), ids.count(placeholder)
    out = {}
    for height, width in SIZES:
        key = f"{height}x{width}"
        image = Image.fromarray(test_picture(height, width))
        if key == "14x1000":  # vLLM's rule and transformers' differ below 14 pixels and a half
            image = Image.fromarray(resize(np.asarray(image)))
        inputs = processor(images=[image], return_tensors="pt")
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output[0].numpy()
        prompt = ids[:first] + [placeholder] * len(features) + ids[first + count :]
        logits = model(input_ids=torch.tensor([prompt]), pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"], use_cache=False).logits[0, -1].numpy()
        rows = np.unique(np.linspace(0, len(features) - 1, KEPT_ROWS).astype(np.int64))
        out |= {f"{key}.grid": inputs["image_grid_thw"][0].numpy(), f"{key}.rows": rows, f"{key}.features": features[rows], f"{key}.logits": logits}
    return out


def main():
    torch.set_grad_enabled(False)
    published_dir = pathlib.Path(sys.argv[1])
    published = {k: v for k, v in load_file(published_dir / "golden.safetensors").items() if k.startswith("image.") and ".shared." not in k}
    published["image.file"] = np.frombuffer((published_dir / "image.png").read_bytes(), dtype=np.uint8)
    OUT.mkdir(parents=True, exist_ok=True)
    save = lambda name, tensors: save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, OUT / f"{name}.safetensors")
    save("published", published)
    save("pictures", pictures())
    save("tiny.transformers_f32", tiny_cases(published))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, Pillow {Image.__version__}")


if __name__ == "__main__":
    main()
