// Text as ids.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pf {

// Const, so that threads may share one. A seam, so virtual: other tokenizers have tables behind the
// same few questions.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string name() const = 0;
  virtual std::int64_t vocabulary() const = 0;  // ids are below it
  virtual std::int32_t end_id() const = 0;      // of the end of a document
  // Appends the ids of `text` to `ids`, without that of its end. Any bytes are text.
  virtual void encode(std::span<const std::uint8_t> text, std::vector<std::int32_t>& ids) const = 0;
};

// "bytes": each byte is its own id, and a form feed ends a document. Throws Error that names
// another one.
std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name);

}  // namespace pf
