#include "launch/job_shrink.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "launch/job_facts.h"
#include "launch/prove_layouts.h"
#include "launch/run_mesh.h"
#include "models/transformer.h"

namespace pf {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr double least_init_std = 0.2;
constexpr const char* layers_key = "model.layers";
constexpr const char* heads_key = "model.heads";
constexpr const char* batch_key = "train.global_batch";
constexpr const char* sequence_key = "data.sequence";

struct Size {
  const char* key;
  std::int64_t least;
};

// The least ones differ, so that no two sizes are mixed up by chance. The batch comes first: of
// many micro-batches rules take long.
constexpr Size all_sizes[] = {
    {"train.micro_batch", 1},
    {"model.moe.balance.group", 1},
    {batch_key, 1},
    {"model.hidden", 10},
    {"model.kv_heads", 1},
    {heads_key, 1},
    {"model.head_dim", 4},
    {"model.mla.q_rank", 6},
    {"model.mla.kv_rank", 5},
    {"model.mla.nope_dim", 3},
    {"model.mla.rope_dim", 4},
    {"model.mla.value_dim", 5},
    {"model.ffn", 7},
    {"model.moe.ffn", 6},
    {"model.moe.shared_ffn", 8},
    {"model.vocabulary", 23},
    {"model.moe.top_k", 1},
    {"model.moe.top_groups", 1},
    {"model.moe.group_best", 1},
    {"model.moe.groups", 1},
    {"model.moe.experts", 1},
    {"model.moe.every", 1},
    {"model.full_attention_every", 1},
    {layers_key, 1},
    {"model.window", 5},
    {"model.rope_scaling.original_positions", 5},
    {"model.moe.capacity.block", 4},
    {"train.head_chunk", 3},
    {sequence_key, 12},
    {"model.max_positions", 1},
    {"train.lora.rank", 2},
};

// A key's message and field; no message where a map on the way is absent.
struct Place {
  Message* message;
  const FieldDescriptor* field;

  std::int64_t value() const {
    return message == nullptr ? 0 : message->GetReflection()->GetInt64(*message, field);
  }
};

Place place_of(Message& root, const std::string& key) {
  Message* message = &root;
  std::size_t begin = 0;
  for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
    const auto* field = message->GetDescriptor()->FindFieldByName(key.substr(begin, dot - begin));
    if (!message->GetReflection()->HasField(*message, field)) return {nullptr, nullptr};
    message = message->GetReflection()->MutableMessage(message, field);
    begin = dot + 1;
  }
  return {message, message->GetDescriptor()->FindFieldByName(key.substr(begin))};
}

// Stages of one layer stay so; the others get `least` layers, those that have more one more each.
std::vector<std::int64_t> sizes_from(const std::vector<LayerRange>& stages, std::int64_t least) {
  std::set<std::int64_t> several;
  for (const LayerRange& stage : stages)
    if (stage.end - stage.begin > 1) several.insert(std::int64_t(stage.end - stage.begin));
  std::vector<std::int64_t> out;
  for (const LayerRange& stage : stages) {
    const auto found = several.find(std::int64_t(stage.end - stage.begin));
    out.push_back(found == several.end() ? 1 : least + std::distance(several.begin(), found));
  }
  return out;
}

// How many of the first layers are in a stage, of those that were: none, some (then one) or all.
std::int64_t first_layers(std::int64_t count, const std::vector<LayerRange>& stages,
                          const std::vector<std::int64_t>& sizes) {
  const auto end = std::size_t(count) + 1;  // after the embedding
  std::int64_t begin = 0;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    if (end == stages[s].end) return begin + sizes[s] - 1;
    if (end < stages[s].end) {
      const std::size_t before = std::max<std::size_t>(stages[s].begin, 1);
      return std::max<std::int64_t>(begin, 1) - 1 + (end > before ? 1 : 0);
    }
    begin += sizes[s];
  }
  return begin - 2;
}

void set_layers(config::Config& c, const config::Config& job, std::int64_t least) {
  const std::vector<LayerRange> stages = stages_of(job);
  const std::vector<std::int64_t> sizes = sizes_from(stages, least);
  std::int64_t all = 0;
  std::string text;
  for (const std::int64_t size : sizes) {
    all += size;
    text += (text.empty() ? "" : ",") + std::to_string(size);
  }
  c.mutable_model()->set_layers(all - 2);
  if (job.parallel().stage_layers() != "even") c.mutable_parallel()->set_stage_layers(text);
  if (job.model().moe().first_dense() > 0)
    c.mutable_model()->mutable_moe()->set_first_dense(
        first_layers(job.model().moe().first_dense(), stages, sizes));
  if (job.train().recompute_layers() > 0)
    c.mutable_train()->set_recompute_layers(
        first_layers(job.train().recompute_layers(), stages, sizes));
}

