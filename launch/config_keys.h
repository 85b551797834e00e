// The keys of a configuration, read from its schema: their names, types and ranges in words.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

namespace pf {

// Every key below a message, maps and lists included, in schema order: "model.moe.top_k",
// "data.sources[].path".
std::vector<std::string> all_keys(const google::protobuf::Descriptor& root);

// The key that whoever wrote `key` may have meant, or "" if none is near. Indices in `key` are
// ignored; the last name counts most, so that a right name in the wrong map is found.
std::string nearest_key(const google::protobuf::Descriptor& root, const std::string& key);

// "run, model, data": the keys of one map.
std::string keys_of(const google::protobuf::Descriptor& map);

// "integer", "number", "text", "true or false", "map", "list of maps", or the values of an enum.
std::string type_in_words(const google::protobuf::FieldDescriptor& field);

// "1 to 1024", "above 0", "at least 0"; "" for any.
std::string range_in_words(const google::protobuf::FieldDescriptor& field);

// Whether the range options of the field allow it.
bool in_range(const google::protobuf::FieldDescriptor& field, double value);

// What a value must be, for an error: "an integer, 1 to 1024".
std::string wanted_in_words(const google::protobuf::FieldDescriptor& field);

// The shortest text that reads back as the same double, in a form that every YAML reader takes for
// a number.
std::string number_in_words(double value);

// Insertions, deletions, changes and swaps of neighbours that turn one text into the other, no
// part changed twice (optimal string alignment). Of texts longer than any key, the longer's length.
int edit_distance(const std::string& from, const std::string& to);

}  // namespace pf
