#include "launch/config_fill.h"

#include <google/protobuf/descriptor.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "launch/config_keys.h"
#include "launch/config_scalar.h"
#include "launch/config_yaml.h"
#include "launch/text.h"
#include "models/options.pb.h"

namespace pf {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

std::string join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

std::string indexed(const std::string& path, size_t index) {
  return path + "[" + std::to_string(index) + "]";
}

std::string found_in_words(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a map";
    case YAML::NodeType::Sequence:
      return node.size() == 0 ? "an empty list" : "a list";
    case YAML::NodeType::Scalar:
      return "'" + printable(node.Scalar()) + "'" + (node.Tag() == "!" ? " in quotes" : "");
    default:
      return "nothing";
  }
}

bool is_list(const FieldDescriptor& field) {
  return field.is_repeated();
}
bool is_map(const FieldDescriptor& field) {
  return field.message_type() != nullptr && !field.is_repeated();
}

// Walks YAML and message side by side.
class Filler {
 public:
  // `override_text` is empty for a file.
  Filler(const google::protobuf::Descriptor& root, Places& places, std::string override_text = {})
      : root_(root), places_(places), override_text_(std::move(override_text)) {}

  // `node` is a map of `path` to be put into `message`.
  void fill_map(Message& message, const YAML::Node& node, const std::string& path) {
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const YAML::Node& key = entry.first;
      if (!key.IsScalar()) fail(key, path, "found " + found_in_words(key) + ", wanted a key");
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key.Scalar());
      const std::string key_path = join(path, key.Scalar());
      if (field == nullptr) fail_unknown(message, key, key_path);
      if (!seen.insert(key.Scalar()).second)
        fail(key, key_path, "given twice, first at " + places_.by_key.at(key_path));
      places_.by_key[key_path] = line_of(key.Mark());
      fill_field(message, *field, entry.second, key_path);
    }
  }

  void fill_field(Message& message, const FieldDescriptor& field, const YAML::Node& node,
                  const std::string& path) {
    if (is_list(field)) {
      fill_list(message, field, node, path);
    } else if (!is_map(field)) {
      fill_scalar(message, field, node, path);
    } else if (node.IsNull()) {
      message.GetReflection()->ClearField(&message, &field);
    } else {
      if (!node.IsMap()) fail_type(node, path, "a map with " + keys_of(*field.message_type()));
      fill_map(*message.GetReflection()->MutableMessage(&message, &field), node, path);
    }
  }

  [[noreturn]] void fail(const YAML::Node& node, const std::string& path,
                         const std::string& text) const {
    throw Error(place(node, path) + ": " + (path.empty() ? "" : printable(path) + ": ") + text);
  }

  [[noreturn]] void fail_unknown(const Message& message, const YAML::Node& node,
                                 const std::string& path) const {
    const std::string nearest = nearest_key(root_, path);
    fail(node, path,
         nearest.empty() ? "unknown key; here are " + keys_of(*message.GetDescriptor())
                         : "unknown key; did you mean " + nearest + "?");
  }

 private:
  // Where the node was written. The mark of a list or a map is often a line late: its key's is
  // used.
  std::string place(const YAML::Node& node, const std::string& path) const {
    if (!override_text_.empty()) return override_text_;
    if (!node.IsScalar() && !path.empty()) return places_.of(path);
    return line_of(node.Mark());
  }

  std::string line_of(const YAML::Mark& mark) const {
    return override_text_.empty() ? places_.file + ":" + std::to_string(mark.line + 1)
                                  : override_text_;
  }

  [[noreturn]] void fail_type(const YAML::Node& node, const std::string& path,
                              const std::string& wanted) const {
    fail(node, path, "found " + found_in_words(node) + ", wanted " + wanted);
  }

  void fill_list(Message& message, const FieldDescriptor& field, const YAML::Node& node,
                 const std::string& path) {
    const bool needs_element = field.options().GetExtension(config::required_key);
    if (!node.IsSequence() || (needs_element && node.size() == 0))
      fail_type(node, path, "a list of maps with " + keys_of(*field.message_type()));
    message.GetReflection()->ClearField(&message, &field);
    std::erase_if(places_.by_key,
                  [&](const auto& entry) { return entry.first.starts_with(path + "["); });
    for (size_t i = 0; i < node.size(); ++i) {
      const YAML::Node element = node[i];
      const std::string element_path = indexed(path, i);
      places_.by_key[element_path] = line_of(element.Mark());
      if (!element.IsMap())
        fail_type(element, element_path, "a map with " + keys_of(*field.message_type()));
      fill_map(*message.GetReflection()->AddMessage(&message, &field), element, element_path);
    }
  }

  void fill_scalar(Message& message, const FieldDescriptor& field, const YAML::Node& node,
                   const std::string& path) {
    if (!node.IsScalar()) fail_type(node, path, wanted_in_words(field));
    const bool quoted = node.Tag() == "!";
    const auto hint = refuse_or_set(message, field, node.Scalar(), quoted);
    if (hint) fail_type(node, path, wanted_in_words(field) + *hint);
  }

  const google::protobuf::Descriptor& root_;
  Places& places_;
  std::string override_text_;
};

