#!/usr/bin/env python3
"""Converts the text part of a MiniMax-M3 checkpoint (BF16, or MXFP4 as `quern quantize` writes it) to GGUF.

    python3 -m venv V && V/bin/pip install numpy
    V/bin/python tools/gguf_write.py MODEL_DIR OUTPUT.gguf [--no_indexer]

For comparisons with llama.cpp and ik_llama.cpp, which read only GGUF (architecture "minimax-m3"). ik_llama.cpp has no
block selection and refuses the indexer's tensors: give it a file made with --no_indexer. No value is changed: BF16 stays
BF16, MXFP4 keeps its scales and codes, norms become 1 + w in float32 (exact), and the indexer float32, since ggml would
round its activations to BF16. The whole file is planned from the headers, then written front to back in pieces of 2 MiB.
"""

import argparse
import json
import os
import pathlib
import struct

import numpy as np

ARCH = "minimax-m3"
ALIGNMENT = 32
PIECE_BYTES = 2 << 20
# Numbers of the GGUF format: types of metadata values, of tensors, of tokens, of files.
U32, F32_VALUE, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
GGML_TYPES = {"F32": 0, "F16": 1, "BF16": 30, "MXFP4": 39}
TOKEN_NORMAL, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED = 1, 3, 4, 5
FILE_BF16, FILE_MXFP4 = 32, 38
GATING_SIGMOID = 2
# 32 codes of 4 bits behind one scale byte.
MXFP4_BLOCK, MXFP4_BLOCK_BYTES = 32, 17
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}

MODEL_NAMES = {"lm_head.weight": "output.weight", "model.embed_tokens.weight": "token_embd.weight",
               "model.norm.weight": "output_norm.weight"}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.index_q_proj.weight": "indexer.q_proj.weight", "self_attn.index_k_proj.weight": "indexer.k_proj.weight",
    "self_attn.index_q_norm.weight": "indexer.q_norm.weight", "self_attn.index_k_norm.weight": "indexer.k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.e_score_correction_bias": "exp_probs_b.bias",
    "block_sparse_moe.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "block_sparse_moe.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "block_sparse_moe.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}
EXPERT_NAMES = {"w1.weight": "ffn_gate_exps.weight", "w3.weight": "ffn_up_exps.weight", "w2.weight": "ffn_down_exps.weight"}
IGNORED = ("vision_tower.", "multi_modal_projector.", "patch_merge_mlp.")


class Tensor:
    """One tensor of a safetensors file; rows are read from the file when they are needed."""

    def __init__(self, file, name, dtype, shape, offset):
        self.file, self.name, self.dtype, self.shape, self.offset = file, name, dtype, shape, offset

    def rows(self, first, count):
        """-> [count, columns] in the stored dtype, BF16 as uint16. A vector is one row."""
        if self.dtype not in ITEM_BYTES:
            raise SystemExit(f"{self.name}: dtype {self.dtype}, expected one of {', '.join(ITEM_BYTES)}")
        columns = self.shape[-1]
        row_bytes = columns * ITEM_BYTES[self.dtype]
        data = os.pread(self.file.fileno(), count * row_bytes, self.offset + first * row_bytes)
        if len(data) != count * row_bytes:
            raise SystemExit(f"{self.file.name}: {self.name} ends after {len(data)} of {count * row_bytes} bytes")
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}[self.dtype]
        return np.frombuffer(data, kind).reshape(count, columns)


def read_checkpoint(directory):
    """-> tensors by name without "language_model."."""
    tensors = {}
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{directory}: no *.safetensors")
    for path in files:
        file = open(path, "rb")
        header_bytes = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            offset = 8 + header_bytes + entry["data_offsets"][0]
            tensors[name.removeprefix("language_model.")] = Tensor(file, name, entry["dtype"], entry["shape"], offset)
    return tensors


def as_float32(rows, dtype):
    if dtype == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


