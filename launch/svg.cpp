#include "launch/svg.h"

#include <fmt/format.h>

#include "launch/text.h"

namespace pf {
namespace {

constexpr std::size_t longest_label = 32;

}  // namespace

std::string svg_escaped(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Character c = first_character(bytes);
    const std::string_view one = bytes.substr(0, c.bytes);
    if (!c.is_printable) {
      out += "·";
    } else if (one == "&") {
      out += "&amp;";
    } else if (one == "<") {
      out += "&lt;";
    } else if (one == ">") {
      out += "&gt;";
    } else {
      out += one;
    }
    bytes.remove_prefix(c.bytes);
  }
  return out;
}

std::string shortened_label(const std::string& text) {
  std::string out;
  std::string_view rest = text;
  for (std::size_t count = 0; !rest.empty(); ++count) {
    if (count == longest_label) return out + "…";
    const Character c = first_character(rest);
    out += rest.substr(0, c.bytes);
    rest.remove_prefix(c.bytes);
  }
  return out;
}

double text_width(std::string_view text) {
  constexpr double letter = 6.6;
  double columns = 0;
  while (!text.empty()) {
    const Character c = first_character(text);
    columns += c.columns;
    text.remove_prefix(c.bytes);
  }
  return columns * letter;
}

std::string text_at(double x, double y, std::string_view text, std::string_view style) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, style,
                     svg_escaped(text));
}

}  // namespace pf