// "data.sources[0].path" as {"data", "sources", "0", "path"}.
std::vector<std::string> steps_of(const std::string& path) {
  std::vector<std::string> steps(1);
  for (const char c : path) {
    if (c == '.' || c == '[')
      steps.emplace_back();
    else if (c != ']')
      steps.back() += c;
  }
  return steps;
}

// The element of a list that an override names.
size_t index_of(const std::string& step, int size, const std::string& path, const Places& places) {
  const bool is_number =
      !step.empty() && step.size() < 9 && step.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number) places.fail(path, "is a list; name an element, as in " + path + ".0");
  const size_t index = std::stoul(step);
  if (index >= static_cast<size_t>(size))
    places.fail(path,
                "has " + std::to_string(size) + " elements, counted from 0; there is no " + step);
  return index;
}

struct Target {
  Message* message;
  const FieldDescriptor* field;
  std::string path;
};

// The field that an override's key names; makes the maps on the way to it.
Target find_target(Message& root, const std::string& key, const Filler& filler,
                   const Places& here) {
  const std::vector<std::string> steps = steps_of(key);
  Message* at = &root;
  std::string path;
  for (size_t i = 0;; ++i) {
    const FieldDescriptor* field = at->GetDescriptor()->FindFieldByName(steps[i]);
    if (field == nullptr) filler.fail_unknown(*at, YAML::Node(), key);
    path = join(path, field->name());
    const auto& reflection = *at->GetReflection();
    if (i + 1 == steps.size()) return {at, field, path};
    if (field->message_type() == nullptr)
      here.fail(path, "has no keys below it; it is " + wanted_in_words(*field));
    if (is_map(*field)) {
      at = reflection.MutableMessage(at, field);
      continue;
    }
    const size_t index = index_of(steps[++i], reflection.FieldSize(*at, field), path, here);
    path = indexed(path, index);
    if (i + 1 == steps.size())
      here.fail(path, "is a map; name a key in it: " + keys_of(*field->message_type()));
    at = reflection.MutableRepeatedMessage(at, field, static_cast<int>(index));
  }
}

void add_missing(const Message& message, const std::string& path,
                 std::vector<std::pair<std::string, const FieldDescriptor*>>& missing) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string key = join(path, field.name());
    const bool is_there = is_list(field) ? reflection.FieldSize(message, &field) > 0
                                         : reflection.HasField(message, &field);
    if (!is_there && field.options().GetExtension(config::required_key))
      missing.emplace_back(key, &field);
    if (is_map(field) && (is_there || !field.options().HasExtension(config::when_absent)))
      add_missing(reflection.GetMessage(message, &field), key, missing);
    for (int e = 0; is_list(field) && e < reflection.FieldSize(message, &field); ++e)
      add_missing(reflection.GetRepeatedMessage(message, &field, e),
                  indexed(key, static_cast<size_t>(e)), missing);
  }
}

}  // namespace

