#include "launch/json_document.h"

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "launch/text.h"

namespace pf {
namespace {

using Json = nlohmann::json;

constexpr const char* wanted =
    R"(wanted an object with the string "text", or the strings "prompt" and "answer")";

struct Field {
  const char* name;
  std::optional<std::string> value;
};

// What can be shown: the start and the end of what is long.
std::string shortened(std::string_view text) {
  constexpr std::size_t start = 100, end = 60;
  if (text.size() > start + end + 3)
    return shortened(text.substr(0, start)) + "..." + shortened(text.substr(text.size() - end));
  std::string shown;
  while (!text.empty()) {
    const Character character = first_character(text);
    shown += character.is_printable ? text.substr(0, character.bytes) : "?";
    text.remove_prefix(character.bytes);
  }
  return shown;
}

// The library says "[json...] parse error at line 1, column 7: what is wrong".
std::string reason_of(std::string_view text) {
  const std::size_t column = text.find("column ");
  const std::size_t colon = column == text.npos ? text.npos : text.find(": ", column);
  return shortened(colon == text.npos ? text : text.substr(colon + 2));
}

// Takes the wanted strings without a tree of values: most lines are one long string.
class Reader : public nlohmann::json_sax<Json> {
 public:
  std::array<Field, 3> fields{{{"text", {}}, {"prompt", {}}, {"answer", {}}}};
  std::string error;  // set where the parser was told to stop

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("bytes"); }

  bool string(string_t& value) override {
    if (depth_ == 0 || field_ == nullptr) return other("a string");
    field_->value = std::move(value);
    field_ = nullptr;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0 && !other("an object")) return false;
    ++depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (!other("a list")) return false;
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ > 1) return true;
    for (Field& field : fields) {
      if (name != field.name) continue;
      if (field.value) return stop(std::string("found \"") + field.name + "\" twice, " + wanted);
      field_ = &field;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& exception) override {
    return stop("byte " + std::to_string(position) + ": no JSON: " + reason_of(exception.what()) +
                "; " + wanted);
  }

 private:
  // A value that is not a wanted string.
  bool other(const std::string& found) {
    if (depth_ == 0) return stop("found " + found + ", " + wanted);
    if (field_ == nullptr) return true;
    return stop(std::string("found ") + found + " for \"" + field_->name + "\", " + wanted);
  }
  bool stop(std::string what) {
    error = std::move(what);
    return false;
  }

  int depth_ = 0;
  Field* field_ = nullptr;  // whose value comes next
};

}  // namespace

JsonDocument parse_document(std::string_view line) {
  Reader reader;
  const bool is_read = Json::sax_parse(line.begin(), line.end(), &reader);
  require(is_read, reader.error);
  auto& [text, prompt, answer] = reader.fields;
  require(!text.value || (!prompt.value && !answer.value), "found \"text\" and \"",
          prompt.value ? "prompt" : "answer", "\", ", wanted);
  require(text.value || prompt.value || answer.value, "found none of these keys, ", wanted);
  require(text.value || prompt.value, "found \"answer\" without \"prompt\", ", wanted);
  require(text.value || answer.value, "found \"prompt\" without \"answer\", ", wanted);
  Field& counted = text.value ? text : answer;
  require(!counted.value->empty(), "found an empty \"", counted.name, "\", wanted text");
  return {std::move(prompt.value).value_or(""), std::move(*counted.value)};
}

}  // namespace pf
