// One value of a configuration: from text to a field of a message and back.
#pragma once

#include <google/protobuf/message.h>

#include <optional>
#include <string>

namespace pf {

// Sets a field that is neither list nor map. Returns nothing if the text is of the field's type and
// in its range; else sets nothing and returns what else the user should know, "" if nothing.
// Text in quotes is no number.
std::optional<std::string> refuse_or_set(google::protobuf::Message& message,
                                         const google::protobuf::FieldDescriptor& field,
                                         const std::string& text, bool is_quoted);

// Sets the field to its default, explicitly.
void set_default(google::protobuf::Message& message,
                 const google::protobuf::FieldDescriptor& field);

// The text that refuse_or_set reads back as the same value.
std::string scalar_text(const google::protobuf::Message& message,
                        const google::protobuf::FieldDescriptor& field);

}  // namespace pf
