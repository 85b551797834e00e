#include "launch/checkpoint_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <sstream>

#include "launch/checkpoint_facts.h"
#include "launch/checkpoint_values.h"
#include "launch/text.h"

namespace pf {
namespace {

constexpr std::size_t longest_value = 60;

// A line for each key whose values differ; `none` where one lacks it.
template <class Value, class F>
std::string lines_of(const std::map<std::string, Value>& a, const std::map<std::string, Value>& b,
                     F words) {
  std::set<std::string> keys;
  for (const auto* facts : {&a, &b})
    for (const auto& [key, value] : *facts) keys.insert(key);
  std::string text;
  for (const std::string& key : keys) {
    const auto in_a = a.find(key), in_b = b.find(key);
    if (in_a != a.end() && in_b != b.end() && in_a->second == in_b->second) continue;
    text += fmt::format("  {}: {} and {}\n", key, in_a == a.end() ? "none" : words(in_a->second),
                        in_b == b.end() ? "none" : words(in_b->second));
  }
  return text;
}

std::string shown(const std::string& text) {
  return text.empty() ? "\"\"" : printable(text, longest_value);
}

// Bit by bit, so that a NaN is equal to itself.
bool are_equal(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

std::string lists_text(const CheckpointFacts& a, const CheckpointFacts& b) {
  std::map<std::string, std::string> of_a, of_b;
  for (const auto& [key, values] : a.lists) of_a[key] = fmt::format("{} values", values.size());
  for (const auto& [key, values] : b.lists) {
    of_b[key] = fmt::format("{} values", values.size());
    const auto found = a.lists.find(key);
    if (found != a.lists.end() && found->second.size() == values.size() &&
        !are_equal(found->second, values))
      of_b[key] = "others";
  }
  return lines_of(of_a, of_b, shown);
}

std::string facts_text(const Checkpoint& a, const Checkpoint& b) {
  const auto texts = [](const Checkpoint& checkpoint) {
    std::map<std::string, std::string> all = checkpoint.facts().texts;
    all.erase("config");
    return all;
  };
  const std::string facts = lines_of(a.facts().counts, b.facts().counts,
                                     [](std::int64_t x) { return std::to_string(x); }) +
                            lines_of(texts(a), texts(b), shown) + lists_text(a.facts(), b.facts());
  const std::string keys = lines_of(config_keys(a), config_keys(b), shown);
  return (facts.empty() ? "" : "facts\n" + facts) + (keys.empty() ? "" : "configuration\n" + keys);
}

std::string type_text(const SavedTensor& tensor) {
  std::ostringstream text;
  text << name(tensor.type) << ' ' << tensor.shape;
  return text.str();
}

class TensorComparison {
 public:
  TensorComparison(const Checkpoint& a, const Checkpoint& b) : a_(a), b_(b) {}

  void add_in_one(const std::string& tensor, const char* which) {
    ++in_one_;
    lines_ += fmt::format("  {}: only in {}\n", tensor, which);
  }

  void compare(const SavedTensor& a, const SavedTensor& b) {
    if (a.type != b.type || a.shape != b.shape) {
      ++different_;
      lines_ += fmt::format("  {}: {} and {}\n", a.name, type_text(a), type_text(b));
      return;
    }
    const ValueDistance distance = distance_of(a_, b_, a);
    if (distance.different == 0) {
      ++equal_;
      return;
    }
    ++different_;
    lines_ += fmt::format("  {}: {} of {} elements differ, by {:.2g} at most\n", a.name,
                          distance.different, a.shape.size(), distance.relative);
    if (farthest_.empty() || distance.relative > largest_) {
      farthest_ = a.name;
      largest_ = distance.relative;
    }
  }

  bool is_equal() const { return different_ + in_one_ == 0; }

  std::string lines() const {
    return lines_.empty() ? "" : "tensors (distances by a tensor's largest value)\n" + lines_;
  }

  std::string summary() const {
    std::string text = fmt::format("{} tensor{} equal bit by bit", equal_, equal_ == 1 ? "" : "s");
    if (different_ > 0) text += fmt::format(", {} differ", different_);
    if (!farthest_.empty()) text += fmt::format(", most {} by {:.2g}", farthest_, largest_);
    if (in_one_ > 0) text += fmt::format(", {} in one alone", in_one_);
    return text;
  }

 private:
  const Checkpoint& a_;
  const Checkpoint& b_;
  std::string lines_, farthest_;
  double largest_ = 0;
  std::int64_t equal_ = 0, different_ = 0, in_one_ = 0;
};

}  // namespace

CheckpointDifference difference_of(const Checkpoint& a, const Checkpoint& b, bool weights_only) {
  const auto counts = [&](const SavedTensor& tensor) {
    return !weights_only || tensor.name.starts_with("weights/");
  };
  TensorComparison tensors(a, b);
  for (const SavedTensor& tensor : a.tensors()) {
    if (!counts(tensor)) continue;
    const SavedTensor* other = b.find(tensor.name);
    if (other == nullptr)
      tensors.add_in_one(tensor.name, "A");
    else
      tensors.compare(tensor, *other);
  }
  for (const SavedTensor& tensor : b.tensors())
    if (counts(tensor) && a.find(tensor.name) == nullptr) tensors.add_in_one(tensor.name, "B");
  const bool is_equal = tensors.is_equal() && a.step() == b.step();
  const std::string steps = a.step() == b.step()
                                ? fmt::format("step {}", a.step())
                                : fmt::format("steps {} and {}", a.step(), b.step());
  return {
      facts_text(a, b) + tensors.lines() +
          fmt::format("{}: {}; {}\n", is_equal ? "equal" : "different", steps, tensors.summary()),
      is_equal};
}

}  // namespace pf
