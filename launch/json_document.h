// A line of JSON as a document.
#pragma once

#include <string>
#include <string_view>

namespace pf {

// Of {"text": T}: text T. Of {"prompt": P, "answer": A}: prompt P, whose tokens are no targets, and
// text A.
struct JsonDocument {
  std::string prompt, text;
};

// Other keys are ignored. Throws Error that says what was found and what is wanted: for what is no
// JSON, no object, has neither or both kinds of keys, one of them twice, one that is no string, or
// an empty text or answer.
JsonDocument parse_document(std::string_view line);

}  // namespace pf