def mxfp4_blocks(codes, scales, name):
    """[rows, in / 2] with element 2j in the low nibble of byte j, [rows, in / 32] -> [rows, in / 32, 17] of ggml, where
    the low nibble of byte j is element j and the high one element j + 16."""
    if (scales == 255).any():
        raise SystemExit(f"{name}: a scale byte is 255 (NaN), which ggml has no value for")
    halves = codes.reshape(len(codes), -1, 2, MXFP4_BLOCK // 4)
    first, second = halves[:, :, 0], halves[:, :, 1]
    blocks = np.empty((*first.shape[:2], MXFP4_BLOCK_BYTES), np.uint8)
    blocks[..., 0] = scales
    # Bytes 2j and 2j + 1 of the codes: elements 2j and 2j + 1 of both halves.
    blocks[..., 1::2] = first & 15 | second << 4
    blocks[..., 2::2] = first >> 4 | second & 240
    return blocks


class Part:
    """A checkpoint tensor on its way into the file: its type there, its shape [rows, columns] and its bytes."""

    def __init__(self, tensors, name):
        self.tensor = tensors[name]
        self.scale = tensors.get(name + "_scale")
        shape = self.tensor.shape
        self.row_count = shape[0] if len(shape) == 2 else 1
        self.columns = shape[-1]
        self.is_norm = name.endswith("norm.weight")
        self.type = self.tensor.dtype
        if self.scale is not None:
            self.columns *= 2
            self.type = "MXFP4"
            expected = [self.row_count, self.columns // MXFP4_BLOCK]
            if self.tensor.dtype != "U8" or self.scale.dtype != "U8" or self.scale.shape != expected:
                raise SystemExit(f"{name}: {self.tensor.dtype} {shape} with scales {self.scale.dtype} {self.scale.shape}, "
                                 f"expected U8 and U8 {expected} (MXFP4)")
        elif self.is_norm or ".index_" in name:
            self.type = "F32"
        if self.type not in GGML_TYPES:
            raise SystemExit(f"{name}: {self.tensor.dtype}, expected BF16, F16, F32 or MXFP4 with scales beside it")

    def row_bytes(self):
        if self.type == "MXFP4":
            return self.columns // MXFP4_BLOCK * MXFP4_BLOCK_BYTES
        return self.columns * ITEM_BYTES[self.type]

    def pieces(self):
        step = max(1, PIECE_BYTES // self.row_bytes())
        for first in range(0, self.row_count, step):
            count = min(step, self.row_count - first)
            rows = self.tensor.rows(first, count)
            if self.type == "MXFP4":
                yield mxfp4_blocks(rows, self.scale.rows(first, count), self.tensor.name)
            elif self.type != self.tensor.dtype or self.is_norm:
                # Gemma's norms multiply by 1 + w.
                yield as_float32(rows, self.tensor.dtype) + np.float32(self.is_norm)
            else:
                yield rows


class Output:
    """One tensor of the file: one part, or the same matrix of all experts one behind the other."""

    def __init__(self, name, parts, stacked):
        first = parts[0]
        for part in parts:
            if (part.type, part.row_count, part.columns) != (first.type, first.row_count, first.columns):
                raise SystemExit(f"{part.tensor.name}: {part.type} [{part.row_count}, {part.columns}], but "
                                 f"{first.tensor.name} is {first.type} [{first.row_count}, {first.columns}]")
        self.name, self.parts, self.type = name, parts, first.type
        # ggml counts dimensions from the innermost.
        self.dims = [first.columns]
        if stacked:
            self.dims += [first.row_count, len(parts)]
        elif len(first.tensor.shape) == 2:
            self.dims += [first.row_count]
        self.bytes = sum(part.row_count * part.row_bytes() for part in parts)


def plan(tensors, text, with_indexer):
    """-> outputs in layer order. Every tensor of the language model is used, or the plan fails."""
    outputs, used = [], set()

    def add(name, sources, stacked=False):
        for source in sources:
            if source not in tensors:
                raise SystemExit(f"{source}: not in the checkpoint")
            used.update((source, source + "_scale"))
        outputs.append(Output(name, [Part(tensors, source) for source in sources], stacked))

    for source, name in MODEL_NAMES.items():
        add(name, [source])
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for source, name in LAYER_NAMES.items():
            if prefix + source not in tensors:
                continue
            if name.startswith("indexer.") and not with_indexer:
                used.update((prefix + source, prefix + source + "_scale"))
                continue
            add(f"blk.{layer}.{name}", [prefix + source])
        if text["moe_layer_freq"][layer]:
            for source, name in EXPERT_NAMES.items():
                add(f"blk.{layer}.{name}", [f"{prefix}block_sparse_moe.experts.{e}.{source}"
                                            for e in range(text["num_local_experts"])], stacked=True)
    for name in tensors:
        if name not in used and not name.startswith(IGNORED):
            raise SystemExit(f"{name}: no place in the GGUF of this architecture")
    return outputs


def string_bytes(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value_bytes(kind, value):
    if kind == STRING:
        return string_bytes(value)
    return struct.pack({U32: "<I", I32: "<i", F32_VALUE: "<f", BOOL: "<?"}[kind], value)


def entry_bytes(key, kind, value):
    """A metadata entry; a list becomes an array."""
    if isinstance(value, list):
        body = struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(value_bytes(kind, v) for v in value)
    else:
        body = struct.pack("<I", kind) + value_bytes(kind, value)
    return string_bytes(key) + body


def dense_layers(text):
    """Number of dense layers, which must be the first ones."""
    frequency = text["moe_layer_freq"]
    count = next((i for i, moe in enumerate(frequency) if moe), len(frequency))
    if not all(frequency[count:]):
        raise SystemExit(f"config.json: moe_layer_freq {frequency}, expected dense layers only at the beginning")
    return count


def check_supported(text):
    """What the peers have as constants in their code."""
    for key, expected in (("swiglu_alpha", 1.702), ("swiglu_limit", 7.0), ("swiglu_beta", 1.0), ("scoring_func", "sigmoid"),
                          ("use_gemma_norm", True), ("tie_word_embeddings", False),
                          ("shared_intermediate_size", text["intermediate_size"] * text["n_shared_experts"])):
        if text.get(key, expected) != expected:
            raise SystemExit(f"config.json: {key} {text[key]}, expected {expected}: the peers take it as given")
    sparse = text["sparse_attention_config"]
    if sparse.get("sparse_init_block", 0) != 0:
        raise SystemExit(f"config.json: sparse_init_block {sparse['sparse_init_block']}, expected 0")


def model_entries(text, name, file_type, with_indexer):
    sparse = text["sparse_attention_config"]
    entries = [
        ("general.architecture", STRING, ARCH), ("general.name", STRING, name), ("general.file_type", U32, file_type),
        ("general.quantization_version", U32, 2), ("general.alignment", U32, ALIGNMENT),
    ]
    own = [
        ("vocab_size", U32, text["vocab_size"]), ("context_length", U32, text["max_position_embeddings"]),
        ("embedding_length", U32, text["hidden_size"]), ("block_count", U32, text["num_hidden_layers"]),
        ("feed_forward_length", U32, text["dense_intermediate_size"]),
        ("attention.head_count", U32, text["num_attention_heads"]),
        ("attention.head_count_kv", U32, text["num_key_value_heads"]),
        ("attention.key_length", U32, text["head_dim"]), ("attention.value_length", U32, text["head_dim"]),
        ("attention.layer_norm_rms_epsilon", F32_VALUE, text["rms_norm_eps"]),
        ("rope.dimension_count", U32, text["rotary_dim"]), ("rope.freq_base", F32_VALUE, text["rope_theta"]),
        ("expert_count", U32, text["num_local_experts"]), ("expert_used_count", U32, text["num_experts_per_tok"]),
        ("expert_feed_forward_length", U32, text["intermediate_size"]),
        ("expert_shared_count", U32, text["n_shared_experts"]),
        ("expert_weights_scale", F32_VALUE, text["routed_scaling_factor"]), ("expert_weights_norm", BOOL, True),
        ("expert_gating_func", U32, GATING_SIGMOID), ("leading_dense_block_count", U32, dense_layers(text)),
    ]
    if with_indexer:
        own += [
            ("attention.indexer.head_count", U32, sparse["sparse_num_index_heads"]),
            ("attention.indexer.key_length", U32, sparse["sparse_index_dim"]),
            ("attention.indexer.top_k", U32, sparse["sparse_topk_blocks"]),
            ("attention.indexer.block_size", U32, sparse["sparse_block_size"]),
            ("attention.indexer.local_blocks", U32, sparse["sparse_local_block"]),
        ]
    return entries + [(f"{ARCH}.{key}", kind, value) for key, kind, value in own]


def tokenizer_entries(directory, vocab_size):
    """Byte-level BPE. Ids without a token get a name made of their number, since the peers take the vocabulary's size from the list."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [TOKEN_UNUSED] * vocab_size
    ids = {}
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], kinds[i], ids[token] = token, TOKEN_NORMAL, i
    for added in tokenizer["added_tokens"]:
        i = added["id"]
        tokens[i], ids[added["content"]] = added["content"], i
        kinds[i] = TOKEN_CONTROL if added["special"] else TOKEN_USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    entries = [
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "minimax-m2"),
        ("tokenizer.ggml.tokens", STRING, tokens), ("tokenizer.ggml.token_type", I32, kinds),
        ("tokenizer.ggml.merges", STRING, merges), ("tokenizer.ggml.add_bos_token", BOOL, False),
    ]
    for key, setting in (("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")):
        token = settings.get(setting)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            entries.append((f"tokenizer.ggml.{key}_token_id", U32, ids[token]))
    template = directory / "chat_template.jinja"
    if template.is_file():
        entries.append(("tokenizer.chat_template", STRING, template.read_text(encoding="utf-8")))
    return entries


def padding(size):
    return -size % ALIGNMENT


def write(path, entries, outputs):
    """Header, metadata, the tensors' descriptions, then their bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(outputs), len(entries))
    head += b"".join(entry_bytes(*entry) for entry in entries)
    offset = 0
    for output in outputs:
        head += string_bytes(output.name) + struct.pack(f"<I{len(output.dims)}Q", len(output.dims), *output.dims)
        head += struct.pack("<IQ", GGML_TYPES[output.type], offset)
        offset += output.bytes + padding(output.bytes)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        file.write(head + bytes(padding(len(head))))
        for output in outputs:
            for part in output.parts:
                for piece in part.pieces():
                    file.write(np.ascontiguousarray(piece))
            file.write(bytes(padding(output.bytes)))
    partial.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--no_indexer", action="store_true", help="without block selection, for ik_llama.cpp")
    args = parser.parse_args()
    config = json.loads((args.model_dir / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    check_supported(text)
    outputs = plan(read_checkpoint(args.model_dir), text, not args.no_indexer)
    file_type = FILE_MXFP4 if any(output.type == "MXFP4" for output in outputs) else FILE_BF16
    entries = model_entries(text, args.model_dir.resolve().name, file_type, not args.no_indexer)
    entries += tokenizer_entries(args.model_dir, text["vocab_size"])
    write(args.output, entries, outputs)
    print(f"{args.output}: {len(outputs)} tensors, {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
