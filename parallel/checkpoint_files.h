// The files of a checkpoint: parts, each written by one process, and a master in which every whole
// (logical) tensor is a virtual dataset over them. Debian's HDF5 serves one thread at a time: calls
// wait for each other within a process.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/parameter.h"
#include "core/tensor.h"

namespace pf {

// A folder has
//   part-00000.h5, ...   a dataset for each type, "f32" or "f64": what a process wrote, end to end
//   checkpoint.h5        the facts below, and whole tensors, like "weights/head.weight"
//   checksums.xxh128     of all these, as `xxh128sum` prints and checks them
// While it is written it is called FOLDER.writing, while it is removed FOLDER.removing.
constexpr std::int64_t checkpoint_format = 1;

// What a checkpoint says beside its tensors.
struct CheckpointFacts {
  std::map<std::string, std::int64_t> counts;        // attributes of the root: "step", ...
  std::map<std::string, std::string> texts;          // datasets of one string: "config", ...
  std::map<std::string, std::vector<double>> lists;  // datasets [n] of f64: "losses"
};

// Elements [begin, end) of a block of a whole tensor, row-major.
struct SavedPiece {
  std::string tensor;
  Shape whole;
  Block block;
  std::int64_t begin = 0, end = 0;
  Tensor data;  // [end - begin], f32 or f64, on the CPU
};

// Elements [begin, end) of a block as boxes of the whole tensor, in their order: at most 2 dims
// - 1.
std::vector<Block> boxes_of(const Block& block, std::int64_t begin, std::int64_t end);

// A box of a whole tensor, where a part has it.
struct SavedBox {
  std::string tensor;
  DType type = DType::f32;
  Shape whole;
  Block box;
  std::int64_t at = 0;  // its first element in the part's dataset of that type
};

struct PartFile {
  std::string name;  // "part-00003.h5"
  std::int64_t bytes = 0;
  std::string checksum;  // 32 hexadecimal digits: XXH3, 128 bits
  std::vector<SavedBox> boxes;
};
// For the way to the rank that writes the master.
std::string to_text(const PartFile& part);
PartFile part_file_of(const std::string& text);

// Writes FOLDER/part-NUMBER.h5, makes it last on the disk, reads it back from there and compares.
// `is_given_up` ends it early (also with an Error). Throws Error naming the file: not written, and
// the system's reason, or not what was written.
PartFile write_part(const std::string& folder, int number, std::span<const SavedPiece> pieces,
                    const std::atomic<bool>& is_given_up);

// Writes the master and the checksums, makes them last and checks them likewise; FOLDER can then be
// renamed. What no part has would read as NaN; throws Error naming the tensor unless the parts have
// each element of it once.
void write_master(const std::string& folder, const CheckpointFacts& facts,
                  std::span<const PartFile> parts);

// A whole tensor.
struct SavedTensor {
  std::string name;
  DType type = DType::f32;
  Shape shape;
};

// One that is to be read. Several ranks (threads) may use one object.
class Checkpoint {
 public:
  // Throws Error, naming the file and the reason, unless the checksums are of files that are all
  // there in their sizes, and those of the master are right, of a format that is known. Parts are
  // still to be verified.
  explicit Checkpoint(std::string folder);
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  const std::string& folder() const;
  const CheckpointFacts& facts() const;
  std::int64_t step() const;  // counts.at("step")
  // By name.
  const std::vector<SavedTensor>& tensors() const;
  const SavedTensor* find(const std::string& tensor) const;

  int parts() const;
  std::string name_of_part(int part) const;
  std::int64_t bytes_of_part(int part) const;
  // Reads all of it. Throws Error naming the file unless its bytes are those that were written.
  void verify(int part) const;

  // A box of a whole tensor: `to` [elements of the box], of its type, on the CPU. All parts were
  // verified. Throws Error naming the tensor if there is none, or of another type or shape.
  void read(const std::string& tensor, const Shape& whole, const Block& box,
            const Tensor& to) const;

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

// FOLDER/step-00000050, ...: those with such names, newest first, whole or not.
std::vector<std::string> checkpoints_in(const std::string& folder);
std::string checkpoint_name(std::int64_t step);  // "step-00000050"

}  // namespace pf
