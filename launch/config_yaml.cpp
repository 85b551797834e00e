#include "launch/config_yaml.h"

#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "launch/text.h"

namespace pf {

namespace {

// Remembers where a document starts and forgets what is in it.
struct DocumentStart : YAML::EventHandler {
  std::optional<YAML::Mark> mark;

  void OnDocumentStart(const YAML::Mark& at) override { mark = at; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

std::string line_of(const std::string& text, int number) {
  std::istringstream lines(text);
  std::string line;
  for (int i = 0; i <= number; ++i) std::getline(lines, line);
  return line;
}

}  // namespace

// yaml-cpp takes byte 4 for the end, and writes what is no UTF-8 in another way than it reads it.
// It stops without a word at what cannot go on or start a document, as a comma does, and
// LoadAll then makes empty documents of it until memory ends: so the second start is looked at.
YAML::Node read_yaml(const std::string& text, const std::function<std::string(int)>& place) {
  const auto at = [&](const YAML::Mark& mark) { return place(mark.line + 1) + ": "; };
  const size_t end = first_foreign_byte(text);
  require(end == text.size(), place(1 + int(std::count(text.begin(), text.begin() + end, '\n'))),
          ": not YAML: found '", printable(text.substr(end, 1)), "', wanted text in UTF-8");
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    DocumentStart start;
    parser.HandleNextDocument(start);
    start.mark.reset();
    parser.HandleNextDocument(start);
    if (start.mark) {
      require(line_of(text, start.mark->line).starts_with("---"), at(*start.mark),
              "not YAML: this is neither a key nor part of a value");
      throw Error(at(*start.mark) + "a second YAML document starts here, wanted one");
    }
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw Error(at(error.mark) + "not YAML: " + printable(error.msg));
  }
}

}  // namespace pf
