#include "launch/token_files.h"

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.h"
#include "launch/mapped_file.h"

namespace pf {
namespace {

using Json = nlohmann::ordered_json;

constexpr int version = 1;

// Values of the file, for errors.
struct Values {
  const std::string& file;
  Json object;

  const Json& at(const char* key, const char* wanted) const {
    const auto found = object.find(key);
    require(found != object.end(), file, ": ", key, ": is missing; wanted ", wanted);
    return *found;
  }

  template <class... Parts>
  void require_value(bool condition, const char* key, const Json& found,
                     const Parts&... wanted) const {
    constexpr auto replace = Json::error_handler_t::replace;
    require(condition, file, ": ", key, ": found ",
            found.dump(-1, ' ', false, replace).substr(0, 60), ", wanted ", wanted...);
  }

  std::int64_t integer(const char* key, std::int64_t first, std::int64_t last) const {
    const Json& value = at(key, "an integer");
    // What is above the range of i64 is unsigned to the library.
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= std::uint64_t(last)
                          : value.is_number_integer() && value.get<std::int64_t>() <= last;
    require_value(fits && value.get<std::int64_t>() >= first, key, value, "an integer, ", first,
                  " to ", last);
    return value.get<std::int64_t>();
  }
};

}  // namespace

std::string to_json(const TokenDescription& description) {
  const Json object{{"version", version},
                    {"tokenizer", description.tokenizer},
                    {"vocabulary", description.vocabulary},
                    {"largest_id", description.largest_id},
                    {"end_id", description.end_id},
                    {"documents", description.documents},
                    {"tokens", description.tokens},
                    {"mask", description.has_mask}};
  return object.dump() + '\n';
}

std::optional<TokenDescription> read_token_description(const std::string& prefix) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const std::string path = prefix + ".json";
  std::error_code ignored;  // what can't be read says so below
  if (std::filesystem::status(path, ignored).type() == std::filesystem::file_type::not_found)
    return std::nullopt;
  const MappedFile file(path);
  const Values values{path, Json::parse(file.bytes().begin(), file.bytes().end(), nullptr, false)};
  require(values.object.is_object(), path, ": is not a JSON object; wanted what pentafold data ",
          "writes beside PREFIX.bin");

  TokenDescription description;
  values.integer("version", version, version);
  const Json& name = values.at("tokenizer", "a name");
  values.require_value(name.is_string() && !name.get_ref<const std::string&>().empty(), "tokenizer",
                       name, "a name");
  description.tokenizer = name.get<std::string>();
  description.vocabulary =
      values.integer("vocabulary", 1, std::numeric_limits<std::int32_t>::max());
  description.largest_id = values.integer("largest_id", 0, description.vocabulary - 1);
  description.end_id = values.integer("end_id", 0, description.vocabulary - 1);
  description.documents = values.integer("documents", 1, most);
  description.tokens = values.integer("tokens", 1, most);
  const Json& mask = values.at("mask", "true or false");
  values.require_value(mask.is_boolean(), "mask", mask, "true or false");
  description.has_mask = mask.get<bool>();
  return description;
}

}  // namespace pf