// Sizes that are the same in the job change together.
void set(const std::string& key, std::int64_t value, const config::Config& job, config::Config& c) {
  if (key == layers_key) return set_layers(c, job, value);
  const Place place = place_of(c, key);
  place.message->GetReflection()->SetInt64(place.message, place.field, value);
  if (key == heads_key && job.model().kv_heads() == job.model().heads())
    c.mutable_model()->set_kv_heads(value);
  const config::Moe& moe = job.model().moe();
  if (key == sequence_key && moe.has_capacity() && moe.capacity().block() == job.data().sequence())
    c.mutable_model()->mutable_moe()->mutable_capacity()->set_block(value);
}

// Some sizes cost nothing unless something makes them matter.
bool matters(const std::string& key, const config::Config& job) {
  if (key == "train.head_chunk")
    return job.train().micro_batch() * job.data().sequence() / job.parallel().cp() >
           job.train().head_chunk();
  if (key == "model.kv_heads" || key == "model.head_dim") return !job.model().has_mla();
  if (key == "model.rope_scaling.original_positions")
    return job.data().sequence() > job.model().rope_scaling().original_positions();
  return true;
}

// Rules come last: they take long to say what would be right instead.
bool is_like(const config::Config& config, const Facts& facts) {
  try {
    if (facts_of(config) != facts) return false;
  } catch (const Error&) {  // stages without layers
    return false;
  }
  return refusal(config).empty();
}

// Fewer sequences are not a micro-batch for each replica.
std::int64_t least_of(const Size& size, const config::Config& config) {
  if (std::string(size.key) != batch_key) return size.least;
  return (data_parallel_size(config) - 1) * config.train().micro_batch() + 1;
}

// Takes the smallest value that leaves the facts as they are.
void shrink(const Size& size, const config::Config& job, const Facts& facts,
            config::Config& config) {
  const std::int64_t now = place_of(config, size.key).value();
  if (now <= size.least || !matters(size.key, job)) return;
  for (std::int64_t value = least_of(size, config); value < now; ++value) {
    config::Config smaller = config;
    set(size.key, value, job, smaller);
    if (place_of(smaller, size.key).value() >= now) return;
    if (place_of(smaller, size.key).value() < 1 || !is_like(smaller, facts)) continue;
    config = smaller;
    return;
  }
}

std::string text_of(const Message& message, const FieldDescriptor& field) {
  std::string text;
  google::protobuf::TextFormat::PrintFieldValueToString(message, &field, -1, &text);
  return text;
}

void add_changes(const Message& job, const Message& here, const std::string& path,
                 std::vector<ChangedKey>& out) {
  for (int i = 0; i < job.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *job.GetDescriptor()->field(i);
    if (field.is_repeated()) continue;
    const std::string key = path + field.name();
    const bool was = job.GetReflection()->HasField(job, &field);
    const bool is = here.GetReflection()->HasField(here, &field);
    if (field.message_type() == nullptr) {
      const std::string a = text_of(job, field), b = text_of(here, field);
      if (a != b) out.push_back({key, a, b});
    } else if (was && is) {
      add_changes(job.GetReflection()->GetMessage(job, &field),
                  here.GetReflection()->GetMessage(here, &field), key + ".", out);
    } else if (was) {
      out.push_back({key, "given", "none"});
    }
  }
}

}  // namespace

config::Config shrink_job(const config::Config& job) {
  using google::protobuf::util::MessageDifferencer;
  const Facts facts = facts_of(job);
  config::Config config = job, before;
  config.mutable_train()->clear_ramp();
  config.mutable_cluster()->set_memory(0);
  config.mutable_parallel()->set_threads(1);
  config.mutable_model()->set_init_std(std::max(least_init_std, job.model().init_std()));
  do {
    before = config;
    for (const Size& size : all_sizes) shrink(size, job, facts, config);
  } while (!MessageDifferencer::Equals(config, before));
  return config;
}

std::vector<ChangedKey> changed_keys(const config::Config& job, const config::Config& here) {
  std::vector<ChangedKey> out;
  add_changes(job, here, "", out);
  return out;
}

}  // namespace pf
