// Where the elements of whole tensors are.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/parameter.h"

namespace pf {

bool is_within(const Block& box, const Shape& whole);
bool is_empty(const Block& box);
// Elements that both have: an empty box if none.
Block intersection(const Block& a, const Block& b);

struct HeldBox {
  const Block* box;
  const std::string* part;  // who holds it
};
// Throws Error naming the tensor, the place and the parts unless each element of the whole tensor
// is in one box. All boxes are within it.
void require_held_once(const std::string& tensor, const Shape& whole,
                       std::span<const HeldBox> boxes);

// Elements that follow each other in the boxes `from` and `to`, each row-major: of the first
// element, its number in each.
struct Run {
  std::int64_t from, to, size;
};
// The runs of an intersection that is not empty, as they come in `from`.
std::vector<Run> runs_of(const Block& shared, const Block& from, const Block& to);

}  // namespace pf
