#!/usr/bin/env python3
"""Makes tests/golden: tiny random models of each family and what Hugging Face computes with them.

usage: tools/make_golden.py [NAME...]      (needs torch and transformers 5; not needed by the tests)

Each folder holds config.json, model.safetensors, golden.json (prompt, greedy tokens, which rows)
and logits.bin (f32 rows of the prompt's logits); rope.json has frequencies of published settings.
The reference runs in f32 on the stored weights with eager attention. A seed is taken only if the
greedy run is neither tied (the gap of the two largest logits stays above GAP_MIN, so that rounding
cannot change a token) nor a short loop.
"""
import json
import os
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT, GREEDY, GAP_MIN, DISTINCT_MIN = 200, 256, 1.5e-3, 24
ROWS = sorted({0, 1, 2, 5, 31, 32, 63, 64, 65, 100, 127, 128, 150, 177, 198, 199})
OUT = os.path.join(os.path.dirname(__file__), "..", "tests", "golden")

SMALL = dict(vocab_size=256, hidden_size=48, intermediate_size=88, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(theta=10000.0, kind="default", **more):
    return dict(rope_theta=theta, rope_type=kind, **more)


def longrope_factors(n, top):
    return [round(1.0 + (top - 1.0) * (i / (n - 1)) ** 2, 4) for i in range(n)]


# name -> (model_type, stored dtype, config fields, write config.json as transformers 4 did)
CASES = {
    "llama": ("llama", "f32", dict(SMALL, tie_word_embeddings=False, rope_parameters=rope()),
              False),
    "llama3": ("llama", "bf16", dict(
        SMALL, tie_word_embeddings=True, num_key_value_heads=1, head_dim=24, num_hidden_layers=4,
        rope_parameters=rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64)), True),
    "llama_linear": ("llama", "bf16", dict(
        SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
        num_key_value_heads=4, rope_parameters=rope(10000.0, "linear", factor=2.5)), True),
    "llama_yarn": ("llama", "bf16", dict(
        SMALL, tie_word_embeddings=False,
        rope_parameters=rope(10000.0, "yarn", factor=4.0,
                             original_max_position_embeddings=128)), False),
    "llama_yarn_raw": ("llama", "bf16", dict(
        SMALL, tie_word_embeddings=True, head_dim=32,
        rope_parameters=rope(150000.0, "yarn", factor=8.0, truncate=False, beta_fast=24.0,
                             beta_slow=2.0, attention_factor=1.1,
                             original_max_position_embeddings=64)), False),
    "mistral": ("mistral", "bf16", dict(
        SMALL, sliding_window=50, head_dim=24, tie_word_embeddings=False,
        rope_parameters=rope(1000000.0)), True),
    "qwen2": ("qwen2", "bf16", dict(
        SMALL, tie_word_embeddings=True, rope_parameters=rope(1000000.0)), False),
    "qwen2_window": ("qwen2", "bf16", dict(
        SMALL, tie_word_embeddings=False, num_hidden_layers=4, use_sliding_window=True,
        sliding_window=37, max_window_layers=2, rope_parameters=rope(1000000.0)), True),
    "qwen3": ("qwen3", "bf16", dict(
        SMALL, tie_word_embeddings=True, head_dim=20, rope_parameters=rope(1000000.0)), False),
    "mixtral": ("mixtral", "bf16", dict(
        SMALL, intermediate_size=40, num_local_experts=5, num_experts_per_tok=2,
        sliding_window=None, tie_word_embeddings=False, rope_parameters=rope(1000000.0)), False),
    "qwen3_moe": ("qwen3_moe", "bf16", dict(
        SMALL, head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
        norm_topk_prob=False, mlp_only_layers=[1], decoder_sparse_step=1,
        tie_word_embeddings=False, rope_parameters=rope(1000000.0)), False),
    "gemma2": ("gemma2", "bf16", dict(
        SMALL, head_dim=16, num_hidden_layers=4, query_pre_attn_scalar=24,
        attn_logit_softcapping=4.0, final_logit_softcapping=6.0, sliding_window=45,
        hidden_activation="gelu_pytorch_tanh", rope_parameters=rope()), True),
    "gemma3": ("gemma3_text", "bf16", dict(
        SMALL, head_dim=16, num_hidden_layers=4, query_pre_attn_scalar=16, sliding_window=40,
        layer_types=["sliding_attention", "sliding_attention", "full_attention",
                     "sliding_attention"],
        rope_parameters={"sliding_attention": rope(10000.0),
                         "full_attention": rope(1000000.0, "linear", factor=4.0)}), False),
    "phi3": ("phi3", "bf16", dict(
        SMALL, head_dim=16, hidden_size=64, sliding_window=90, partial_rotary_factor=0.75,
        tie_word_embeddings=False, rope_parameters=rope(10000.0)), False),
    "phi3_longrope": ("phi3", "bf16", dict(
        SMALL, hidden_size=64, sliding_window=None, tie_word_embeddings=False,
        original_max_position_embeddings=128,
        rope_parameters=rope(10000.0, "longrope", original_max_position_embeddings=128,
                             short_factor=longrope_factors(8, 1.6),
                             long_factor=longrope_factors(8, 9.0))), True),
    "gpt2": ("gpt2", "f32", dict(
        vocab_size=240, n_positions=460, n_embd=40, n_layer=3, n_head=4, n_inner=None,
        bos_token_id=1, eos_token_id=2), False),
}


