#include "launch/resume_rules.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <array>
#include <functional>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "launch/config.h"
#include "launch/config_rules.h"
#include "launch/config_scalar.h"
#include "launch/text.h"

namespace pf {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

enum class Rule : std::uint8_t {
  said,       // may change
  quiet,      // may change, and changes no numbers
  fixed,      // may not
  weights,    // may not between f64 and others: the type of weights
  states,     // may not between 0 and others where the optimizer is sgd, which then has no states
  worked_out  // fixed; today's is the checkpoint's unless today's file gives one
};

// Of a key and all below it that have no line of their own; of others: said.
constexpr std::pair<std::string_view, Rule> rules[] = {
    {"run", Rule::quiet},
    {"run.seed", Rule::fixed},
    {"run.precision", Rule::weights},
    {"model", Rule::fixed},
    {"model.preset", Rule::quiet},  // its keys are compared
    {"model.moe.balance.group", Rule::worked_out},
    {"data", Rule::fixed},
    {"data.sources.path", Rule::quiet},  // check_same_data() compares what is there
    {"data.heldout_windows", Rule::quiet},
    {"train.global_batch", Rule::fixed},
    {"train.ramp", Rule::fixed},
    {"train.lora", Rule::fixed},
    {"train.freeze", Rule::fixed},
    {"train.evaluate_every", Rule::quiet},
    {"train.sample_bytes", Rule::quiet},
    {"train.sample_temperature", Rule::quiet},
    {"train.max_skipped", Rule::quiet},
    {"train.time_limit", Rule::quiet},
    {"optimizer.kind", Rule::fixed},
    {"optimizer.momentum", Rule::states},
    {"optimizer.offload", Rule::quiet},
    {"cluster", Rule::quiet},
    {"checkpoint", Rule::quiet},
    {"debug", Rule::quiet},
};

// `key` has no indices.
Rule rule_of(std::string_view key) {
  for (;;) {
    const auto* const found =
        std::ranges::find(rules, key, &std::pair<std::string_view, Rule>::first);
    if (found != std::end(rules)) return found->second;
    const std::size_t dot = key.rfind('.');
    if (dot == std::string_view::npos) return Rule::said;
    key = key.substr(0, dot);
  }
}

std::string without_indices(const std::string& key) {
  std::string bare;
  bool is_index = false;
  for (const char c : key) {
    is_index = c == '[' || (is_index && c != ']');
    if (!is_index && c != ']') bare += c;
  }
  return bare;
}

using Differ =
    std::function<void(const std::string& key, const std::string& was, const std::string& now)>;

std::string value_text(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  if (field.is_repeated()) return std::to_string(reflection.FieldSize(message, &field));
  if (!reflection.HasField(message, &field)) return "none";
  return field.message_type() != nullptr ? "a map" : printable(scalar_text(message, field), 60);
}

// Calls `differ` for each value that is not the same in two messages of one type, and for a map or
// list in place of those below it where one has none or they are not as long.
void compare(const Message& was, const Message& now, const std::string& path,
             const Differ& differ) {
  const auto& reflection = *was.GetReflection();
  for (int i = 0; i < was.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *was.GetDescriptor()->field(i);
    const std::string key = path.empty() ? field.name() : path + "." + field.name();
    const std::string before = value_text(was, field), after = value_text(now, field);
    if (before != after) {
      differ(key, before, after);
    } else if (field.is_repeated()) {
      for (int e = 0; e < reflection.FieldSize(was, &field); ++e)
        compare(reflection.GetRepeatedMessage(was, &field, e),
                reflection.GetRepeatedMessage(now, &field, e), key + "[" + std::to_string(e) + "]",
                differ);
    } else if (field.message_type() != nullptr && before != "none") {
      compare(reflection.GetMessage(was, &field), reflection.GetMessage(now, &field), key, differ);
    }
  }
}

bool has_other_weights(const config::Config& was, const config::Config& now) {
  return (was.run().precision() == config::Run::f64) != (now.run().precision() == config::Run::f64);
}

bool has_other_states(const config::Config& was, const config::Config& now) {
  return was.optimizer().kind() == config::Optimizer::sgd &&
         (was.optimizer().momentum() > 0) != (now.optimizer().momentum() > 0);
}

std::string text_of_other_tokens(const std::string& checkpoint, const std::string& found,
                                 const std::string& wanted) {
  return "found other tokens than those that " + checkpoint + " was trained on: " + found +
         ", wanted " + wanted;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

Resumption resumed(const std::string& stored, const std::string& checkpoint,
                   const config::Config& now, const Places& places) {
  const config::Config was = parse_resolved(stored, checkpoint + ": configuration");
  Resumption all{now, {}};
  const bool is_group_given = places.by_key.contains("model.moe.balance.group");
  if (now.model().has_moe() && was.model().has_moe() && !is_group_given) {
    all.config.mutable_model()->mutable_moe()->mutable_balance()->set_group(
        was.model().moe().balance().group());
    try {
      check_rules(all.config, places);
      check_steps(all.config, places);
    } catch (const Error& error) {
      throw Error(std::string(error.what()) + "; model.moe.balance.group is that of " + checkpoint +
                  ", which a run that goes on keeps");
    }
  }
  compare(was, all.config, "",
          [&](const std::string& key, const std::string& before, const std::string& after) {
            const Rule rule = rule_of(without_indices(key));
            if (rule == Rule::fixed || rule == Rule::worked_out ||
                (rule == Rule::weights && has_other_weights(was, now)) ||
                (rule == Rule::states && has_other_states(was, now)))
              places.fail(key, "found " + after + "; " + checkpoint + " has " + before +
                                   ", and a run that goes on from it keeps that");
            all.changed.push_back({key, before, after});
          });
  return all;
}

std::string in_words(const std::vector<Changed>& changed) {
  constexpr std::size_t most = 6;
  std::string words;
  std::size_t count = 0;
  for (const Changed& change : changed) {
    if (rule_of(without_indices(change.key)) == Rule::quiet || ++count > most) continue;
    words += (count == 1 ? "" : ", ") + change.key + " " + change.was + " -> " + change.now;
  }
  return words + (count > most ? " and " + std::to_string(count - most) + " more" : "");
}

void check_same_data(const std::string& stored, const std::string& checkpoint, const Data& now,
                     const Places& places) {
  const std::vector<std::string> was = lines_of(stored), is = lines_of(now.fingerprints());
  for (std::size_t i = 0; i < is.size(); ++i) {
    const std::string before = i < was.size() ? was[i] : "nothing";
    if (is[i] != before)
      places.fail("data.sources[" + std::to_string(i) + "].path",
                  text_of_other_tokens(checkpoint, is[i], before));
  }
}

}  // namespace pf
