// Numbers and foreign bytes as people, terminals and JSON read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pf {

// Three digits and a unit: "950", "12.3k", "4.20M", "1.05T"; whole numbers below 1000 as they are.
std::string count_in_words(double count);

// "512 B", "12.3 MiB", "1.2 GiB".
std::string bytes_in_words(std::int64_t bytes);

// "0s", "0.25s", "9.5s", "42s", "4m05s", "2h03m", "5d04h"; "?" for what is negative or not finite.
std::string duration_in_words(double seconds);

// One character of UTF-8, or one byte that is none.
struct Character {
  std::size_t bytes = 1;
  bool is_printable = false;  // neither invalid nor a control or bidirectional-control character
  int columns = 1;  // on a terminal: 0 for what combines with the one before, 2 for East Asian
};

// The first character of `bytes`, which is not empty.
Character first_character(std::string_view bytes);

// Where the first byte is that YAML does not have as it is: no UTF-8, or of a control character
// other than tabs, line ends and DEL. The size if there is none.
std::size_t first_foreign_byte(std::string_view bytes);

// Foreign text for a message: of what is not printable each byte as "\\x1b", line ends as "\\n",
// and after `most` characters "..." for the rest.
std::string printable(std::string_view bytes, std::size_t most = 200);

// A JSON string with its quotes. Invalid UTF-8 becomes U+FFFD.
std::string json_string(std::string_view bytes);

// 17 significant digits, so that the same double is read back; null for what JSON has no number
// for.
std::string json_number(double value);

}  // namespace pf
