// One process's part of a checkpoint. HDF5 makes the little that says where the data are, in
// memory; the data are written and read back without it, and without its lock.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

#include "core/error.h"
#include "parallel/checkpoint_boxes.h"
#include "parallel/checkpoint_files.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checksum.h"
#include "parallel/disk_file.h"
#include "parallel/hdf5.h"

namespace pf {
namespace {

constexpr std::int64_t step_bytes = 16 << 20;  // between two looks at is_given_up

// Bytes that the file has at `at`.
struct Stretch {
  std::int64_t at = 0;
  std::span<const std::byte> bytes;
};

struct Plan {
  std::vector<SavedBox> boxes;
  std::array<std::int64_t, 2> elements{};  // of f32 and of f64
};

std::size_t kind_of(DType type) {
  return type == DType::f64 ? 1 : 0;
}

Plan plan_of(std::span<const SavedPiece> pieces, const std::string& path) {
  Plan plan;
  for (const SavedPiece& piece : pieces) {
    const Tensor& data = piece.data;
    require(bool(data), path, ": ", piece.tensor, " has no data");
    require(data.dtype() == DType::f32 || data.dtype() == DType::f64, path, ": ", piece.tensor,
            " is ", name(data.dtype()), "; wanted f32 or f64");
    require(data.device().kind() == DeviceKind::cpu && data.is_contiguous(), path, ": ",
            piece.tensor, " is ", data.text(), "; wanted one that is contiguous, on the CPU");
    require(piece.whole.dims() > 0 && is_within(piece.block, piece.whole), path, ": ", piece.tensor,
            " ", piece.whole, ": a block ", piece.block.extents, " that is not within it");
    require(data.size() == piece.end - piece.begin, path, ": ", piece.tensor, ": ", data.size(),
            " elements for [", piece.begin, ", ", piece.end, ")");
    std::int64_t& at = plan.elements[kind_of(data.dtype())];
    for (const Block& box : boxes_of(piece.block, piece.begin, piece.end)) {
      plan.boxes.push_back({piece.tensor, data.dtype(), piece.whole, box, at});
      at += box.extents.size();
    }
  }
  return plan;
}

// Makes a dataset [elements] with space, but no data, and says where in the file that is.
std::int64_t make_dataset(const Hdf5Image& image, const char* name, hid_t type,
                          std::int64_t elements) {
  const std::string& path = image.path();
  const auto check = [&](std::int64_t result) { return check_hdf5(result, path, "made"); };
  const hsize_t extent = hsize_t(elements);
  const Hdf5Handle space = space_handle(H5Screate_simple(1, &extent, nullptr), path);
  const Hdf5Handle creation = properties_handle(H5Pcreate(H5P_DATASET_CREATE), path);
  check(H5Pset_layout(creation.id(), H5D_CONTIGUOUS));
  check(H5Pset_alloc_time(creation.id(), H5D_ALLOC_TIME_EARLY));
  check(H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER));
  const Hdf5Handle dataset = dataset_handle(
      H5Dcreate2(image.file(), name, type, space.id(), H5P_DEFAULT, creation.id(), H5P_DEFAULT),
      path);
  const haddr_t offset = H5Dget_offset(dataset.id());
  require(offset != HADDR_UNDEF, path, ": HDF5 gave no space for ", name);
  return std::int64_t(offset);
}

class PartWriter {
 public:
  PartWriter(std::string path, std::span<const SavedPiece> pieces,
             const std::atomic<bool>& is_given_up)
      : path_(std::move(path)), is_given_up_(is_given_up), plan_(plan_of(pieces, path_)) {
    lay_out(pieces);
  }

  // The checksum of the file's bytes.
  std::string write() {
    DiskFile file = DiskFile::create(path_);
    try {
      file.reserve(head_.size);
      for (const Stretch& stretch : stretches_) write(file, stretch);
      file.sync();
      std::string checksum = checksum_from_disk(file);
      file.close();
      return checksum;
    } catch (...) {
      unlink(path_.c_str());  // what is not whole only takes space
      throw;
    }
  }

  const Plan& plan() const { return plan_; }
  std::int64_t bytes() const { return head_.size; }

 private:
  void lay_out(std::span<const SavedPiece> pieces) {
    std::array<std::int64_t, 2> at{};  // where the data of each type go
    {
      const Hdf5Lock lock;
      Hdf5Image image(path_);
      if (plan_.elements[0] > 0)
        at[0] = make_dataset(image, "f32", H5T_IEEE_F32LE, plan_.elements[0]);
      if (plan_.elements[1] > 0)
        at[1] = make_dataset(image, "f64", H5T_IEEE_F64LE, plan_.elements[1]);
      head_ = image.finish();
    }
    for (std::int64_t offset : at)
      if (offset > 0 && std::size_t(offset) < head_.bytes.size())
        head_.bytes.resize(std::size_t(offset));
    stretches_.push_back({0, head_.bytes});
    for (const SavedPiece& piece : pieces) {
      std::int64_t& here = at[kind_of(piece.data.dtype())];
      const std::size_t bytes = std::size_t(piece.data.size()) * size_of(piece.data.dtype());
      if (bytes == 0) continue;
      stretches_.push_back({here, {static_cast<const std::byte*>(piece.data.raw()), bytes}});
      here += std::int64_t(bytes);
    }
    std::ranges::sort(stretches_, {}, &Stretch::at);
  }

