// Text in an SVG picture.
#pragma once

#include <string>
#include <string_view>

namespace pf {

// With what SVG reserves spelled out, and · for what can't be shown.
std::string svg_escaped(std::string_view bytes);

// At most 32 characters.
std::string shortened_label(const std::string& text);

// How wide it is at 12 pixels, about.
double text_width(std::string_view text);

// A text element; `style`: its other attributes.
std::string text_at(double x, double y, std::string_view text, std::string_view style);

}  // namespace pf
