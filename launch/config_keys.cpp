#include "launch/config_keys.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <tuple>

#include "models/options.pb.h"

namespace pf {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

namespace {

void add_keys(const Descriptor& map, const std::string& prefix, std::vector<std::string>& keys) {
  for (int i = 0; i < map.field_count(); ++i) {
    const FieldDescriptor& field = *map.field(i);
    keys.push_back(prefix + field.name());
    if (field.message_type() == nullptr) continue;
    add_keys(*field.message_type(), keys.back() + (field.is_repeated() ? "[]." : "."), keys);
  }
}

std::string without_indices(const std::string& key) {
  std::string bare;
  bool in_brackets = false;
  for (const char c : key) {
    if (c == ']') in_brackets = false;
    if (!in_brackets) bare += c;
    if (c == '[') in_brackets = true;
  }
  return bare;
}

std::string parent_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string leaf_of(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

// Whether one name is the other with words before or after it: "hidden_size" and "hidden".
bool extends(const std::string& longer, const std::string& shorter) {
  return longer.starts_with(shorter + "_") || longer.ends_with("_" + shorter);
}

}  // namespace

std::vector<std::string> all_keys(const Descriptor& root) {
  std::vector<std::string> keys;
  add_keys(root, "", keys);
  return keys;
}

std::string nearest_key(const Descriptor& root, const std::string& key) {
  const std::string found = without_indices(key);
  const std::string name = leaf_of(found);
  const int tolerance = name.size() <= 2 ? 1 : std::max<int>(2, static_cast<int>(name.size()) / 3);
  std::tuple<int, int, std::string> best{tolerance + 1, 0, ""};
  for (const std::string& candidate : all_keys(root)) {
    const std::string wanted = leaf_of(candidate);
    int distance = edit_distance(name, wanted);
    // Short names are all near each other; one that shares no letter was not meant.
    if (distance >= static_cast<int>(std::max(name.size(), wanted.size()))) continue;
    if (extends(name, wanted) || extends(wanted, name)) distance = 1;
    if (parent_of(candidate) != parent_of(found)) ++distance;
    best = std::min(best, {distance, edit_distance(found, candidate), candidate});
  }
  return std::get<2>(best);
}

std::string keys_of(const Descriptor& map) {
  std::string keys;
  for (int i = 0; i < map.field_count(); ++i) keys += (i > 0 ? ", " : "") + map.field(i)->name();
  return keys;
}

std::string type_in_words(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return "integer";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return field.is_repeated() ? "list of maps" : "map";
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::string values;
      for (int i = 0; i < field.enum_type()->value_count(); ++i)
        values += (i > 0 ? " | " : "") + field.enum_type()->value(i)->name();
      return values;
    }
    default:
      return "text";
  }
}

std::string range_in_words(const FieldDescriptor& field) {
  const auto& options = field.options();
  const bool has_max = options.HasExtension(config::max);
  const std::string max = number_in_words(options.GetExtension(config::max));
  if (options.HasExtension(config::min) && has_max)
    return number_in_words(options.GetExtension(config::min)) + " to " + max;
  std::string low, high;
  if (options.HasExtension(config::min))
    low = "at least " + number_in_words(options.GetExtension(config::min));
  if (options.HasExtension(config::above))
    low = "above " + number_in_words(options.GetExtension(config::above));
  if (has_max) high = "at most " + max;
  if (options.HasExtension(config::below))
    high = "below " + number_in_words(options.GetExtension(config::below));
  return low + (low.empty() || high.empty() ? "" : ", ") + high;
}

bool in_range(const FieldDescriptor& field, double value) {
  const auto& options = field.options();
  if (options.HasExtension(config::min) && value < options.GetExtension(config::min)) return false;
  if (options.HasExtension(config::max) && value > options.GetExtension(config::max)) return false;
  if (options.HasExtension(config::above) && value <= options.GetExtension(config::above))
    return false;
  return !options.HasExtension(config::below) || value < options.GetExtension(config::below);
}

std::string wanted_in_words(const FieldDescriptor& field) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    if (field.enum_type()->value_count() == 1) return type_in_words(field);
    return "one of " + type_in_words(field);
  }
  std::string words = type_in_words(field);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64)
    words = "an " + words;
  else if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE ||
           field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
    words = "a " + words;
  const std::string range = range_in_words(field);
  if (!range.empty()) words += ", " + range;
  if (field.options().GetExtension(config::bytes)) words += ", in bytes or with a unit (80GiB)";
  return words;
}

std::string number_in_words(double value) {
  std::array<char, 32> buffer{};
  const auto integral = static_cast<long long>(std::clamp(value, -1e15, 1e15));
  if (static_cast<double>(integral) == value && value != 0) return std::to_string(integral);
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), end);
  // YAML 1.1 takes 1e-08 for text and 1.0e-08 for a number.
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos)
    text.insert(exponent, ".0");
  return text;
}

int edit_distance(const std::string& from, const std::string& to) {
  constexpr size_t longest = 256;
  if (std::max(from.size(), to.size()) > longest)
    return static_cast<int>(std::max(from.size(), to.size()));
  const size_t columns = to.size() + 1;
  std::vector<int> cost((from.size() + 1) * columns);
  const auto at = [&](size_t i, size_t j) -> int& { return cost[i * columns + j]; };
  for (size_t i = 0; i <= from.size(); ++i) at(i, 0) = static_cast<int>(i);
  for (size_t j = 0; j <= to.size(); ++j) at(0, j) = static_cast<int>(j);
  for (size_t i = 1; i <= from.size(); ++i) {
    for (size_t j = 1; j <= to.size(); ++j) {
      const int changed = from[i - 1] != to[j - 1] ? 1 : 0;
      at(i, j) = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + changed});
      const bool swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (swapped) at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
    }
  }
  return at(from.size(), to.size());
}

}  // namespace pf
