// A tokenizer that is not that of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/tokenizer.h"

namespace pf {

// Two ids for each byte b, b and the vocabulary's last - b, so that lengths, widths and signs are
// not those of bytes.
class Doubling : public Tokenizer {
 public:
  explicit Doubling(std::int64_t vocabulary, std::int32_t shift = 0)
      : vocabulary_(vocabulary), shift_(shift) {}
  std::string name() const override { return "doubling"; }
  std::int64_t vocabulary() const override { return vocabulary_; }
  std::int32_t end_id() const override { return 0; }
  void encode(std::span<const std::uint8_t> text, std::vector<std::int32_t>& ids) const override {
    for (const std::uint8_t byte : text) {
      ids.push_back(byte + shift_);
      ids.push_back(static_cast<std::int32_t>(vocabulary_ - 1 - byte));
    }
  }

 private:
  std::int64_t vocabulary_;
  std::int32_t shift_;
};

}  // namespace pf
