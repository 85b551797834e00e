// Any text as a configuration. After it, each with a zero byte before it, come overrides; without
// text they change a small configuration.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "launch/config.h"
#include "tests/fuzz/told.h"
#include "tests/launch/config_text.h"

namespace pf {
namespace {

std::vector<std::string> split(std::string_view bytes) {
  std::vector<std::string> parts(1);
  for (const char byte : bytes) {
    if (byte == '\0')
      parts.emplace_back();
    else
      parts.back() += byte;
  }
  return parts;
}

void try_config(std::string_view bytes) {
  std::vector<std::string> parts = split(bytes);
  const std::string text = parts[0].empty() && parts.size() > 1 ? small_run : parts[0];
  parts.erase(parts.begin());
  config::Config config;
  try {
    config = parse_config(text, "run.yaml", parts);
  } catch (const Error& error) {
    return check_message(error.what());
  }
  validate(config);
  const std::string saved = to_yaml(config);
  claim(equal(parse_config(saved, "saved.yaml"), config), "what is saved reads back equal", saved);
}

}  // namespace
}  // namespace pf

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pf::try_config({reinterpret_cast<const char*>(data), size});
  return 0;
}
