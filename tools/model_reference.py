"""An independent MiniMax-M3 text tower in NumPy: the oracle behind tests/golden/model.

Written from the published behaviour of vLLM (vllm/models/minimax_m3/amd) and, for MXFP4, of
AMD Quark and vLLM's OCP MX emulation; it shares no code with src/quern. Everything is computed in float64, so
that the golden numbers carry no summation error of their own; only the roundings of the mode under
test are applied, by name:

  Mode("f32")          no rounding of activations. RoPE tables: f_j = 1 / powf(theta, 2j/rotary_dim) in
                       float32, angle = position * f_j in float32, cos and sin rounded to float32.
  Mode("bf16")         rounds to BF16 (nearest even) where vLLM stores BF16:
                       every GEMM output once; norm outputs; q, k, iq, ik once, after norm and RoPE together;
                       the residual (the norm reads the unrounded sum); cos/sin tables; softmax P before P V
                       (row sum of unrounded P; P relative to the running maximum over ascending 128-key
                       blocks); attention output; SwiGLU-OAI once; expert output times routing weight;
                       the sum over top-k; the scaled routed sum; routed + shared; logits.
                       Router logits, sigmoid, bias and routing weights stay float32.
  experts="bf16"       expert weights as stored.
  experts="mxfp4"      routed and shared expert weights go through MXFP4 encode and decode, and so do
                       the inputs of w1/w3 (gate/up) and w2 (down), per token and block of 32.
  experts="mxfp4_weight_only"
                       weights only: what a correct implementation must NOT compute.

Error bounds, for the tests that compare with these numbers
-----------------------------------------------------------
u = 2^-24 is the unit roundoff of float32, v = 2^-9 that of BF16.

f32. A float32 dot product of n terms in any order has error <= n u sum|a_i b_i|; for terms of random
sign the usual error is about sqrt(n) u of the RMS result. A layer has about 12 dependent float32
operations (2 norms, q/k norm, RoPE, QK, softmax, PV, o_proj, router, gate/up, activation, down, adds). A
residual of scale R after L layers therefore differs by about R u sqrt(12 L n_max), n_max the longest
dot product; for m3-tiny (R = 97, L = 5, n_max = 512) 1e-3 is a worst-case figure and 5e-5 was measured
between two float32 implementations, 2e-4 is the tolerance in use; logits (scale 25, two norms later) 1e-4.

bf16. If only the summation order differs, two implementations agree except where an exact sum lies within
float32 error of a rounding boundary. A GEMM output then differs by one BF16 step (2v relative) with
probability about (float32 error) / (BF16 step) = sqrt(n) u / (2 v), around 2^-11 for n = 256. One flip
is a perturbation like any BF16 rounding, so the difference of a final value is a sum of few
flips, not of all roundings. The spread is measured rather than bounded: each golden tensor X of a
rounding mode has X.spread, the largest |X - X'| over runs X' whose GEMM, attention and norm results are
perturbed before rounding by normal noise of 2^-21 of their RMS (about 8 u: more than a float32 dot
product of 512 terms makes) and in which P is rounded relative to the final instead of the running
maximum. A tolerance is a small multiple (4) of the largest spread of the tensor. A decision (greedy
token, expert, block) is compared where its margin exceeds that tolerance; margins are stored.

MXFP4, native against emulation. Both read the same packed weights and the same activation codes, if the
activations that enter the quantizer are equal. Elements times two are integers |e| <= 12, so a block of
32 gives an exact integer |sum| <= 4608 times a power of two; in float32 emulation every partial
sum inside a block is exact too (13 bits). Only the sum over n/32 blocks rounds: error
<= (n/32 - 1) u sum_b |block_b| for either order, so the two differ by at most 2 (n/32) u sum_b |block_b|
per GEMM, and in bf16 mode by at most one BF16 step of the result, rarely. Behind the first such
difference the next quantizer may choose another code for one element: a change by up to one step of the grid
(2^(se+1) at the top), which is why MXFP4 tensors carry a spread as well.
"""

