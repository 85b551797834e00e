// The master of a checkpoint: whole tensors as virtual datasets over the parts.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "core/error.h"
#include "parallel/checkpoint_boxes.h"
#include "parallel/checkpoint_files.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checksum.h"
#include "parallel/disk_file.h"
#include "parallel/hdf5.h"

namespace pf {
namespace {

struct Held {
  const PartFile* part;
  const SavedBox* box;
};
using Tensors = std::map<std::string, std::vector<Held>>;

std::vector<PartFile const*> in_order(const std::string& folder, std::span<const PartFile> parts) {
  std::vector<PartFile const*> sorted;
  for (const PartFile& part : parts) sorted.push_back(&part);
  std::ranges::sort(sorted, {}, [](const PartFile* part) { return part->name; });
  for (std::size_t number = 0; number < sorted.size(); ++number) {
    const std::string wanted = checkpoint_part(int(number));
    require(sorted[number]->name == wanted, folder, ": ", wanted, " is missing: found ",
            sorted[number]->name, " in its place");
  }
  return sorted;
}

// By name, each checked to be held once.
Tensors tensors_of(std::span<PartFile const* const> parts) {
  Tensors tensors;
  for (const PartFile* part : parts)
    for (const SavedBox& box : part->boxes) tensors[box.tensor].push_back({part, &box});
  for (const auto& [name, held] : tensors) {
    const SavedBox& first = *held.front().box;
    std::vector<HeldBox> boxes;
    for (const auto& [part, box] : held) {
      require(box->type == first.type && box->whole == first.whole, name, ": ",
              pf::name(first.type), ' ', first.whole, " in ", held.front().part->name, ", ",
              pf::name(box->type), ' ', box->whole, " in ", part->name);
      require(is_within(box->box, box->whole), name, ' ', box->whole, ": a box ", box->box.extents,
              " in ", part->name, " that is not within it");
      boxes.push_back({&box->box, &part->name});
    }
    require_held_once(name, first.whole, boxes);
  }
  return tensors;
}

class MasterImage {
 public:
  explicit MasterImage(const std::string& path)
      : image_(path), groups_(properties_handle(H5Pcreate(H5P_LINK_CREATE), path)) {
    check(H5Pset_create_intermediate_group(groups_.id(), 1));
  }

  void add(const CheckpointFacts& facts) {
    add_text_attribute(format_attribute, format_name);
    add_count(format_version_attribute, checkpoint_format);
    for (const auto& [name, count] : facts.counts) {
      require(name != format_attribute && name != format_version_attribute, path(),
              ": no count can be called ", name);
      add_count(name, count);
    }
    for (const auto& [name, text] : facts.texts) add_text(name, text);
    for (const auto& [name, list] : facts.lists)
      add_list(name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, list.data(), list.size());
  }

  void add(std::span<PartFile const* const> parts) {
    std::vector<std::int64_t> bytes;
    std::vector<FileChecksum> checksums;
    for (const PartFile* part : parts) {
      bytes.push_back(part->bytes);
      checksums.push_back({part->checksum, part->name});
    }
    add_list(part_bytes, H5T_STD_I64LE, H5T_NATIVE_INT64, bytes.data(), bytes.size());
    add_text(part_checksums, checksum_lines(checksums));
    for (const PartFile* part : parts)
      for (const SavedBox& box : part->boxes) {
        std::int64_t& end = box.type == DType::f64 ? elements_[part].second : elements_[part].first;
        end = std::max(end, box.at + box.box.extents.size());
      }
  }

  void add(const std::string& name, std::span<const Held> held) {
    const SavedBox& first = *held.front().box;
    const hid_t type = first.type == DType::f64 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE;
    const Hdf5Handle whole = space_of(first.whole);
    const Hdf5Handle creation = properties_handle(H5Pcreate(H5P_DATASET_CREATE), path());
    const double nothing = std::numeric_limits<double>::quiet_NaN();
    check(H5Pset_fill_value(creation.id(), H5T_NATIVE_DOUBLE, &nothing));
    for (const auto& [part, box] : held)
      if (!is_empty(box->box)) map(creation, whole, *part, *box);
    make_dataset(name, type, whole, creation);
  }

  std::vector<std::byte> finish() {
    auto [bytes, size] = image_.finish();
    bytes.resize(std::size_t(size));
    return bytes;
  }

 private:
  const std::string& path() const { return image_.path(); }
  void check(std::int64_t result) const { check_hdf5(result, path(), "made"); }

  Hdf5Handle space_of(const Shape& shape) const {
    std::array<hsize_t, Shape::max_dims> extents{};
    for (int dim = 0; dim < shape.dims(); ++dim) extents[std::size_t(dim)] = hsize_t(shape[dim]);
    return space_handle(H5Screate_simple(shape.dims(), extents.data(), nullptr), path());
  }

