// What memory was asked for, so that a peak can be explained.
#pragma once

#include <compare>
#include <string_view>
#include <utility>

namespace pf {

// Parts that are named in more than one place.
namespace parts {
inline constexpr std::string_view weights = "weights", gradients = "gradients", states = "states",
                                  copies = "copies",  // of weights, for products
    buffers = "buffers";                              // of calls between ranks, gone with them
}  // namespace parts

// Names outlive every tensor: literals.
struct Purpose {
  std::string_view part = "other";  // of the program: "attention", "states"
  std::string_view op = {};         // that asked; of backward, whose backward asked
  bool is_backward = false;         // asked for by backward, not kept from forward

  friend auto operator<=>(const Purpose&,
                          const Purpose&) = default;  // NOLINT(modernize-use-nullptr)
};

// What this thread allocates is for `part`, or for `purpose`, while it lives.
class PurposeScope {
 public:
  explicit PurposeScope(std::string_view part)
      : PurposeScope(Purpose{part, current_.op, current_.is_backward}) {}
  explicit PurposeScope(const Purpose& purpose) : previous_(std::exchange(current_, purpose)) {}
  ~PurposeScope() { current_ = previous_; }
  PurposeScope(const PurposeScope&) = delete;
  PurposeScope& operator=(const PurposeScope&) = delete;

  // With the op that is ambient, or else this one.
  static Purpose current(std::string_view op = {}) {
    Purpose now = current_;
    if (now.op.empty()) now.op = op;
    return now;
  }

 private:
  Purpose previous_;

  static inline thread_local Purpose current_;
};

}  // namespace pf
