"""Small models of each architecture beside the Hugging Face library's: the same weights, the same
tokens, the logits compared. Its rotary angles, and some of its softmaxes and norms, are in f32.

    ninja -C build bench_logits
    python bench/beside_huggingface.py build/bench/logits     # wants torch and transformers 5
"""

import subprocess
import sys

import torch
import transformers as hf

BASE = "vocabulary: 29 layers: 3 hidden: 16 heads: 4 init_std: 0.3 "
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0, "beta_fast": 0.5, "beta_slow": 0.1,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8}
YARN_TEXT = "rope_scaling {kind: yarn factor: 3 original_positions: 8 slow: 0.1 fast: 0.5} "
COMMON = dict(vocab_size=29, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
              max_position_embeddings=24, attn_implementation="eager",
              experts_implementation="eager", rms_norm_eps=1e-5, pad_token_id=None)
GROUPED = dict(COMMON, num_key_value_heads=2, tie_word_embeddings=False)
BIASES = ("norm: layer qkv_bias: true out_bias: true mlp_bias: true position: learned "
          "max_positions: 24 tied: true ffn: 40 ")


def ours(program, text):
    """Weights by name, ids and logits of the model that `text` describes."""
    run = subprocess.run([program], input=BASE + text, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{program}: {run.stderr or 'not a model: ' + text}")
    lines = run.stdout.splitlines()
    tensors = {}
    for head, numbers in zip(lines[::2], lines[1::2]):
        name, *shape = head.split()
        values = torch.tensor([float(x) for x in numbers.split()])
        tensors[name] = values.reshape([int(extent) for extent in shape])
    return tensors, tensors.pop("ids").long(), tensors.pop("logits")


class Copy:
    """Their state from our weights."""

    def __init__(self, w):
        self.w, self.state = w, {}

    def put(self, theirs, *names, shape=lambda x: x):
        parts = [self.w[name] for name in names]
        self.state[theirs] = shape(torch.cat(parts) if len(parts) > 1 else parts[0])

    def pairs(self, theirs, mine, pairs, suffix=""):
        for a, b in pairs:
            self.put(f"{theirs}.{a}.weight", f"{mine}{b}")
            if suffix:
                self.put(f"{theirs}.{a}.bias", f"{mine}{b}{suffix}")

    def ends(self):
        self.put("model.embed_tokens.weight", "embedding")
        self.put("model.norm.weight", "head.norm")
        self.put("lm_head.weight", "head" if "head" in self.w else "embedding")

    def layer(self, i):
        """The norms, grouped attention and MLP or experts of the Llama kind; what is there."""
        mine, theirs = f"layers.{i}", f"model.layers.{i}"
        kind = "moe" if f"{mine}.moe.norm" in self.w else "mlp"
        self.put(f"{theirs}.input_layernorm.weight", f"{mine}.attention.norm")
        self.put(f"{theirs}.post_attention_layernorm.weight", f"{mine}.{kind}.norm")
        attention = f"{mine}.attention."
        if attention + "q" in self.w:
            parts = [(f"{x}_proj", x) for x in "qkv"]
            self.pairs(f"{theirs}.self_attn", attention, parts,
                       ".bias" if attention + "q.bias" in self.w else "")
            self.put(f"{theirs}.self_attn.o_proj.weight", attention + "out")
            if attention + "q.norm" in self.w:
                self.pairs(f"{theirs}.self_attn", attention,
                           [(f"{x}_norm", f"{x}.norm") for x in "qk"])
        if kind == "mlp":
            return self.gated(f"{theirs}.mlp", f"{mine}.mlp")
        self.put(f"{theirs}.mlp.gate.weight", f"{mine}.moe.router")
        experts = f"{mine}.moe.experts."
        self.state[f"{theirs}.mlp.experts.gate_up_proj"] = torch.cat(
            [self.w[experts + "gate"], self.w[experts + "up"]], 1)
        self.put(f"{theirs}.mlp.experts.down_proj", experts + "down")
        return None

    def gated(self, theirs, mine):
        self.pairs(theirs, mine + ".", [(f"{x}_proj", x) for x in ("gate", "up", "down")])


def llama_like(copy):
    copy.ends()
    for i in range(3):
        copy.layer(i)


def qwen2_moe(copy):
    llama_like(copy)
    for i in range(3):
        theirs, mine = f"model.layers.{i}.mlp.shared_expert", f"layers.{i}.moe.shared"
        copy.gated(theirs, mine)
        copy.put(theirs + "_gate.weight", mine + ".switch")


def deepseek(copy):
    llama_like(copy)

    def by_head(a, b):
        heads = [copy.w[x].reshape(4, -1, copy.w[x].shape[1]) for x in (a, b)]
        return torch.cat(heads, 1).flatten(0, 1)

    for i in range(3):
        theirs, mine = f"model.layers.{i}.self_attn.", f"layers.{i}.attention."
        copy.put(theirs + "q_a_proj.weight", mine + "q.down")
        copy.put(theirs + "q_a_layernorm.weight", mine + "q.norm")
        copy.state[theirs + "q_b_proj.weight"] = by_head(mine + "q.nope", mine + "q.rope")
        copy.put(theirs + "kv_a_proj_with_mqa.weight", mine + "kv.down", mine + "k.rope")
        copy.put(theirs + "kv_a_layernorm.weight", mine + "kv.norm")
        copy.state[theirs + "kv_b_proj.weight"] = by_head(mine + "k.nope", mine + "v")
        copy.put(theirs + "o_proj.weight", mine + "out")
        if i > 0:
            copy.put(f"model.layers.{i}.mlp.gate.e_score_correction_bias",
                     f"layers.{i}.moe.router.bias")
            copy.gated(f"model.layers.{i}.mlp.shared_experts", f"layers.{i}.moe.shared")


def gpt2(copy):
    norm = [("ln_f", "head.norm")]
    copy.pairs("transformer", "", [("wte", "embedding"), ("wpe", "positions")])
    copy.pairs("transformer", "", norm, ".bias")
    copy.put("lm_head.weight", "embedding")
    for i in range(3):
        theirs, mine = f"transformer.h.{i}", f"layers.{i}"
        copy.pairs(theirs, mine, [("ln_1", ".attention.norm"), ("ln_2", ".mlp.norm")], ".bias")
        parts = {"attn.c_attn": [f".attention.{x}" for x in "qkv"], "attn.c_proj": [".attention.out"],
                 "mlp.c_fc": [".mlp.up"], "mlp.c_proj": [".mlp.down"]}
        for name, of in parts.items():
            copy.put(f"{theirs}.{name}.weight", *[mine + x for x in of], shape=lambda x: x.T)
            copy.put(f"{theirs}.{name}.bias", *[mine + x + ".bias" for x in of])


def opt(copy):
    whole = "model.decoder"
    copy.pairs(whole, "", [("embed_tokens", "embedding"), ("embed_positions", "positions")])
    copy.pairs(whole, "", [("final_layer_norm", "head.norm")], ".bias")
    copy.put("lm_head.weight", "embedding")
    for i in range(3):
        theirs, mine = f"{whole}.layers.{i}", f"layers.{i}"
        parts = [(f"self_attn.{x}_proj", f".attention.{x}") for x in ("q", "k", "v", "out")]
        parts += [("self_attn_layer_norm", ".attention.norm"), ("final_layer_norm", ".mlp.norm"),
                  ("fc1", ".mlp.up"), ("fc2", ".mlp.down")]
        copy.pairs(theirs, mine, parts, ".bias")


def llama(rope, **more):
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        intermediate_size=40, rope_parameters=rope, **dict(GROUPED, **more)))


