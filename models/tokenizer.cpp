#include "models/tokenizer.h"

#include "core/error.h"

namespace pf {
namespace {

class Bytes : public Tokenizer {
 public:
  std::string name() const override { return "bytes"; }
  std::int64_t vocabulary() const override { return 256; }
  std::int32_t end_id() const override { return '\f'; }
  void encode(std::span<const std::uint8_t> text, std::vector<std::int32_t>& ids) const override {
    ids.insert(ids.end(), text.begin(), text.end());
  }
};

}  // namespace

std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  require(name == "bytes", "tokenizer '", name, "' is unknown; bytes is wanted");
  return std::make_unique<Bytes>();
}

}  // namespace pf
