"""Writes tests/golden/checkpoint/*.safetensors with the `safetensors` library, for byte comparison.

Run: pip install safetensors==0.8.0 && python tools/safetensors_golden.py tests/golden/checkpoint
`serialize_file` is what `save_file` of every framework calls; it takes dtypes that numpy lacks.
"""

import ctypes
import pathlib
import sys

import safetensors

WIDTHS = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e5m2": 1, "float8_e4m3fn": 1, "float8_e8m0fnu": 1,
    "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "float64": 8, "int64": 8, "uint64": 8,
}


KEEP_ALIVE = []


def tensor(dtype, *shape):
    elements = 1
    for dim in shape:
        elements *= dim
    seed = sum(dtype.encode()) + elements
    data = bytes((seed + 37 * i) % 251 for i in range(elements * WIDTHS[dtype]))
    if dtype == "bool":
        data = bytes(b & 1 for b in data)
    buffer = (ctypes.c_char * max(1, len(data))).from_buffer_copy(data or b"\0")
    KEEP_ALIVE.append(buffer)
    return safetensors.TensorSpec(
        dtype=dtype, shape=list(shape), data_ptr=ctypes.addressof(buffer), data_len=len(data)
    )


FILES = {
    # Every dtype, odd sizes, so that any other order of dtypes or names changes the file.
    "dtypes": {f"t.{name}": tensor(name, 3) for name in WIDTHS},
    # What a quantized shard looks like.
    "mxfp4": {
        "m.experts.10.w1.weight": tensor("uint8", 4, 16),
        "m.experts.10.w1.weight_scale": tensor("uint8", 4, 1),
        "m.experts.2.w1.weight": tensor("uint8", 4, 16),
        "m.experts.2.w1.weight_scale": tensor("uint8", 4, 1),
        "m.gate.weight": tensor("float32", 2, 32),
        "m.norm.weight": tensor("bfloat16", 32),
        "A.upper": tensor("bfloat16", 5),
    },
    # Scalars, empty tensors, names that JSON escapes or keeps.
    "names": {
        "scalar": tensor("float32"),
        "empty": tensor("float32", 0, 7),
        'quote"back\\slash/': tensor("uint8", 2),
        "tab\tnewline\nbell\u0007del\u007f": tensor("uint8", 3),
        "größe-重み-🚀": tensor("int64", 1),
    },
    "nothing": {},
}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, tensors in FILES.items():
        safetensors.serialize_file(tensors, str(out / f"{name}.safetensors"))


main()