import dataclasses
import json
import math
import pathlib
import struct

import numpy as np

# ------------------------------------------------------------------------------------------ number formats


def bf16(x):
    """Nearest BF16 (ties to even) of x, as float64."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def f32(x):
    return np.asarray(x, dtype=np.float32).astype(np.float64)


def mxfp4_encode(x):
    """x [..., n] with n % 32 == 0 -> (E2M1 values, scale exponents [..., n/32]). Scale rule "even":
    the block maximum rounded half up to two significant bits, then floor(log2) - 2."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // 32, 32)
    amax = np.abs(blocks).max(axis=-1)
    r = (amax.view(np.uint32) + np.uint32(0x00200000)) & np.uint32(0x7F800000)
    exponent = np.clip((r >> np.uint32(23)).astype(np.int64) - 127 - 2, -127, 127)
    q = np.ldexp(blocks.astype(np.float64), -exponent[..., None])
    binade = np.maximum(np.floor(np.log2(np.maximum(np.abs(q), 1.0))), 0.0)
    step = np.exp2(binade - 1.0)
    return np.clip(np.rint(q / step) * step, -6.0, 6.0).reshape(x.shape), exponent


def mxfp4_decode(elements, exponent):
    blocks = elements.reshape(*exponent.shape, 32)
    return np.ldexp(blocks, exponent[..., None]).reshape(elements.shape)