std::string Places::of(const std::string& key) const {
  for (std::string at = key; !at.empty();) {
    if (const auto found = by_key.find(at); found != by_key.end()) return found->second;
    const size_t end = at.find_last_of(".[");
    at.resize(end == std::string::npos ? 0 : end);
  }
  return file;
}

void Places::fail(const std::string& key, const std::string& text) const {
  throw Error(of(key) + ": " + key + ": " + text);
}

void fill_from_yaml(Message& message, const std::string& text, Places& places) {
  const YAML::Node document =
      read_yaml(text, [&](int line) { return places.file + ":" + std::to_string(line); });
  const std::string wanted = ", wanted a map with " + keys_of(*message.GetDescriptor());
  require(!document.IsNull(), places.file, ": the file is empty", wanted);
  Filler filler(*message.GetDescriptor(), places);
  if (!document.IsMap()) filler.fail(document, "", "found " + found_in_words(document) + wanted);
  filler.fill_map(message, document, "");
}

void fill_from_override(Message& message, const std::string& text, Places& places) {
  const std::string label = "override '" + printable(text) + "'";
  const size_t equals = text.find('=');
  require(equals != std::string::npos && equals > 0, label,
          ": wanted key.path=value, as in train.steps=100");
  const YAML::Node value =
      read_yaml(text.substr(equals + 1), [&](int) { return std::string(label); });
  Filler filler(*message.GetDescriptor(), places, label);
  const std::string key = text.substr(0, equals);
  const Target target = find_target(message, key, filler, Places{label, {}});
  places.by_key[target.path] = label;
  filler.fill_field(*target.message, *target.field, value, target.path);
}

void check_required(const Message& message, const Places& places) {
  std::vector<std::pair<std::string, const FieldDescriptor*>> missing;
  add_missing(message, "", missing);
  if (missing.empty()) return;
  const auto& [key, field] = missing[0];
  std::string text = "is missing; wanted " + wanted_in_words(*field) + ": " +
                     field->options().GetExtension(config::doc);
  constexpr size_t most = 10;
  for (size_t i = 1; i < std::min(most, missing.size()); ++i)
    text += (i == 1 ? " Also missing: " : ", ") + missing[i].first;
  if (missing.size() > most) text += " and " + std::to_string(missing.size() - most) + " more";
  places.fail(key, text);
}

void check_ranges(const Message& message, const Places& places, const std::string& path) {
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string key = join(path, field->name());
    for (int e = 0; is_list(*field) && e < reflection.FieldSize(message, field); ++e)
      check_ranges(reflection.GetRepeatedMessage(message, field, e), places,
                   indexed(key, static_cast<size_t>(e)));
    if (is_list(*field)) continue;
    if (is_map(*field)) {
      check_ranges(reflection.GetMessage(message, field), places, key);
      continue;
    }
    double value = 0;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64)
      value = static_cast<double>(reflection.GetInt64(message, field));
    else if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE)
      value = reflection.GetDouble(message, field);
    else
      continue;
    if (!std::isfinite(value) || !in_range(*field, value))
      places.fail(key,
                  "found " + scalar_text(message, *field) + ", wanted " + wanted_in_words(*field));
  }
}

void fill_defaults(Message& message) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (is_list(field)) {
      for (int e = 0; e < reflection.FieldSize(message, &field); ++e)
        fill_defaults(*reflection.MutableRepeatedMessage(&message, &field, e));
    } else if (is_map(field)) {
      const bool exists = reflection.HasField(message, &field) ||
                          !field.options().HasExtension(config::when_absent);
      if (exists) fill_defaults(*reflection.MutableMessage(&message, &field));
    } else if (field.has_default_value() && !reflection.HasField(message, &field)) {
      set_default(message, field);
    }
  }
}

}  // namespace pf
