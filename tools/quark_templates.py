"""Writes src/quern/quantize/templates.yaml from AMD Quark's own tables (see that file's head).

    python tools/quark_templates.py > src/quern/quantize/templates.yaml

`--schemes` prints the names of Quark's schemes instead, which src/quern/quantize/schemes.cc lists.
"""

import argparse
import json

import quark
from quark.torch.quantization.config.template import LLMTemplate
from quark_reference import CARD_EXCLUDE_LAYERS

HEAD = """\
# Model templates: which linear layers of a model type stay unquantized. Patterns match whole module names,
# * over dots (Python's fnmatch). Written by tools/quark_templates.py from AMD Quark {version},
# quark/torch/quantization/config/template.py; a file of the same form can be given with --template.
#
# minimax_m3_vl is the recipe of the model card of amd/MiniMax-M3-MXFP4, which is Quark's own list plus the
# three projections of the dense layers (*mlp.gate_proj, *mlp.up_proj, *mlp.down_proj).
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--schemes", action="store_true")
    if parser.parse_args().schemes:
        print("\n".join(LLMTemplate.get_supported_schemes()))
        return
    print(HEAD.format(version=quark.__version__))
    for name in LLMTemplate.list_available():
        template = LLMTemplate.get(name)
        q = template.q_layer_name
        exclude = CARD_EXCLUDE_LAYERS if name == "minimax_m3_vl" else template.exclude_layers_name
        print(f"{name}:")
        print(f"  kv_layers_name: {json.dumps(template.kv_layers_name)}")
        print(f"  q_layer_name: {json.dumps([q] if isinstance(q, str) else q)}")
        print(f"  gate_up_layers_name: {json.dumps(template.gate_up_layers_name)}")
        print(f"  exclude_layers_name: {json.dumps(exclude)}")
        for i, converter in enumerate(template.f2f_weight_converters or []):
            (operation,) = converter.operations
            axis = operation.split_axis if hasattr(operation, "split_axis") else operation.dim
            if i == 0:
                print("  weight_converters:")
            print(f"    - source: {json.dumps(converter.source_patterns[0])}")
            print(f"      targets: {json.dumps(converter.target_patterns)}")
            print(f"      operation: {type(operation).__name__}")
            print(f"      axis: {axis}")


if __name__ == "__main__":
    main()
