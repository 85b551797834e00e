// A small checkpoint of three parts, in which nothing is even.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "core/backend.h"
#include "parallel/checkpoint_files.h"
#include "tests/launch/temporary_folder.h"

namespace pf {

struct SmallTensor {
  std::string name;
  DType type;
  Shape shape;
};

inline const std::vector<SmallTensor>& small_tensors() {
  static const std::vector<SmallTensor> tensors{
      {"optimizer/first_moment/layers.0.w", DType::f32, {3, 2, 3, 4}},
      {"optimizer/velocity/layers.0.w", DType::f64, {2, 3, 5}},
      {"weights/layers.0.w", DType::f32, {5, 6}},
      {"weights/norm", DType::f64, {7}},
  };
  return tensors;
}

// Of an element of the tensor with that number, by its place in the whole tensor.
inline double small_value(std::size_t tensor, std::int64_t element) {
  return 1000 * double(tensor + 1) + double(element) + 0.25;
}

// The elements of a box, in its order, as numbers in the whole tensor.
inline std::vector<std::int64_t> elements_of(const Block& box, const Shape& whole) {
  std::vector<std::int64_t> elements;
  for (std::int64_t number = 0; number < box.extents.size(); ++number) {
    std::int64_t rest = number, element = 0, stride = 1;
    for (int dim = whole.dims() - 1; dim >= 0; --dim) {
      element += (box.begin[std::size_t(dim)] + rest % box.extents[dim]) * stride;
      rest /= box.extents[dim];
      stride *= whole[dim];
    }
    elements.push_back(element);
  }
  return elements;
}

inline Tensor small_data(Device& device, std::size_t tensor,
                         const std::vector<std::int64_t>& elements) {
  const Tensor data =
      Tensor::empty({std::int64_t(elements.size())}, small_tensors()[tensor].type, device);
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const double value = small_value(tensor, elements[i]);
    if (data.dtype() == DType::f64)
      data.data<double>()[i] = value;
    else
      data.data<float>()[i] = float(value);
  }
  return data;
}

inline SavedPiece small_piece(Device& device, std::size_t tensor, const Block& block,
                              std::int64_t begin, std::int64_t end) {
  const SmallTensor& of = small_tensors()[tensor];
  std::vector<std::int64_t> elements = elements_of(block, of.shape);
  elements = {elements.begin() + begin, elements.begin() + end};
  return {of.name, of.shape, block, begin, end, small_data(device, tensor, elements)};
}

// Those of each part.
inline std::vector<std::vector<SavedPiece>> small_pieces(Device& device) {
  const auto piece = [&](std::size_t tensor, const Block& block, std::int64_t begin,
                         std::int64_t end) {
    return small_piece(device, tensor, block, begin, end);
  };
  const Block moment{{}, {3, 2, 3, 4}}, left{{0, 0}, {5, 2}}, right{{0, 2}, {5, 4}};
  return {{piece(0, moment, 0, 7), piece(1, {{0, 0, 1}, {2, 3, 4}}, 0, 24), piece(2, left, 0, 10),
           piece(3, {{0}, {7}}, 0, 0)},
          {piece(2, right, 0, 7), piece(0, moment, 7, 53), piece(3, {{4}, {3}}, 0, 3)},
          {piece(3, {{0}, {4}}, 0, 4), piece(2, right, 7, 20), piece(0, moment, 53, 72),
           piece(1, {{0, 0, 0}, {2, 3, 1}}, 0, 6)}};
}

inline CheckpointFacts small_facts() {
  return {{{"step", 50}, {"tokens", std::int64_t{1} << 40}},
          {{"config", "run:\n  name: größe\n"}, {"note", ""}},
          {{"losses", {5.5, 4.25}}, {"none", {}}}};
}

inline std::vector<PartFile> write_small_parts(const std::string& folder) {
  Device device(make_cpu_backend(1));
  const std::atomic<bool> is_given_up = false;
  std::vector<PartFile> parts;
  for (const auto& pieces : small_pieces(device))
    parts.push_back(
        part_file_of(to_text(write_part(folder, int(parts.size()), pieces, is_given_up))));
  return parts;
}

inline void write_small_checkpoint(const std::string& folder) {
  write_master(folder, small_facts(), write_small_parts(folder));
}

}  // namespace pf
