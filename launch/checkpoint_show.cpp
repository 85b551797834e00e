#include "launch/checkpoint_show.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "launch/checkpoint_facts.h"
#include "launch/checkpoint_values.h"
#include "launch/text.h"

namespace pf {
namespace {

std::int64_t bytes_of(const SavedTensor& tensor) {
  return tensor.shape.size() * std::int64_t(size_of(tensor.type));
}

std::string shape_text(const Shape& shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// "optimizer/first_moment" of "optimizer/first_moment/layers.0.norm.weight"
std::string kind_of(const SavedTensor& tensor) {
  return tensor.name.substr(0, std::min(tensor.name.rfind('/'), tensor.name.size()));
}

std::string facts_text(const Checkpoint& checkpoint) {
  std::string text = checkpoint.folder() + '\n';
  const auto add = [&](const std::string& name, const std::string& value) {
    if (!value.empty()) text += fmt::format("  {:<18}{}\n", name, value);
  };
  const CheckpointFacts& facts = checkpoint.facts();
  add("step", std::to_string(checkpoint.step()));
  for (const auto& [name, count] : facts.counts)
    if (name != "step") add(name, count_in_words(double(count)));
  const ConfigWords words = config_words(checkpoint);
  add("layout", words.layout);
  add("precision", words.precision);
  // Those of one line that were not said yet.
  for (const auto& [name, value] : facts.texts)
    if (name != "layout" && value.find('\n') == value.npos) add(name, printable(value));
  add("saved", time_of(checkpoint));
  add("size", bytes_in_words(bytes_of(checkpoint)));
  return text;
}

std::string parts_text(const Checkpoint& checkpoint) {
  std::string text = "\nparts\n";
  for (int part = 0; part < checkpoint.parts(); ++part)
    text += fmt::format("  {:<18}{:>12}\n", checkpoint.name_of_part(part),
                        bytes_in_words(checkpoint.bytes_of_part(part)));
  return text;
}

std::string kinds_text(const Checkpoint& checkpoint) {
  struct Sum {
    std::int64_t tensors = 0, values = 0, bytes = 0;
  };
  std::map<std::string, Sum> sums;
  for (const SavedTensor& tensor : checkpoint.tensors()) {
    Sum& sum = sums[kind_of(tensor)];
    ++sum.tensors;
    sum.values += tensor.shape.size();
    sum.bytes += bytes_of(tensor);
  }
  std::string text =
      fmt::format("\n{:<26}{:>8}{:>10}{:>12}\n", "kind", "tensors", "values", "size");
  for (const auto& [kind, sum] : sums)
    text += fmt::format("{:<26}{:>8}{:>10}{:>12}\n", kind, sum.tensors,
                        count_in_words(double(sum.values)), bytes_in_words(sum.bytes));
  return text;
}

std::size_t widest_name(const std::vector<SavedTensor>& tensors) {
  std::size_t width = 0;
  for (const SavedTensor& tensor : tensors) width = std::max(width, tensor.name.size());
  return width;
}

bool matches(const std::string& name, const std::string& pattern) {
  if (pattern.find_first_of("*?[") == pattern.npos) return name.find(pattern) != name.npos;
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

}  // namespace

std::string contents_text(const Checkpoint& checkpoint) {
  std::string text =
      facts_text(checkpoint) + parts_text(checkpoint) + kinds_text(checkpoint) + "\ntensors\n";
  const std::size_t width = widest_name(checkpoint.tensors());
  for (const SavedTensor& tensor : checkpoint.tensors())
    text += fmt::format("  {:<{}}  {}  {:<18}{:>10}\n", tensor.name, width, name(tensor.type),
                        shape_text(tensor.shape), bytes_in_words(bytes_of(tensor)));
  return text;
}

std::string values_text(const Checkpoint& checkpoint, const std::string& pattern) {
  std::vector<SavedTensor> found;
  for (const SavedTensor& tensor : checkpoint.tensors()) {
    if (tensor.name == pattern) found = {tensor};
    if (tensor.name == pattern) break;
    if (matches(tensor.name, pattern)) found.push_back(tensor);
  }
  require(!found.empty(), checkpoint.folder(), ": found no tensor '", printable(pattern),
          "'; pentafold checkpoint show without it lists them");
  const std::size_t width = std::max<std::size_t>(widest_name(found), 6);
  std::string text = fmt::format("{:<{}}  type  {:<18}{:>11}{:>11}{:>11}{:>11}{:>8}\n", "tensor",
                                 width, "shape", "min", "max", "mean", "norm", "NaN");
  for (const SavedTensor& tensor : found) {
    const ValueStatistics values = statistics_of(checkpoint, tensor);
    text += fmt::format("{:<{}}  {:<4}  {:<18}{:>11.4g}{:>11.4g}{:>11.4g}{:>11.4g}{:>8}\n",
                        tensor.name, width, name(tensor.type), shape_text(tensor.shape), values.min,
                        values.max, values.mean, values.norm, values.nan);
  }
  return text;
}

}  // namespace pf
