#include "launch/config_docs.h"

#include <google/protobuf/descriptor.h>

#include <sstream>

#include "launch/config.pb.h"
#include "launch/config_keys.h"
#include "launch/config_scalar.h"
#include "models/options.pb.h"

namespace pf {

namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr const char* introduction =
    R"(<!-- Generated from the schema (launch/config.proto); a test compares the two. -->
# Configuration keys

A run is one YAML file; `configs/quickstart.yaml` is a small one with comments. Change a key for one
run on the command line:

    launch/pentafold train configs/quickstart.yaml train.steps=100 data.sources.0.path=mine.txt

`launch/pentafold config FILE key.path=value ...` checks a file and shows every key with its value.
Lists count from 0; a list on the command line replaces the file's; `model.moe=null` takes a map
out. Keys in bold must be given.
)";

std::string escaped(const std::string& text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? std::string("\\|") : std::string(1, c);
  return cell;
}

std::string default_in_words(const Descriptor& map, const FieldDescriptor& field) {
  const auto& options = field.options();
  if (options.HasExtension(config::derived)) return options.GetExtension(config::derived);
  if (options.HasExtension(config::when_absent)) return options.GetExtension(config::when_absent);
  if (!field.has_default_value()) return "";
  const auto* prototype = google::protobuf::MessageFactory::generated_factory()->GetPrototype(&map);
  return scalar_text(*prototype, field);
}

void add_section(std::ostringstream& page, const Descriptor& map, const std::string& path,
                 const FieldDescriptor& of) {
  const auto& about = of.options();
  page << "\n## " << path << "\n\n"
       << about.GetExtension(config::doc) << "\n\n"
       << "| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
  for (int i = 0; i < map.field_count(); ++i) {
    const FieldDescriptor& field = *map.field(i);
    const std::string mark = field.options().GetExtension(config::required_key) ? "**" : "";
    page << "| " << mark << "`" << field.name() << "`" << mark << " | "
         << escaped(type_in_words(field)) << " | " << escaped(default_in_words(map, field)) << " | "
         << range_in_words(field) << " | " << escaped(field.options().GetExtension(config::doc))
         << " |\n";
  }
  for (int i = 0; i < map.field_count(); ++i) {
    const FieldDescriptor& field = *map.field(i);
    if (field.message_type() == nullptr) continue;
    add_section(page, *field.message_type(),
                path + "." + field.name() + (field.is_repeated() ? "[]" : ""), field);
  }
}

}  // namespace

std::string config_reference() {
  std::ostringstream page;
  page << introduction;
  const Descriptor& root = *config::Config::descriptor();
  for (int i = 0; i < root.field_count(); ++i)
    add_section(page, *root.field(i)->message_type(), root.field(i)->name(), *root.field(i));
  return page.str();
}

}  // namespace pf
