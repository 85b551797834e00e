// Text to the one YAML document in it.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

namespace pf {

// The document in a text that errors call `name`; a null node if there is none. Throws Error, with
// the line, if the text is not YAML or holds more than one document.
YAML::Node read_yaml(const std::string& text, const std::string& name);

}  // namespace pf
