#include "parallel/checksum.h"

#include <xxhash.h>

#include "core/error.h"

namespace pf {
namespace {

constexpr std::size_t digits = 32;
constexpr const char* between = "  ";

std::string hexadecimal(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  for (unsigned char byte : canonical.digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bool is_hexadecimal(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

struct Checksum::State {
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> of{XXH3_createState(),
                                                                     XXH3_freeState};
};

Checksum::Checksum() : state_(std::make_unique<State>()) {
  require(state_->of != nullptr, "checksum: no memory");
  XXH3_128bits_reset(state_->of.get());
}

Checksum::~Checksum() = default;

void Checksum::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->of.get(), bytes.data(), bytes.size());
}

std::string Checksum::text() const {
  return hexadecimal(XXH3_128bits_digest(state_->of.get()));
}

std::string checksum_of(std::span<const std::byte> bytes) {
  return hexadecimal(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string checksum_lines(std::span<const FileChecksum> files) {
  std::string text;
  for (const FileChecksum& file : files) text += file.checksum + between + file.file + '\n';
  return text;
}

std::vector<FileChecksum> parse_checksum_lines(const std::string& text, const std::string& path) {
  std::vector<FileChecksum> files;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    const bool is_whole = end != std::string::npos && line.size() > digits + 2 &&
                          is_hexadecimal(line.substr(0, digits)) &&
                          line.substr(digits, 2) == between;
    require(is_whole, path, ": line ", files.size() + 1,
            " is damaged: wanted 32 hexadecimal digits, two spaces and a file's name");
    files.push_back({line.substr(0, digits), line.substr(digits + 2)});
    at = end + 1;
  }
  return files;
}

}  // namespace pf
