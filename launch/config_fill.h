// From YAML to a message by reflection: types, ranges and names are checked against the schema, and
// each key remembers where it was written.
#pragma once

#include <google/protobuf/message.h>

#include <map>
#include <string>
#include <vector>

namespace pf {

// Where keys were written, for errors: "run.yaml:12" or "override 'train.steps=5'".
struct Places {
  std::string file;  // printable
  std::map<std::string, std::string> by_key;

  // The place of `key`, or of the nearest map around it that was written, or the file.
  std::string of(const std::string& key) const;
  // Throws Error: "PLACE: KEY: text".
  [[noreturn]] void fail(const std::string& key, const std::string& text) const;
};

// Reads a whole file's text into the message. Throws Error at the first thing that is wrong.
void fill_from_yaml(google::protobuf::Message& message, const std::string& text, Places& places);

// Applies "key.path=value"; lists are indexed as in data.sources.0.path or data.sources[0].path.
// The value is YAML: a map is merged into what is there, a list replaces it.
void fill_from_override(google::protobuf::Message& message, const std::string& text,
                        Places& places);

// Throws Error if a required key is missing, naming the first ten.
void check_required(const google::protobuf::Message& message, const Places& places);

// Throws Error if a number below `path` is out of its range: one that code wrote, since the fills
// above have checked theirs.
void check_ranges(const google::protobuf::Message& message, const Places& places,
                  const std::string& path = {});

// Sets every missing field that has a default to it, and makes the maps that always exist.
void fill_defaults(google::protobuf::Message& message);

}  // namespace pf