def mxfp4_pack(elements, exponent):
    """The bytes of a checkpoint: (weight [..., n/2], weight_scale [..., n/32]). Zero is stored as +0."""
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = np.searchsorted(grid, np.abs(elements)).astype(np.uint8)
    codes |= np.where((elements < 0), np.uint8(8), np.uint8(0))
    scale = (np.maximum(exponent, -126) + 127).astype(np.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scale


def mxfp4_qdq_weight(w):
    elements, exponent = mxfp4_encode(w)
    return mxfp4_decode(elements, np.maximum(exponent, -126))


def mxfp4_qdq_activation(x):
    return mxfp4_decode(*mxfp4_encode(x))


# ----------------------------------------------------------------------------------------------- checkpoint


def read_safetensors(path):
    """name -> array; BF16 is widened to float32 (exact)."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    (size,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    result = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        raw = data[8 + size + begin : 8 + size + end].tobytes()
        if info["dtype"] == "BF16":
            array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, {"F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}[info["dtype"]])
        result[name] = array.reshape(info["shape"])
    return result


def read_checkpoint(directory):
    directory = pathlib.Path(directory)
    weights = {}
    for path in sorted(directory.glob("*.safetensors")):
        weights.update(read_safetensors(path))
    return json.loads((directory / "config.json").read_text()), weights


# ---------------------------------------------------------------------------------------------------- model


@dataclasses.dataclass(frozen=True)
class Mode:
    arithmetic: str = "f32"  # f32 | bf16
    experts: str = "bf16"  # bf16 | mxfp4 | mxfp4_weight_only
    noise: float = 0.0  # relative perturbation before each rounding (measures the spread)
    seed: int = 0
    final_max: bool = False  # round P relative to the final maximum


@dataclasses.dataclass
class Trace:
    """What one forward pass records; first axis of everything: positions of the pass."""

    hidden: list = dataclasses.field(default_factory=list)  # [1 + layers][T, hidden]
    router: list = dataclasses.field(default_factory=list)  # [moe layers][T, top_k] sorted expert ids
    router_gap: list = dataclasses.field(default_factory=list)  # [moe layers][T]
    blocks: list = dataclasses.field(default_factory=list)  # [sparse layers][T, groups, top_k] sorted, then -1
    block_gap: list = dataclasses.field(default_factory=list)  # [sparse layers][T, groups]
    logits: np.ndarray = None  # [T, vocab]


class Reference:
    """forward() may be called repeatedly with consecutive pieces of one sequence (keys and values are kept)."""

    QUERY_CHUNK = 512

    def __init__(self, config, weights, mode):
        self.c = config["text_config"]
        self.s = self.c["sparse_attention_config"]
        self.mode = mode
        self.rng = np.random.default_rng(mode.seed)
        self.w = self._prepare(weights)
        self.round = bf16 if mode.arithmetic == "bf16" else (lambda x: x)
        self.reset()

    def _prepare(self, weights):
        prefix = "language_model."
        result = {}
        for name, array in weights.items():
            if not name.startswith(prefix):
                continue
            quantized = ".experts." in name or ".shared_experts." in name
            if quantized and self.mode.experts != "bf16":
                result[name[len(prefix) :]] = mxfp4_qdq_weight(array)
            else:
                result[name[len(prefix) :]] = array.astype(np.float64)
        return result

    def reset(self):
        self.cache = [{} for _ in range(self.c["num_hidden_layers"])]
        self.position = 0

    # --- operations

    def _noisy(self, y):
        if self.mode.noise:
            y = y + self.rng.standard_normal(y.shape) * (self.mode.noise * np.sqrt(np.mean(y * y)))
        return y

    def _linear(self, x, name):
        return self.round(self._noisy(x @ self.w[name + ".weight"].T))

    def _normalize(self, x, name):
        """Gemma RMSNorm over the last axis, unrounded."""
        rstd = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.c["rms_norm_eps"])
        return self._noisy(x * rstd * (1.0 + self.w[name + ".weight"]))

    def _rope(self, x, positions):
        """x [T, heads, head_dim]: NeoX pairs (j, j + rotary/2) of the first rotary_dim values."""
        half = self.c["rotary_dim"] // 2
        exponent = np.arange(half, dtype=np.float32) * np.float32(2) / np.float32(2 * half)
        theta = np.float64(self.c["rope_theta"])
        frequency = np.float32(1) / (theta ** exponent.astype(np.float64)).astype(np.float32)
        angle = (positions.astype(np.float32)[:, None] * frequency).astype(np.float64)
        cos, sin = f32(np.cos(angle))[:, None, :], f32(np.sin(angle))[:, None, :]
        if self.mode.arithmetic == "bf16":
            cos, sin = bf16(cos), bf16(sin)
        a, b = x[..., :half], x[..., half : 2 * half]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)

    def _head_branch(self, x, prefix, branch, head_dim, positions):
        y = self._linear(x, f"{prefix}{branch}_proj").reshape(len(x), -1, head_dim)
        return self.round(self._rope(self._normalize(y, f"{prefix}{branch}_norm"), positions))

    def _append(self, layer, key, value):
        old = self.cache[layer].get(key)
        self.cache[layer][key] = value if old is None else np.concatenate([old, value])
        return self.cache[layer][key]

    def _select_blocks(self, iq, ik, positions):
        """iq [T, groups, d], ik [S, d] -> (selected [T, groups, blocks] bool, ids, gap)."""
        size, top_k = self.s["sparse_block_size"], self.s["sparse_topk_blocks"]
        keys = len(ik)
        count = -(-keys // size)
        scores = np.full((len(iq), iq.shape[1], count * size), -np.inf)
        scores[..., :keys] = self._noisy(iq @ ik.T)
        scores[np.broadcast_to(np.arange(count * size) > positions[:, None, None], scores.shape)] = -np.inf
        best = scores.reshape(*scores.shape[:2], count, size).max(axis=-1)
        visible = positions // size + 1
        block = np.arange(count)
        natural = best.copy()
        best[:, :, : self.s["sparse_init_block"]] = 1e30
        local = (block >= np.maximum(visible - self.s["sparse_local_block"], 0)[:, None]) & (block < visible[:, None])
        best = np.where(local[:, None, :], 1e29, best)
        best = np.where((block >= visible[:, None])[:, None, :], -np.inf, best)
        order = np.argsort(-best, axis=-1, kind="stable")
        chosen = order[..., :top_k]
        selected = np.zeros(best.shape, dtype=bool)
        np.put_along_axis(selected, chosen, True, axis=-1)
        selected &= np.isfinite(best)
        ids = np.full((*best.shape[:2], top_k), -1, dtype=np.int64)
        for index in np.ndindex(*best.shape[:2]):
            row = np.flatnonzero(selected[index])
            ids[index][: len(row)] = row
        forced = best >= 1e29
        worst_in = np.where(selected & ~forced, natural, np.inf).min(axis=-1)
        best_out = np.where(~selected & np.isfinite(best), natural, -np.inf).max(axis=-1)
        return selected, ids, worst_in - best_out

    def _attend(self, q, k, v, positions, selected):
        """q [T, heads, d], k and v [S, kv_heads, d], selected [T, kv_heads, blocks] or None -> [T, heads * d]."""
        size = self.s["sparse_block_size"]
        tokens, heads, d = q.shape
        kv_heads = k.shape[1]
        keys = len(k)
        count = -(-keys // size)
        pad = count * size - keys
        allowed = np.arange(count * size) <= positions[:, None]
        out = np.zeros((tokens, heads, d))
        for g in range(kv_heads):
            kg = np.pad(k[:, g], ((0, pad), (0, 0)))
            vg = np.pad(v[:, g], ((0, pad), (0, 0))).reshape(count, size, d)
            mask = allowed if selected is None else allowed & np.repeat(selected[:, g], size, axis=-1)
            for h in range(g * (heads // kv_heads), (g + 1) * (heads // kv_heads)):
                s = np.where(mask, self._noisy(q[:, h] @ kg.T) / math.sqrt(d), -np.inf)
                s = s.reshape(tokens, count, size)
                running = np.maximum.accumulate(s.max(axis=-1), axis=-1)  # [T, blocks]
                final = running[:, -1:]
                base = np.broadcast_to(final, running.shape) if self.mode.final_max else running
                base = np.where(np.isfinite(base), base, 0.0)
                p = np.exp(s - base[..., None])
                weight = np.exp(base - final) * np.isfinite(running)
                total = (p.sum(axis=-1) * weight).sum(axis=-1)
                p = self.round(p) * weight[..., None]
                out[:, h] = (p.reshape(tokens, -1) @ vg.reshape(-1, d)) / total[:, None]
        return self.round(self._noisy(out.reshape(tokens, heads * d)))

    def _attention(self, x, layer, positions, trace):
        p = f"model.layers.{layer}.self_attn."
        d = self.c["head_dim"]
        sparse = bool(self.s["sparse_attention_freq"][layer])
        q = self._head_branch(x, p, "q", d, positions)
        k = self._append(layer, "k", self._head_branch(x, p, "k", d, positions))
        v = self._append(layer, "v", self._linear(x, p + "v_proj").reshape(len(x), -1, d))
        if sparse:
            index_dim = self.s["sparse_index_dim"]
            iq = self._head_branch(x, p, "index_q", index_dim, positions)
            ik = self._append(layer, "ik", self._head_branch(x, p, "index_k", index_dim, positions)[:, 0])
        outputs, ids, gaps = [], [], []
        for begin in range(0, len(x), self.QUERY_CHUNK):
            part = slice(begin, begin + self.QUERY_CHUNK)
            selected = None
            if sparse:
                selected, part_ids, gap = self._select_blocks(iq[part], ik, positions[part])
                ids.append(part_ids)
                gaps.append(gap)
            outputs.append(self._attend(q[part], k, v, positions[part], selected))
        if sparse:
            trace.blocks.append(np.concatenate(ids))
            trace.block_gap.append(np.concatenate(gaps))
        return self._linear(np.concatenate(outputs), p + "o_proj")

    def _swiglu_oai(self, gate, up):
        limit = self.c["swiglu_limit"]
        gate = np.minimum(gate, limit)
        up = np.clip(up, -limit, limit)
        y = gate / (1.0 + np.exp(-self.c["swiglu_alpha"] * gate)) * (up + self.c.get("swiglu_beta", 1.0))
        return self.round(self._noisy(y))

    def _mlp(self, x, prefix, quantize):
        q = mxfp4_qdq_activation if quantize else (lambda y: y)
        x = q(x)
        y = self._swiglu_oai(self._linear(x, prefix + "gate_proj"), self._linear(x, prefix + "up_proj"))
        return self._linear(q(y), prefix + "down_proj")

    def _moe(self, x, layer, trace):
        p = f"model.layers.{layer}.block_sparse_moe."
        top_k = self.c["num_experts_per_tok"]
        logits = self._noisy(x @ self.w[p + "gate.weight"].T)
        scores = 1.0 / (1.0 + np.exp(-logits))
        choice = scores + self.w[p + "e_score_correction_bias"]
        order = np.argsort(-choice, axis=-1, kind="stable")
        chosen = order[:, :top_k]
        sorted_choice = np.take_along_axis(choice, order, axis=-1)
        trace.router.append(np.sort(chosen, axis=-1))
        trace.router_gap.append(sorted_choice[:, top_k - 1] - sorted_choice[:, top_k])
        weights = np.take_along_axis(scores, chosen, axis=-1)
        weights = weights / weights.sum(axis=-1, keepdims=True)

        quantize = self.mode.experts == "mxfp4"
        xq = mxfp4_qdq_activation(x) if quantize else x
        routed = np.zeros_like(x)
        for expert in range(self.c["num_local_experts"]):
            rows, slot = np.nonzero(chosen == expert)
            if not len(rows):
                continue
            e = f"{p}experts.{expert}."
            y = self._swiglu_oai(self._linear(xq[rows], e + "w1"), self._linear(xq[rows], e + "w3"))
            if quantize:
                y = mxfp4_qdq_activation(y)
            y = self._noisy(y @ self.w[e + "w2.weight"].T) * weights[rows, slot][:, None]
            routed[rows] += self.round(y)
        routed = self.round(self.round(routed) * self.c["routed_scaling_factor"])
        return self.round(routed + self._mlp(x, p + "shared_experts.", quantize))

    # --- the tower

    def forward(self, ids, logits_from=0):
        """ids: the next tokens of the sequence. Logits are computed from index `logits_from` of ids on."""
        trace = Trace()
        positions = np.arange(self.position, self.position + len(ids))
        self.position += len(ids)
        total = self.w["model.embed_tokens.weight"][np.asarray(ids)]
        trace.hidden.append(self.round(total))
        for layer in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            residual = self.round(total)
            x = self.round(self._normalize(total, p + "input_layernorm"))
            total = self._attention(x, layer, positions, trace) + residual
            residual = self.round(total)
            x = self.round(self._normalize(total, p + "post_attention_layernorm"))
            if self.c["moe_layer_freq"][layer]:
                x = self._moe(x, layer, trace)
            else:
                x = self._mlp(x, p + "mlp.", False)
            total = x + residual
            trace.hidden.append(self.round(total))
        x = self.round(self._normalize(total[logits_from:], "model.norm"))
        trace.logits = self._linear(x, "lm_head")
        return trace

    def greedy(self, last_logits, count):
        """`count` tokens after the positions already seen -> (tokens, top1 - top2 of each step)."""
        tokens, margins, logits = [], [], last_logits
        for step in range(count):
            second, first = np.sort(logits)[-2:]
            tokens.append(int(np.argmax(logits)))
            margins.append(first - second)
            if step + 1 < count:
                logits = self.forward([tokens[-1]]).logits[-1]
        return tokens, margins
