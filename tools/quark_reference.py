"""Quantizes a checkpoint with AMD Quark itself, as the model card of amd/MiniMax-M3-MXFP4 does.

The peer for byte parity: `quern quantize` must write the same tensors and the same config.json but for
`version`. Needs `pip install amd-quark torch safetensors transformers`, a C++ compiler and ninja (Quark
builds its CPU extension on first use). tests/golden/quark_hashes.json is made from its outputs by
tools/quark_golden.py.

    python tools/quark_reference.py --model_dir M --output_dir Q [--quant_scheme mxfp4]
        [--exclude_layers P ...]
"""

import argparse

from quark.torch import ModelQuantizer
from quark.torch.quantization.config.template import LLMTemplate

# The exclude list that the card passes; without it the template's own list would leave attention in.
CARD_EXCLUDE_LAYERS = [
    "*lm_head",
    "*vision_tower*",
    "*multi_modal_projector*",
    "*patch_merge_mlp*",
    "*block_sparse_moe.gate",
    "*self_attn*",
    "*mlp.gate_proj",
    "*mlp.up_proj",
    "*mlp.down_proj",
]


def register_minimax_m3_template():
    LLMTemplate.register_template(
        LLMTemplate(
            model_type="minimax_m3_vl",
            kv_layers_name=["*language_model.*k_proj", "*language_model.*v_proj"],
            q_layer_name="*language_model.*q_proj",
            exclude_layers_name=[
                "*lm_head",
                "*vision_tower*",
                "*multi_modal_projector*",
                "*patch_merge_mlp*",
                "*block_sparse_moe.gate",
                "*self_attn.index_*",
            ],
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--quant_scheme", default="mxfp4")
    parser.add_argument("--exclude_layers", nargs="*", default=CARD_EXCLUDE_LAYERS)
    args = parser.parse_args()

    register_minimax_m3_template()
    template = LLMTemplate.get("minimax_m3_vl")
    config = template.get_config(scheme=args.quant_scheme, exclude_layers=args.exclude_layers)
    quantizer = ModelQuantizer(config)
    quantizer.direct_quantize_checkpoint(
        pretrained_model_path=args.model_dir, save_path=args.output_dir, device="cpu"
    )


if __name__ == "__main__":
    main()
