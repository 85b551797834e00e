#include "models/presets.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <span>

#include "core/error.h"

namespace pf {
namespace {

struct Entry {
  const char* name;
  const char* source;
  std::int64_t parameters;
  bool is_exact;
  const char* model;  // protobuf text, after that of the family
};

constexpr const char* opt =
    "vocabulary: 50272 norm: layer activation: relu qkv_bias: true out_bias: true mlp_bias: true "
    "position: learned max_positions: 2048 position_offset: 2 tied: true init_std: 0.006 "
    "dropout: 0.1 ";
constexpr Entry opt_entries[] = {
    {"opt-125m", "Zhang et al. 2022", 125'239'296, true,
     "layers: 12 hidden: 768 heads: 12 ffn: 3072"},
    {"opt-1.3b", "Zhang et al. 2022", 1'315'758'080, true,
     "layers: 24 hidden: 2048 heads: 32 ffn: 8192"},
    {"opt-2.7b", "Zhang et al. 2022", 2'651'596'800, true,
     "layers: 32 hidden: 2560 heads: 32 ffn: 10240"},
    {"opt-6.7b", "Zhang et al. 2022", 6'658'473'984, true,
     "layers: 32 hidden: 4096 heads: 32 ffn: 16384"},
    {"opt-13b", "Zhang et al. 2022", 12'853'473'280, true,
     "layers: 40 hidden: 5120 heads: 40 ffn: 20480"},
    {"opt-30b", "Zhang et al. 2022", 29'974'540'288, true,
     "layers: 48 hidden: 7168 heads: 56 ffn: 28672"},
    {"opt-66b", "Zhang et al. 2022", 65'719'701'504, true,
     "layers: 64 hidden: 9216 heads: 72 ffn: 36864"},
    {"opt-175b", "Zhang et al. 2022", 175'000'000'000, false,
     "layers: 96 hidden: 12288 heads: 96 ffn: 49152"},
};

constexpr const char* gpt3 =
    "vocabulary: 50257 norm: layer activation: gelu_tanh qkv_bias: true out_bias: true "
    "mlp_bias: true position: learned max_positions: 2048 tied: true ";
constexpr Entry gpt3_entries[] = {
    {"gpt3-175b", "Brown et al. 2020", 175'000'000'000, false,
     "layers: 96 hidden: 12288 heads: 96 ffn: 49152"},
};

constexpr const char* llama3 = "vocabulary: 128256 kv_heads: 8 rope_base: 500000 norm_eps: 1e-5 ";
constexpr Entry llama3_entries[] = {
    {"llama3-8b", "Llama Team 2024", 8'030'261'248, true,
     "layers: 32 hidden: 4096 heads: 32 ffn: 14336"},
    {"llama3-70b", "Llama Team 2024", 70'553'706'496, true,
     "layers: 80 hidden: 8192 heads: 64 ffn: 28672"},
    {"llama3-405b", "Llama Team 2024", 405'853'388'800, true,
     "layers: 126 hidden: 16384 heads: 128 ffn: 53248 rope_scaling { kind: llama3 factor: 8 "
     "original_positions: 8192 slow: 1 fast: 4 }"},
    {"llama3-8x70b", "Liu et al. 2025 (8 experts made of Llama 3 70B)", 465'000'000'000, false,
     "layers: 80 hidden: 8192 heads: 64 moe { experts: 8 top_k: 2 ffn: 28672 router: "
     "top_k_softmax }"},
};

constexpr const char* mixtral =
    "vocabulary: 32000 kv_heads: 8 rope_base: 1000000 norm_eps: 1e-5 moe { top_k: 2 router: "
    "top_k_softmax } ";
constexpr Entry mixtral_entries[] = {
    {"mixtral-8x7b", "Jiang et al. 2024", 46'702'792'704, true,
     "layers: 32 hidden: 4096 heads: 32 moe { experts: 8 ffn: 14336 }"},
    {"mixtral-8x22b", "Mistral AI 2024", 140'620'634'112, true,
     "layers: 56 hidden: 6144 heads: 48 moe { experts: 8 ffn: 16384 }"},
    {"mixtral-8x22b-g8t8", "Liu et al. 2025 (each expert of 8x22B cut into 8)", 141'000'000'000,
     false, "layers: 56 hidden: 6144 heads: 48 moe { experts: 64 top_k: 8 ffn: 2048 }"},
};

constexpr const char* qwen =
    "vocabulary: 151936 kv_heads: 4 rope_base: 1000000 norm_eps: 1e-6 moe { top_k: 8 } ";
constexpr Entry qwen_entries[] = {
    {"qwen2-57b-a14b", "Qwen Team 2024", 57'408'658'944, true,
     "layers: 28 hidden: 3584 heads: 28 qkv_bias: true moe { experts: 64 ffn: 2560 shared_ffn: "
     "20480 shared_gate: true router: softmax_top_k }"},
    {"qwen3-30b-a3b", "Qwen Team 2025", 30'532'122'624, true,
     "layers: 48 hidden: 2048 heads: 32 head_dim: 128 qk_norm: true moe { experts: 128 ffn: 768 "
     "router: top_k_softmax }"},
    {"qwen3-235b-a22b", "Qwen Team 2025", 235'093'634'560, true,
     "layers: 94 hidden: 4096 heads: 64 head_dim: 128 qk_norm: true moe { experts: 128 ffn: 1536 "
     "router: top_k_softmax }"},
};

constexpr Entry deepseek_entries[] = {
    {"deepseek-v3", "DeepSeek-AI 2024", 671'026'419'200, true,
     "vocabulary: 129280 layers: 61 hidden: 7168 heads: 128 ffn: 18432 norm_eps: 1e-6 "
     "mla { q_rank: 1536 kv_rank: 512 nope_dim: 128 rope_dim: 64 value_dim: 128 } "
     "rope_scaling { kind: yarn factor: 40 original_positions: 4096 fast: 32 slow: 1 } "
     "moe { experts: 256 top_k: 8 ffn: 2048 shared_ffn: 2048 first_dense: 3 router: sigmoid_top_k "
     "groups: 8 top_groups: 4 group_best: 2 routed_scale: 2.5 bias_rate: 0.001 "
     "balance { kind: sequence weight: 0.0001 } }"},
};

void append(std::vector<Preset>& all, const std::string& family, std::span<const Entry> entries) {
  for (const Entry& entry : entries) {
    Preset preset{entry.name, {}, entry.source, entry.parameters, entry.is_exact};
    google::protobuf::TextFormat::Parser parser;
    config::Model own;
    const bool is_read =
        parser.ParseFromString(family, &preset.model) && parser.ParseFromString(entry.model, &own);
    require(is_read, "preset ", entry.name, ": its text is not a model");
    preset.model.MergeFrom(own);
    all.push_back(std::move(preset));
  }
}

std::vector<Preset> make_presets() {
  std::vector<Preset> all;
  append(all, opt, opt_entries);
  append(all, gpt3, gpt3_entries);
  append(all, llama3, llama3_entries);
  append(all, mixtral, mixtral_entries);
  append(all, qwen, qwen_entries);
  append(all, "", deepseek_entries);
  return all;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = make_presets();
  return all;
}

const Preset* find_preset(const std::string& name) {
  const auto found = std::ranges::find(presets(), name, &Preset::name);
  return found == presets().end() ? nullptr : &*found;
}

}  // namespace pf
