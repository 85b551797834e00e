#include "launch/config.h"

#include <google/protobuf/descriptor.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "launch/config_fill.h"
#include "launch/config_keys.h"
#include "launch/config_rules.h"
#include "launch/config_scalar.h"
#include "launch/layout_rules.h"
#include "launch/text.h"
#include "models/presets.h"
#include "models/transformer.h"

namespace pf {

namespace {

constexpr size_t largest_file = 1 << 20;

std::string path_in_words(const std::string& path) {
  return printable(path, path.size());
}

std::string read_text(const std::string& path) {
  std::error_code ignored;
  const std::string name = path_in_words(path);
  require(!std::filesystem::is_directory(path, ignored), name,
          ": this is a folder, wanted a YAML file");
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), name, ": cannot open the configuration: ", std::strerror(errno));
  std::string text(largest_file + 1, '\0');
  errno = 0;
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  require(!file.bad() && errno == 0, name,
          ": cannot read the configuration: ", std::strerror(errno));
  text.resize(static_cast<size_t>(file.gcount()));
  require(text.size() <= largest_file, name, ": longer than 1 MiB, this is not a configuration");
  return text;
}

// Fills in what depends on other keys; the run is named after `path`.
void derive(config::Config& config, const std::string& path, const Places& places) {
  config::Run& run = *config.mutable_run();
  if (!run.has_name()) run.set_name(printable(std::filesystem::path(path).stem().string()));
  if (!run.has_folder()) run.set_folder("runs/" + run.name());
  config::Model& model = *config.mutable_model();
  if (!model.has_head_dim() && !model.has_mla() && model.hidden() % model.heads() != 0)
    places.fail("model.hidden", "found " + std::to_string(model.hidden()) +
                                    ", no multiple of model.heads=" +
                                    std::to_string(model.heads()) + "; give model.head_dim");
  model = with_heads(model);
  if (!model.has_moe()) return;
  if (model.moe().has_capacity() && !model.moe().capacity().has_block())
    model.mutable_moe()->mutable_capacity()->set_block(config.data().sequence());
  config::Balance& balance = *model.mutable_moe()->mutable_balance();
  if (counts_groups(balance) && balance.group() == 0) balance.set_group(data_parallel_size(config));
}

// Puts a preset's keys behind those that were given.
void apply_preset(config::Model& model, const Places& places) {
  if (!model.has_preset()) return;
  const Preset* preset = find_preset(model.preset());
  if (preset == nullptr) {
    std::string names;
    const Preset* nearest = nullptr;
    for (const Preset& other : presets()) {
      names += (names.empty() ? "" : ", ") + other.name;
      if (nearest == nullptr ||
          edit_distance(model.preset(), other.name) < edit_distance(model.preset(), nearest->name))
        nearest = &other;
    }
    places.fail("model.preset", "found '" + printable(model.preset()) + "'; did you mean " +
                                    nearest->name + "? There are " + names);
  }
  config::Model whole = preset->model;
  whole.MergeFrom(model);
  model = whole;
}

// From keys that were given in `path` to a whole configuration.
void complete(config::Config& config, const std::string& path, const Places& places) {
  if (config.has_model()) apply_preset(*config.mutable_model(), places);
  check_required(config, places);
  check_ranges(config, places);
  fill_defaults(config);
  check_ranks_divide(config, places);
  derive(config, path, places);
  check_rules(config, places);
}

void emit(YAML::Emitter& out, const google::protobuf::Message& message) {
  using google::protobuf::FieldDescriptor;
  const auto& reflection = *message.GetReflection();
  out << YAML::BeginMap;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (!field.is_repeated() && !reflection.HasField(message, &field)) continue;
    out << YAML::Key << field.name() << YAML::Value;
    if (field.is_repeated()) {
      out << YAML::BeginSeq;
      for (int e = 0; e < reflection.FieldSize(message, &field); ++e)
        emit(out, reflection.GetRepeatedMessage(message, &field, e));
      out << YAML::EndSeq;
    } else if (field.message_type() != nullptr) {
      emit(out, reflection.GetMessage(message, &field));
    } else {
      out << scalar_text(message, field);
    }
  }
  out << YAML::EndMap;
}

}  // namespace

config::Config parse_config(const std::string& text, const std::string& path,
                            const std::vector<std::string>& overrides, const LoadOptions& options) {
  Places written{path_in_words(path), {}};
  config::Config config;
  fill_from_yaml(config, text, written);
  for (const std::string& change : overrides) fill_from_override(config, change, written);
  complete(config, path, written);
  if (!options.is_for_layout) check_steps(config, written);
  if (options.places != nullptr) *options.places = written;
  return config;
}

config::Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                           const LoadOptions& options) {
  return parse_config(read_text(path), path, overrides, options);
}

config::Config parse_resolved(const std::string& text, const std::string& path) {
  Places places{path_in_words(path), {}};
  config::Config config;
  fill_from_yaml(config, text, places);
  check_required(config, places);
  fill_defaults(config);
  derive(config, path, places);
  return config;
}

config::Config keys_in_file(const std::string& path) {
  Places places{path_in_words(path), {}};
  config::Config config;
  fill_from_yaml(config, read_text(path), places);
  return config;
}

void validate(const config::Config& config) {
  config::Config whole = config;
  const Places places{"configuration", {}};
  complete(whole, "configuration", places);
  check_steps(whole, places);
}

std::int64_t data_parallel_size(const config::Config& config) {
  const config::Parallel& parallel = config.parallel();
  return parallel.ranks() / (parallel.tp() * parallel.cp() * parallel.pp());
}

std::string to_yaml(const config::Config& config) {
  YAML::Emitter out;
  emit(out, config);
  return std::string(out.c_str()) + "\n";
}

void save_config(const config::Config& config, const std::string& path) {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << to_yaml(config);
  file.close();
  require(file.good(), path, ": cannot write the configuration: ", std::strerror(errno));
}

}  // namespace pf
