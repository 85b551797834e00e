#include "launch/document_hash.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace pf {
namespace {

// table[k][b] is the checksum of byte b followed by k zeros: eight bytes are eight independent
// look-ups (Kounavis and Berry 2005, "slicing by 8").
using Table = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Table make_table() {
  Table table{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t sum = b;
    for (int bit = 0; bit < 8; ++bit) sum = (sum & 1) ? sum >> 1 ^ 0xEDB88320 : sum >> 1;
    table[0][b] = sum;
  }
  for (std::size_t k = 1; k < table.size(); ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
    }
  }
  return table;
}

constexpr Table table = make_table();

std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  std::uint32_t sum = 0xFFFFFFFF;
  const std::uint8_t* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    std::array<std::uint32_t, 2> word{};
    std::memcpy(word.data(), at, 8);
    const std::uint32_t low = word[0] ^ sum;
    const std::uint32_t high = word[1];
    sum = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
          table[4][low >> 24] ^ table[3][high & 255] ^ table[2][high >> 8 & 255] ^
          table[1][high >> 16 & 255] ^ table[0][high >> 24];
  }
  for (; left > 0; ++at, --left) sum = sum >> 8 ^ table[0][(sum ^ *at) & 255];
  return ~sum;
}

std::uint64_t fmix64(std::uint64_t x) {
  x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD;
  x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53;
  return x ^ x >> 33;
}

}  // namespace

std::uint64_t document_hash(std::span<const std::uint8_t> document) {
  return fmix64(crc32(document) + (std::uint64_t{document.size()} << 32));
}

bool is_heldout(std::span<const std::uint8_t> document, double share) {
  const auto limit = static_cast<std::uint64_t>(std::ldexp(share, 64));
  return !document.empty() && document_hash(document) < limit;
}

}  // namespace pf
