// How blocks lie in memory.
#pragma once

#include <cstddef>

namespace pf {

// Up to whole lines of 64 bytes, at which every block begins.
constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

}  // namespace pf