  // The box is what lies in the part's dataset from `at` on.
  void map(const Hdf5Handle& creation, const Hdf5Handle& whole, const PartFile& part,
           const SavedBox& box) const {
    std::array<hsize_t, Shape::max_dims> begin{}, extents{};
    for (std::size_t dim = 0; dim < std::size_t(box.whole.dims()); ++dim) {
      begin[dim] = hsize_t(box.box.begin[dim]);
      extents[dim] = hsize_t(box.box.extents[int(dim)]);
    }
    check(H5Sselect_hyperslab(whole.id(), H5S_SELECT_SET, begin.data(), nullptr, extents.data(),
                              nullptr));
    const auto& [f32, f64] = elements_.at(&part);
    const Hdf5Handle source = space_of({box.type == DType::f64 ? f64 : f32});
    const hsize_t at = hsize_t(box.at), size = hsize_t(box.box.extents.size());
    check(H5Sselect_hyperslab(source.id(), H5S_SELECT_SET, &at, nullptr, &size, nullptr));
    check(
        H5Pset_virtual(creation.id(), whole.id(), part.name.c_str(), name(box.type), source.id()));
  }

  Hdf5Handle make_dataset(const std::string& name, hid_t type, const Hdf5Handle& space,
                          const Hdf5Handle& creation) const {
    return dataset_handle(H5Dcreate2(image_.file(), name.c_str(), type, space.id(), groups_.id(),
                                     creation.id(), H5P_DEFAULT),
                          path());
  }

  void add_list(const std::string& name, hid_t type, hid_t type_here, const void* data,
                std::size_t size) const {
    const Hdf5Handle creation = properties_handle(H5Pcreate(H5P_DATASET_CREATE), path());
    const Hdf5Handle dataset = make_dataset(name, type, space_of({std::int64_t(size)}), creation);
    if (size > 0) check(H5Dwrite(dataset.id(), type_here, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
  }

  // Of fixed length, so that what is read has the length of what was written.
  Hdf5Handle text_type(const std::string& text) const {
    Hdf5Handle type = type_handle(H5Tcopy(H5T_C_S1), path());
    check(H5Tset_size(type.id(), std::max<std::size_t>(text.size(), 1)));
    check(H5Tset_strpad(type.id(), H5T_STR_NULLPAD));
    check(H5Tset_cset(type.id(), H5T_CSET_UTF8));
    return type;
  }

  void add_text(const std::string& name, const std::string& text) const {
    require(text.find('\0') == std::string::npos, path(), ": ", name, " has a byte 0");
    const Hdf5Handle creation = properties_handle(H5Pcreate(H5P_DATASET_CREATE), path());
    const Hdf5Handle type = text_type(text);
    const Hdf5Handle space = space_handle(H5Screate(H5S_SCALAR), path());
    const Hdf5Handle dataset = make_dataset(name, type.id(), space, creation);
    check(H5Dwrite(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()));
  }

  void add_attribute(const std::string& name, hid_t type, hid_t type_here, const void* data) const {
    const Hdf5Handle space = space_handle(H5Screate(H5S_SCALAR), path());
    const Hdf5Handle attribute = attribute_handle(
        H5Acreate2(image_.file(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
        path());
    check(H5Awrite(attribute.id(), type_here, data));
  }

  void add_text_attribute(const std::string& name, const std::string& text) const {
    const Hdf5Handle type = text_type(text);
    add_attribute(name, type.id(), type.id(), text.c_str());
  }

  void add_count(const std::string& name, std::int64_t count) const {
    add_attribute(name, H5T_STD_I64LE, H5T_NATIVE_INT64, &count);
  }

  Hdf5Image image_;
  Hdf5Handle groups_;  // made on the way to a dataset
  std::map<const PartFile*, std::pair<std::int64_t, std::int64_t>> elements_;  // f32, f64
};

// Written, and what the disk gives back compared.
void write_whole(const std::string& path, std::span<const std::byte> bytes) {
  DiskFile file = DiskFile::create(path);
  file.reserve(std::int64_t(bytes.size()));
  file.write(bytes, 0);
  file.sync();
  std::vector<std::byte> read(bytes.size());
  file.read(read, 0);
  require(file.size() == std::int64_t(bytes.size()) && std::ranges::equal(read, bytes), path,
          ": what is on the disk is not what was written");
  file.close();
}

}  // namespace

void write_master(const std::string& folder, const CheckpointFacts& facts,
                  std::span<const PartFile> parts) {
  const std::vector<PartFile const*> sorted = in_order(folder, parts);
  const Tensors tensors = tensors_of(sorted);
  std::vector<FileChecksum> checksums;
  checksums.reserve(sorted.size() + 1);
  for (const PartFile* part : sorted) checksums.push_back({part->checksum, part->name});

  const std::string path = folder + '/' + checkpoint_master;
  std::vector<std::byte> bytes;
  {
    const Hdf5Lock lock;
    MasterImage image(path);
    image.add(facts);
    image.add(sorted);
    for (const auto& [name, held] : tensors) image.add(name, held);
    bytes = image.finish();
  }
  write_whole(path, bytes);
  checksums.push_back({checksum_of(bytes), checkpoint_master});
  const std::string lines = checksum_lines(checksums);
  write_whole(folder + '/' + checkpoint_sums, std::as_bytes(std::span(lines)));
  sync_names(folder);
}

}  // namespace pf