def cases():
    """Name, our model, theirs, how weights go over."""
    dense = "kv_heads: 2 ffn: 40 "
    stretched = {"original_max_position_embeddings": 8, "rope_theta": 1e4, "factor": 3.0}
    yield "Llama", dense, llama(PLAIN_ROPE), llama_like
    yield "Llama, tied", dense + "tied: true", llama(PLAIN_ROPE, tie_word_embeddings=True), llama_like
    yield ("Llama 3 rope", dense + "rope_scaling {kind: llama3 factor: 3 original_positions: 8 "
           "slow: 0.1 fast: 0.5}", llama({"rope_type": "llama3", "low_freq_factor": 0.1,
                                          "high_freq_factor": 0.5, **stretched}), llama_like)
    yield "YaRN", dense + YARN_TEXT, llama({**YARN, "mscale": None, "mscale_all_dim": None}), llama_like
    yield ("linear rope", dense + "rope_scaling {kind: linear factor: 3}",
           llama({"rope_type": "linear", **stretched}), llama_like)
    yield ("Mixtral", "kv_heads: 2 window: 7 moe {experts: 6 top_k: 2 ffn: 12 router: top_k_softmax}",
           hf.MixtralForCausalLM(hf.MixtralConfig(
               intermediate_size=12, num_local_experts=6, num_experts_per_tok=2, sliding_window=7,
               rope_parameters=PLAIN_ROPE, **GROUPED)), llama_like)
    experts = dict(moe_intermediate_size=12, num_experts=6, num_experts_per_tok=3,
                   rope_parameters=PLAIN_ROPE, **GROUPED)
    yield ("Qwen2-MoE", "kv_heads: 2 qkv_bias: true moe {experts: 6 top_k: 3 ffn: 12 shared_ffn: 20 "
           "shared_gate: true}", hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(
               shared_expert_intermediate_size=20, **experts)), qwen2_moe)
    yield ("Qwen3-MoE", "kv_heads: 2 head_dim: 6 qk_norm: true moe {experts: 6 top_k: 3 ffn: 12 "
           "router: top_k_softmax}", hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
               head_dim=6, norm_topk_prob=True, **experts)), llama_like)
    yield ("DeepSeek-V3", "ffn: 40 norm_eps: 1e-6 mla {q_rank: 10 kv_rank: 8 nope_dim: 6 rope_dim: 4 "
           "value_dim: 5} " + YARN_TEXT + "moe {experts: 8 top_k: 3 ffn: 12 shared_ffn: 12 "
           "first_dense: 1 router: sigmoid_top_k groups: 4 top_groups: 2 group_best: 2 "
           "routed_scale: 2.5 bias_rate: 0.001}",
           hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(
               intermediate_size=40, moe_intermediate_size=12, n_shared_experts=1,
               n_routed_experts=8, routed_scaling_factor=2.5, kv_lora_rank=8, q_lora_rank=10,
               qk_rope_head_dim=4, v_head_dim=5, qk_nope_head_dim=6, n_group=4, topk_group=2,
               num_experts_per_tok=3, first_k_dense_replace=1, norm_topk_prob=True,
               rope_interleave=False, rope_parameters=YARN,
               **dict(GROUPED, num_key_value_heads=4, rms_norm_eps=1e-6))), deepseek)
    for kind, activation in (("gelu_tanh", "gelu_new"), ("gelu", "gelu")):
        yield (f"GPT-2, {kind}", BIASES + f"activation: {kind}",
               hf.GPT2LMHeadModel(hf.GPT2Config(
                   vocab_size=29, n_positions=24, n_embd=16, n_layer=3, n_head=4, n_inner=40,
                   activation_function=activation, attn_implementation="eager")), gpt2)
    yield ("OPT", BIASES + "activation: relu position_offset: 2",
           hf.OPTForCausalLM(hf.OPTConfig(
               vocab_size=29, hidden_size=16, num_hidden_layers=3, ffn_dim=40,
               num_attention_heads=4, max_position_embeddings=24, word_embed_proj_dim=16,
               attn_implementation="eager", pad_token_id=None)), opt)


def main():
    hf.logging.set_verbosity_error()
    torch.set_default_dtype(torch.float64)
    failed = 0
    for name, text, model, fill in cases():
        weights, ids, want = ours(sys.argv[1], text)
        copy = Copy(weights)
        fill(copy)
        unknown = copy.state.keys() - model.state_dict().keys()
        missing = {n for n, _ in model.named_parameters()} - copy.state.keys()
        if unknown or missing:
            sys.exit(f"{name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        model.load_state_dict(copy.state, strict=False)
        with torch.no_grad():
            found = model.double().eval()(ids, use_cache=False).logits
        apart, largest = float((found - want).abs().max()), float(want.abs().max())
        print(f"{name:16s} largest difference {apart:.1e} of logits up to {largest:.1f}")
        failed += not apart < 1e-5 * largest
    print(f"transformers {hf.__version__}, torch {torch.__version__}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