def init_weights(model, seed, plus_one):
    """Every tensor random, biases and norms too, so that a forgotten one shows."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=gen)
        if p.ndim == 1:
            is_norm = name.endswith("weight")
            value = 0.25 * noise + (1.0 if is_norm and not plus_one else 0.0)
            # Gemma's scaled, tied embedding would outweigh the layers: a loop of one token.
            if plus_one and ("post_" in name or name.endswith("model.norm.weight")):
                value += 1.5
        elif "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
            value = noise * (0.8 if plus_one else 2.0) / p.shape[-1] ** 0.5
        else:
            fan_in = p.shape[-2] if "c_" in name else p.shape[-1]
            value = noise * 1.6 / fan_in ** 0.5
        p.data.copy_(value)


@torch.no_grad()
def greedy(model, prompt):
    """256 tokens without a cache, the smallest gap, and the prompt's logits."""
    ids, gap = list(prompt), float("inf")
    first = None
    for _ in range(GREEDY):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
        if first is None:
            first = logits
        top = torch.topk(logits[-1], 2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        if gap < GAP_MIN:
            return first, None, gap
        ids.append(int(top.indices[0]))
    return first, ids[len(prompt):], gap


def old_config(config):
    """config.json as transformers 4 wrote it."""
    config.pop("layer_types", None)
    params = config.pop("rope_parameters")
    config["rope_theta"] = params.pop("rope_theta")
    config["rope_scaling"] = None
    kind = params.pop("rope_type")
    if kind != "default":
        config["rope_scaling"] = {"type" if kind in ("linear", "longrope") else "rope_type": kind,
                                  **params}
    if config.get("rope_scaling") and config["model_type"] == "phi3":
        config["rope_scaling"].pop("original_max_position_embeddings", None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config


def make(name):
    kind, dtype, fields, old = CASES[name]
    config = AutoConfig.for_model(kind, **fields)
    config._attn_implementation = "eager"
    stored = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    plus_one = kind.startswith("gemma")
    for seed in range(1, 400):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        init_weights(model, seed, plus_one)
        for p in model.parameters():
            p.data.copy_(p.data.to(stored).float())
        gen = torch.Generator().manual_seed(seed)
        prompt = torch.randint(3, config.vocab_size, (PROMPT,), generator=gen).tolist()
        logits, tokens, gap = greedy(model, prompt)
        if os.environ.get("VERBOSE"):
            print(name, seed, gap, tokens and len(set(tokens)), file=sys.stderr, flush=True)
        if tokens is not None and len(set(tokens)) >= DISTINCT_MIN:
            break
    else:
        sys.exit(f"{name}: no seed gives an untied greedy run")
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    model.to(stored).save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    saved = json.load(open(path))
    if old:
        saved = old_config(saved)
    json.dump(saved, open(path, "w"), indent=1)
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)
    logits[ROWS].numpy().astype("<f4").tofile(os.path.join(folder, "logits.bin"))
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"family": name, "seed": seed, "transformers": transformers.__version__,
                   "prompt": prompt, "greedy": tokens, "logits_rows": ROWS,
                   "vocab": config.vocab_size, "gap_min": round(gap, 6),
                   "logits_std": round(logits.std().item(), 4)}, f)
        f.write("\n")
    size = sum(os.path.getsize(os.path.join(folder, x)) for x in os.listdir(folder))
    print(f"{name:16} seed {seed:3} gap {gap:.5f} distinct {len(set(tokens)):3} "
          f"std {logits.std():.2f} max {logits.abs().max():.2f} {size / 1000:.0f} kB", flush=True)


# Published rope settings: Llama 3.1, Qwen2.5 and gpt-oss (YaRN), DeepSeek-like mscale, Phi-3.
ROPE_BASE = dict(hidden_size=4096, num_attention_heads=32, num_hidden_layers=1, vocab_size=9,
                 intermediate_size=9, max_position_embeddings=131072)
ROPES = [
    dict(rope_theta=10000.0, rope_type="default"),
    dict(rope_theta=10000.0, rope_type="linear", factor=8.0),
    rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=8192),
    rope(500000.0, "llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=8192),
    rope(1000000.0, "yarn", factor=4.0, original_max_position_embeddings=32768),
    rope(150000.0, "yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
         original_max_position_embeddings=4096),
    rope(10000.0, "yarn", factor=40.0, mscale=0.707, mscale_all_dim=1.0,
         original_max_position_embeddings=4096),
    rope(10000.0, "longrope", original_max_position_embeddings=4096,
         short_factor=longrope_factors(64, 2.0), long_factor=longrope_factors(64, 60.0)),
]


def make_rope():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    out = []
    for params in ROPES:
        config = transformers.LlamaConfig(**ROPE_BASE, rope_parameters=dict(params))
        kind = params["rope_type"]
        if kind == "default":
            inv, factor = 1.0 / (10000.0 ** (torch.arange(0, 128, 2).float() / 128)), 1.0
        else:
            inv, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=131072)
        pos = 100003
        angle = inv * float(pos)
        out.append({"config": dict(ROPE_BASE, model_type="llama", rope_parameters=params),
                    "inv_freq": inv.tolist(), "attention_factor": factor, "pos": pos,
                    "cos": (angle.cos() * factor).tolist(),
                    "sin": (angle.sin() * factor).tolist()})
    with open(os.path.join(OUT, "rope.json"), "w") as f:
        json.dump(out, f)
        f.write("\n")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for case in sys.argv[1:] or [*CASES, "rope"]:
        make_rope() if case == "rope" else make(case)
