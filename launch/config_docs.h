// The reference of all configuration keys, docs/config.md, from the schema.
#pragma once

#include <string>

namespace pf {

// Markdown: a table of key, type, default, range and meaning for each map.
std::string config_reference();

}  // namespace pf