  void write(DiskFile& file, const Stretch& stretch) {
    for (std::size_t done = 0; done < stretch.bytes.size(); done += step_bytes) {
      go_on();
      file.write(stretch.bytes.subspan(done).first(
                     std::min<std::size_t>(stretch.bytes.size() - done, step_bytes)),
                 stretch.at + std::int64_t(done));
    }
  }

  std::string checksum_from_disk(const DiskFile& file) {
    require(file.size() == head_.size, path_, ": ", file.size(), " bytes on the disk, written ",
            head_.size);
    Checksum checksum;
    std::vector<std::byte> buffer(std::size_t(std::min(step_bytes, head_.size)));
    auto next = stretches_.begin();
    for (std::int64_t at = 0; at < head_.size; at += step_bytes) {
      go_on();
      const std::span read =
          std::span(buffer).first(std::size_t(std::min(step_bytes, head_.size - at)));
      file.read(read, at);
      checksum.add(read);
      while (next != stretches_.end() && !is_beyond(*next, read, at)) ++next;
    }
    return checksum.text();
  }

  // Compares what `read`, the file's bytes from `at` on, has of a stretch, and says whether the
  // stretch goes on behind it.
  bool is_beyond(const Stretch& stretch, std::span<const std::byte> read, std::int64_t at) const {
    const std::int64_t end = stretch.at + std::int64_t(stretch.bytes.size());
    const std::int64_t read_end = at + std::int64_t(read.size());
    const std::int64_t from = std::max(stretch.at, at), to = std::min(end, read_end);
    if (from < to)
      require(std::memcmp(read.data() + (from - at), stretch.bytes.data() + (from - stretch.at),
                          std::size_t(to - from)) == 0,
              path_, ": bytes [", from, ", ", to, ") on the disk are not what was written");
    return end > read_end;
  }

  void go_on() const { require(!is_given_up_, path_, ": given up"); }

  std::string path_;
  const std::atomic<bool>& is_given_up_;
  Plan plan_;
  Hdf5Image::Content head_;
  std::vector<Stretch> stretches_;
};

void put(std::ostream& out, const Shape& shape) {
  out << shape.dims();
  for (int dim = 0; dim < shape.dims(); ++dim) out << ' ' << shape[dim];
}

Shape shape_from(std::istream& in) {
  std::size_t dims = 0;
  std::array<std::int64_t, Shape::max_dims> extents{};
  in >> dims;
  require(in.good() && dims <= extents.size(), "part_file_of: damaged text");
  for (std::size_t dim = 0; dim < dims; ++dim) in >> extents[dim];
  return Shape(std::span(extents).first(dims));
}

}  // namespace

PartFile write_part(const std::string& folder, int number, std::span<const SavedPiece> pieces,
                    const std::atomic<bool>& is_given_up) {
  PartFile part{checkpoint_part(number), 0, {}, {}};
  PartWriter writer(folder + '/' + part.name, pieces, is_given_up);
  part.checksum = writer.write();
  sync_names(folder);
  part.bytes = writer.bytes();
  part.boxes = writer.plan().boxes;
  return part;
}

std::string to_text(const PartFile& part) {
  std::ostringstream out;
  out << part.name << ' ' << part.bytes << ' ' << part.checksum << ' ' << part.boxes.size() << '\n';
  for (const SavedBox& box : part.boxes) {
    out << name(box.type) << ' ' << box.at << ' ';
    put(out, box.whole);
    out << ' ';
    put(out, box.box.extents);
    for (int dim = 0; dim < box.whole.dims(); ++dim) out << ' ' << box.box.begin[std::size_t(dim)];
    out << ' ' << box.tensor << '\n';
  }
  return out.str();
}

PartFile part_file_of(const std::string& text) {
  PartFile part;
  std::istringstream in(text);
  std::size_t boxes = 0;
  in >> part.name >> part.bytes >> part.checksum >> boxes;
  for (std::size_t number = 0; number < boxes && in.good(); ++number) {
    SavedBox& box = part.boxes.emplace_back();
    std::string type;
    in >> type >> box.at;
    box.type = type == name(DType::f64) ? DType::f64 : DType::f32;
    box.whole = shape_from(in);
    box.box.extents = shape_from(in);
    for (int dim = 0; dim < box.whole.dims(); ++dim) in >> box.box.begin[std::size_t(dim)];
    std::getline(in.ignore(), box.tensor);
  }
  require(!in.fail() && part.boxes.size() == boxes, "part_file_of: damaged text");
  return part;
}

}  // namespace pf
