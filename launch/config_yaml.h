// Text to the one YAML document in it.
#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>

namespace pf {

// The document in a text; a null node if there is none. Throws Error if the text is not YAML or
// holds more than one document; its message begins with place(line), the first line being 1.
YAML::Node read_yaml(const std::string& text, const std::function<std::string(int)>& place);

}  // namespace pf
