#include "parallel/checkpoint_boxes.h"

#include <algorithm>

#include "core/error.h"
#include "parallel/checkpoint_files.h"

namespace pf {
namespace {

std::int64_t begin_of(const Block& box, int dim) {
  return box.begin[std::size_t(dim)];
}

std::int64_t end_of(const Block& box, int dim) {
  return begin_of(box, dim) + box.extents[dim];
}

// Adds the boxes of elements [begin, end) of `box`, of which the dims before `dim` have one index.
void split(Block box, int dim, std::int64_t begin, std::int64_t end, std::vector<Block>& boxes) {
  if (begin == end) return;
  std::int64_t row = 1;
  for (int inner = dim + 1; inner < box.extents.dims(); ++inner) row *= box.extents[inner];
  const auto rows = [&](std::int64_t from, std::int64_t to) {
    Block part = box;
    part.begin[std::size_t(dim)] += from;
    part.extents.set(dim, to - from);
    return part;
  };
  const std::int64_t first = (begin + row - 1) / row, last = end / row;  // whole rows
  if (first > last) return split(rows(last, first), dim + 1, begin % row, end % row, boxes);
  if (begin % row != 0) split(rows(first - 1, first), dim + 1, begin % row, row, boxes);
  if (first < last) boxes.push_back(rows(first, last));
  if (end % row != 0) split(rows(last, last + 1), dim + 1, 0, end % row, boxes);
}

// A sweep along `dim` over boxes that all cover what `place` says of the dims before it.
class Sweep {
 public:
  Sweep(const std::string& tensor, const Shape& whole) : tensor_(tensor), place_{{}, whole} {}

  void over(std::vector<HeldBox> boxes, int dim) {
    const Shape& whole = place_.extents;
    if (dim == whole.dims()) return require_one(boxes);
    std::vector<std::int64_t> edges{0, whole[dim]};
    for (const HeldBox& held : boxes) {
      edges.push_back(begin_of(*held.box, dim));
      edges.push_back(end_of(*held.box, dim));
    }
    std::ranges::sort(edges);
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    std::ranges::sort(boxes, {}, [&](const HeldBox& held) { return begin_of(*held.box, dim); });
    std::vector<HeldBox> here;
    auto next = boxes.begin();
    for (std::size_t edge = 0; edge + 1 < edges.size(); ++edge) {
      std::erase_if(here, [&](const HeldBox& held) {  //
        return end_of(*held.box, dim) <= edges[edge];
      });
      while (next != boxes.end() && begin_of(*next->box, dim) == edges[edge])
        here.push_back(*next++);
      place_.begin[std::size_t(dim)] = edges[edge];
      over(here, dim + 1);
    }
  }

 private:
  void require_one(const std::vector<HeldBox>& boxes) const {
    if (boxes.size() == 1) return;
    const Shape from(std::span(place_.begin).first(std::size_t(place_.extents.dims())));
    require(!boxes.empty(), tensor_, ' ', place_.extents, ": elements from ", from,
            " on are in no part");
    require(boxes.size() < 2, tensor_, ' ', place_.extents, ": elements from ", from, " on are in ",
            *boxes[0].part, " and again in ", *boxes[1].part);
  }

  const std::string& tensor_;
  Block place_;  // where the sweep is in the whole tensor
};

}  // namespace

bool is_within(const Block& box, const Shape& whole) {
  if (box.extents.dims() != whole.dims()) return false;
  for (int dim = 0; dim < whole.dims(); ++dim)
    if (begin_of(box, dim) < 0 || end_of(box, dim) > whole[dim]) return false;
  return true;
}

bool is_empty(const Block& box) {
  return box.extents.size() == 0;
}

Block intersection(const Block& a, const Block& b) {
  Block shared = a;
  for (int dim = 0; dim < a.extents.dims(); ++dim) {
    const std::int64_t begin = std::max(begin_of(a, dim), begin_of(b, dim));
    const std::int64_t end = std::min(end_of(a, dim), end_of(b, dim));
    shared.begin[std::size_t(dim)] = begin;
    shared.extents.set(dim, std::max<std::int64_t>(end - begin, 0));
  }
  return shared;
}

void require_held_once(const std::string& tensor, const Shape& whole,
                       std::span<const HeldBox> boxes) {
  Sweep(tensor, whole).over({boxes.begin(), boxes.end()}, 0);
}

std::vector<Block> boxes_of(const Block& block, std::int64_t begin, std::int64_t end) {
  require(0 <= begin && begin <= end && end <= block.extents.size(), "boxes_of: elements [", begin,
          ", ", end, ") of a block ", block.extents);
  std::vector<Block> boxes;
  if (block.extents.dims() == 0 && begin < end) return {block};
  split(block, 0, begin, end, boxes);
  return boxes;
}

std::vector<Run> runs_of(const Block& shared, const Block& from, const Block& to) {
  const int dims = shared.extents.dims();
  std::array<std::int64_t, Shape::max_dims> from_stride{}, to_stride{};
  std::int64_t from_row = 1, to_row = 1, size = 1;
  int outer = dims;  // the dims before it are walked; those from it on make one run
  for (int dim = dims - 1; dim >= 0; --dim) {
    from_stride[std::size_t(dim)] = from_row;
    to_stride[std::size_t(dim)] = to_row;
    if (from_row == size && to_row == size) {
      outer = dim;
      size *= shared.extents[dim];
    }
    from_row *= from.extents[dim];
    to_row *= to.extents[dim];
  }
  std::int64_t count = 1;
  for (int dim = 0; dim < outer; ++dim) count *= shared.extents[dim];
  std::vector<Run> runs;
  runs.reserve(std::size_t(count));
  for (std::int64_t number = 0; number < count; ++number) {
    Run run{0, 0, size};
    std::int64_t rest = number;
    for (int dim = dims - 1; dim >= 0; --dim) {
      std::int64_t at = begin_of(shared, dim);
      if (dim < outer) {
        at += rest % shared.extents[dim];
        rest /= shared.extents[dim];
      }
      run.from += (at - begin_of(from, dim)) * from_stride[std::size_t(dim)];
      run.to += (at - begin_of(to, dim)) * to_stride[std::size_t(dim)];
    }
    runs.push_back(run);
  }
  return runs;
}

}  // namespace pf
