#include "launch/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace pf {

namespace {

struct Decoded {
  std::size_t bytes = 1;
  char32_t code = 0;
  bool is_valid = false;
};

// Table 3-7 of the Unicode standard: shortest forms only, no surrogates, up to U+10FFFF.
Decoded decode(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned first = at(0);
  if (first < 0x80) return {1, first, true};
  const std::size_t size = first < 0xC2   ? 0
                           : first < 0xE0 ? 2
                           : first < 0xF0 ? 3
                           : first < 0xF5 ? 4
                                          : 0;
  if (size == 0 || size > bytes.size()) return {};
  char32_t code = first & (0x7Fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((at(i) & 0xC0u) != 0x80u) return {};
    code = (code << 6) | (at(i) & 0x3Fu);
  }
  const bool is_short = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  if (is_short || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return {};
  return {size, code, true};
}

struct Range {
  char32_t first, last;
};

template <std::size_t n>
bool is_in(const std::array<Range, n>& ranges, char32_t code) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& range) { return range.first <= code && code <= range.last; });
}

// What moves the cursor, changes colours or turns the direction of what follows; U+0080 to U+009F
// are escape sequences to some terminals.
constexpr std::array controls{Range{0x00, 0x1F},     Range{0x7F, 0x9F},     Range{0x061C, 0x061C},
                              Range{0x200E, 0x200F}, Range{0x2028, 0x202E}, Range{0x2066, 0x2069},
                              Range{0xFEFF, 0xFEFF}, Range{0xFFF9, 0xFFFB}};
// The blocks that matter, not the whole of East Asian Width.
constexpr std::array wide{
    Range{0x1100, 0x115F},   Range{0x2E80, 0x3029},   Range{0x302E, 0x3098},
    Range{0x309B, 0xA4CF},   Range{0xAC00, 0xD7A3},   Range{0xF900, 0xFAFF},
    Range{0xFE30, 0xFE6F},   Range{0xFF01, 0xFF60},   Range{0xFFE0, 0xFFE6},
    Range{0x1F300, 0x1F64F}, Range{0x1F900, 0x1F9FF}, Range{0x20000, 0x3FFFD}};
constexpr std::array combining{Range{0x0300, 0x036F}, Range{0x200B, 0x200D}, Range{0x20D0, 0x20FF},
                               Range{0x302A, 0x302D}, Range{0x3099, 0x309A}, Range{0xFE00, 0xFE0F}};

}  // namespace

std::string count_in_words(double count) {
  if (!std::isfinite(count)) return fmt::format("{}", count);
  if (std::fabs(count) < 1000 && count == std::floor(count)) return fmt::format("{:.0f}", count);
  constexpr std::string_view units = "kMGTPE";
  std::size_t unit = 0;
  while (std::fabs(count) >= 999.5 && unit < units.size()) {
    count /= 1000;
    ++unit;
  }
  const double size = std::fabs(count);
  const int decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", count, decimals, unit == 0 ? "" : units.substr(unit - 1, 1));
}

std::string bytes_in_words(std::int64_t bytes) {
  if (std::abs(bytes) < 1024) return fmt::format("{} B", bytes);
  constexpr std::string_view units = "KMGTPE";
  double size = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; std::fabs(size) >= 1023.95 && unit + 1 < units.size(); ++unit) size /= 1024;
  return fmt::format("{:.1f} {}iB", size, units[unit]);
}

std::string duration_in_words(double seconds) {
  if (!(seconds >= 0) || seconds > 1e15) return "?";
  if (seconds < 0.005) return "0s";
  if (seconds < 0.995) return fmt::format("{:.2f}s", seconds);
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  const std::int64_t minutes = (s + 30) / 60;
  if (minutes < std::int64_t{48} * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const std::int64_t hours = (minutes + 30) / 60;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

Character first_character(std::string_view bytes) {
  const Decoded decoded = decode(bytes);
  if (!decoded.is_valid || is_in(controls, decoded.code)) return {decoded.bytes, false, 1};
  return {decoded.bytes, true,
          is_in(combining, decoded.code) ? 0
          : is_in(wide, decoded.code)    ? 2
                                         : 1};
}

std::size_t first_foreign_byte(std::string_view bytes) {
  constexpr std::array of_text{Range{'\t', '\n'}, Range{'\r', '\r'}, Range{0x20, 0x7F},
                               Range{0x85, 0x85}, Range{0xA0, 0x10FFFF}};
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Decoded next = decode(bytes.substr(at));
    if (!next.is_valid || !is_in(of_text, next.code)) return at;
    at += next.bytes;
  }
  return at;
}

std::string printable(std::string_view bytes, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; !bytes.empty(); ++i) {
    if (i == most) return text + "...";
    const Character next = first_character(bytes);
    if (next.is_printable) {
      text += bytes.substr(0, next.bytes);
    } else if (bytes[0] == '\n') {
      text += "\\n";
    } else {
      for (const char byte : bytes.substr(0, next.bytes))
        text += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    }
    bytes.remove_prefix(next.bytes);
  }
  return text;
}

std::string json_string(std::string_view bytes) {
  std::string text = "\"";
  while (!bytes.empty()) {
    const Decoded decoded = decode(bytes);
    if (!decoded.is_valid) {
      text += "\uFFFD";
    } else if (decoded.code == '"' || decoded.code == '\\') {
      text += {'\\', bytes[0]};
    } else if (decoded.code < 0x20 || decoded.code == 0x7F) {
      text += fmt::format("\\u{:04x}", static_cast<unsigned>(decoded.code));
    } else {
      text += bytes.substr(0, decoded.bytes);
    }
    bytes.remove_prefix(decoded.bytes);
  }
  return text + '"';
}

std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{:.17g}", value) : "null";
}

}  // namespace pf
