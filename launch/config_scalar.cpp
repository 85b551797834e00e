#include "launch/config_scalar.h"

#include <google/protobuf/descriptor.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "launch/config_keys.h"
#include "models/options.pb.h"

namespace pf {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array<Unit, 9> units{{{"kB", 1e3},
                                     {"MB", 1e6},
                                     {"GB", 1e9},
                                     {"TB", 1e12},
                                     {"KiB", 0x1p10},
                                     {"MiB", 0x1p20},
                                     {"GiB", 0x1p30},
                                     {"TiB", 0x1p40},
                                     {"B", 1}}};

struct Number {
  double value = 0;
  bool is_number = false;  // digits, nothing after them, and finite
  bool too_large = false;
};

Number read_number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number.value);
  const bool is_whole = !text.empty() && end == text.data() + text.size();
  number.too_large = is_whole && error == std::errc::result_out_of_range;
  number.is_number = is_whole && error == std::errc() && std::isfinite(number.value);
  return number;
}

// "4096", or another form of an integer that a double holds exactly: "1e6".
std::optional<std::int64_t> read_integer(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  const Number number = read_number(text);
  const bool is_exact = number.is_number && std::abs(number.value) <= 0x1p53 &&
                        number.value == std::floor(number.value);
  if (!is_exact || text.find_first_of(".eE") == std::string_view::npos) return std::nullopt;
  return static_cast<std::int64_t>(number.value);
}

// "512MiB" as its number of bytes.
std::optional<std::int64_t> read_bytes(std::string_view text) {
  for (const Unit& unit : units) {
    if (!text.ends_with(unit.name)) continue;
    text.remove_suffix(unit.name.size());
    while (text.ends_with(' ')) text.remove_suffix(1);
    const Number number = read_number(text);
    const double bytes = std::round(number.value * unit.bytes);
    if (!number.is_number || std::abs(bytes) >= 0x1p63) return std::nullopt;
    return static_cast<std::int64_t>(bytes);
  }
  return read_integer(text);
}

std::optional<std::string> refuse_or_set_integer(Message& message, const FieldDescriptor& field,
                                                 const std::string& text, bool is_quoted) {
  const bool takes_unit = field.options().GetExtension(config::bytes);
  const auto value = takes_unit ? read_bytes(text) : read_integer(text);
  if (!value || (is_quoted && !takes_unit)) {
    const Number number = read_number(text);
    const bool is_wide = number.is_number && std::abs(number.value) >= 0x1p63;
    return is_wide || number.too_large ? " (it does not fit into 64 bits)" : "";
  }
  if (!in_range(field, static_cast<double>(*value))) return "";
  message.GetReflection()->SetInt64(&message, &field, *value);
  return std::nullopt;
}

std::optional<std::string> refuse_or_set_number(Message& message, const FieldDescriptor& field,
                                                const std::string& text, bool is_quoted) {
  const Number number = read_number(text);
  if (number.too_large) return " (it does not fit into a double)";
  if (!number.is_number || is_quoted || !in_range(field, number.value)) return "";
  message.GetReflection()->SetDouble(&message, &field, number.value);
  return std::nullopt;
}

std::optional<std::string> refuse_or_set_enum(Message& message, const FieldDescriptor& field,
                                              const std::string& text) {
  const auto& values = *field.enum_type();
  const auto* value = values.FindValueByName(text);
  if (value != nullptr) {
    message.GetReflection()->SetEnum(&message, &field, value);
    return std::nullopt;
  }
  for (int i = 0; i < values.value_count(); ++i) {
    const std::string& name = values.value(i)->name();
    if (values.value_count() > 1 && edit_distance(text, name) <= static_cast<int>(name.size()) / 3)
      return "; did you mean " + name + "?";
  }
  return "";
}

}  // namespace

std::optional<std::string> refuse_or_set(Message& message, const FieldDescriptor& field,
                                         const std::string& text, bool is_quoted) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return refuse_or_set_integer(message, field, text, is_quoted);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return refuse_or_set_number(message, field, text, is_quoted);
    case FieldDescriptor::CPPTYPE_ENUM:
      return refuse_or_set_enum(message, field, text);
    case FieldDescriptor::CPPTYPE_BOOL:
      if (is_quoted || (text != "true" && text != "false")) return "";
      message.GetReflection()->SetBool(&message, &field, text == "true");
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_STRING:
      if (text.empty()) return ", not empty";
      if (text.find('\0') != std::string::npos) return " without zero bytes";
      message.GetReflection()->SetString(&message, &field, text);
      return std::nullopt;
    default:
      throw Error("config: " + field.full_name() + " has a type that no YAML value is read into");
  }
}

void set_default(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, field.default_value_int64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, field.default_value_double());
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.SetEnum(&message, &field, field.default_value_enum());
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, field.default_value_bool());
    default:
      return reflection.SetString(&message, &field, field.default_value_string());
  }
}

std::string scalar_text(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return number_in_words(reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.GetEnum(message, &field)->name();
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    default:
      return reflection.GetString(message, &field);
  }
}

}  // namespace pf
